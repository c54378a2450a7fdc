"""Hub datasets and folders in Hub layout, opened and prepared by the ``datasets`` library.

What is ours here: a configuration of the Hub's own conversion is one of its folders, and what was prepared is found
again offline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetBuilder, load_dataset_builder

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.data.builders import (
    CachedInsteadError,
    HubUnreachableError,
    ask_for_config,
    ask_hub,
    build_dataset,
    build_from_files,
)
from hf_imgcls.data.converted import Conversion, is_conversion
from hf_imgcls.data.hub_names import CONVERTED_REVISION
from hf_imgcls.data.local_paths import make_plain_path
from hf_imgcls.data.prepared import find_prepared, find_root, remember_prepared
from hf_imgcls.errors import DataError
from hf_imgcls.retries import diagnose

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


def open_dataset(args: DataArguments) -> OpenedDataset:
    """Resolve a Hub id or a folder in Hub layout, without downloading its data.

    Raises:
        DataError: It does not exist, cannot be reached, has no data files, is a script, or needs the name of a
            configuration.
    """
    name = str(args.dataset_name)
    if Path(name).expanduser().is_dir():
        folder = make_plain_path(Path(name).expanduser(), args.cache_dir)
        return OpenedDataset(name, build_dataset(str(folder), args))
    try:
        place = _look_up(name, args)
    except HubUnreachableError:
        cached = _open_cached(args)
        if cached is None:
            raise
        return cached
    if place is None:
        return _open_prepared(args) or _describe_opened(build_dataset(name, args), args)
    if place.has_script:
        raise _refuse_script(name, args)
    if _is_converted(name, place, args):
        return _open_converted(name, place.revision, args)
    try:
        builder = build_dataset(name, args, is_reachable=True)
    except CachedInsteadError as instead:
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
        return ask_hub(ask, f"look up the dataset {name}", args)
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
    return ask_hub(
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
        raise ask_for_config(name, configs, args)
    files = {
        split: [f"hf://datasets/{name}@{revision}/{path}" for path in paths]
        for split, paths in conversion.configs[config].items()
    }
    builder = build_from_files("parquet", files, args)
    opened = OpenedDataset(name, builder, config=config, revision=revision)
    if partial := conversion.partial.get(config):
        opened.notes.append(f"The Hub has converted only the first part of {name}: not all of {', '.join(partial)}.")
    return opened


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
        builder = build_from_files(
            opened.kind,
            {split: list(files[split]) for split in files if split in wanted},
            args,
            features=builder.info.features,
        )
    ask_hub(builder.download_and_prepare, f"download the dataset {opened.name}", args)
    if opened.revision is not None and not opened.is_from_cache:
        remember_prepared(builder, args, opened.config, opened.revision)
    return builder
