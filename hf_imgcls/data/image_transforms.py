"""From rows to batches of pixels: what happens to an image in the worker that loads it.

A transform gets what `datasets` reads for a batch, a dict of lists, and returns one tensor per key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from hf_imgcls.arguments.augmentation import Augmentation
from hf_imgcls.classifier.decode import EncodedImage, Scratch, choose_reduction, name_sample
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.augment import crop_and_resize, draw_crops_and_flips
from hf_imgcls.data.cache import DecodedCache
from hf_imgcls.data.collate import allocate_batch
from hf_imgcls.data.operations import build_operations
from hf_imgcls.data.own_transform import OwnTransform
from hf_imgcls.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows = dict[str, Any]
Batch = dict[str, torch.Tensor]
# No dataset has as many rows: a row drawn again counts as another one for the random numbers.
_REPETITION_SHIFT = 44


class SharedEpoch:
    """A number that worker processes see change, those that are alive already included."""

    def __init__(self) -> None:
        self._value = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEpoch:
        return self  # datasets copies its transform with itself; the copies must follow the same clock

    @property
    def value(self) -> int:
        return int(self._value.item())

    @value.setter
    def value(self, epoch: int) -> None:
        self._value.fill_(epoch)


class EvalTransform:
    """What the processor does, up to normalisation.

    Args:
        preprocessor: Of the model's image processor.
        reading: How image files become pixels.
        cache: Pixels of the split, decoded before; the rows then need no image.
        num_labels: K, where an image may have several labels; ``None`` where it has one.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        reading: Reading,
        cache: DecodedCache | None = None,
        num_labels: int | None = None,
    ) -> None:
        self.preprocessor = preprocessor
        self.cache = cache
        self.num_labels = num_labels
        self.reading = reading
        self._files = _FileReader(reading)

    def __call__(self, rows: Rows) -> Batch:
        """Preprocess a batch.

        Args:
            rows: ``image`` (dicts of ``bytes`` and ``path``; not read with a cache), ``label``, ``sample_index``.

        Returns:
            ``pixel_values`` ``(B, 3, H, W)``: uint8, or float32 already normalised for processors that cannot do
            without; ``labels`` int64 ``(B,)`` if there are any, or float32 ``(B, K)`` of 0 and 1 where an image may
            have several; ``sample_index`` int64 ``(B,)``.

        Raises:
            DataError: An image cannot be decoded; the message names file and sample.
        """
        if self.cache is not None:
            pixels = torch.from_numpy(self.cache.gather(np.asarray(rows["sample_index"], dtype=np.int64)))
            if self.preprocessor.exact:
                pixels = self.preprocessor.resize(pixels)
            else:
                pixels = torch.stack([self.preprocessor.preprocess(p.permute(1, 2, 0).numpy()) for p in pixels])
            return {"pixel_values": pixels, **_read_labels(rows, self.num_labels)}
        pixel_values: torch.Tensor | None = None
        decoded = Scratch()
        for i, (source, index) in enumerate(zip(rows["image"], rows["sample_index"], strict=True)):
            pixels = self.preprocessor.preprocess(self._files.read(self._files.open(source, index), index, decoded))
            if pixel_values is None:
                pixel_values = allocate_batch((len(rows["image"]), *pixels.shape), pixels.dtype)
            pixel_values[i] = pixels
        assert pixel_values is not None  # datasets asks for no empty batch
        return {"pixel_values": pixel_values, **_read_labels(rows, self.num_labels)}


class TrainTransform:
    """Augmentation as a function of (seed, epoch, sample index, repetition) and nothing else.

    First a random resized crop and a horizontal flip, then the operations of `hf_imgcls.data.operations`. The crop is
    chosen from the file's header; a JPEG much larger than the model's input is then decoded at 1/2, 1/4 or 1/8 of its
    size, with the crop's edges on that coarser grid.

    Args:
        processor: A ready image processor: gives size, filter and normalisation.
        reading: How image files become pixels.
        augmentation: What is done to an image.
        seed: The run's seed.
        cache: Pixels of the split, decoded before. Without operations the batch then carries whole images with
            ``crop_box`` and ``flip`` for `ResampleOnDevice`.
        num_labels: As for `EvalTransform`.
        own: A user's transform of whole batches, applied last.

    Attributes:
        sizes: Height and width in pixels of what each epoch shows; empty: `Preprocessor.target_size` always.
    """

    sizes: Sequence[tuple[int, int]] = ()

    def __init__(
        self,
        processor: Any,
        reading: Reading,
        augmentation: Augmentation,
        seed: int,
        cache: DecodedCache | None = None,
        num_labels: int | None = None,
        own: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.preprocessor = Preprocessor(processor)
        self.cache = cache
        self.num_labels = num_labels
        self.seed = seed
        self.augmentation = augmentation
        operations = build_operations(augmentation, self.preprocessor.normalizer.mean)
        last = OwnTransform(own, self.preprocessor.target_size) if own is not None else None
        self.operations = [operation for operation in (operations, last) if operation is not None]
        self._files = _FileReader(reading)
        self._epoch = SharedEpoch()

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn."""
        return self._epoch.value

    @property
    def target_size(self) -> tuple[int, int]:
        """Height and width of this epoch's images in pixels."""
        return self.sizes[min(self.epoch, len(self.sizes) - 1)] if self.sizes else self.preprocessor.target_size

    @property
    def resamples_on_device(self) -> bool:
        """Whether batches are whole images, cropped and resized on the device."""
        return self.cache is not None and not self.operations

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's random numbers, in this process and in its workers. Call it between epochs."""
        self._epoch.value = epoch

    def __call__(self, rows: Rows) -> Batch:
        """Augment a batch.

        Args:
            rows: As for `EvalTransform`; and ``repetition``, where it is not 0 for all.

        Returns:
            As `EvalTransform`; with a cache and without operations ``pixel_values`` are uint8 ``(B, 3, h, w)`` as
            decoded, ``crop_box`` is int64 ``(B, 4)`` (top, left, height, width in pixels) and ``flip`` bool ``(B,)``.

        Raises:
            DataError: An image cannot be decoded; the message names file and sample.
        """
        draws = np.asarray(rows["sample_index"], dtype=np.int64)
        if "repetition" in rows:
            draws = draws + (rows["repetition"] << _REPETITION_SHIFT)
        labels = _read_labels(rows, self.num_labels)
        if self.cache is None:
            pixels = self._read_crops(rows, draws)
        else:
            crops, flips = map(torch.from_numpy, self._draw(draws, np.tile(self.cache.size, (len(draws), 1))))
            pixels = torch.from_numpy(self.cache.gather(np.asarray(rows["sample_index"], dtype=np.int64)))
            if not self.operations:
                return {"pixel_values": pixels, "crop_box": crops, "flip": flips, **labels}
            size, interpolation = self.target_size, self.preprocessor.train_filter
            pixels = crop_and_resize(pixels, crops, flips, size, interpolation).round_().to(torch.uint8)
        for operate in self.operations:
            pixels = operate(pixels, self.seed, self.epoch, draws)
        return {"pixel_values": self.preprocessor.finish(pixels), **labels}

    def _read_crops(self, rows: Rows, draws: NDArray[np.int64]) -> torch.Tensor:
        """Decode, crop and resize: uint8 ``(B, 3, H, W)``."""
        numbered = list(zip(rows["image"], rows["sample_index"], strict=True))
        images = [(self._files.open(source, index), index) for source, index in numbered]
        sizes = np.array([self._files.size(*image) for image in images], dtype=np.int64)[:, ::-1]
        boxes, flips = self._draw(draws, sizes)
        pixel_values = allocate_batch((len(images), 3, *self.target_size), torch.uint8)
        scratches = Scratch(), Scratch()
        for out, image, box, flip in zip(pixel_values, images, boxes.tolist(), flips.tolist(), strict=True):
            out.copy_(self._augment(*image, box, flip, *scratches))
        return pixel_values

    def _draw(self, draws: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return draw_crops_and_flips(
            self.seed,
            self.epoch,
            draws,
            sizes,
            scale=self.augmentation.random_crop_scale,
            ratio=self.augmentation.random_crop_ratio,
            flip_probability=self.augmentation.horizontal_flip_probability,
        )

    def _augment(
        self, image: EncodedImage, sample_index: int, box: Sequence[int], flip: bool, decoded: Scratch, scratch: Scratch
    ) -> torch.Tensor:
        top, left, height, width = box
        target_height, target_width = self.target_size
        reduce = choose_reduction((width, height), (target_width, target_height)) if image.reducible else 1
        pixels = self._files.read(image, sample_index, decoded, reduce)
        if reduce > 1:
            top, height = _coarsen(top, height, reduce, pixels.shape[0])
            left, width = _coarsen(left, width, reduce, pixels.shape[1])
        crop = pixels[top : top + height, left : left + width]
        # One copy that torch would make anyway.
        copied = scratch.take(crop.shape)
        np.copyto(copied, crop)
        resized = F.interpolate(
            torch.from_numpy(copied).permute(2, 0, 1)[None],
            self.target_size,
            mode=self.preprocessor.train_filter.value,
            antialias=True,
        )[0, :3]
        return resized.flip(-1) if flip else resized


class _FileReader:
    """Opens and decodes images, and names the sample where that fails."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def open(self, source: dict[str, Any], sample_index: int) -> EncodedImage:
        try:
            return EncodedImage(source, self.reading)
        except DataError as error:
            raise name_sample(error, sample_index) from error

    def size(self, image: EncodedImage, sample_index: int) -> tuple[int, int]:
        try:
            return image.size
        except DataError as error:
            raise name_sample(error, sample_index) from error

    def read(self, image: EncodedImage, sample_index: int, scratch: Scratch, reduce: int = 1) -> NDArray[np.uint8]:
        try:
            return image.read_array(reduce, scratch=scratch)
        except DataError as error:
            raise name_sample(error, sample_index) from error


def _read_labels(rows: Rows, num_labels: int | None) -> Batch:
    columns = {"labels": "label", "sample_index": "sample_index"}
    if num_labels is not None and "label" in rows:
        targets = torch.zeros(len(rows["label"]), num_labels)
        for target, ids in zip(targets, rows["label"], strict=True):
            target[ids] = 1.0
        return {"labels": targets, **_read_labels({"sample_index": rows["sample_index"]}, None)}
    return {key: torch.tensor(rows[column], dtype=torch.int64) for key, column in columns.items() if column in rows}


def _coarsen(start: int, length: int, reduce: int, available: int) -> tuple[int, int]:
    """An interval of pixels on the grid of an image decoded at 1/reduce, at least one pixel long and inside it."""
    end = min(max(round((start + length) / reduce), 1), available)
    start = min(round(start / reduce), end - 1)
    return start, end - start
