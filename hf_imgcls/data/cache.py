"""Small images decoded once: a file of uint8 pixels beside the dataset's own cache, mapped into memory.

Decoding a 32 px PNG costs more than everything that is done with it afterwards, in every epoch again. A file, and not
an array in memory, because worker processes, the ranks of a machine and later runs then share one copy, and because it
costs a worker process nothing to receive it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import datasets
import numpy as np
import pyarrow.compute as pc

from hf_imgcls.classifier.decode import EncodedImage, decode_image, name_sample
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from hf_imgcls.arguments.fields import DataArguments

_LAYOUT = "2"  # part of the key: raise it when decoding or the file changes
_MAX_BYTES = 1 << 30
_MAX_SIDE_PX = 64
_CHUNK = 1000

_logger = logging.getLogger(__name__)


def find_cache_folder(args: DataArguments) -> Path:
    """Where files of ours are kept: in the ``datasets`` library's cache, or in ``--cache_dir``."""
    return Path(args.cache_dir or datasets.config.HF_DATASETS_CACHE) / "hf_imgcls"


class DecodedCache:
    """Decoded images of one split, addressed by sample index.

    Args:
        path: An array file as `build_decoded_cache` writes it: uint8 ``(N, 3, height, width)``.
        sample_index: int64 ``(N,)``: whose pixels the rows are; no two are equal.
    """

    def __init__(self, path: Path, sample_index: NDArray[np.int64]) -> None:
        self.path = path
        self.images: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        self._sample_index = sample_index
        self._rows = np.argsort(sample_index)
        self._sorted = sample_index[self._rows]

    def __reduce__(self) -> tuple[type[DecodedCache], tuple[Path, NDArray[np.int64]]]:
        return DecodedCache, (self.path, self._sample_index)  # a copy maps the same file

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of every image in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def gather(self, sample_index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of some samples.

        Args:
            sample_index: int64 ``(B,)``.

        Returns:
            uint8 ``(B, 3, height, width)``, a copy.

        Raises:
            KeyError: A sample is not in the cache.
        """
        places = np.searchsorted(self._sorted, sample_index).clip(max=len(self._sorted) - 1)
        if not np.array_equal(self._sorted[places], sample_index):
            raise KeyError(f"samples {np.setdiff1d(sample_index, self._sorted)[:5].tolist()} are not in {self.path}")
        return self.images[self._rows[places]]


def build_decoded_cache(split: Dataset, mode: str, folder: Path, reading: Reading) -> DecodedCache | None:
    """Decode a split once, or find that this was done before.

    Args:
        split: Has the columns ``image`` (not decoded) and ``sample_index``.
        mode: ``"auto"``: where all images have one size of at most 64 px a side and fit 1 GiB together; ``"true"``:
            whatever their size and number, as long as it is one size; ``"false"``: never.
        folder: Where the file is kept; made if missing.
        reading: How files become pixels.

    Returns:
        The cache; None where the mode says so.

    Raises:
        DataError: An image cannot be decoded; or, under ``"true"``, sizes differ or the file cannot be written.
    """
    if mode == "false" or len(split) == 0:
        return None
    width, height = EncodedImage(split[0]["image"], reading).size
    num_bytes = len(split) * 3 * height * width
    if mode == "auto" and (max(height, width) > _MAX_SIDE_PX or num_bytes > _MAX_BYTES):
        return None
    sample_index = np.asarray(split.with_format("numpy")["sample_index"][:], dtype=np.int64)
    path = folder / f"decoded-{fingerprint_files(split, _LAYOUT, reading.key)}.npy"
    if not path.exists():
        try:
            _write(path, split, (len(split), 3, height, width), reading)
        except (OSError, _SizesDiffer) as error:
            if mode == "auto":
                _logger.info("Images are decoded in every epoch: %s", error)
                return None
            raise DataError(
                f"the images cannot be kept decoded: {error}",
                f"images of one size, and {num_bytes / 2**20:,.0f} MiB of room in {folder}",
                "set --cache_decoded_images false, or another --cache_dir",
            ) from error
    return DecodedCache(path, sample_index)


class _SizesDiffer(Exception):
    """Images of several sizes do not fit one array."""


def _write(path: Path, split: Dataset, shape: tuple[int, int, int, int], reading: Reading) -> None:
    """Write the file sequentially, because a full disk kills whoever writes through a map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for pixels in _decode_chunks(split, shape[2:], reading):
            file.write(pixels.tobytes())


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write a file whole or not at all; a reader sees the old one or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _decode_chunks(split: Dataset, size: tuple[int, ...], reading: Reading) -> Iterator[NDArray[np.uint8]]:
    rows = split.select_columns(["image", "sample_index"]).with_format(None)
    for chunk in rows.iter(_CHUNK):
        pixels = np.empty((len(chunk["image"]), 3, *size), dtype=np.uint8)
        for out, source, index in zip(pixels, chunk["image"], chunk["sample_index"], strict=True):
            try:
                image = decode_image(source, reading)
            except DataError as error:
                raise name_sample(error, index) from error
            if (image.height, image.width) != size:
                raise _SizesDiffer(f"they have {size[1]} x {size[0]} and {image.width} x {image.height} pixels")
            out[:] = np.asarray(image).transpose(2, 0, 1)
        yield pixels


def fingerprint_files(split: Dataset, purpose: str, options: dict[str, Any]) -> str:
    """Name what is kept about a split: the dataset's fingerprint, the state of the files it points to, and options.

    A dataset of paths keeps its fingerprint when a file is replaced, hence the files. A file that is rewritten may
    keep its size and its time of modification; a new inode or a new time of change gives it away.

    Args:
        split: Has the column ``image`` (not decoded).
        purpose: What is kept, and in which layout.
        options: What else it depends on.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{purpose} {split._fingerprint} {sorted(options.items())}".encode())
    # The bytes themselves stay unread: they may be the whole of a large dataset.
    if pc.struct_field(split.data.column("image"), "bytes").null_count:
        paths = split.select_columns("image").flatten().select_columns("image.path").with_format("arrow")
        for chunk in paths.iter(_CHUNK * 10):
            for file in chunk["image.path"].drop_null().to_pylist():
                with contextlib.suppress(OSError, ValueError):
                    status = os.stat(file)
                    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                    digest.update(f"{file} {state}".encode())
    return digest.hexdigest()[:32]
