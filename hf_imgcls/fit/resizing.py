"""Progressive resizing: small images in the first epochs, which cost less, and the full size in the last.

Source: Howard (2018), "Training ImageNet in 3 hours for USD 25", https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html;
the shape of the schedule is that of MosaicML's Composer, https://docs.mosaicml.com/projects/composer (Progressive Image
Resizing): one size for a half of training, then growth, and the full size for the last fifth.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from hf_imgcls.data.image_transforms import TrainTransform
from hf_imgcls.errors import ModelError

_GROWS_FROM, _GROWN_AT = 0.5, 0.8  # shares of the epochs
_MULTIPLE = 4  # pixels, for models without patches


def plan_sizes(
    full: tuple[int, int], start: float, num_epochs: int, multiple: int = _MULTIPLE
) -> list[tuple[int, int]]:
    """The size of training images in each epoch.

    Args:
        full: Height and width of the model's input in pixels.
        start: Share of it in the first epochs, in (0, 1].
        num_epochs: Of the run.
        multiple: Sides are multiples of so many pixels; the full size is as it is.

    Returns:
        Height and width for each epoch, never smaller than in the epoch before.
    """
    sizes = []
    for epoch in range(num_epochs):
        grown = (epoch / num_epochs - _GROWS_FROM) / (_GROWN_AT - _GROWS_FROM)
        share = start + (1 - start) * min(max(grown, 0.0), 1.0)
        height, width = (min(max(round(side * share / multiple), 1) * multiple, side) for side in full)
        sizes.append(full if share == 1 or epoch == num_epochs - 1 else (height, width))
    return sizes


def resize_progressively(
    model: nn.Module, transform: TrainTransform, start: float, num_epochs: int
) -> dict[str, Any]:  # fmt: skip
    """Set the size of each epoch's training images.

    Args:
        model: What is trained; position embeddings are interpolated to the size of the images, in each step.
        transform: Gets the sizes.
        start: Share of the full size in the first epochs, in (0, 1].
        num_epochs: Of the run.

    Returns:
        What the model's forward needs besides the images.

    Raises:
        ModelError: The model takes images of its own size only, or none so small.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    patch = getattr(base.config, "patch_size", _MULTIPLE)
    multiple = max(patch) if isinstance(patch, (list, tuple)) else patch
    transform.sizes = plan_sizes(transform.preprocessor.target_size, start, num_epochs, multiple)
    interpolates = "interpolate_pos_encoding" in inspect.signature(base.forward).parameters
    options = {"interpolate_pos_encoding": True} if interpolates else {}
    height, width = transform.sizes[0]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(
                pixel_values=torch.zeros(1, 3, height, width, device=next(model.parameters()).device), **options
            )
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        full = " x ".join(map(str, transform.preprocessor.target_size))
        raise ModelError(
            f"{type(base).__name__} does not take images of {height} x {width} pixels ({error})",
            f"a model for any size, such as ConvNeXt, ResNet and ViT, or one share of {full} that it takes",
            "leave out --progressive_resizing, or raise it",
        ) from error
    finally:
        model.train(was_training)
    return options
