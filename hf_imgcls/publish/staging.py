"""The files of a push in one folder, as they will be on the Hub: verified there, uploaded from there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.errors import PushError
from hf_imgcls.publish.client import retry_request
from hf_imgcls.publish.files import PublishedFile
from hf_imgcls.retries import Patience

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PREFIX = ".staged-"
_BLOCK_BYTES = 1 << 22
_MAX_PATHS = 100  # of one question


@dataclass(frozen=True)
class Staged:
    """What is about to be pushed.

    Attributes:
        folder: Holds the files.
        files: The same ones, for the upload.
        digests: Name -> SHA-256 and Git's id of a file's contents, from before they were verified.
    """

    folder: Path
    files: list[PublishedFile]
    digests: dict[str, tuple[str, str]]


@contextmanager
def stage(folder: Path, files: Sequence[PublishedFile]) -> Iterator[Staged]:
    """Put files into a hidden folder inside the run's folder, which goes away at the end.

    A file that is published as it is gets a second name there, and needs no room, where the file system allows that.

    Args:
        folder: The run's folder.
        files: From `hf_imgcls.publish.files.read_files`.
    """
    for leftover in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        for file in files:
            target = place / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file.source, bytes):
                target.write_bytes(file.source)
            else:
                link_or_copy(file.source, target)
        staged = [PublishedFile(file.name, place / file.name) for file in files]
        yield Staged(place, staged, {file.name: _digest(place / file.name) for file in staged})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, which lasts when the first is deleted; a copy where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def compare_with_hub(staged: Staged, repo_id: str, revision: str, api: HfApi, patience: Patience) -> None:
    """Make sure that a commit holds the staged files, byte for byte, by the hashes that the Hub gives for them.

    Args:
        staged: What was verified.
        repo_id: A repository of a model.
        revision: The commit.
        api: The client.
        patience: When to give up.

    Raises:
        PushError: A file there is missing, or another one.
    """
    names = list(staged.digests)
    there: dict[str, Any] = {}
    for start in range(0, len(names), _MAX_PATHS):
        paths = names[start : start + _MAX_PATHS]
        found = retry_request(partial(api.get_paths_info, repo_id, paths, revision=revision), "list files", patience)
        there |= {entry.path: entry for entry in found}
    wrong = [name for name in names if name not in there or not _is_same(staged.digests[name], there[name])]
    if wrong:
        raise PushError(
            f"{repo_id} at {revision[:10]} holds other files than were sent: {', '.join(wrong[:5])}",
            "the files that were verified here",
            "push again",
        )


def _is_same(digests: tuple[str, str], entry: Any) -> bool:
    """Whether contents are those of a ``huggingface_hub.RepoFile``."""
    sha256, oid = digests
    return entry.lfs.sha256 == sha256 if entry.lfs is not None else entry.blob_id == oid


def _digest(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and the id of Git's blob, see https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            blob.update(block)
    return sha256.hexdigest(), blob.hexdigest()
