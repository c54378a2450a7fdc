"""From the file names in an annotation file to the files: all of them found, or the first missing ones named.

A name that differs from the file's only in what another system does not tell apart (``\\`` for ``/``, capitals, the
Unicode form) means that file. Anything else is not guessed; the near file is named.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hf_imgcls.data.image_files import has_image_suffix
from hf_imgcls.data.names import is_hidden_name
from hf_imgcls.errors import DataError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# First characters of PNG, JPEG, GIF, WebP and BMP files in base64
_BASE64 = re.compile(r"(data:image/|iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-3])[A-Za-z0-9+/=;:,\s-]{60,}")
_MOST_SEARCHED = 200_000


class ImageNames(NamedTuple):
    """What turns the names in an annotation file into paths.

    Attributes:
        folder: ``--image_folder``: the names are relative to it; ``None`` for the annotation file's own folder.
        suffix: ``--image_suffix``: what is added to names that lack it.
    """

    folder: str | None = None
    suffix: str | None = None


class FoundFiles(NamedTuple):
    """Absolute paths of the files that rows name, and their sizes in bytes."""

    paths: list[str]
    sizes: list[int]


def find_files(names: Sequence[str | None], annotation: Path, images: ImageNames, notes: list[str]) -> FoundFiles:
    """Find the files that the rows of an annotation file name, reading every folder once.

    Args:
        names: One for each row.
        annotation: The annotation file.
        images: How names become paths.
        notes: What was read otherwise than it stands there is appended here.

    Raises:
        DataError: A row names no file, or one that is not there; or the column holds something else.
    """
    check_names(names, str(annotation))
    base = os.path.abspath(os.path.expanduser(images.folder) if images.folder else annotation.parent)
    suffix = images.suffix or ""
    if suffix and not suffix.startswith("."):
        suffix = f".{suffix}"
    asked = [str(name) if str(name).endswith(suffix) else f"{name}{suffix}" for name in names]
    paths = [os.path.normpath(os.path.join(base, name)) for name in asked]
    folders = _Folders()
    found: list[str] = []
    missing: list[int] = []
    alike: list[tuple[str, str]] = []
    for row, path in enumerate(paths):
        if folders.size_of(path) is None:
            near = folders.find_alike(base, asked[row])
            if near is None:
                missing.append(row)
                continue
            alike.append((asked[row], os.path.relpath(near, base)))
            path = near
        found.append(path)
    if missing:
        raise _describe_missing([str(names[row]) for row in missing], len(paths), annotation, base)
    if alike:
        written, real = alike[0]
        notes.append(
            f"{len(alike)} file names in {annotation.name} are written otherwise than the files (slashes, capitals or "
            f"Unicode form), and were found: {written!a} is {real!a}{', for example' if len(alike) > 1 else ''}."
        )
    return FoundFiles(found, [folders.size_of(path) or 0 for path in found])


def check_names(names: Sequence[str | None], where: str) -> None:
    """Look whether a column of text holds the names of files.

    Args:
        names: One for each row.
        where: The file or column, for errors.

    Raises:
        DataError: A row has none, or the column holds URLs, or the images themselves as base64.
    """
    empty = [row for row, name in enumerate(names) if not name]
    if empty:
        rows = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
        raise DataError(
            f"{where}: {len(empty)} rows name no file (rows {rows}, counted from 0)",
            "a file name on every row",
            "fill or drop them",
        )
    urls = [str(name) for name in names if _URL.match(str(name))]
    if urls:
        raise DataError(
            f"{where} names images by URLs: {urls[0][:80]}",
            "files on this machine",
            "download the images first, and name the files: images/1.jpg",
        )
    if any(_BASE64.match(str(name)) for name in names):
        raise DataError(
            f"{where} holds the images themselves as base64 text",
            "names of image files, or images as bytes",
            "decode them into files (base64.b64decode), or save the rows as parquet with a column of bytes",
        )


class _Folders:
    """What lies in folders, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, int]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def size_of(self, path: str) -> int | None:
        """Return the size of a file in bytes, ``None`` if it is not there."""
        folder, name = os.path.split(path)
        if folder not in self._files:
            try:
                with os.scandir(folder) as entries:
                    self._files[folder] = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except OSError:
                self._files[folder] = {}
        return self._files[folder].get(name)

    def find_alike(self, base: str, name: str) -> str | None:
        """Return the one file whose name another system would not tell from this one."""
        path = base
        for part in name.replace("\\", "/").split("/"):
            if part in ("", "."):
                continue
            exact = os.path.join(path, part)
            fitting = [part] if os.path.exists(exact) else self._list_alike(path).get(_fold(part), [])
            if part != ".." and len(fitting) != 1:
                return None
            path = os.path.normpath(os.path.join(path, part if part == ".." else fitting[0]))
        return path if self.size_of(path) is not None else None

    def _list_alike(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._alike:
            names: dict[str, list[str]] = {}
            for name in os.listdir(folder) if os.path.isdir(folder) else []:
                names.setdefault(_fold(name), []).append(name)
            self._alike[folder] = names
        return self._alike[folder]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _describe_missing(missing: list[str], total: int, annotation: Path, base: str) -> DataError:
    shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
    by_stem = _list_by_stem(base)
    # A dot may belong to the name itself: an id such as 12.5 has no suffix.
    near = [path for path in (_find_near(name, by_stem) for name in missing[:5]) if path is not None]
    expected, fix = f"paths relative to {base}", "correct the paths, or pass the images' folder as --image_folder"
    if near:
        expected += f"; {near[0]} is there"
        folder, suffix = os.path.dirname(near[0]), os.path.splitext(near[0])[1]
        flags = []
        if os.path.dirname(missing[0]) != folder:
            depth = os.path.dirname(missing[0].replace("\\", "/"))
            shorter = folder.removesuffix(depth).rstrip("/") if depth and folder.endswith(depth) else folder
            flags.append(f"--image_folder {os.path.normpath(os.path.join(base, shorter))}")
        if not has_image_suffix(missing[0]):
            flags.append(f"--image_suffix {suffix}")
        fix = f"pass {' '.join(flags)}" if flags else "correct the paths"
    return DataError(f"{annotation} names {len(missing)} of {total} files that are not there: {shown}", expected, fix)


def _list_by_stem(base: str) -> dict[str, list[str]]:
    """Return the images below a folder by their names without a suffix; of a very large one, the first."""
    found: dict[str, list[str]] = {}
    count = 0
    for current, folders, files in os.walk(base):
        folders[:] = sorted(name for name in folders if not is_hidden_name(name))
        for name in sorted(filter(has_image_suffix, files)):
            path = os.path.relpath(os.path.join(current, name), base)
            found.setdefault(_fold(os.path.splitext(name)[0]), []).append(path)
            count += 1
        if count > _MOST_SEARCHED:
            break
    return found


def _find_near(name: str, by_stem: dict[str, list[str]]) -> str | None:
    last = name.replace("\\", "/").rpartition("/")[2]
    stem = os.path.splitext(last)[0] if has_image_suffix(last) else last
    return next(iter(by_stem.get(_fold(stem), [])), None)
