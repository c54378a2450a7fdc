"""Image files under a folder: each one once, hidden ones passed over, links followed and told. Nothing is opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hf_imgcls.data.names import is_hidden_name, list_some, natural_key

# The formats of ``decode.FORMATS``, by the suffixes that they go by.
_SUFFIXES = "avif apng bmp dib gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())


class ImageFile(NamedTuple):
    """An image file by its name.

    Attributes:
        path: Where it was found.
        size: Bytes; -1 for a link to nothing.
        identity: Device and inode, which all names of one file share; ``None`` where there are none.
        is_link: Whether the name is a symbolic link.
    """

    path: str
    size: int
    identity: tuple[int, int] | None
    is_link: bool


class SkippedFiles:
    """What a folder holds apart from images of its own: files that are passed over, and links.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root, self.real_root = root, os.path.realpath(root)
        self.others: Counter[str] = Counter()
        self.loops: list[str] = []
        self.repeated: list[tuple[str, str]] = []
        self._hidden: Counter[str] = Counter()
        self._hidden_file = ""
        self._links: list[str] = []

    def add_hidden(self, path: str) -> None:
        """Count the images in a hidden folder; a hidden file may be one itself."""
        name = os.path.basename(path)
        if os.path.isdir(path):
            self._hidden[name] += sum(has_image_suffix(file) for _, _, files in os.walk(path) for file in files)
        elif has_image_suffix(name):
            self._hidden_file = self._hidden_file or name
            self._hidden[""] += 1

    def add_link(self, path: str) -> None:
        """Remember a symbolic link, if it leads to something outside."""
        real = os.path.realpath(path)
        if os.path.exists(real) and os.path.commonpath([real, self.real_root]) != self.real_root:
            self._links.append(os.path.relpath(path, self.root))

    def leads_back(self, path: str) -> bool:
        """Whether a link to a folder leads to where images are found anyway: into the root, or above it."""
        real = os.path.realpath(path)
        common = os.path.commonpath([real, self.real_root])
        if common == real:
            return True
        return common == self.real_root and not any(map(is_hidden_name, Path(real).relative_to(common).parts))

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
        if self.loops:
            found = list_some(sorted(self.loops), 3)
            notes.append(f"{len(self.loops)} links to folders lead back into {shown} and were not followed: {found}.")
        if self.repeated:
            notes.append(self._describe_repeated(shown))
        return notes

    def _describe_repeated(self, shown: Path) -> str:
        names = [[os.path.relpath(path, self.root) for path in pair] for pair in sorted(self.repeated)]
        crossing = [pair for pair in names if pair[0].split(os.sep)[0] != pair[1].split(os.sep)[0]]
        first = (crossing or names)[0]
        text = f"{len(names)} image files in {shown} are reached twice, through links, and used once"
        if crossing:
            text += f"; {len(crossing)} of them from folders of two classes"
        return f"{text}: {first[0]!r} is {first[1]!r}{', for example' if len(names) > 1 else ''}."


def has_image_suffix(name: str) -> bool:
    """Whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def list_folders(folder: Path) -> list[Path]:
    """List the folders in a folder, hidden ones left out, in natural order."""
    children = [child for child in folder.iterdir() if child.is_dir() and not is_hidden_name(child.name)]
    return sorted(children, key=lambda child: natural_key(child.name))


def holds_images(folder: Path) -> bool:
    """Whether a folder holds an image file, at any depth."""
    return any(True for _ in _walk(str(folder), SkippedFiles(str(folder))))


def list_image_folders(folder: Path) -> list[Path]:
    """List the folders in a folder that hold image files, at any depth."""
    return [child for child in list_folders(folder) if holds_images(child)]


def list_images(folders: Iterable[str], skipped: SkippedFiles) -> list[list[ImageFile]]:
    """List the image files under folders, each file once: not again through a link, hard or symbolic.

    Of several names of a file a symbolic link is the last to count, then the order of the folders decides.

    Args:
        folders: Where to look.
        skipped: What else there is, is added here.

    Returns:
        The files under each folder, in natural order.
    """
    found = [sorted(_walk(folder, skipped), key=lambda image: natural_key(image.path)) for folder in folders]
    owners: dict[tuple[int, int], str] = {}
    for image in sorted((image for images in found for image in images), key=lambda image: image.is_link):
        if image.identity is not None and (owner := owners.setdefault(image.identity, image.path)) != image.path:
            skipped.repeated.append((image.path, owner))
    repeated = {path for path, _ in skipped.repeated}
    return [[image for image in images if image.path not in repeated] for images in found]


def _walk(folder: str, skipped: SkippedFiles) -> Iterator[ImageFile]:
    """Yield the image files under a folder, following links, but no folder twice."""
    if os.path.islink(folder) and folder != skipped.root and skipped.leads_back(folder):
        skipped.loops.append(os.path.relpath(folder, skipped.root))
        return
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if os.path.islink(current):
            skipped.add_link(current)
        for name in filter(is_hidden_name, [*folders, *files]):
            skipped.add_hidden(os.path.join(current, name))
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        links = [path for name in folders if os.path.islink(path := os.path.join(current, name))]
        back = {os.path.basename(path): path for path in links if skipped.leads_back(path)}
        skipped.loops += [os.path.relpath(path, skipped.root) for path in back.values()]
        folders[:] = [name for name in folders if name not in back]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden_name(name):
                continue
            if suffix not in IMAGE_SUFFIXES:
                skipped.others[suffix] += 1
                continue
            if (image := _look_at(os.path.join(current, name), skipped)) is not None:
                yield image


def _look_at(path: str, skipped: SkippedFiles) -> ImageFile | None:
    """Return what a file's name leads to; ``None`` for what is no file: reading a pipe or a device may never end."""
    is_link = False
    try:
        status = os.lstat(path)
        if is_link := stat.S_ISLNK(status.st_mode):
            skipped.add_link(path)
            status = os.stat(path)
    except OSError:
        return ImageFile(path, -1, None, is_link)  # a dangling link: the scan of the images names it
    if not stat.S_ISREG(status.st_mode):
        skipped.others[f"{os.path.splitext(path)[1].lower()} that is no file"] += 1
        return None
    identity = (status.st_dev, status.st_ino) if status.st_ino else None
    return ImageFile(path, status.st_size, identity, is_link)
