"""Builders of the ``datasets`` library: requests that are retried, and errors that say what to do.

That library raises its errors in a dozen types of three packages; each becomes one sentence here.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetBuilder, get_dataset_config_names, load_dataset_builder

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.arguments.near_paths import offer_folders
from hf_imgcls.data.class_lists import write_out_dates
from hf_imgcls.data.local_paths import make_plain_path
from hf_imgcls.errors import DataError
from hf_imgcls.retries import call_hub

T = TypeVar("T")


class HubUnreachableError(DataError):
    """The Hub did not answer, after all attempts."""


class CachedInsteadError(ConnectionError):
    """The Hub did answer, and ``datasets`` has taken what is in the cache all the same."""

    def __init__(self, builder: DatasetBuilder) -> None:
        super().__init__("a request for a file was not answered")
        self.builder = builder


def ask_hub(request: Callable[[], T], what: str, args: DataArguments) -> T:
    return call_hub(request, what, args.download_attempts, HubUnreachableError)


def build_dataset(name: str, args: DataArguments, *, is_reachable: bool = False) -> DatasetBuilder:
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
            raise CachedInsteadError(builder)
        return builder

    try:
        return ask_hub(load, f"open the dataset {name}", args)
    except HubUnreachableError as error:
        if isinstance(error.__cause__, CachedInsteadError):
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
            raise ask_for_config(name, configs, args) from error
        raise describe_failure(name, error) from error
    except Exception as error:  # The Hub clients of the two lines share no base class for their errors.
        raise describe_failure(name, error) from error


def build_from_files(kind: str, files: dict[str, list[str]], args: DataArguments, **options: Any) -> DatasetBuilder:
    """Make the builder of single files, which has a place of its own in the cache."""
    patterns = {split: [glob.escape(file) for file in names] for split, names in files.items()}
    return ask_hub(
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
        builder = build_from_files("parquet", {"train": [str(make_plain_path(path, args.cache_dir))]}, args)
        builder.download_and_prepare()
        return builder.as_dataset("train")
    except DataError:
        raise
    except Exception as error:  # a broken file and a full disk have types of their own
        raise describe_failure(str(path), error) from error


def list_splits(builder: DatasetBuilder) -> list[str]:
    """Names of a builder's splits, known before anything is downloaded."""
    return [str(name) for name in (builder.config.data_files or builder.info.splits or {})]


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


def ask_for_config(name: str, configs: list[str], args: DataArguments) -> DataError:
    return DataError(
        f"--dataset_config_name is {args.dataset_config_name or 'not given'}, and {name} has {len(configs)}",
        f"one of: {', '.join(configs)}",
        f"pass --dataset_config_name {configs[0]}, for example",
    )
