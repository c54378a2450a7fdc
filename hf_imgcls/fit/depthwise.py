"""Depthwise convolutions over maps smaller than their kernel, on a CPU, as products of matrices.

oneDNN takes 9 to 25 ms for the weights' gradient of a 7 x 7 depthwise convolution of 192 channels on 64 maps of 1 to 5
pixels, and 6 ms on maps of 7 (torch 2.14, two AVX2 cores): the last stage of a ConvNeXt on small images is then up to a
fifth of a training step. Remove this module when small maps are no slower. ``benchmarks/cpu_step.py`` measures a step.
"""

from __future__ import annotations

import functools

import torch
from torch import nn


class SmallMapConv2d(nn.Conv2d):
    """A depthwise convolution, in training on maps smaller than its kernel one matrix product per channel.

    There every output pixel sees nearly all of the map, so that the kernel, laid out as a matrix from input to output
    pixels, is nearly full. Anywhere else, and wherever no gradients are wanted, it is ``nn.Conv2d``.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve maps of shape (batch, channels, height, width); the shape stays."""
        batch, channels, height, width = input.shape
        kernel = self.weight.shape[-2:]
        if not torch.is_grad_enabled() or height >= kernel[0] or width >= kernel[1]:
            return super().forward(input)
        layout = _lay_out_kernel(height, width, *kernel).to(self.weight)
        matrices = (self.weight.flatten(1) @ layout).view(channels, height * width, height * width)
        maps = torch.bmm(input.flatten(2).transpose(0, 1), matrices)
        if self.bias is not None:
            maps = maps + self.bias.view(channels, 1, 1)
        return maps.transpose(0, 1).reshape(batch, channels, height, width)


def speed_up_depthwise(model: nn.Module) -> None:
    """Turn a model's depthwise convolutions into `SmallMapConv2d`, in place; weights and names stay.

    Only those that keep the size of a map, with zeros around it, and whose kernels have at most 7 x 7 pixels.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d or not module.groups == module.in_channels == module.out_channels:
            continue
        odd = all(size % 2 and 1 < size <= 7 for size in module.kernel_size)
        same = module.padding in ("same", tuple(size // 2 for size in module.kernel_size))
        if odd and same and module.stride == module.dilation == (1, 1) and module.padding_mode == "zeros":
            module.__class__ = SmallMapConv2d


@functools.lru_cache(maxsize=64)
def _lay_out_kernel(height: int, width: int, kernel_height: int, kernel_width: int) -> torch.Tensor:
    """Which weight of a kernel leads from which pixel to which, as 0 and 1: (kernel pixels, input x output pixels).

    It is what the convolution, which is linear in its kernel, makes of each single pixel and single weight.
    """
    pixels, weights = height * width, kernel_height * kernel_width
    single_pixels = torch.eye(pixels).view(pixels, 1, height, width)
    single_weights = torch.eye(weights).view(weights, 1, kernel_height, kernel_width)
    with torch.no_grad():
        reached = nn.functional.conv2d(single_pixels, single_weights, padding=(kernel_height // 2, kernel_width // 2))
    return reached.transpose(0, 1).reshape(weights, pixels * pixels)
