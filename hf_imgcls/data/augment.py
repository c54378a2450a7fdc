"""Random augmentation as a pure function of (seed, epoch, sample index), and its batched execution on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_TRIES = 10


def hash_uniforms(
    seed: int, epoch: int, sample_index: NDArray[np.int64], count: int, *, stream: int = 0
) -> NDArray[np.float64]:
    """Random numbers that depend on nothing but the arguments: no state, no worker, no order.

    SplitMix64's finaliser over a chain of the arguments, the counter-based way to random numbers.

    Args:
        seed: The run's seed.
        epoch: Epoch, from 0.
        sample_index: int64 ``(B,)``: which samples.
        count: Numbers per sample.
        stream: Another purpose takes another stream, and gets other numbers.

    Returns:
        float64 ``(B, count)``, uniform on [0, 1).

    Source:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = np.uint64(0)
    for part in (seed, epoch, stream):
        state = _mix(np.array([(int(state) ^ part) + _GOLDEN & _MASK], dtype=np.uint64))[0]
    samples = _mix((np.asarray(sample_index, dtype=np.int64).astype(np.uint64) ^ state) + np.uint64(_GOLDEN))
    counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix(samples[:, None] + counters) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw_crops_and_flips(
    seed: int,
    epoch: int,
    sample_index: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip_probability: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw a random resized crop and a horizontal flip for every sample of a batch.

    The area is uniform on ``scale`` of the image's, the logarithm of width / height uniform on ``ratio``'s; the first
    of ten draws that fits into the image is taken, else the largest centred crop of an allowed ratio.

    Args:
        seed, epoch, sample_index: See `hash_uniforms`.
        sizes: int64 ``(B, 2)``: height and width of every image in pixels.
        scale: Least and greatest fraction of the image's area.
        ratio: Least and greatest width / height.
        flip_probability: In 0..1.

    Returns:
        Boxes int64 ``(B, 4)``: top, left, height, width in pixels, inside the image; and flips bool ``(B,)``.

    Source:
        torchvision.transforms.RandomResizedCrop.get_params (semantics; the random numbers are ours).
    """
    uniforms = hash_uniforms(seed, epoch, sample_index, 4 * _TRIES + 1)
    draws = uniforms[:, :-1].reshape(-1, _TRIES, 4)
    heights, widths = sizes[:, :1], sizes[:, 1:]
    area = heights * widths * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[..., 1])
    crop_widths = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    crop_heights = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (crop_widths >= 1) & (crop_widths <= widths) & (crop_heights >= 1) & (crop_heights <= heights)
    rows, first = np.arange(len(sizes)), fits.argmax(axis=1)

    height, width = crop_heights[rows, first], crop_widths[rows, first]
    place = draws[rows, first]
    fallback = ~fits.any(axis=1)
    if fallback.any():
        full_height, full_width = sizes[fallback].T
        width[fallback] = np.maximum(1, np.minimum(full_width, np.rint(full_height * ratio[1]))).astype(np.int64)
        height[fallback] = np.maximum(1, np.minimum(full_height, np.rint(full_width / ratio[0]))).astype(np.int64)
    spare_y, spare_x = sizes[:, 0] - height, sizes[:, 1] - width
    top = np.where(fallback, spare_y // 2, (place[:, 2] * (spare_y + 1)).astype(np.int64))
    left = np.where(fallback, spare_x // 2, (place[:, 3] * (spare_x + 1)).astype(np.int64))
    return np.stack([top, left, height, width], axis=1), uniforms[:, -1] < flip_probability


def crop_and_resize(
    images: torch.Tensor,
    boxes: torch.Tensor,
    flips: torch.Tensor,
    target_size: tuple[int, int],
    interpolation: InterpolationMode,
) -> torch.Tensor:
    """Crop, flip and resize every image of a batch by its own box, on the batch's device.

    Resizing is separable, so two batched matrix products with the filter's weights do it exactly, antialiasing
    included. ``F.interpolate`` per image, in uint8, rounds twice on the way: this result is within 2 levels of it.

    Args:
        images: uint8 ``(B, C, h, w)``.
        boxes: ``(B, 4)``: top, left, height, width in pixels.
        flips: bool ``(B,)``: mirror left and right.
        target_size: ``(H, W)``.
        interpolation: Bilinear or bicubic.

    Returns:
        float32 ``(B, C, H, W)``, levels 0..255, not rounded.

    Source:
        The filters are Pillow's (triangle; cubic with a = -0.5), which torch's ``antialias=True`` uses too.
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.to(torch.float32).unbind(1)
    # Lower precision would cost grey levels, and these products cost next to nothing.
    with torch.autocast(images.device.type, enabled=False), torch.no_grad():
        across = _filter_weights(left, box_width, flips, width, target_size[1], interpolation)
        upright = torch.zeros_like(flips)
        down = _filter_weights(top, box_height, upright, height, target_size[0], interpolation)
        rows = torch.bmm(images.reshape(batch, channels * height, width).to(torch.float32), across.transpose(1, 2))
        if interpolation is InterpolationMode.BICUBIC:  # overshoots
            rows.clamp_(0.0, 255.0)
        levels = torch.matmul(down[:, None], rows.reshape(batch, channels, height, target_size[1]))
        return levels.clamp_(0.0, 255.0) if interpolation is InterpolationMode.BICUBIC else levels


def _filter_weights(
    start: torch.Tensor,
    length: torch.Tensor,
    reverse: torch.Tensor,
    size: int,
    target: int,
    interpolation: InterpolationMode,
) -> torch.Tensor:
    """Weights ``(B, target, size)`` that resample ``[start, start + length)`` of ``size`` pixels to ``target``."""
    device = start.device
    start, length, reverse = start[:, None, None], length[:, None, None], reverse[:, None, None]
    step = length / target
    positions = torch.arange(target, device=device)[:, None] + 0.5
    centres = start + torch.where(reverse, target - positions, positions) * step
    pixels = torch.arange(size, device=device) + 0.5
    # The large intermediate values are (B, target, size): work in place.
    distance = (pixels - centres).div_(step.clamp(min=1.0)).abs_()
    if interpolation is InterpolationMode.BICUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = torch.where(distance < 1.0, near, far.mul_(distance < 2.0))
    else:
        weights = distance.neg_().add_(1.0).clamp_(min=0.0)
    weights.mul_((pixels > start) & (pixels < start + length))
    return weights.div_(weights.sum(dim=2, keepdim=True))
