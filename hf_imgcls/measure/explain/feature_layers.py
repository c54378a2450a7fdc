"""Which layer of a classifier still has a place for each region of the image: found by looking, not by name.

One forward and backward pass is watched. A layer's output is a feature map when its shape is a grid that follows the
image's proportions: ``(B, C, h, w)``, ``(B, h, w, C)``, or tokens ``(B, n, C)`` of which the last ``h * w`` lie on the
grid of the patch embedding or on one that was halved since. Tokens before those (class, distillation, register tokens)
have no place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_imgcls.errors import ModelError

# A map with fewer places on a side says little about where; then an earlier layer is taken.
_MIN_SIDE = 4
# One class and one distillation token and up to eight registers are in use; anything else is another kind of token.
_MAX_PREFIX_TOKENS = 16
# Parts of attention: of the last one, the normalisation before its projections is what is usually looked at.
# Source: https://jacobgil.github.io/pytorch-gradcam-book/vision_transformers.html (``blocks[-1].norm1``)
_PARTS = (nn.Linear, nn.Dropout, nn.Softmax)


class NotApplicableError(ModelError):
    """A method cannot explain this architecture."""


@dataclass(frozen=True)
class FeatureLayer:
    """A layer whose output has a place for each region of the image.

    Attributes:
        module: Called once in a forward pass; its output, or the first of its outputs, is the feature map.
        layout: ``"channels_first"``, ``"channels_last"`` or ``"tokens"``.
        grid: Rows and columns of the map.
        num_prefix_tokens: Tokens before the map's own; 0 unless the layout is ``"tokens"``.
    """

    module: nn.Module
    layout: str
    grid: tuple[int, int]
    num_prefix_tokens: int = 0

    def read_map(self, output: torch.Tensor) -> torch.Tensor:
        """The layer's output as ``(B, C, h, w)``, without prefix tokens."""
        if self.layout == "channels_first":
            return output
        if self.layout == "channels_last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.grid)

    def write_map(self, output: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        """The layer's output with its map replaced by ``feature_map`` ``(B, C, h, w)``."""
        if self.layout == "channels_first":
            return feature_map
        if self.layout == "channels_last":
            return feature_map.permute(0, 2, 3, 1)
        tokens = feature_map.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : self.num_prefix_tokens], tokens], dim=1)


@dataclass
class LayerOutput:
    """What a module answered in a watched forward pass.

    Attributes:
        module: The module.
        tensor: Its output, or the first of its outputs.
        gradient: Of the watched number with respect to ``tensor``; ``None`` when it does not depend on it.
    """

    module: nn.Module
    tensor: torch.Tensor
    gradient: torch.Tensor | None = None


def first_tensor(output: Any) -> torch.Tensor | None:
    """The output itself, or the first of several, when that is a tensor."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


def watch_layers(model: nn.Module, run: Callable[[], torch.Tensor]) -> list[LayerOutput]:
    """Run the model once and note what its modules answer, with gradients.

    Args:
        model: In evaluation mode; its parameters get no ``.grad``.
        run: Calls the model once, on images that require a gradient, and returns the numbers to explain, ``(B,)``.

    Returns:
        Outputs ``(B, ...)`` with three or four dimensions of modules that are called once, in the order in which they
        ended.
    """
    outputs: list[LayerOutput] = []
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] += 1
        tensor = first_tensor(output)
        if tensor is not None and tensor.ndim in (3, 4) and tensor.requires_grad:
            outputs.append(LayerOutput(module, tensor))

    handles = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        with torch.enable_grad():
            numbers = run()
    finally:
        for handle in handles:
            handle.remove()
    # Attention within windows has windows in place of images.
    outputs = [item for item in outputs if calls[item.module] == 1 and len(item.tensor) == len(numbers)]
    if outputs and numbers.requires_grad:
        gradients = torch.autograd.grad(numbers.sum(), [item.tensor for item in outputs], allow_unused=True)
        for item, gradient in zip(outputs, gradients, strict=True):
            item.gradient = gradient
    return outputs


def find_feature_layer(outputs: list[LayerOutput], image_size: tuple[int, int]) -> FeatureLayer:
    """The last layer with a feature map that the answer depends on at most of its places.

    In a network that pools at its end this is the last map before pooling. In a transformer that answers from its class
    token it is the normalisation before the last attention: after that, the answer depends on the class token alone.

    Args:
        outputs: From `watch_layers`.
        image_size: Height and width of the model's input in pixels.

    Returns:
        The layer. One whose map has less than 4 places on a side is taken only where all have.

    Raises:
        NotApplicableError: There is no such layer.
    """
    best: FeatureLayer | None = None
    patch_grid = find_patch_grid(outputs, image_size)
    for item in reversed(outputs):
        layer = _describe(item, image_size, patch_grid)
        if layer is None or item.gradient is None:
            continue
        reached = layer.read_map(item.gradient).abs().amax(dim=1) > 0
        if reached.float().mean() <= 0.5:
            continue
        if best is None or min(layer.grid) > min(best.grid):
            best = layer
        if min(best.grid) >= _MIN_SIDE:
            return best
    if best is None:
        raise NotApplicableError(
            "no layer of this model has a place for each region of the image",
            "feature maps (B, C, h, w), or tokens on the grid of a patch embedding",
            "use occlusion, which looks at the model's answers only",
        )
    return best


def find_patch_grid(outputs: list[LayerOutput], image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of the patch embedding: the last 4-D map before the first tokens; ``None`` without tokens."""
    grid = None
    for item in outputs:
        if item.tensor.ndim == 3:
            return grid
        layer = _describe(item, image_size, None)
        grid = layer.grid if layer else grid
    return None


def split_tokens(num_tokens: int, patch_grid: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
    """How many of the tokens have no place, and the grid of the others.

    Args:
        num_tokens: Tokens of an image in some layer.
        patch_grid: Rows and columns of the patch embedding; a hierarchical model halves them, rounding up, and has no
            prefix tokens by then.

    Returns:
        Number of prefix tokens and grid; ``None`` when the tokens do not lie on such a grid.
    """
    rows, columns = patch_grid
    if 0 <= num_tokens - rows * columns <= _MAX_PREFIX_TOKENS:
        return num_tokens - rows * columns, patch_grid
    while rows * columns > num_tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != num_tokens or min(rows, columns) < 2:
        return None
    return 0, (rows, columns)


def _describe(
    item: LayerOutput, image_size: tuple[int, int], patch_grid: tuple[int, int] | None
) -> FeatureLayer | None:
    """The output as a feature layer, if it is one."""
    if isinstance(item.module, _PARTS):
        return None
    if item.tensor.ndim == 4:
        _, first, second, third = item.tensor.shape
        # No map is finer than the patches it is made of: (B, heads, tokens, channels) may look like one.
        image_size = image_size if patch_grid is None else (2 * patch_grid[0], 2 * patch_grid[1])
        if _follows_image((second, third), image_size):
            return FeatureLayer(item.module, "channels_first", (second, third))
        if _follows_image((first, second), image_size):
            return FeatureLayer(item.module, "channels_last", (first, second))
        return None
    # One channel is what 1-D pooling leaves of (B, C, n).
    if patch_grid is None or item.tensor.shape[2] == 1:
        return None
    found = split_tokens(item.tensor.shape[1], patch_grid)
    return FeatureLayer(item.module, "tokens", found[1], found[0]) if found else None


def _follows_image(grid: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether a grid is the image, halved at least once, up to rounding: not heads x tokens or any other matrix."""
    (rows, columns), (height, width) = grid, image_size
    return 2 <= rows <= height // 2 and 2 <= columns <= width // 2 and abs(rows - columns * height / width) < 1
