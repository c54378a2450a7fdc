"""Hub datasets and folders in Hub layout, opened and prepared by the ``datasets`` library.

What is ours here: requests are retried; a configuration of the Hub's own conversion is one of its folders; what was
prepared is found again offline; and the errors, which that library raises in a dozen types of three packages, become
one sentence with what to do.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetBuilder, get_dataset_config_names, load_dataset_builder

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.arguments.near_paths import offer_folders
from hf_imgcls.data.class_lists import write_out_dates
from hf_imgcls.data.converted import Conversion, is_conversion
from hf_imgcls.data.hub_names import CONVERTED_REVISION
from hf_imgcls.data.local_paths import make_plain_path
from hf_imgcls.data.prepared import find_prepared, find_root, remember_prepared
from hf_imgcls.errors import DataError
from hf_imgcls.retries import call_hub, diagnose

T = TypeVar("T")

# Seconds for one answer about a repository, however many files it has.
_ANSWER_TIMEOUT_S = 60.0


@dataclass
class OpenedDataset:
    """A Hub dataset, or a folder in Hub layout, before anything of it is downloaded.

    Attributes:
        name: Hub id or folder.
        builder: What prepares it.
        config: The configuration's name, of a Hub dataset.
        revision: The commit, of a Hub dataset.
        notes: What is worth telling.
    """

    name: str
    builder: DatasetBuilder
    config: str | None = None
    revision: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_from_cache(self) -> bool:
        """Whether the Hub could not be asked and the ``datasets`` cache answered in its place."""
        return type(self.builder).__module__.endswith("packaged_modules.cache.cache")

    @property
    def kind(self) -> str:
        """The format of the files: ``parquet``, ``imagefolder``, ``webdataset`` and others."""
        return type(self.builder).__module__.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class _Place:
    """What the Hub says about a dataset: its commit there, and whether it is a script or has a card."""

    revision: str
    has_script: bool
    has_card: bool


class HubUnreachableError(DataError):
    """The Hub did not answer, after all attempts."""


class _CachedInstead(ConnectionError):
    """The Hub did answer, and ``datasets`` has taken what is in the cache all the same."""

    def __init__(self, builder: DatasetBuilder) -> None:
        super().__init__("a request for a file was not answered")
        self.builder = builder


def _call_hub(request: Callable[[], T], what: str, args: DataArguments) -> T:
    return call_hub(request, what, args.download_attempts, HubUnreachableError)


def open_dataset(args: DataArguments) -> OpenedDataset:
    """Resolve a Hub id or a folder in Hub layout, without downloading its data.

    Raises:
        DataError: It does not exist, cannot be reached, has no data files, is a script, or needs the name of a
            configuration.
    """
    name = str(args.dataset_name)
    if Path(name).expanduser().is_dir():
        folder = make_plain_path(Path(name).expanduser(), args.cache_dir)
        return OpenedDataset(name, _build(str(folder), args))
    try:
        place = _look_up(name, args)
    except HubUnreachableError:
        cached = _open_cached(args)
        if cached is None:
            raise
        return cached
    if place is None:
        return _open_prepared(args) or _describe_opened(_build(name, args), args)
    if place.has_script:
        raise _refuse_script(name, args)
    if _is_converted(name, place, args):
        return _open_converted(name, place.revision, args)
    try:
        builder = _build(name, args, is_reachable=True)
    except _CachedInstead as instead:
        builder = instead.builder
    return _describe_opened(builder, args)


def _describe_opened(builder: DatasetBuilder, args: DataArguments) -> OpenedDataset:
    name = str(args.dataset_name)
    opened = OpenedDataset(name, builder, config=builder.config.name, revision=builder.hash)
    if opened.is_from_cache:
        # datasets takes what is cached, whatever revision was asked for.
        if args.dataset_revision not in (None, "main", builder.hash):
            raise DataError(
                f"the Hub does not give {name} at revision {args.dataset_revision!r}, and the cache has {builder.hash}",
                "the revision that --dataset_revision names",
                f"check the name and the connection, or pass --dataset_revision {builder.hash}",
            )
        opened.notes.append(f"The Hub does not give {name}; it is read from the cache, at revision {builder.hash}.")
    return opened


def _look_up(name: str, args: DataArguments) -> _Place | None:
    """Ask the Hub about a dataset; None where it is not asked (offline), or says only that it may not be seen.

    Raises:
        DataError: The Hub did not answer, or has no such revision.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RevisionNotFoundError

    if constants.HF_HUB_OFFLINE or not is_repo_id(name):
        return None
    api, script = HfApi(token=args.token), f"{name.rpartition('/')[2]}.py"

    def ask() -> _Place:
        info = api.dataset_info(name, revision=args.dataset_revision, timeout=_ANSWER_TIMEOUT_S, expand=["sha"])
        paths = api.get_paths_info(name, [script, "README.md"], revision=info.sha, repo_type="dataset")
        found = {item.path for item in paths}
        return _Place(str(info.sha), script in found, "README.md" in found)

    try:
        return _call_hub(ask, f"look up the dataset {name}", args)
    except RevisionNotFoundError as error:
        raise DataError(
            f"the dataset {name} has no revision {args.dataset_revision!r}",
            "a branch, a tag or a commit of it",
            f"see https://huggingface.co/datasets/{name}/tree/main for its branches and tags, "
            "or leave out --dataset_revision",
        ) from error
    except DataError:
        raise
    except Exception as error:
        if diagnose(error) is None:
            raise
        return None


def _build(name: str, args: DataArguments, *, is_reachable: bool = False) -> DatasetBuilder:
    """Make the builder of a Hub id or a folder.

    Args:
        name: Hub id or folder.
        args: ``dataset_config_name``, ``dataset_revision``, ``cache_dir``, ``token``.
        is_reachable: The Hub has just answered, so that an answer from the cache is a lost request.

    Raises:
        DataError: It does not exist, cannot be reached, has no data files, or needs the name of a configuration.
    """
    if not is_repo_id(name) and not Path(name).expanduser().exists():
        raise DataError(
            f"there is no folder {name!r}",
            "a folder with images or parquet files, the id of a dataset on the Hub, or the built-in 'digits'",
            f"check the path{offer_folders(name)}",
        )
    common: dict[str, Any] = {"revision": args.dataset_revision, "token": args.token}

    def load() -> DatasetBuilder:
        builder = load_dataset_builder(name, args.dataset_config_name, cache_dir=args.cache_dir, **common)
        write_out_dates(builder.info.features)
        if is_reachable and type(builder).__module__.endswith("packaged_modules.cache.cache"):
            raise _CachedInstead(builder)
        return builder

    try:
        return _call_hub(load, f"open the dataset {name}", args)
    except HubUnreachableError as error:
        if isinstance(error.__cause__, _CachedInstead):
            raise error.__cause__ from None
        raise
    except ConnectionError as error:
        at = f" at revision {args.dataset_revision!r}" if args.dataset_revision else ""
        raise DataError(
            f"the dataset {name!r}{at} is not a folder here, and the Hub cannot be asked: {error}",
            "a Hub id that is reachable or in the cache, or a folder",
            f"check the network, HF_HUB_OFFLINE and HF_ENDPOINT, or pass the path of a folder{offer_folders(name)}",
        ) from error
    except FileNotFoundError as error:
        raise DataError(
            f"--dataset_name {name}: {_first_line(error)}",
            "the id of a dataset on the Hub, a folder with images or parquet files, or the built-in 'digits'",
            f"correct the name{offer_folders(name)}; for a private or gated dataset log in with `hf auth login`",
        ) from error
    except ValueError as error:
        configs = _list_configs(name, common)
        if configs and args.dataset_config_name not in configs:
            raise _ask_for_config(name, configs, args) from error
        raise describe_failure(name, error) from error
    except Exception as error:  # The Hub clients of the two lines share no base class for their errors.
        raise describe_failure(name, error) from error


def _open_cached(args: DataArguments) -> OpenedDataset | None:
    """Open what an earlier run has left, when the Hub does not answer; None if nothing."""
    if (prepared := _open_prepared(args)) is not None:
        return prepared
    try:
        builder = load_dataset_builder(
            str(args.dataset_name),
            args.dataset_config_name,
            cache_dir=args.cache_dir,
            revision=args.dataset_revision,
            token=args.token,
        )
    except Exception:  # what the Hub did not answer is the error to report
        return None
    opened = _describe_opened(builder, args)
    return opened if opened.is_from_cache else None  # what the Hub gives has not been checked


def _open_prepared(args: DataArguments) -> OpenedDataset | None:
    name = str(args.dataset_name)
    prepared = find_prepared(args)
    if prepared is None:
        return None
    opened = OpenedDataset(name, prepared.open(find_root(args)), config=prepared.config, revision=prepared.revision)
    opened.notes.append(f"The Hub does not give {name}; it is read from the cache, at revision {prepared.revision}.")
    return opened


# ------------------------------------------------------------------------------------------- the Hub's own conversion


def _is_converted(name: str, place: _Place, args: DataArguments) -> bool:
    """Whether the revision is the Hub's conversion: by its name, or, given a commit, by its layout."""
    if args.dataset_revision == CONVERTED_REVISION:
        return True
    is_commit = re.fullmatch(r"[0-9a-f]{40}", args.dataset_revision or "") is not None
    return is_commit and not place.has_card and is_conversion(_list_files(name, place.revision, args))


def _list_files(name: str, revision: str, args: DataArguments) -> list[str]:
    from huggingface_hub import HfApi

    api = HfApi(token=args.token)
    return _call_hub(
        lambda: list(api.list_repo_files(name, revision=revision, repo_type="dataset")),
        f"list the files of {name}",
        args,
    )


def _open_converted(name: str, revision: str, args: DataArguments) -> OpenedDataset:
    """Open one configuration of the conversion."""
    conversion = Conversion(_list_files(name, revision, args))
    configs = list(conversion.configs)
    if not configs:
        raise DataError(
            f"{name} at {args.dataset_revision} has no parquet files",
            "CONFIGURATION/SPLIT/0000.parquet, as the Hub's conversion has them",
            "leave out --dataset_revision",
        )
    config = args.dataset_config_name or (configs[0] if len(configs) == 1 else None)
    if config not in conversion.configs:
        raise _ask_for_config(name, configs, args)
    files = {
        split: [f"hf://datasets/{name}@{revision}/{path}" for path in paths]
        for split, paths in conversion.configs[config].items()
    }
    builder = _build_from_files("parquet", files, args)
    opened = OpenedDataset(name, builder, config=config, revision=revision)
    if partial := conversion.partial.get(config):
        opened.notes.append(f"The Hub has converted only the first part of {name}: not all of {', '.join(partial)}.")
    return opened


def _ask_for_config(name: str, configs: list[str], args: DataArguments) -> DataError:
    return DataError(
        f"--dataset_config_name is {args.dataset_config_name or 'not given'}, and {name} has {len(configs)}",
        f"one of: {', '.join(configs)}",
        f"pass --dataset_config_name {configs[0]}, for example",
    )


def _refuse_script(name: str, args: DataArguments) -> DataError:
    """Say how a dataset that is a Python script can be read: as the Hub's conversion of it, if there is one."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        configs = list(Conversion(_list_files(name, CONVERTED_REVISION, args)).configs)
    except (HfHubHTTPError, DataError):
        configs = []
    fix = f"pass --dataset_revision {CONVERTED_REVISION}, the Hub's own conversion"
    if len(configs) > 1:
        others = ", ".join(configs[1:])
        fix = (
            f"pass --dataset_revision {CONVERTED_REVISION} --dataset_config_name {configs[0]} (or {others}), the Hub's "
            "own conversion"
        )
    elif not configs:
        fix = (
            "the Hub has no conversion of it: look for a copy without a script, or make one with datasets 3, "
            "load_dataset(...).save_to_disk(FOLDER), and pass --dataset_name FOLDER"
        )
    return DataError(
        f"the dataset {name} is a Python script, which is never run",
        "parquet files, image folders or another format that the datasets library reads without running code",
        fix,
    )


# ------------------------------------------------------------------------------------------------------ errors, splits


def _list_configs(name: str, common: dict[str, Any]) -> list[str]:
    try:
        return list(get_dataset_config_names(name, **common))
    except Exception:  # The error that led here is the one to report.
        return []


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def describe_failure(name: str, error: BaseException) -> DataError:
    """Return the error for a dataset that ``datasets`` cannot read."""
    cause = error.__cause__ or error
    text = (
        _first_line(error) if cause is error else f"{_first_line(error)} ({type(cause).__name__}: {_first_line(cause)})"
    )
    is_script = "scripts are no longer supported" in str(error)
    return DataError(
        f"the dataset {name!r} cannot be read: {text}",
        "parquet files, image folders or another format that the datasets library reads without running code",
        "remove the script, or save what it gives with datasets 3: load_dataset(...).save_to_disk(FOLDER)"
        if is_script
        else "check its files",
    )


def list_splits(builder: DatasetBuilder) -> list[str]:
    """Names of a builder's splits, known before anything is downloaded."""
    return [str(name) for name in (builder.config.data_files or builder.info.splits or {})]


def prepare_splits(opened: OpenedDataset, wanted: set[str], args: DataArguments) -> DatasetBuilder:
    """Download and prepare some splits; ``datasets`` would download the others too (svhn's "extra" is 5 x train).

    Args:
        opened: The dataset.
        wanted: Names of the splits that are used.
        args: ``cache_dir``, ``token``, ``download_attempts``.

    Returns:
        A builder whose ``as_dataset`` has the wanted splits.

    Raises:
        DataError: The Hub does not answer. Anything else is raised as ``datasets`` raises it.
    """
    builder = opened.builder
    files = builder.config.data_files
    if files and not set(files) <= wanted:
        builder = _build_from_files(
            opened.kind,
            {split: list(files[split]) for split in files if split in wanted},
            args,
            features=builder.info.features,
        )
    _call_hub(builder.download_and_prepare, f"download the dataset {opened.name}", args)
    if opened.revision is not None and not opened.is_from_cache:
        remember_prepared(builder, args, opened.config, opened.revision)
    return builder


def _build_from_files(kind: str, files: dict[str, list[str]], args: DataArguments, **options: Any) -> DatasetBuilder:
    """Make the builder of single files, which has a place of its own in the cache."""
    patterns = {split: [glob.escape(file) for file in names] for split, names in files.items()}
    return _call_hub(
        lambda: load_dataset_builder(kind, data_files=patterns, cache_dir=args.cache_dir, token=args.token, **options),
        f"find the files of {args.dataset_name}",
        args,
    )


def read_parquet(path: Path, args: DataArguments) -> Dataset:
    """Read one parquet file of this machine through the ``datasets`` cache.

    Raises:
        DataError: It is broken.
    """
    try:
        builder = _build_from_files("parquet", {"train": [str(make_plain_path(path, args.cache_dir))]}, args)
        builder.download_and_prepare()
        return builder.as_dataset("train")
    except DataError:
        raise
    except Exception as error:  # a broken file and a full disk have types of their own
        raise describe_failure(str(path), error) from error
