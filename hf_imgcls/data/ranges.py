"""Remote files of which exactly the ranges are read that are needed, with retries, and none of them twice while there
is room to keep it.

``fsspec`` reads 5 MiB ahead by default, which for a row group of a few hundred kilobytes is most of what it fetches.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import os
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from hf_imgcls.data.class_lists import open_file
from hf_imgcls.errors import DataError
from hf_imgcls.retries import call_hub

_MAX_BYTES = 2 << 30
_PREFIX = "hf_imgcls_stream"


class RangeCache:
    """Ranges that were read, as files in a folder that goes when the process ends; dataloader workers share it.

    Training data may fill half of the room: it may be larger than any disk, and evaluation data are read again more
    often.

    Args:
        parent: Where the folder is made.
        max_bytes: Most bytes that are kept; never more than half of what is free there.
    """

    def __init__(self, parent: Path, max_bytes: int = _MAX_BYTES) -> None:
        self.folder: Path | None = None
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(parent)
            prefix = f"{_PREFIX}-{socket.gethostname()}-{os.getpid()}-"
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self.max_bytes = min(max_bytes, shutil.disk_usage(parent).free // 2)
        except OSError:  # nowhere to keep anything
            return
        weakref.finalize(self, _remove_own, str(self.folder), os.getpid())

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key."""
        if self.folder is None:
            return None
        with contextlib.suppress(OSError):
            return self._find(key).read_bytes()
        return None

    def put(self, key: str, content: bytes, share: float = 1.0) -> None:
        """Keep a range, if there is room.

        Args:
            key: Names it.
            content: Its bytes.
            share: Share of the room that may be full afterwards.
        """
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            used = sum(entry.stat().st_size for entry in os.scandir(self.folder))
            if used + len(content) > share * self.max_bytes:
                return
            path = self._find(key)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_bytes(content)
            temporary.replace(path)

    def _find(self, key: str) -> Path:
        return Path(str(self.folder)) / hashlib.sha256(key.encode()).hexdigest()[:32]


def _remove_own(folder: str, process: int) -> None:
    if threading.current_thread() is not threading.main_thread():
        # The last reader may die in a thread of Arrow's. One that waits for the interpreter, as removing files does,
        # while that shuts down aborts the process.
        atexit.register(_remove_own, folder, process)
    elif os.getpid() == process:  # not a forked worker that lets go of its copy
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of processes of this machine that were killed."""
    for folder in parent.glob(f"{_PREFIX}-{socket.gethostname()}-*"):
        number = folder.name.split("-")[-2]
        if number.isdigit() and not Path("/proc", number).exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)


class RangeReader(io.RawIOBase):
    """A file that is read in exactly the ranges that are asked for.

    Args:
        url: Path or URL.
        token: Hub token for ``hf://`` URLs.
        attempts: How often a range is tried.
        size: In bytes, where it is known, which spares a request.
        blocks: Ranges ``(start, stop)`` in bytes, ascending; a read inside one fetches all of it.
        cache: Where ranges of a remote file are kept.
        share: Share of the cache's room that may be full afterwards.
    """

    def __init__(
        self,
        url: str,
        token: str | bool | None,
        attempts: int,
        *,
        size: int | None = None,
        blocks: Sequence[tuple[int, int]] = (),
        cache: RangeCache | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        self.url, self._token, self._attempts = url, token, attempts
        self._cache, self._share = cache if "://" in url else None, share
        self._size, self._handle, self._position = size, None, 0
        self._blocks, self._block, self._content = blocks, (0, 0), b""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if self._size is None:
            self._size = call_hub(self._find_size, f"open {self.url}", self._attempts, DataError)
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = self.size if whence == io.SEEK_END else self._position if whence == io.SEEK_CUR else 0
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size is None or size < 0 else min(self._position + size, self.size)
        if stop <= self._position:
            return b""
        block = next((block for block in self._blocks if block[0] <= self._position and stop <= block[1]), None)
        if block is None:
            content = self._read_range(self._position, stop)
        else:
            if block != self._block:
                self._block, self._content = block, self._read_range(*block)
            content = self._content[self._position - block[0] : stop - block[0]]
        self._position = stop
        return content

    def _read_range(self, start: int, stop: int) -> bytes:
        key = f"{self.url} {start} {stop}"
        content = self._cache.get(key) if self._cache is not None else None
        if content is None or len(content) != stop - start:
            content = call_hub(lambda: self._fetch(start, stop), f"read {self.url}", self._attempts, DataError)
            if self._cache is not None:
                self._cache.put(key, content, self._share)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._block, self._content = (0, 0), b""
        super().close()

    def _open(self) -> Any:
        if self._handle is None:
            self._handle = self._open_remote() if "://" in self.url else open_file(self.url)
        return self._handle

    def _open_remote(self) -> Any:
        options: dict[str, Any] = {"cache_type": "none"}
        if self._size is not None:
            options["size"] = self._size
        if self.url.startswith("hf://") and self._token is not None:
            file_system, path = fsspec.url_to_fs(self.url, token=self._token)
        else:
            file_system, path = fsspec.url_to_fs(self.url)
        return file_system.open(path, "rb", **options)

    def _find_size(self) -> int:
        handle = self._open()
        return int(handle.size) if "://" in self.url else os.fstat(handle.fileno()).st_size

    def _fetch(self, start: int, stop: int) -> bytes:
        try:
            handle = self._open()
            handle.seek(start)
            content: bytes = handle.read(stop - start)
        except Exception:
            self._handle = None
            raise
        if len(content) != stop - start:
            raise ConnectionError(f"{len(content)} of {stop - start} bytes came")
        return content
