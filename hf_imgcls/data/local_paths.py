"""Folders and files with names that ``datasets`` and ``fsspec`` take for patterns (``batch[12]``, ``fold*``) or for
chains of file systems (``pets::old``): given as they are, a sibling would be read, or nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import datasets

from hf_imgcls.data.names import is_hidden_name
from hf_imgcls.errors import DataError

_SPECIAL = re.compile(r"[*?\[\]{}]|::")


def make_plain_path(path: Path, cache_dir: str | None) -> Path:
    """Return a path to a folder's files, or to a file, whose name is only a name to ``datasets``.

    Args:
        path: A folder or a file on this machine.
        cache_dir: Where ``datasets`` keeps its data; ``None`` for its default.

    Returns:
        The path, or for one with a special name a folder of links to its files, or a link, in the cache.

    Raises:
        DataError: The links cannot be made.
    """
    real = path.resolve()
    if not _SPECIAL.search(str(real)):
        return path
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser().resolve()
    mirror = cache / "hf_imgcls_links" / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    if path.is_file():
        mirror = mirror.with_suffix(path.suffix)
    if _SPECIAL.search(str(mirror)):
        raise DataError(
            f"the names of {real} and of the cache {cache} hold characters that patterns are made of",
            "a cache folder without any of * ? [ ] { } ::",
            "pass another --cache_dir",
        )
    try:
        if path.is_file():
            _link(mirror, real)
        else:
            _link_files(real, mirror)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read under another name: {error}",
            "a name that has none of * ? [ ] { } ::, or a cache that can hold links",
            "rename the folder, or pass another --cache_dir",
        ) from error
    return mirror


def _link_files(folder: Path, mirror: Path) -> None:
    """Make a folder of links to all files of a folder that are not hidden; links to files that are gone are removed."""
    wanted = {mirror / file.relative_to(folder): file for file in _list_files(folder, frozenset())}
    for current, _, files in os.walk(mirror):
        for name in files:
            if (link := Path(current) / name) not in wanted:
                link.unlink(missing_ok=True)
    for link, target in wanted.items():
        _link(link, target)


def _list_files(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """List the files at any depth that are not hidden, also of folders that are links: ``datasets`` skips those.

    Args:
        folder: Where to begin.
        above: The folders that it is in, without links; a link to one of them would go round for ever, and is left out.
    """
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if is_hidden_name(path.name):
            continue
        if path.is_dir():
            yield from _list_files(path, above | {real})
        else:
            yield path


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or os.readlink(link) != str(target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    status = target.stat()  # the time of a file is part of what datasets caches it under
    os.utime(link, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
