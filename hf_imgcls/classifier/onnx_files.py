"""Check where an ONNX file keeps its weights (imports nothing but the standard library).

ONNX files are protobuf messages. Only the few fields on the way to a tensor's external data are followed, so that
neither the package ``onnx`` is needed nor the weights are read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from hf_imgcls.errors import ModelError

# Kind of message -> number of a field -> the kind of message that it holds.
# Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2  # of an entry
_FIXED_BYTES = {1: 8, 5: 4}
_MOST_LEVELS = 100


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file whose weights lie outside its own folder: another file of the machine would be read.

    Raises:
        ModelError: They do, or the file is damaged.
    """
    folder = os.path.realpath(path.parent)
    try:
        locations = set(find_locations(path))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be loaded: {error}",
            "an ONNX file of an image classifier",
            "export the model again: hf-imgcls export RUN",
        ) from error
    for location in sorted(locations):
        target = os.path.realpath(os.path.join(folder, location))
        if os.path.isabs(location) or os.path.commonpath([folder, target]) != folder:
            raise ModelError(
                f"{path} reads weights from {location!r}, outside its folder",
                "weights in the file itself or in its own folder",
                "do not use this file; export the model again: hf-imgcls export RUN",
            )


def find_locations(path: Path) -> Iterator[str]:
    """Yield the files that tensors of an ONNX file are kept in, as the file names them.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a whole protobuf message.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield from _walk(data, 0, len(data), "model", 0)


def _walk(data: mmap.mmap, start: int, end: int, kind: str, level: int) -> Iterator[str]:
    if level > _MOST_LEVELS:
        raise ValueError(f"its graphs are nested more than {_MOST_LEVELS} levels deep")
    if kind == "entry":
        texts = {number: bytes(data[first:last]) for number, first, last in _read_fields(data, start, end)}
        if texts.get(_KEY) == b"location":
            yield texts.get(_VALUE, b"").decode("utf-8", "surrogateescape")
        return
    for number, first, last in _read_fields(data, start, end):
        if (part := _PARTS[kind].get(number)) is not None:
            yield from _walk(data, first, last, part, level + 1)


def _read_fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message that holds bytes, a text or another message."""
    while start < end:
        tag, start = _read_varint(data, start, end)
        wire = tag & 7
        if wire == 2:
            length, start = _read_varint(data, start, end)
            if start + length > end:
                raise ValueError("the file is cut off")
            yield tag >> 3, start, start + length
            start += length
        elif wire == 0:
            _, start = _read_varint(data, start, end)
        elif wire in _FIXED_BYTES:
            start += _FIXED_BYTES[wire]
        else:
            raise ValueError("it is not a protobuf message")
    if start > end:
        raise ValueError("the file is cut off")


def _read_varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("the file is cut off")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("it is not a protobuf message")
