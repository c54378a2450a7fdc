"""How training images are varied: a policy for all of it, and a value for each part.

Only the standard library is imported: arguments are checked before anything heavy is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, each part 0 or ``"none"`` where it is not done.

    The defaults are the policy ``light``. The names are those of the arguments, see ``DataArguments``.
    """

    random_crop_scale: tuple[float, float] = (0.35, 1.0)
    random_crop_ratio: tuple[float, float] = (0.75, 1.3333)
    horizontal_flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    rotation_degrees: float = 0.0
    color_jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    auto_augment: str = "none"
    randaugment_num_ops: int = 2
    randaugment_magnitude: int = 9
    gaussian_blur_probability: float = 0.0
    gaussian_noise_std: float = 0.0
    random_erasing_probability: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    augmentation_repeats: int = 1


AUGMENTATION_PARTS = tuple(field.name for field in dataclasses.fields(Augmentation))
# none: the largest square in the middle. heavy: what ViTs are trained from scratch with, after Touvron et al. (2021),
# "Training data-efficient image transformers", table 9, with milder MixUp, for runs shorter than 300 epochs. views:
# after Chen et al. (2020), "SimCLR", appendix A, with half of its colour jitter and without gray images.
POLICIES = {
    "none": Augmentation(random_crop_scale=(1.0, 1.0), random_crop_ratio=(1.0, 1.0), horizontal_flip_probability=0.0),
    "light": Augmentation(),
    "medium": Augmentation(auto_augment="randaugment", randaugment_magnitude=5, random_erasing_probability=0.1),
    "heavy": Augmentation(
        random_crop_scale=(0.2, 1.0),
        auto_augment="randaugment",
        random_erasing_probability=0.25,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    ),
    "views": Augmentation(
        random_crop_scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), gaussian_blur_probability=0.5
    ),
}


def resolve_augmentation(data_args: DataArguments) -> Augmentation:
    """Return what a run does to its training images: its policy, changed by the parts that were given."""
    given = {name: getattr(data_args, name) for name in AUGMENTATION_PARTS if getattr(data_args, name) is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return dataclasses.replace(POLICIES[data_args.augmentation], **given)
