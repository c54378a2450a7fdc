"""Hub datasets and folders in Hub layout, opened and prepared by the ``datasets`` library.

What is ours here is the errors: that library raises a dozen types, of three packages that differ between the lines,
and each becomes one sentence with what to do.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from datasets import DatasetBuilder, get_dataset_config_names, load_dataset_builder

from hf_imgcls.arguments import DataArguments
from hf_imgcls.data.class_lists import write_out_dates
from hf_imgcls.data.splits import ROLES
from hf_imgcls.errors import DataError


def requested_splits(args: DataArguments) -> dict[str, str | None]:
    """Role -> the split name that the user asked for."""
    return {role: getattr(args, f"{role}_split_name") for role in ROLES}


def open_builder(args: DataArguments) -> DatasetBuilder:
    """Resolve a Hub id or a folder in Hub layout to a builder, without downloading its data.

    Raises:
        DataError: It does not exist, cannot be reached, has no data files, or needs another configuration name.
    """
    name = str(args.dataset_name)
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    common: dict[str, Any] = {"revision": args.dataset_revision, "token": args.token}
    try:
        builder = load_dataset_builder(name, args.dataset_config_name, cache_dir=args.cache_dir, **common)
    except ConnectionError as error:
        raise DataError(
            f"the dataset {name!r} is not a folder here, and the Hub cannot be asked: {error}",
            "a Hub id that is reachable or in the cache, or a folder",
            f"check the network, HF_HUB_OFFLINE and HF_ENDPOINT, or pass the path of a folder{_offer_folders(name)}",
        ) from error
    except FileNotFoundError as error:
        raise DataError(
            f"--dataset_name {name}: {_first_line(error)}",
            "the id of a dataset on the Hub, a folder with images or parquet files, or the built-in 'digits'",
            f"correct the name{_offer_folders(name)}; for a private or gated dataset log in with `hf auth login`",
        ) from error
    except ValueError as error:
        configs = _list_configs(name, common)
        if configs and args.dataset_config_name not in configs:
            raise DataError(
                f"--dataset_config_name is {args.dataset_config_name or 'not given'}, and {name} has {len(configs)}",
                f"one of: {', '.join(configs)}",
                f"pass --dataset_config_name {configs[0]}, for example",
            ) from error
        raise describe_failure(name, error) from error
    except Exception as error:  # The Hub clients of the two lines share no base class for their errors.
        raise describe_failure(name, error) from error
    # When the Hub refuses or cannot be reached, datasets takes what is cached, whatever revision was asked for.
    asked = args.dataset_revision
    if is_from_cache(builder) and asked not in (None, "main", builder.hash):
        raise DataError(
            f"the Hub does not give {name} at revision {asked!r}, and the cache has {builder.hash}",
            "the revision that --dataset_revision names",
            f"check the name and the connection, or pass --dataset_revision {builder.hash}",
        )
    write_out_dates(builder.info.features)
    return builder


def _list_configs(name: str, common: dict[str, Any]) -> list[str]:
    try:
        return list(get_dataset_config_names(name, **common))
    except Exception:  # The error that led here is the one to report.
        return []


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def describe_failure(name: str, error: BaseException) -> DataError:
    cause = error.__cause__ or error
    text = (
        _first_line(error) if cause is error else f"{_first_line(error)} ({type(cause).__name__}: {_first_line(cause)})"
    )
    is_script = "scripts are no longer supported" in str(error)
    return DataError(
        f"the dataset {name!r} cannot be read: {text}",
        "parquet files, image folders or another format that the datasets library reads without running code",
        "pass --dataset_revision refs/convert/parquet, the Hub's own conversion" if is_script else "check its files",
    )


def is_from_cache(builder: DatasetBuilder) -> bool:
    """Whether the Hub could not be asked and the ``datasets`` cache answered in its place."""
    return type(builder).__module__.endswith("packaged_modules.cache.cache")


def list_splits(builder: DatasetBuilder) -> list[str]:
    """Names of a builder's splits, known before anything is downloaded."""
    return [str(name) for name in (builder.config.data_files or builder.info.splits or {})]


def without_other_splits(builder: DatasetBuilder, wanted: set[str], args: DataArguments) -> DatasetBuilder:
    """Leave out splits that are not used; ``datasets`` would download them too (svhn's "extra" is 5 x train)."""
    files = builder.config.data_files
    if not files or not wanted or set(files) <= wanted:
        return builder
    return load_dataset_builder(
        type(builder).__module__.rsplit(".", 1)[-1],
        data_files={split: list(files[split]) for split in files if split in wanted},
        features=builder.info.features,
        cache_dir=args.cache_dir,
        token=args.token,
    )


def suggest_path(path: Path, flag: str) -> str:
    """Say what to do about a path that does not exist: near names beside it, or the part that is missing."""
    if not path.parent.is_dir():
        return f"correct {flag}: the folder {path.parent} does not exist either"
    near = _near_names(path)
    return f"did you mean {' or '.join(near)}?" if near else f"correct {flag}"


def _offer_folders(name: str) -> str:
    near = _near_names(Path(name)) if Path(name).parent.is_dir() else []
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _near_names(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)]
