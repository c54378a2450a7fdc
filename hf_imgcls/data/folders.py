"""Class folders: one folder per class, image files inside. Listed only; no image is opened here."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image
from datasets.table import InMemoryTable

from hf_imgcls.data.labels import is_hidden_name, list_some, natural_key
from hf_imgcls.data.splits import RECOGNISED_NAMES
from hf_imgcls.errors import DataError

# The formats of ``decode.FORMATS``, by the suffixes that they go by.
_SUFFIXES = "avif apng bmp dib gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
_METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class _Beside:
    """What a folder holds beside images of its own: what is passed over, and links that lead out of it.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root, self._real_root = root, os.path.realpath(root)
        self.others: Counter[str] = Counter()
        self._hidden: Counter[str] = Counter()
        self._hidden_file = ""
        self._links: list[str] = []

    def add_hidden(self, path: str) -> None:
        """Count the images in a hidden folder; a hidden file may be one itself."""
        name = os.path.basename(path)
        if os.path.isdir(path):
            self._hidden[name] += sum(_has_image_suffix(file) for _, _, files in os.walk(path) for file in files)
        elif _has_image_suffix(name):
            self._hidden_file = self._hidden_file or name
            self._hidden[""] += 1

    def add_link(self, path: str) -> None:
        """Remember a symbolic link, if it leads to something outside."""
        real = os.path.realpath(path)
        if os.path.exists(real) and os.path.commonpath([real, self._real_root]) != self._real_root:
            self._links.append(os.path.relpath(path, self.root))

    def describe(self, shown: Path) -> list[str]:
        """Say what there is, one sentence for each kind."""
        notes = []
        if self.others:
            found = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in self.others.most_common(5))
            notes.append(f"Files in {shown} that are not images by their names are not used: {found}.")
        hidden = [
            (name or f"files such as {self._hidden_file}", count) for name, count in self._hidden.items() if count
        ]
        if hidden:
            found = ", ".join(f"{name} ({count} images)" for name, count in sorted(hidden)[:5])
            notes.append(f"Hidden folders and files in {shown} are no classes and not used: {found}.")
        if self._links:
            found = list_some(sorted(self._links), 3)
            notes.append(f"{len(self._links)} symbolic links lead out of {shown} and were followed: {found}.")
        return notes


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


def _list_folders(folder: Path) -> list[Path]:
    children = [child for child in folder.iterdir() if child.is_dir() and not is_hidden_name(child.name)]
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
    beside = _Beside(str(root))
    digest = hashlib.sha256(os.fsencode(root.name))
    for child in _list_folders(root):
        images = sorted(_walk_images(str(child), beside), key=lambda item: natural_key(item[0]))
        if not images:
            empty.append(child.name)
            continue
        for path, size in images:
            paths.append(path)
            ids.append(len(classes))
            digest.update(f"{os.path.relpath(path, root)}\0{size}\n".encode("utf-8", "surrogateescape"))
        classes.append(child.name)
    loose = 0
    for entry in os.scandir(root):
        if is_hidden_name(entry.name):
            beside.add_hidden(entry.path)
        elif _has_image_suffix(entry.name):
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
    notes += beside.describe(shown)
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
    beside = _Beside(str(root))
    images = sorted(_walk_images(str(root), beside), key=lambda item: natural_key(item[0]))
    if not images:
        raise DataError(f"{shown} has no images", "image files, at any depth", "point to the folder that has them")
    notes += beside.describe(shown)
    digest = hashlib.sha256(os.fsencode(root.name))
    for path, size in images:
        digest.update(f"{os.path.relpath(path, root)}\0{size}\n".encode("utf-8", "surrogateescape"))
    return _list_files([path for path, _ in images], [0] * len(images), ["unlabelled"], digest.hexdigest()[:16], shown)


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
    beside = _Beside(str(folder))
    for entry in os.scandir(folder):
        if is_hidden_name(entry.name):
            beside.add_hidden(entry.path)
    return beside.describe(folder)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _walk_images(folder: str, beside: _Beside) -> Iterator[tuple[str, int]]:
    """Yield path and size of the image files under a folder, following links, but no folder twice.

    Args:
        folder: Where to look.
        beside: What else there is, is added here.
    """
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if os.path.islink(current):
            beside.add_link(current)
        for name in filter(is_hidden_name, [*folders, *files]):
            beside.add_hidden(os.path.join(current, name))
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden_name(name):
                continue
            if suffix not in IMAGE_SUFFIXES:
                beside.others[suffix] += 1
                continue
            path = os.path.join(current, name)
            try:
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    beside.add_link(path)
                    status = os.stat(path)
            except OSError:
                yield path, -1  # a dangling link: the scan of the images names it
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:  # reading a pipe or a device may never end
                beside.others[f"{suffix} that is no file"] += 1


def holds_plain_images(folder: Path) -> bool:
    """Whether a folder is one of image files, without the metadata files that ``datasets`` reads labels from."""
    for current in (folder, *_list_folders(folder)):
        if any((current / name).is_file() for name in _METADATA_NAMES):
            return False
    return any(True for _ in _walk_images(str(folder), _Beside(str(folder))))


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
