"""What is done to a training image after its crop, all of it torchvision's own.

The operations draw from torch's global random numbers. Here these are set for each image anew, from (seed, epoch,
sample), and put back afterwards: what an image looks like depends on nothing else, not on workers or order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from hf_imgcls.data.augment import hash_uniforms
from hf_imgcls.data.own_transform import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.arguments.augmentation import Augmentation

_STREAM = 1  # of random numbers: crops have the first
_BLUR_SIGMA = (0.1, 2.0)  # pixels, as in SimCLR
_BLUR_KERNEL = 5  # pixels: it must fit into the smallest images
_AUTO_AUGMENT = {"trivialaugment": v2.TrivialAugmentWide, "autoaugment": v2.AutoAugment, "augmix": v2.AugMix}


class ImageOperations:
    """A chain of random operations, an image at a time.

    Args:
        operations: Each takes and gives uint8 ``(3, H, W)``.
    """

    def __init__(self, operations: list[Any]) -> None:
        self.operations = operations

    def __call__(self, pixel_values: torch.Tensor, seed: int, epoch: int, draws: NDArray[np.int64]) -> torch.Tensor:
        """Change a batch in place, and return it.

        Args:
            pixel_values: uint8 ``(B, 3, H, W)``.
            seed: The run's.
            epoch: From 0.
            draws: int64 ``(B,)``: what else the random numbers of an image depend on.
        """
        seeds = (hash_uniforms(seed, epoch, draws, 1, stream=_STREAM)[:, 0] * 2**53).astype(np.int64)
        for image, number in zip(pixel_values, seeds.tolist(), strict=True):
            with seeded(number):
                changed = image
                for operation in self.operations:
                    changed = operation(changed)
                image.copy_(changed)
        return pixel_values


def build_operations(augmentation: Augmentation, mean: torch.Tensor | None) -> ImageOperations | None:
    """The operations that a run asks for, in the order in which they are applied; ``None`` for none.

    Args:
        augmentation: What is asked for.
        mean: float ``(3, 1, 1)``, levels 0..255 that the model sees as 0: the colour of corners that a rotation leaves
            empty and of erased rectangles. ``None`` for grey.
    """
    fill = [127] * 3 if mean is None else mean.flatten().round().int().tolist()
    placing: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": fill}
    operations: list[Any] = []
    if augmentation.vertical_flip_probability:
        operations.append(v2.RandomVerticalFlip(augmentation.vertical_flip_probability))
    if augmentation.rotation_degrees:
        operations.append(v2.RandomRotation(augmentation.rotation_degrees, **placing))
    if any(augmentation.color_jitter):
        operations.append(v2.ColorJitter(*augmentation.color_jitter))
    if augmentation.auto_augment == "randaugment":
        num_ops, magnitude = augmentation.randaugment_num_ops, augmentation.randaugment_magnitude
        operations.append(v2.RandAugment(num_ops, magnitude, **placing))
    elif augmentation.auto_augment != "none":
        operations.append(_AUTO_AUGMENT[augmentation.auto_augment](**placing))
    if augmentation.gaussian_blur_probability:
        blur = v2.GaussianBlur(_BLUR_KERNEL, _BLUR_SIGMA)
        operations.append(v2.RandomApply([blur], augmentation.gaussian_blur_probability))
    if augmentation.gaussian_noise_std:
        operations.append(v2.GaussianNoise(sigma=augmentation.gaussian_noise_std))
    if augmentation.random_erasing_probability:
        operations.append(v2.RandomErasing(augmentation.random_erasing_probability, value=fill))
    return ImageOperations(operations) if operations else None
