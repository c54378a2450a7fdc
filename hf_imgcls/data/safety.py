"""Whether an augmentation turns images of one class into images of another: a mirrored arrow points the other way.

A nearest-neighbour classifier of thumbnails is asked about training images before and after the change. It knows
nothing about objects, but it does know when a changed image looks like those of another class, which is the question;
and when it looks like none, as a shoe that points the other way than all others, which is no harm.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hf_imgcls.arguments.augmentation import Augmentation
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.image_transforms import EvalTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

_MOST_IMAGES, _MOST_PER_CLASS, _FEWEST_PER_CLASS = 1000, 40, 10
_THUMBNAIL = 16  # pixels
_NEIGHBORS = 3
_COMMON, _SLACK = 0.9, 1.2  # nine of ten images of a class are within its radius, and a fifth is added
_SHARE, _CONFIDENCE = 1 / 3, 0.95  # of a class's images that must look like another class
_TRIVIALAUGMENT_DEGREES = 135.0


@dataclass(frozen=True)
class _Change:
    """A change of images that an augmentation makes.

    Attributes:
        says: What is switched off, for the user.
        off: What the augmentation is without it.
        variants: The change at its strongest, in each direction: uint8 ``(B, 3, H, W)`` to the same.
    """

    says: str
    off: dict[str, Any]
    variants: Sequence[Callable[[torch.Tensor], torch.Tensor]]


def check_augmentation(
    dataset: ImageDataset, processor: Any, data_args: DataArguments, augmentation: Augmentation
) -> Augmentation:
    """Switch off what turns one class into another, and say so; the dataset's record gets a note.

    Flips, rotations and changes of hue are looked at. Something is switched off when, with 95 % confidence, more than a
    third of the images of a class that the classifier knows look like one other class when changed. At most 1,000
    training images are read; the check says nothing about several labels per image, streams, or data with more than a
    hundred classes.

    Args:
        dataset: With a training split; its record's notes are added to.
        processor: The model's image processor.
        data_args: How images are read, and ``augmentation_safety``.
        augmentation: What is asked for.

    Returns:
        What is safe of it.
    """
    split = dataset.splits.get("train")
    changes = _list_changes(augmentation)
    if not (data_args.augmentation_safety and changes and isinstance(split, Dataset)) or dataset.is_multi_label:
        return augmentation
    sample = _Sample.take(split, processor, data_args)
    if sample is None:
        return augmentation
    for change in changes:
        found = sample.find_confusion(change)
        if found is None:
            continue
        label, other, count, known = found
        note = (
            f"{change.says} off: {count} of {known} images of {dataset.labels[label]!r} then look like "
            f"{dataset.labels[other]!r} (--augmentation_safety false keeps it)"
        )
        logger.warning("Augmentation: %s", note)
        dataset.record.notes.append(note)
        augmentation = dataclasses.replace(augmentation, **change.off)
    return augmentation


def _list_changes(augmentation: Augmentation) -> list[_Change]:
    changes = []
    if augmentation.horizontal_flip_probability:
        changes.append(_Change("mirroring is", {"horizontal_flip_probability": 0.0}, [tv.horizontal_flip]))
    if augmentation.vertical_flip_probability:
        changes.append(_Change("turning upside down is", {"vertical_flip_probability": 0.0}, [tv.vertical_flip]))
    if degrees := augmentation.rotation_degrees:
        changes.append(_Change(f"rotation by {degrees:g} degrees is", {"rotation_degrees": 0.0}, _rotate_by(degrees)))
    if augmentation.auto_augment == "trivialaugment":
        variants = _rotate_by(_TRIVIALAUGMENT_DEGREES)
        changes.append(_Change("trivialaugment, which rotates, is", {"auto_augment": "none"}, variants))
    if hue := augmentation.color_jitter[3]:
        off = {"color_jitter": (*augmentation.color_jitter[:3], 0.0)}
        variants = [partial(tv.adjust_hue, hue_factor=by) for by in (hue, -hue)]
        changes.append(_Change(f"a change of hue by {hue:g} is", off, variants))
    return changes


def _rotate_by(degrees: float) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    def rotate(pixels: torch.Tensor, angle: float) -> torch.Tensor:
        # The corners are given what the image's edge has, on average.
        edge = torch.cat([pixels[..., 0], pixels[..., -1], pixels[..., 0, :], pixels[..., -1, :]], dim=-1)
        fill = edge.float().mean(dim=(0, 2)).tolist()
        return tv.rotate(pixels, angle, InterpolationMode.BILINEAR, fill=fill)

    return [partial(rotate, angle=by) for by in (degrees, -degrees)]


class _Sample:
    """Some training images of each class, and a classifier that knows them.

    Args:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``.
    """

    def __init__(self, pixels: torch.Tensor, labels: NDArray[np.int64]) -> None:
        self.pixels, self.labels = pixels, labels
        self._answers, distances = self._classify(pixels)
        # How near an image of a class commonly is to another one of it. What is farther away looks like none of them.
        right = self._answers == labels
        self._radius = np.zeros(labels.max() + 1)
        for label in np.unique(labels[right]):
            self._radius[label] = _SLACK * np.quantile(distances[right & (labels == label)], _COMMON)

    @classmethod
    def take(cls, split: Dataset, processor: Any, data_args: DataArguments) -> _Sample | None:
        """Read images; ``None`` where there are too many classes or hardly any images, or the
        processor leaves no picture of an image.
        """
        ids = np.asarray(split["label"][:], dtype=np.int64)
        present = np.unique(ids)
        per_class = min(_MOST_PER_CLASS, _MOST_IMAGES // len(present))
        if per_class < _FEWEST_PER_CLASS:
            return None
        random = np.random.default_rng(0)
        # Class by class: neighbours in this order belong to different halves.
        rows = np.concatenate([random.permutation(np.flatnonzero(ids == label))[:per_class] for label in present])
        if len(rows) < 2 * _NEIGHBORS:  # each half must have neighbours for the other
            return None
        columns = ["image", "label", "sample_index"]
        pixels = EvalTransform(Preprocessor(processor), Reading.from_arguments(data_args))(
            split.select_columns(columns)[rows.tolist()]
        )["pixel_values"]
        return None if pixels.is_floating_point() else cls(pixels, ids[rows])

    def find_confusion(self, change: _Change) -> tuple[int, int, int, int] | None:
        """The worst confusion, if it is one: class, the other class, images that look like it, images known before."""
        worst: tuple[float, tuple[int, int, int, int]] | None = None
        for variant in change.variants:
            answers, distances = self._classify(variant(self.pixels))
            alike = (answers != self.labels) & (distances <= self._radius[answers])
            for label in np.unique(self.labels):
                known = (self.labels == label) & (self._answers == label)
                if known.sum() < _FEWEST_PER_CLASS // 2 or not (known & alike).any():
                    continue
                counts = np.bincount(answers[known & alike])
                other = int(counts.argmax())
                test = binomtest(int(counts[other]), int(known.sum()))
                bound = test.proportion_ci(2 * _CONFIDENCE - 1, method="wilson").low  # one-sided
                if bound > _SHARE and (worst is None or bound > worst[0]):
                    worst = bound, (int(label), other, int(counts[other]), int(known.sum()))
        return worst and worst[1]

    def _classify(self, changed: torch.Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What the nearest images say, none of them the image itself: each half of the images answers for the other.

        Returns:
            Classes int64 ``(N,)``, and how far away the nearest image of that class is, float64 ``(N,)``.
        """
        queries, known = _shrink(changed), _shrink(self.pixels)
        answers, distances = np.empty_like(self.labels), np.empty(len(self.labels))
        half = np.arange(len(self.labels)) % 2 == 0
        for asked in (half, ~half):
            labels = self.labels[~asked]
            classifier = KNeighborsClassifier(_NEIGHBORS, weights="distance").fit(known[~asked], labels)
            answers[asked] = classifier.predict(queries[asked])
            near, which = classifier.kneighbors(queries[asked])
            distances[asked] = np.where(labels[which] == answers[asked][:, None], near, np.inf).min(axis=1)
        return answers, distances


def _shrink(pixels: torch.Tensor) -> NDArray[np.float32]:
    small = F.interpolate(pixels.float(), (_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True)
    return small.flatten(1).numpy()
