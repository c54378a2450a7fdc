"""Where an image comes from: the bytes of a file, wherever it lies, and its name (imports no torch)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from PIL import Image

from hf_imgcls.errors import DataError

ImageSource = dict[str, Any] | bytes | str | Path | Image.Image


def locate_image(source: ImageSource, max_bytes: int) -> tuple[str, bytes, Image.Image | None]:
    """Return name, file contents and, for an image in memory, the image itself.

    Args:
        source: A row of a dataset, the bytes of a file, a path, or a Pillow image.
        max_bytes: Most bytes a file may have.

    Raises:
        DataError: It cannot be read, or is larger.
    """
    path: str | Path | None = None
    data: bytes | None = None
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "an image in memory", b"", source
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, dict):
        path, data = source.get("path"), source.get("bytes")
    elif isinstance(source, (str, Path)):
        path = source
    if data is None:
        if path is None:
            raise DataError(
                f"an image that is {source!r}"[:200], "a path or the bytes of an image file", "remove the row"
            )
        # Only rows of a dataset may point to a remote file; a bare string could come from outside.
        data = _read_file(path, max_bytes, allow_remote=isinstance(source, dict))
    elif len(data) > max_bytes:
        raise _too_many_bytes(describe_source(source), len(data), max_bytes)
    return describe_source(source), data, None


def describe_source(source: Any) -> str:
    """What errors call an image: its path, or its size where it has none."""
    if isinstance(source, (str, Path)):
        return str(source)
    path, data = (source.get("path"), source.get("bytes")) if isinstance(source, dict) else (None, source)
    return str(path) if path is not None else f"an image of {len(data or b''):,} bytes"


def _read_file(path: str | Path, max_bytes: int, *, allow_remote: bool) -> bytes:
    """Read a file that is not too large: its size is known before it takes any memory, or reading stops there."""
    try:
        if allow_remote and "://" in str(path):
            import fsspec

            with fsspec.open(str(path), "rb") as file:
                data: bytes = file.read(max_bytes + 1)
        else:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("it is not a regular file")
            if status.st_size > max_bytes:
                raise _too_many_bytes(str(path), status.st_size, max_bytes)
            with Path(path).open("rb") as file:
                data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # a ValueError: no file can have such a name
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read {path}: {reason}", "a readable image file", "check that the file is there"
        ) from error
    if len(data) > max_bytes:
        raise _too_many_bytes(str(path), len(data), max_bytes)
    return data


def _too_many_bytes(name: str, found: int, limit: int) -> DataError:
    return DataError(
        f"{name} has {found:,} bytes" if found > limit + 1 else f"{name} has more than {limit:,} bytes",
        f"at most {limit:,} bytes, about 8 for each of the pixels that an image may have",
        "make the image smaller (or raise --max_image_pixels)",
    )


# A path, the bytes of a file, or a picture in memory
Picture = str | bytes | Image.Image
