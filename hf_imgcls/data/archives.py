"""Zip archives of class folders, which the ``datasets`` library finds and then gives wrong labels.

They are extracted into its cache and read as folders: https://github.com/huggingface/datasets/issues/8419.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from datasets import DownloadConfig, DownloadManager

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.builders import HubUnreachableError
from hf_imgcls.data.labels import is_hidden_name
from hf_imgcls.data.prepared import find_root, remember_archives
from hf_imgcls.data.ranges import RangeReader
from hf_imgcls.data.repository import OpenedDataset
from hf_imgcls.errors import DataError
from hf_imgcls.retries import call_hub

_METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def extract_archives(opened: OpenedDataset, names: Mapping[str, str], args: DataArguments) -> dict[str, Path]:
    """Download and extract the archives that the splits of a dataset consist of.

    Args:
        opened: The dataset.
        names: Role -> split.
        args: ``cache_dir``, ``token``, ``download_attempts``.

    Returns:
        Role -> folder of classes (or of splits); nothing if the dataset does not consist of archives, or has metadata
        files, in them or beside them, which ``datasets`` reads.

    Raises:
        DataError: A split has several archives without metadata, or the Hub does not answer.
    """
    files = opened.builder.config.data_files or {}
    chosen = {role: [str(file) for file in files.get(split, [])] for role, split in names.items()}
    if opened.kind != "imagefolder" or not any(file.endswith(".zip") for parts in chosen.values() for file in parts):
        return {}
    if _have_metadata({file for parts in chosen.values() for file in parts}, args):
        return {}
    for role, parts in chosen.items():
        if len(parts) != 1:
            found = ", ".join(Path(part).name for part in parts[:4]) or "no file"
            raise DataError(
                f"the split {names[role]!r} of {opened.name} is {len(parts)} files, with archives: {found}",
                "one zip archive of class folders for each split, or image files in class folders",
                "download and unpack them, and pass the folder of classes as --train_dir",
            )
    archives = {role: parts[0] for role, parts in chosen.items()}
    folders, paths = _extract(archives, opened.name, args)
    if opened.revision is not None:
        remember_archives({names[role]: path for role, path in paths.items()}, args, opened.config, opened.revision)
    return folders


def extract_archive(path: Path, args: DataArguments) -> Path:
    """Extract a local archive of class folders into the ``datasets`` cache, and return its folder."""
    return _extract({"train": str(path)}, str(path), args)[0]["train"]


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip archive by its name."""
    return path.is_file() and path.suffix.lower() == ".zip"


def _extract(archives: Mapping[str, str], name: str, args: DataArguments) -> tuple[dict[str, Path], dict[str, str]]:
    """Return role -> folder of classes, and role -> the archive on this machine."""
    config = DownloadConfig(cache_dir=str(find_root(args) / "downloads"), token=args.token)
    manager = DownloadManager(dataset_name=Path(name).name, download_config=config, record_checksums=False)
    paths: dict[str, str] = call_hub(
        lambda: manager.download(dict(archives)), f"download {name}", args.download_attempts, HubUnreachableError
    )
    try:
        folders = manager.extract(paths)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:  # damaged, encrypted, full disk
        raise DataError(
            f"an archive of {name} cannot be unpacked: {error}", "a whole zip archive", "unpack it, and pass its folder"
        ) from error
    return {role: _find_content(Path(folder)) for role, folder in folders.items()}, paths


def _find_content(folder: Path) -> Path:
    """Go down to the folder of classes: archives often hold one folder that holds everything."""
    while True:
        children = [child for child in sorted(folder.iterdir()) if not is_hidden_name(child.name)]
        is_wrapper = len(children) == 1 and children[0].is_dir()
        if not is_wrapper or not any(child.is_dir() for child in children[0].iterdir()):
            return folder
        folder = children[0]


def _have_metadata(files: Collection[str], args: DataArguments) -> bool:
    """Whether a metadata file is among the files or, at any depth, in one of the archives: as ``datasets`` looks."""
    names = set(files)
    for archive in sorted(file for file in files if file.endswith(".zip")):
        # Only the list at its end is read, not the archive.
        with RangeReader(archive, args.token, args.download_attempts) as handle, contextlib.suppress(BadZipFile):
            names.update(ZipFile(handle).namelist())  # type: ignore[arg-type]
    return any(name.rpartition("/")[2] in _METADATA_NAMES for name in names)
