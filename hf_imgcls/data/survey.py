"""Decode every image of a dataset once, on all cores, and keep what was found until the dataset or a file changes.

What is found in an image is one small record (`ImageFacts`), never its pixels. A new field of it is a column of the
kept file: add it to `ImageFacts` and to ``_SCHEMA``, fill it in ``_Looker._look``, and raise ``_LAYOUT``.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from datasets import Dataset
from datasets.utils import tqdm
from torch.utils.data import DataLoader

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.classifier.formats import FORMATS
from hf_imgcls.classifier.image_source import describe_source
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.cache import find_cache_folder, fingerprint_files, write_atomically
from hf_imgcls.errors import DataError, MachineError
from hf_imgcls.process import is_main_process
from hf_imgcls.provenance import count_cores

logger = logging.getLogger(__name__)

_LAYOUT = "4"  # part of what results are kept under: raise it when decoding or `ImageFacts` changes
_BATCH = 32
_ALONE_S = 0.5  # What takes longer is worth the start of worker processes.
_BAR_AFTER_S = 2.0
_MAX_VALUES = 1 << 16  # of a deep picture, whose range is measured


class ImageFacts(NamedTuple):
    """What decoding found in an image that can be read.

    Attributes:
        mode: Pillow's name for the kind of pixels in the file.
        file_hash: BLAKE2b of the file, 16 bytes.
        content_hash: XXH3 of the upright RGB pixels and their size, 16 bytes: equal for every file, of whatever
            format, that decodes to the same picture. Of pictures with transparent pixels it is that of red, green, blue
            and alpha, of deep ones that of their values: what a reading leaves out still tells pictures apart.
        is_flat: All pixels have one colour.
        otherwise: Why ``pipeline()`` reads other pixels (``"16-bit"`` or another depth, ``"transparent"``); else None.
        flat_level: Grey level, 0 to 255, of the one flat colour that ``pipeline()`` reads although the picture has
            more; else None.
        depth: `Depth.kind` of a deep picture; None, as all that follows, for any other.
        type_low: Value of its type that is black.
        type_high: Value of its type that is white.
        low: Below it lies a thousandth of its values.
        high: Above it lies a thousandth of its values.
        num_levels: Grey levels that it has as it is read, 1 to 256.
    """

    mode: str
    file_hash: bytes
    content_hash: bytes
    is_flat: bool
    otherwise: str | None = None
    flat_level: int | None = None
    depth: str | None = None
    type_low: float | None = None
    type_high: float | None = None
    low: float | None = None
    high: float | None = None
    num_levels: int | None = None


class BadImage(NamedTuple):
    """An image that cannot be read.

    Attributes:
        file: Its path, or its size where it has none.
        reason: What is wrong, in words.
        is_unread: The file could not even be read, which may be the disk's or the network's fault, and pass.
    """

    file: str
    reason: str
    is_unread: bool


# A row for each image: the fields of `ImageFacts` or those of `BadImage`, the others null.
_SCHEMA = pa.schema(
    {
        "mode": pa.string(),
        "file_hash": pa.binary(16),
        "content_hash": pa.binary(16),
        "is_flat": pa.bool_(),
        "otherwise": pa.string(),
        "flat_level": pa.int16(),
        "depth": pa.string(),
        "type_low": pa.float64(),
        "type_high": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "num_levels": pa.int16(),
        "file": pa.string(),
        "reason": pa.string(),
        "is_unread": pa.bool_(),
    }
)


@dataclass
class SplitSurvey:
    """What decoding a split found.

    Attributes:
        images: One row per image in the split's order, with the fields of `ImageFacts` or of `BadImage` as columns.
    """

    images: pa.Table

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return self.images.num_rows

    @cached_property
    def modes(self) -> dict[str, int]:
        """Pillow's name for the kind of pixels in a file -> readable images of that kind."""
        counts = self.images["mode"].drop_null().value_counts().to_pylist()
        return {item["values"]: item["counts"] for item in counts}

    @cached_property
    def digest(self) -> str:
        """BLAKE2b over the digests of the readable images' files, in the split's order."""
        hashes = self.images["file_hash"].drop_null().to_pylist()
        return hashlib.blake2b(b"".join(hashes), digest_size=16).hexdigest()

    @cached_property
    def bad_images(self) -> dict[int, BadImage]:
        """Row of the split, ascending -> what is wrong with it."""
        is_bad = self.images["reason"].is_valid()
        rows = is_bad.to_numpy().nonzero()[0].tolist()
        found = self.images.select(BadImage._fields).filter(is_bad).to_pylist()
        return {row: BadImage(**item) for row, item in zip(rows, found, strict=True)}


_Finding = BadImage | ImageFacts


def survey_splits(splits: Mapping[str, Dataset], args: DataArguments, *, kept: bool) -> dict[str, SplitSurvey]:
    """Decode all images of the splits, or find that this was done before.

    Args:
        splits: Role -> a split with the column ``image`` (not decoded).
        args: What `Reading.from_arguments` reads, and ``cache_dir``.
        kept: Whether results are kept, and kept ones used.

    Returns:
        Role -> what was found.

    Raises:
        MachineError: A process that decoded images died.
    """
    started = time.perf_counter()
    reading = Reading.from_arguments(args)
    lookers = {role: _Looker(split, reading) for role, split in splits.items()}
    paths: dict[str, Path] = {}
    surveys: dict[str, SplitSurvey] = {}
    if kept:
        purpose = f"scan {_LAYOUT}, Pillow {PIL.__version__} with {FORMATS}"
        for role, split in splits.items():
            paths[role] = find_cache_folder(args) / f"scan-{fingerprint_files(split, purpose, reading.key)}.parquet"
            earlier = _recall(paths[role], lookers[role])
            if earlier is not None:
                surveys[role] = earlier
    num_kept = sum(survey.num_images for survey in surveys.values())
    num_new = sum(map(len, splits.values())) - num_kept
    with _show_progress(num_new) as bar:
        for role, looker in lookers.items():
            if role not in surveys:
                surveys[role] = _survey(role, looker, bar.update)
                if kept:
                    _keep(surveys[role], paths[role])
    num_bad = sum(len(survey.bad_images) for survey in surveys.values())
    done = [f"{num_new:,} decoded in {time.perf_counter() - started:.1f} s"] if num_new else []
    done += [f"{num_kept:,} as scanned before"] if num_kept else []
    logger.info("Images: %s, %s", ", ".join(done), f"{num_bad:,} cannot be read" if num_bad else "all readable")
    return {role: surveys[role] for role in splits}


def _show_progress(num_images: int) -> Any:
    """A bar on stderr, for what takes long enough to need one."""
    return tqdm(
        total=num_images,
        desc="Decoding images",
        unit=" images",
        delay=_BAR_AFTER_S,
        leave=False,
        disable=not is_main_process(),
    )


class _Looker:
    """Decodes images and keeps what there is to know about them; a map-style dataset for a `DataLoader`."""

    def __init__(self, split: Dataset, reading: Reading) -> None:
        self._rows = split.select_columns("image").with_format(None)
        self._reading = reading

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, rows: Sequence[int]) -> list[_Finding]:
        """Return what is known of each row's image, or what is wrong with it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says about a file that is read all the same
            return [self._look(source) for source in self._rows[list(rows)]["image"]]

    def _look(self, source: dict[str, Any]) -> _Finding:
        try:
            image = EncodedImage(source, self._reading)
            image.verify()
            pixels = image.read()
            content_hash, is_flat = _hash_pixels(image, pixels)
            file_hash = hashlib.blake2b(image.data, digest_size=16).digest()
            return ImageFacts(image.mode, file_hash, content_hash, is_flat, **_compare_readings(image, pixels))
        except DataError as error:
            name, cause = describe_source(source), error.__cause__
            reason = error.found.removeprefix(f"cannot read {name}: ").removeprefix(f"{name} ")
            # The system's errors have a number; Pillow's own do not.
            return BadImage(name, reason, isinstance(cause, OSError) and cause.errno is not None)


def _hash_pixels(image: EncodedImage, pixels: PIL.Image.Image) -> tuple[bytes, bool]:
    """Hash a picture that was read as ``pixels`` (RGB), and say whether these have a single colour.

    XXH3, since BLAKE2b takes longer than decoding a JPEG: the hash tells copies, it does not withstand an attack.
    """
    kind, content = "RGB", pixels.tobytes()
    is_flat = _is_flat(content)
    if (deep := image.read_depth()) is not None:
        kind, content = deep[0].kind, deep[1].tobytes()
    elif (rgba := image.read_transparent()) is not None:
        kind, content = "RGBA", rgba.tobytes()
    digest = xxhash.xxh3_128(f"{pixels.width}x{pixels.height} {kind} ".encode())
    digest.update(content)
    return digest.digest(), is_flat


def _is_flat(content: bytes) -> bool:
    """Return whether RGB pixels have a single colour."""
    first = content[:3]
    return content.endswith(first) and content == first * (len(content) // 3)


def _compare_readings(image: EncodedImage, pixels: PIL.Image.Image) -> dict[str, Any]:
    """Return the rest of `ImageFacts`, of an image that ``pipeline()`` may read otherwise."""
    if not image.reads_otherwise and not image.has_alpha:
        return {}
    plain, facts = image.read_as_pipeline(), dict[str, Any]()
    if image.reads_otherwise and (plain is None or plain.tobytes() != pixels.tobytes()):
        facts["otherwise"] = image.reads_otherwise
    deep = image.read_depth()
    # Without a transparent pixel, what pipeline() reads is what there is.
    has_shape = bool(deep[1].min() < deep[1].max()) if deep else _has_shape(image.read_transparent())
    if plain is not None and has_shape and _is_flat(plain.tobytes()):
        facts["flat_level"] = plain.convert("L").getpixel((0, 0))
    if deep:
        (facts["depth"], facts["type_low"], facts["type_high"]), values = deep
        some = values.ravel()[:: -(-values.size // _MAX_VALUES)]
        facts["low"] = float(np.quantile(some, 0.001, method="lower"))
        facts["high"] = float(np.quantile(some, 0.999, method="higher"))
        facts["num_levels"] = sum(count > 0 for count in pixels.getchannel(0).histogram())
    return facts


def _has_shape(rgba: PIL.Image.Image | None) -> bool:
    return rgba is not None and any(low != high for low, high in rgba.getextrema())  # type: ignore[misc]


def _survey(role: str, looker: _Looker, advance: Callable[[int], Any]) -> SplitSurvey:
    batches = []
    num_done = 0
    try:
        for batch in _look_at_all(looker):
            batches.append(pa.RecordBatch.from_pylist([finding._asdict() for finding in batch], _SCHEMA))
            num_done += len(batch)
            advance(len(batch))
    except RuntimeError as error:
        # torch raises it out of a signal handler, so it may come from any of these lines.
        if "killed by signal" not in str(error) and "exited unexpectedly" not in str(error):
            raise
        raise MachineError(
            f"a process that decoded images of {role} died after {num_done:,} of {len(looker):,} images: {error}",
            "memory for as many images as there are cores, and image files that Pillow survives",
            f"free memory, lower --max_image_pixels, or look at the images of {role} that come next",
        ) from error
    return SplitSurvey(pa.Table.from_batches(batches, _SCHEMA).combine_chunks())


def _look_at_all(looker: _Looker) -> Iterator[list[_Finding]]:
    """Decode all rows in order: in this process for half a second, then in one for each core."""
    cores = count_cores()
    done, started = 0, time.perf_counter()
    while done < len(looker) and (cores == 1 or time.perf_counter() - started < _ALONE_S):
        rows = range(done, min(done + _BATCH, len(looker)))
        yield looker.__getitems__(rows)
        done = rows.stop
    if done < len(looker):
        yield from DataLoader(
            looker,  # type: ignore[arg-type]
            batch_size=_BATCH,
            sampler=range(done, len(looker)),
            num_workers=cores,
            collate_fn=list,
            # Without one of its own it draws from the run's random numbers, which must not depend on what is kept.
            generator=torch.Generator(),
        )


def _recall(path: Path, looker: _Looker) -> SplitSurvey | None:
    """Read what was found before, if it is still true."""
    try:
        images = pq.read_table(path, page_checksum_verification=True).combine_chunks()
    except (OSError, pa.ArrowException):  # not there, or damaged
        return None
    if images.schema != _SCHEMA or images.num_rows != len(looker):
        return None
    survey = SplitSurvey(images)
    # Rights, a disk or a network may have been mended. One process asks, so that all get the same answer.
    unread = [row for row, image in survey.bad_images.items() if image.is_unread]
    if unread and is_main_process():
        again = looker.__getitems__(unread)
        if not all(isinstance(finding, BadImage) and finding.is_unread for finding in again):
            return None
    return survey


def _keep(survey: SplitSurvey, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            # Hashes do not repeat and have no order: dictionaries and statistics of them would only cost time.
            options = {"use_dictionary": ["mode"], "write_statistics": False}
            pq.write_table(survey.images, file, write_page_checksum=True, **options)
    except OSError as error:
        logger.info("What the scan found is not kept, and the next run decodes the images again: %s", error)
