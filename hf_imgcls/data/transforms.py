"""Splits that give whole batches: uint8 in the workers, the rest on the training device.

Workers decode and crop (`hf_imgcls.data.image_transforms`), nothing else; the device transforms of a `BatchPlan` then
make the model's float input out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from hf_imgcls.arguments.augmentation import Augmentation, resolve_augmentation
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.augment import crop_and_resize
from hf_imgcls.data.batches import BatchedSplit
from hf_imgcls.data.cache import DecodedCache, build_decoded_cache, find_cache_folder
from hf_imgcls.data.image_transforms import Batch, EvalTransform, TrainTransform
from hf_imgcls.data.mixing import build_mixing
from hf_imgcls.data.streaming import StreamingSplit

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.records import DataRecord

DeviceTransform = Callable[[Batch], Batch]


class NormalizeOnDevice:
    """Device transform: normalise ``pixel_values``; everything else passes through."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self.normalizer = preprocessor.normalizer

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "pixel_values": self.normalizer(batch["pixel_values"])}


class ResampleOnDevice:
    """Device transform: crop, flip, resize and normalise a batch of whole small images in one go.

    Takes ``crop_box`` and ``flip`` out of the batch.
    """

    def __init__(self, transform: TrainTransform) -> None:
        self.transform = transform

    def __call__(self, batch: Batch) -> Batch:
        batch = dict(batch)
        preprocessor = self.transform.preprocessor
        levels = crop_and_resize(
            batch["pixel_values"],
            batch.pop("crop_box"),
            batch.pop("flip"),
            self.transform.target_size,
            preprocessor.train_filter,
        )
        return {**batch, "pixel_values": preprocessor.normalizer.normalize_(levels)}


@dataclass
class BatchPlan:
    """Splits that give uint8 batches, and what turns those into the model's input on the training device.

    Attributes:
        splits: train, validation, test, as far as the dataset has them, with transforms attached.
        train_device_transform: For training batches, once on the device: dict of tensors to dict of tensors, of which
            ``pixel_values`` become float32 ``(B, 3, H, W)``, normalised, and ``labels`` float ``(B, K)`` where images
            are mixed. Run it without gradients.
        eval_device_transform: The same for evaluation batches.
        train_transform: The one that `set_epoch` reaches.
        record: The dataset's: what is known of the splits.
    """

    splits: dict[str, Any]
    train_device_transform: DeviceTransform
    eval_device_transform: DeviceTransform
    train_transform: TrainTransform
    record: DataRecord

    @property
    def augmentation(self) -> Augmentation:
        """What is done to training images."""
        return self.train_transform.augmentation

    @property
    def train(self) -> Any:
        """The training split, or None."""
        return self.splits.get("train")

    @property
    def validation(self) -> Any:
        """The validation split, or None."""
        return self.splits.get("validation")

    @property
    def test(self) -> Any:
        """The test split, or None."""
        return self.splits.get("test")

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of an epoch, before its first batch is asked for."""
        self.train_transform.set_epoch(epoch)
        if hasattr(self.train, "set_epoch"):  # a stream, whose order is the epoch's too
            self.train.set_epoch(epoch)


def attach_transforms(
    dataset: ImageDataset,
    processor: Any,
    data_args: DataArguments,
    seed: int,
    augmentation: Augmentation | None = None,
    *,
    order_seed: int | None = None,
    train_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> BatchPlan:
    """Attach the transforms that a model's processor asks for.

    Small images are decoded once, into a cache (``cache_decoded_images``): the transforms then never see a file, and
    random crops are resampled on the device unless more is done to them. Otherwise they are decoded and cropped in the
    workers. MixUp and CutMix belong to the device and to training alone.

    Args:
        dataset: Splits with the columns ``image``, ``label``, ``sample_index``.
        processor: A ready image processor.
        data_args: The arguments of the groups ``pixels`` and ``augmentation``, and ``cache_dir``.
        seed: The run's seed.
        augmentation: What is done to training images, if it is not what the arguments say.
        order_seed: Seed of the order of a training stream; ``seed`` by default.
        train_transform: A user's transform of uint8 training batches, applied after the augmentation.

    Returns:
        Splits for a Trainer (with ``remove_unused_columns=False`` and `hf_imgcls.data.collate.collate_batch`), and the
        device transforms.

    Raises:
        ArgumentError: The background is not a colour, or the user's transform fails on a trial batch.
        MissingExtraError: The decoder is not installed.
        ModelError: The processor's images cannot be stacked.
        DataError: A small image cannot be decoded, or the cache asked for cannot be built.
    """
    reading = Reading.from_arguments(data_args)
    caches = {name: _build_cache(split, data_args, reading) for name, split in dataset.splits.items()}
    num_labels = len(dataset.labels) if dataset.is_multi_label else None
    augmentation = augmentation or resolve_augmentation(data_args)
    train = TrainTransform(processor, reading, augmentation, seed, caches.get("train"), num_labels, train_transform)
    splits = {
        name: _attach(
            split, train if name == "train" else EvalTransform(train.preprocessor, reading, caches[name], num_labels)
        )
        for name, split in dataset.splits.items()
    }
    if isinstance(splits.get("train"), StreamingSplit):
        splits["train"].seed = seed if order_seed is None else order_seed
    normalize = NormalizeOnDevice(train.preprocessor)
    finish: DeviceTransform = ResampleOnDevice(train) if train.resamples_on_device else normalize
    return BatchPlan(splits, build_mixing(finish, augmentation, len(dataset.labels)), normalize, train, dataset.record)


def attach_evaluation(
    split: Any, preprocessor: Preprocessor, reading: Reading, data_args: DataArguments, num_labels: int | None = None
) -> tuple[Any, DeviceTransform]:
    """Attach the evaluation transform to one split, whatever its role.

    Args:
        split: Columns ``image``, ``label``, ``sample_index``.
        preprocessor: Of the model's processor.
        reading: How image files become pixels.
        data_args: ``cache_decoded_images`` and ``cache_dir``.
        num_labels: As for `EvalTransform`.

    Returns:
        The split, which gives batches, and the device transform.
    """
    transform = EvalTransform(preprocessor, reading, _build_cache(split, data_args, reading), num_labels)
    return _attach(split, transform), NormalizeOnDevice(preprocessor)


def _build_cache(split: Any, data_args: DataArguments, reading: Reading) -> DecodedCache | None:
    if not isinstance(split, Dataset):
        return None  # a stream
    return build_decoded_cache(split, data_args.cache_decoded_images, find_cache_folder(data_args), reading)


def _attach(split: Any, transform: EvalTransform | TrainTransform) -> Any:
    return BatchedSplit(split, transform) if isinstance(split, Dataset) else split.with_transform(transform)
