"""The weights' gradient of large depthwise convolutions on a CPU, by products of matrices.

For kernels of 5 x 5 pixels and more oneDNN takes 10 to 30 times as long for it as for the convolution itself (torch
2.14): for 64 maps of 48 channels and 14 x 14 pixels 15 ms, in bfloat16 20, on a core with AVX-512, where it is 6 and 4
here; for 96 channels and 7 x 7 pixels 11 and 25 ms, where it is 1 and 2. It is a fifth of a training step of a small
ConvNeXt, in bfloat16 two fifths. Remove this module when oneDNN is as fast; ``benchmarks/cpu_step.py`` measures a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LARGE_KERNEL = 5  # oneDNN is fast at 3 x 3
_WHOLE_MAPS = 64  # pixels of maps that are multiplied whole, not row by row
_BLOCK = 300_000  # numbers that a block of channels is copied into: about the second cache of a core


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of stride 1 that keeps a map's size; only its weights' gradient is computed otherwise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve maps of shape (batch, channels, height, width); the shape stays."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight, bias = input.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
        return _Convolution.apply(input, weight, bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(maps, weight)
        return functional.conv2d(maps, weight, bias, padding=_pad(weight), groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps = nn.grad.conv2d_input(maps.shape, weight, grad, padding=_pad(weight), groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = correlate(grad, maps, (weight.shape[2], weight.shape[3])).to(weight.dtype).unsqueeze(1)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_maps, of_weight, of_bias


def _pad(weight: torch.Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def speed_up_depthwise(model: nn.Module) -> None:
    """Turn a model's large depthwise convolutions into `DepthwiseConv2d`, in place; weights and names stay.

    Those whose kernels have an odd number of pixels, 5 or more, and that keep the size of a map, with zeros around it.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d or not module.groups == module.in_channels == module.out_channels:
            continue
        large = all(size % 2 and size >= _LARGE_KERNEL for size in module.kernel_size)
        same = module.padding in ("same", tuple(size // 2 for size in module.kernel_size))
        if large and same and module.stride == module.dilation == (1, 1) and module.padding_mode == "zeros":
            module.__class__ = DepthwiseConv2d


def correlate(grad: torch.Tensor, maps: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """The gradient of a depthwise convolution's weights.

    At row i and column j of a kernel it is the sum of ``grad[n, c, y, x] * maps[n, c, y + i - p, x + j - q]`` over all
    images and pixels, p and q being half the kernel's size, rounded down. A product of matrices sums over the images
    (and rows) for every pair of an output and an input pixel (or column); a kernel's weights are diagonals of it.

    Args:
        grad: Of the output, (batch, channels, height, width).
        maps: The input, of the same shape.
        kernel: Height and width, odd.

    Returns:
        (channels, kernel height, kernel width) float32, or float64 of float64.
    """
    height, width = maps.shape[2:]
    exact = torch.float64 if maps.dtype == torch.float64 else torch.float32
    pairs = _pair_pixels if height * width <= _WHOLE_MAPS else _pair_columns
    # A batch with the channels last has no rows that a product of matrices could read as they lie.
    return pairs(grad.contiguous(), maps.contiguous(), kernel).sum((3, 4), dtype=exact)


def _pair_pixels(grad: torch.Tensor, maps: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """Products of the pixels that a weight connects, summed over images: a view (channels, *kernel, height, width)."""
    channels, height, width = maps.shape[1:]
    pairs = torch.bmm(grad.flatten(2).permute(1, 2, 0), maps.flatten(2).transpose(0, 1))
    pad_y, pad_x = kernel[0] // 2, kernel[1] // 2
    pairs = functional.pad(pairs.view(channels, height, width, height, width), (pad_x, pad_x, pad_y, pad_y))
    each, out_y, out_x, in_y, in_x = pairs.stride()
    return pairs.as_strided((channels, *kernel, height, width), (each, in_y, in_x, out_y + in_y, out_x + in_x))


def _pair_columns(grad: torch.Tensor, maps: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """Products of the columns that a weight connects, summed over images and rows: (channels, *kernel, 1, width)."""
    batch, channels, height, width = maps.shape
    pad_y, pad_x = kernel[0] // 2, kernel[1] // 2
    # The rows of all images lie below each other, with as many zeros between two images as a kernel reaches out of one:
    # the same matrix, begun some rows later, is that of another row of the kernel.
    tall, wide = height + pad_y, width + 2 * pad_x
    rows = batch * tall
    pairs = maps.new_empty(channels, kernel[0], width, wide)
    size = max(1, _BLOCK // (rows * (width + wide)))
    for some_pairs, some_maps, some_grad in zip(
        pairs.split(size), maps.split(size, 1), grad.split(size, 1), strict=True
    ):
        count = len(some_pairs)
        inputs = maps.new_zeros(count, pad_y + rows + pad_y, wide)
        inner = inputs[:, pad_y : pad_y + rows].view(count, batch, tall, wide)
        inner[:, :, :height, pad_x : pad_x + width] = some_maps.transpose(0, 1)
        outputs = maps.new_zeros(count, batch, tall, width)
        outputs[:, :, :height] = some_grad.transpose(0, 1)
        transposed = outputs.view(count, rows, width).transpose(1, 2)
        for row in range(kernel[0]):
            some_pairs[:, row] = torch.bmm(transposed, inputs[:, row : row + rows])
    each, row, out_x, in_x = pairs.stride()
    return pairs.as_strided((channels, *kernel, 1, width), (each, row, in_x, 0, out_x + in_x))
