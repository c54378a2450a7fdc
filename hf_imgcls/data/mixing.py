"""MixUp and CutMix: batches of mixed images with mixed labels, on the device, in training alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import v2

if TYPE_CHECKING:
    from hf_imgcls.arguments.augmentation import Augmentation

_Batch = dict[str, torch.Tensor]


class MixOnDevice:
    """Device transform: what another one made of a batch, mixed.

    The share and the place that are mixed are drawn from torch's random numbers on the CPU, whose state is part of a
    checkpoint: a run that goes on from one mixes as if it had not stopped.

    Args:
        finish: Gives normalised ``pixel_values`` and ``labels``.
        mix: Takes and gives pixel_values ``(B, 3, H, W)`` and labels, int64 ``(B,)`` or float ``(B, K)``; one of
            several for a batch, at random.
    """

    def __init__(self, finish: Callable[[_Batch], _Batch], mix: list[Any]) -> None:
        self.finish = finish
        self.mix = mix[0] if len(mix) == 1 else v2.RandomChoice(mix)

    def __call__(self, batch: _Batch) -> _Batch:
        """Mix a batch.

        Returns:
            The batch with ``labels`` float32 ``(B, K)``: what share of an image shows each class.
        """
        batch = self.finish(batch)
        pixel_values, labels = self.mix(batch["pixel_values"], batch["labels"])
        return {**batch, "pixel_values": pixel_values, "labels": labels}


def build_mixing(
    finish: Callable[[_Batch], _Batch], augmentation: Augmentation, num_classes: int
) -> Callable[[_Batch], _Batch]:
    """Put the mixing that a run asks for behind a device transform; without any, that transform itself.

    Args:
        finish: See `MixOnDevice`.
        augmentation: ``mixup_alpha`` and ``cutmix_alpha``.
        num_classes: K.

    Source:
        Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412; Yun et al.
        (2019), "CutMix", https://arxiv.org/abs/1905.04899; torchvision's implementations.
    """
    chosen = ((v2.MixUp, augmentation.mixup_alpha), (v2.CutMix, augmentation.cutmix_alpha))
    mix = [build(alpha=alpha, num_classes=num_classes) for build, alpha in chosen if alpha]
    return MixOnDevice(finish, mix) if mix else finish
