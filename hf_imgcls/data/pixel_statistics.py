"""Mean and deviation of the training split's own pixels, for ``--image_mean dataset --image_std dataset``."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.cache import find_cache_folder, fingerprint_files, write_atomically
from hf_imgcls.errors import DataError
from hf_imgcls.provenance import count_cores

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

OF_THE_DATASET = "dataset"
_LAYOUT = "1"  # part of what results are kept under: raise it when what is computed changes
_BATCH, _ALONE = 64, 2000
_DIGITS = 6


def resolve_pixel_statistics(args: DataArguments, dataset: ImageDataset) -> DataArguments:
    """Put numbers in place of ``image_mean dataset`` and ``image_std dataset``.

    Each process computes the same numbers, or finds them kept from before.

    Args:
        args: Is not changed.
        dataset: From `hf_imgcls.data.scan.check_images`; its record gets the numbers.

    Returns:
        ``args`` itself where numbers, or none, were given; else a copy.

    Raises:
        DataError: There is no training split to measure, or a channel has the same value everywhere.
    """
    asked = [name for name in ("image_mean", "image_std") if getattr(args, name) == OF_THE_DATASET]
    if not asked:
        return args
    split = dataset.splits.get("train")
    if not isinstance(split, Dataset):
        raise DataError(
            f"{' and '.join(asked)} dataset, and there is no training split to measure",
            "a training split that is not streamed",
            "give three numbers instead",
        )
    mean, std = measure_pixels(split, args)
    if "image_std" in asked and min(std) == 0:
        raise DataError(
            f"image_std dataset, and a channel has the same value in every pixel (deviations {std})",
            "training images that differ",
            "give three numbers instead",
        )
    logger.info("Pixels: mean %s, deviation %s, of %s training images", _show(mean), _show(std), f"{len(split):,}")
    dataset.record.pixel_mean, dataset.record.pixel_std = mean, std
    resolved = copy.copy(args)
    if "image_mean" in asked:
        resolved.image_mean = mean
    if "image_std" in asked:
        resolved.image_std = std
    return resolved


def measure_pixels(split: Dataset, args: DataArguments) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, with pixel levels in [0, 1].

    Each image counts the same, whatever its size, as it does once it has been resized. Sums are exact, so that neither
    the order of images nor the number of processes changes a digit.

    Args:
        split: Has the column ``image`` (not decoded).
        args: How images are decoded, and ``cache_dir``.

    Returns:
        Red, green and blue of both, rounded to six digits.
    """
    reading = Reading.from_arguments(args)
    key = fingerprint_files(split, f"pixels {_LAYOUT}", reading.key)
    path = find_cache_folder(args) / f"pixels-{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return list(map(float, kept["mean"])), list(map(float, kept["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged
    moments = np.concatenate(list(_look_at_all(_Moments(split, reading))))
    first, second = ([math.fsum(column) / len(moments) for column in part.T] for part in (moments[:, 0], moments[:, 1]))
    mean = [round(value, _DIGITS) for value in first]
    std = [round(math.sqrt(max(b - a * a, 0)), _DIGITS) for a, b in zip(first, second, strict=True)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(json.dumps({"mean": mean, "std": std}).encode())
    except OSError as error:
        logger.warning("%s cannot be written, and pixels are measured again next time: %s", path, error)
    return mean, std


class _Moments:
    """Decodes images to the means of their levels and squared levels; a map-style dataset for a `DataLoader`."""

    def __init__(self, split: Dataset, reading: Reading) -> None:
        self._rows = split.select_columns("image").with_format(None)
        self._reading = reading

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Return float64 ``(2, 3)`` of each row: mean level and mean squared level of each channel, in [0, 1]."""
        return [self._measure(source) for source in self._rows[list(rows)]["image"]]

    def _measure(self, source: dict[str, Any]) -> np.ndarray:
        levels = np.asarray(EncodedImage(source, self._reading).read(), dtype=np.int64).reshape(-1, 3)
        sums = np.stack([levels.sum(axis=0), (levels * levels).sum(axis=0)])
        return sums / (len(levels) * np.array([[255.0], [255.0**2]]))


def _look_at_all(moments: _Moments) -> Any:
    """Measure all rows in order: float64 ``(B, 2, 3)`` each; few in this process, many in one for each core."""
    workers = count_cores() if len(moments) > _ALONE and count_cores() > 1 else 0
    return DataLoader(
        moments,  # type: ignore[arg-type]
        batch_size=_BATCH,
        num_workers=workers,
        collate_fn=np.stack,
        generator=torch.Generator(),  # the run's random numbers must not depend on what is kept
    )


def _show(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
