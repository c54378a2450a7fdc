"""Class folders: one folder per class, image files inside. Listed only; no image is opened here."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image
from datasets.table import InMemoryTable

from hf_imgcls.data.image_files import (
    ImageFile,
    SkippedFiles,
    has_image_suffix,
    holds_images,
    list_folders,
    list_images,
)
from hf_imgcls.data.names import is_hidden_name
from hf_imgcls.data.split_folders import check_class_folders
from hf_imgcls.errors import DataError

_METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_class_folder(root: Path, notes: list[str]) -> Dataset:
    """List the images of one folder of classes; nothing is opened.

    Args:
        root: The folder.
        notes: What was passed over is appended here.

    Raises:
        DataError: No image lies in a folder of its class, or a file's name is no text.
    """
    shown, root = root, Path(os.path.abspath(root))
    classes: list[str] = []
    empty: list[str] = []
    paths: list[str] = []
    ids: list[int] = []
    skipped = SkippedFiles(str(root))
    children = list_folders(root)
    inner: dict[str, set[str]] = {}
    digest = hashlib.sha256(os.fsencode(root.name))
    for child, images in zip(children, list_images(map(str, children), skipped), strict=True):
        if not images:
            empty.append(child.name)
            continue
        for image in images:
            paths.append(image.path)
            ids.append(len(classes))
            digest.update(_digest_file(image, root))
        classes.append(child.name)
        inner[child.name] = {_first_folder(image.path, child) for image in images}
    check_class_folders(shown, inner, notes)
    loose = 0
    for entry in os.scandir(root):
        if is_hidden_name(entry.name):
            skipped.add_hidden(entry.path)
        elif has_image_suffix(entry.name):
            loose += 1
    if not paths:
        raise DataError(
            f"{shown} has {f'{loose} images, but none in a folder' if loose else 'no images in its subfolders'}"
            + (f" ({', '.join(empty[:5])} and others hold none)" if empty else ""),
            "one folder per class with image files in it: FOLDER/cat/1.jpg",
            "point to the folder of classes, or list the images with their classes in a CSV file (--train_file)",
        )
    if loose:
        notes.append(f"{loose} images directly in {shown} belong to no class and are not used.")
    if empty:
        notes.append(f"Folders without images in {shown} are no classes: {', '.join(empty)}.")
    notes += skipped.describe(shown)
    return _list_files(paths, ids, classes, digest.hexdigest()[:16], shown)


def read_loose_folder(root: Path, notes: list[str]) -> Dataset:
    """List the images of a folder, at any depth, all of them of one class called "unlabelled"; nothing is opened.

    Args:
        root: The folder.
        notes: What was passed over is appended here.

    Raises:
        DataError: There are no images, or a file's name is no text.
    """
    shown, root = root, Path(os.path.abspath(root))
    skipped = SkippedFiles(str(root))
    images = next(iter(list_images([str(root)], skipped)))
    if not images:
        raise DataError(f"{shown} has no images", "image files, at any depth", "point to the folder that has them")
    notes += skipped.describe(shown)
    digest = hashlib.sha256(os.fsencode(root.name))
    for image in images:
        digest.update(_digest_file(image, root))
    return _list_files(
        [image.path for image in images], [0] * len(images), ["unlabelled"], digest.hexdigest()[:16], shown
    )


def _first_folder(path: str, folder: Path) -> str:
    """Return the sub-folder that leads to a file, "" for a file of the folder itself."""
    first, separator, _ = os.path.relpath(path, folder).partition(os.sep)
    return first if separator else ""


def _digest_file(image: ImageFile, root: Path) -> bytes:
    return f"{os.path.relpath(image.path, root)}\0{image.size}\n".encode("utf-8", "surrogateescape")


def _list_files(paths: list[str], ids: list[int], names: list[str], fingerprint: str, shown: Path) -> Dataset:
    # Names and sizes, not times and absolute paths: a copy of the folder on another machine is the same dataset.
    try:
        path_array = pa.array(paths, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"{shown} holds a file whose name is not UTF-8: {error.object!r}", "names in UTF-8", "rename the file"
        ) from error
    images = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), path_array], names=["bytes", "path"])
    return build_dataset(images, pa.array(ids, pa.int64()), names, fingerprint)


def describe_hidden(folder: Path) -> list[str]:
    """Say which hidden folders and files directly in a folder hold images: one sentence, or none."""
    skipped = SkippedFiles(str(folder))
    for entry in os.scandir(folder):
        if is_hidden_name(entry.name):
            skipped.add_hidden(entry.path)
    return skipped.describe(folder)


def holds_plain_images(folder: Path) -> bool:
    """Whether a folder is one of image files, without the metadata files that ``datasets`` reads labels from."""
    if not holds_images(folder):
        return False
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        if not set(_METADATA_NAMES).isdisjoint(files):
            return False
    return True


def build_dataset(images: pa.Array, labels: pa.Array, names: list[str], fingerprint: str) -> Dataset:
    """Make a dataset of images and class ids.

    Args:
        images: Struct array ``(N,)`` of ``bytes`` and ``path``, as ``datasets.Image`` stores them.
        labels: int64 array ``(N,)`` of class ids.
        names: Class names by id.
        fingerprint: 16 hexadecimal digits that identify the contents.
    """
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    table = pa.table({"image": images, "label": labels})
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
