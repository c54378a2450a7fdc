"""Class folders: one folder per class, image files inside. Listed only; no image is opened here."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image
from datasets.table import InMemoryTable

from hf_imgcls.data.labels import natural_key
from hf_imgcls.data.splits import RECOGNISED_NAMES
from hf_imgcls.errors import DataError

# The formats of ``decode.FORMATS``, by the suffixes that they go by.
_SUFFIXES = "avif apng bmp dib gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
_METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_split_folders(folder: Path) -> dict[str, Path]:
    """Find ``train``, ``val``, ``test`` inside a folder that holds nothing else, so that a class "train" stays one."""
    roles: dict[str, Path] = {}
    for child in _list_folders(folder):
        role = next((role for role, known in RECOGNISED_NAMES.items() if child.name.lower() in known), None)
        if role is None or role in roles:
            return {}
        roles[role] = child
    is_deep = all(any(True for _ in _list_folders(path)) for path in roles.values())
    return roles if "train" in roles and is_deep else {}


def _is_ignored(name: str) -> bool:
    return name.startswith((".", "__"))


def _list_folders(folder: Path) -> list[Path]:
    children = [child for child in folder.iterdir() if child.is_dir() and not _is_ignored(child.name)]
    return sorted(children, key=lambda child: natural_key(child.name))


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
    others: Counter[str] = Counter()
    digest = hashlib.sha256(os.fsencode(root.name))
    for child in _list_folders(root):
        images = sorted(_walk_images(str(child), others), key=lambda item: natural_key(item[0]))
        if not images:
            empty.append(child.name)
            continue
        for path, size in images:
            paths.append(path)
            ids.append(len(classes))
            digest.update(f"{os.path.relpath(path, root)}\0{size}\n".encode("utf-8", "surrogateescape"))
        classes.append(child.name)
    loose = sum(1 for entry in os.scandir(root) if _is_image(entry.name))
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
    if others:
        found = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(5))
        notes.append(f"Files in {shown} that are not images by their names are not used: {found}.")
    try:
        path_array = pa.array(paths, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"{shown} holds a file whose name is not UTF-8: {error.object!r}", "names in UTF-8", "rename the file"
        ) from error
    images_array = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), path_array], names=["bytes", "path"])
    # Names and sizes, not times and absolute paths: a copy of the folder on another machine is the same dataset.
    return build_dataset(images_array, pa.array(ids, pa.int64()), classes, digest.hexdigest()[:16])


def _is_image(name: str) -> bool:
    return not _is_ignored(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _walk_images(folder: str, others: Counter[str] | None = None) -> Iterator[tuple[str, int]]:
    """Yield path and size of the image files under a folder, following links, but no folder twice.

    Args:
        folder: Where to look.
        others: Suffixes of the other files that are not hidden are counted here.
    """
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_ignored(name)]
        for name in files:
            if _is_image(name):
                path = os.path.join(current, name)
                # A dangling link has no size; the check of the first images, or the data scan, names it.
                yield path, os.stat(path).st_size if os.path.exists(path) else -1
            elif others is not None and not _is_ignored(name):
                others[os.path.splitext(name)[1].lower()] += 1


def holds_plain_images(folder: Path) -> bool:
    """Whether a folder is one of image files, without the metadata files that ``datasets`` reads labels from."""
    for current in (folder, *_list_folders(folder)):
        if any((current / name).is_file() for name in _METADATA_NAMES):
            return False
    return any(True for _ in _walk_images(str(folder)))


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
