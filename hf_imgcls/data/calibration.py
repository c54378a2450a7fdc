"""Real training images as a model gets them when it is evaluated, which ranges of activations are taken from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import DataError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.data.dataset import ImageDataset

_BATCH_SIZE = 8


def read_calibration(
    dataset: ImageDataset, processor: Any, data: DataArguments, num_samples: int
) -> Iterator[npt.NDArray[Any]]:
    """Training images drawn by ``--split_seed``, the same ones each time and in the same mixed order.

    Args:
        dataset: With a training split.
        processor: What feeds the model.
        data: How images are decoded.
        num_samples: How many; all of them if there are no more.

    Returns:
        Batches, float32 ``(B, 3, H, W)``, all of the same B, the largest up to 8 that leaves out no image.

    Raises:
        DataError: There is no training split, or it is a stream.
    """
    rows = take_rows(dataset, "train", num_samples, data.split_seed)
    # Folders are read class by class, and who looks at the first batches only must see all classes.
    rows = rows.select(np.random.default_rng(data.split_seed).permutation(len(rows)))
    batch_size = next(size for size in range(_BATCH_SIZE, 0, -1) if len(rows) % size == 0)
    return read_batches(rows, dataset, processor, data, batch_size)


def take_rows(dataset: ImageDataset, split: str, count: int, seed: int) -> Dataset:
    """Some rows of a split, in their order; all of them if there are no more than ``count``.

    Raises:
        DataError: There is no such split, or it is a stream.
    """
    rows = dataset.splits.get(split)
    if rows is None:
        raise DataError(
            f"the dataset has no {split} split", "real images that activation ranges are taken from", "add --train_dir"
        )
    if not isinstance(rows, Dataset):
        raise DataError(f"the {split} split is a stream", "images that can be drawn at random", "add --streaming false")
    if count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), size=count, replace=False)))


def read_batches(
    rows: Dataset, dataset: ImageDataset, processor: Any, data: DataArguments, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Images as the model gets them when it is evaluated, in batches of the same size; a smaller last one is left."""
    # As the test split, because a training split gets the training augmentation.
    plan = attach_transforms(dataclasses.replace(dataset, splits={"test": rows}), processor, data, seed=0)
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        batch = plan.eval_device_transform(plan.test[start : start + batch_size])
        yield batch["pixel_values"].numpy().copy()
