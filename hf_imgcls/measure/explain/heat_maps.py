"""Where a classifier looks: heat maps by three methods that fail in different ways.

- ``grad_cam``: how much each place of the last feature map speaks for the class (captum's ``LayerGradCam``); coarse
  where places of that map have seen much of the image: in transformers, and where a ConvNeXt's kernels of 7 x 7 reach
  over a small map;
- ``attention_rollout``: how much of each place attention carries into what the head reads; it knows no class;
- ``occlusion``: how much the answer falls when a window is covered (captum's ``Occlusion``); any architecture.

All explain the same number, the target's log-odds ``log(p / (1 - p))``: a sure model's probabilities hardly move, and a
single logit may rise together with all others.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_imgcls.extras import require
from hf_imgcls.measure.explain.feature_layers import (
    FeatureLayer,
    LayerOutput,
    NotApplicableError,
    find_feature_layer,
    find_patch_grid,
    first_tensor,
    split_tokens,
    watch_layers,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel

METHODS = ("grad_cam", "attention_rollout", "occlusion")
# Windows of 1/5 of a side, moved by half of it: about 10 x 10 passes for each image, whatever its size. Windows much
# smaller than an object leave enough of it to be recognised.
_WINDOWS_PER_SIDE = 5


def compute_heat_maps(
    model: PreTrainedModel,
    pixel_values: torch.Tensor,
    targets: torch.Tensor,
    method: str,
    *,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """Explain images by one method.

    The model is left as it was: mode, gradients, hooks and attention implementation.

    Args:
        model: From ``AutoModelForImageClassification``; it computes where its weights are.
        pixel_values: ``(B, C, H, W)``, as the model's processor makes them.
        targets: ``(B,)`` int64, the class to explain in each image.
        method: One of `METHODS`.
        batch_size: Images per forward pass.

    Returns:
        ``(B, H, W)`` float32 from 0 (nothing) to 1 (the hottest place of that image); all zeros where no place speaks
        for the class.

    Raises:
        NotApplicableError: The method cannot explain this architecture; the message says why.
        MissingExtraError: captum is not installed.
    """
    require("explain")
    occlude = functools.partial(_occlude, batch_size=batch_size)
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "grad_cam": _grad_cam,
        "attention_rollout": _attention_rollout,
        "occlusion": occlude,
    }
    explain = functions[method]
    with evaluation_mode(model):
        pixel_values, targets = pixel_values.to(model.device, model.dtype), targets.to(model.device)
        batches = zip(pixel_values.split(batch_size), targets.split(batch_size), strict=True)
        maps = torch.cat([explain(model, images, classes) for images, classes in batches])
    maps = maps.float().clamp(min=0)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0.0).cpu().numpy()


def compute_log_odds(model: PreTrainedModel, pixel_values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-odds of the target classes; their sigmoid is the model's probability.

    Args:
        model: Softmax over classes, or sigmoids where ``config.problem_type`` says multi-label.
        pixel_values: ``(B, C, H, W)``.
        targets: ``(B,)`` int64.

    Returns:
        ``(B,)`` float32: ``logit_t - logsumexp(other logits)``, or the logit itself for sigmoids.
    """
    return _log_odds(model(pixel_values=pixel_values).logits.float(), targets, model.config)


def _log_odds(logits: torch.Tensor, targets: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    chosen = logits.gather(1, targets[:, None])[:, 0]
    if config.problem_type == "multi_label_classification" or logits.shape[1] == 1:
        return chosen
    is_target = nn.functional.one_hot(targets, logits.shape[1]).bool()
    return chosen - logits.masked_fill(is_target, -torch.inf).logsumexp(dim=1)


def cover_color(pixel_values: torch.Tensor) -> torch.Tensor:
    """What covers a region: its image's mean colour, ``(B, C, H, W)``.

    That colour keeps a trace of what it covers. A model to which the faintest trace is as good as the whole answers as
    before (a ConvNeXt trained on grey images with coloured marks: its first LayerNorm divides by the strength), and the
    maps made with it are rightly not believed.
    """
    return pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _grad_cam(model: PreTrainedModel, pixel_values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Grad-CAM. Source: Selvaraju et al. 2017 (arXiv:1610.02391), on log-odds in place of the logit."""
    from captum.attr import LayerAttribution, LayerGradCam

    # Frozen weights give no gradient, so the pixels have to ask for one.
    pixel_values = pixel_values.detach().requires_grad_()
    outputs = watch_layers(model, lambda: compute_log_odds(model, pixel_values[:1], targets[:1]))
    layer = find_feature_layer(outputs, tuple(pixel_values.shape[-2:]))
    with _tap_layer(layer) as tap:
        cam = LayerGradCam(lambda images: compute_log_odds(model, images, targets), tap).attribute(pixel_values)
    return LayerAttribution.interpolate(cam.detach().float(), tuple(pixel_values.shape[-2:]), "bilinear")[:, 0]


@contextlib.contextmanager
def _tap_layer(layer: FeatureLayer) -> Iterator[nn.Identity]:
    """A module that sees the layer's feature map as ``(B, C, h, w)`` on its way: captum knows no other layout."""
    tap = nn.Identity()

    def send_through(_: nn.Module, __: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        changed = layer.write_map(tensor, tap(layer.read_map(tensor)))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.module.register_forward_hook(send_through)
    try:
        yield tap
    finally:
        handle.remove()


def _occlude(
    model: PreTrainedModel, pixel_values: torch.Tensor, targets: torch.Tensor, *, batch_size: int
) -> torch.Tensor:
    """Occlusion. Source: Zeiler & Fergus 2014, section 4.2 (arXiv:1311.2901), on log-odds, with the mean colour."""
    from captum.attr import Occlusion

    num_channels, height, width = pixel_values.shape[1:]
    window = [math.ceil(side / _WINDOWS_PER_SIDE) for side in (height, width)]
    maps = []
    with torch.no_grad():
        for image, target in zip(pixel_values.split(1), targets.split(1), strict=True):
            maps.append(
                Occlusion(lambda images, classes: compute_log_odds(model, images, classes)).attribute(
                    image,
                    sliding_window_shapes=(num_channels, *window),
                    strides=(num_channels, *(max(1, side // 2) for side in window)),
                    baselines=cover_color(image),
                    additional_forward_args=(target,),
                    perturbations_per_eval=batch_size,
                )
            )
    return torch.cat(maps).float().mean(dim=1)


def _attention_rollout(model: PreTrainedModel, pixel_values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Attention rollout: the product over the layers of ``(mean over heads + identity) / 2``.

    Which rows of the product count is asked of the model: the tokens behind the last attention that the answer depends
    on. They are the class token, all patches, or both.

    Source: Abnar & Zuidema 2020, section 3 (arXiv:2005.00928).
    """
    outputs, attentions = _watch_attention(model, pixel_values, targets)
    height, width = pixel_values.shape[-2:]
    num_tokens = attentions[0].shape[-1]
    patch_grid = find_patch_grid(outputs, (height, width))
    found = split_tokens(num_tokens, patch_grid) if patch_grid else None
    read = next(
        (
            item.gradient.float().norm(dim=2)
            for item in reversed(outputs)
            if item.gradient is not None and item.tensor.shape[1] == num_tokens and item.tensor.ndim == 3
        ),
        None,
    )
    if found is None or read is None:
        raise NotApplicableError(
            f"its attention is over {num_tokens} tokens that are no grid of patches",
            "a transformer over patches of the image",
            "use another method",
        )
    rows = read / read.sum(dim=1, keepdim=True).clamp(min=torch.finfo(read.dtype).tiny)
    for weights in reversed(attentions):
        rows = (rows + (rows[:, None] @ weights.float().mean(dim=1))[:, 0]) / 2
    num_prefix_tokens, grid = found
    maps = rows[:, num_prefix_tokens:].unflatten(1, grid)
    # Attention is nowhere zero; what every place gets says nothing about where.
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return nn.functional.interpolate(maps[:, None], (height, width), mode="bilinear")[:, 0]


def _watch_attention(
    model: PreTrainedModel, pixel_values: torch.Tensor, targets: torch.Tensor
) -> tuple[list[LayerOutput], list[torch.Tensor]]:
    """What the layers answer, and each layer's attention weights ``(B, heads, n, n)``, first layer first.

    On a copy that computes the weights one by one, because fused kernels never have them. timm's models do not hand
    them out; their ``attn_drop`` gets to see them.
    """
    copied = copy.deepcopy(model)
    pixel_values = pixel_values.detach().requires_grad_()
    attentions: list[torch.Tensor] = []
    of_timm = [module for module in copied.modules() if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")]
    for module in of_timm:
        module.fused_attn = False
        module.attn_drop.register_forward_hook(lambda _, __, output: attentions.append(output.detach()))

    def run() -> torch.Tensor:
        if of_timm:
            return compute_log_odds(copied, pixel_values, targets)
        output = copied(pixel_values=pixel_values, output_attentions=True)
        attentions.extend(weights.detach() for weights in output.get("attentions") or ())
        return _log_odds(output.logits.float(), targets, copied.config)

    try:
        with _silence_transformers():
            if not of_timm:
                copied.set_attn_implementation("eager")
            outputs = watch_layers(copied, run)
    except (TypeError, ValueError) as error:
        # Convolutional networks do not know the argument, or refuse it.
        if "output_attentions" not in str(error):
            raise
        outputs = []
    expected = "a transformer whose every layer attends to all patches"
    if not attentions:
        raise NotApplicableError("it has no attention weights", expected, "use another method")
    if len({weights.shape for weights in attentions}) > 1 or attentions[0].shape[0] != len(pixel_values):
        reason = "its attention stays within windows, or changes its tokens from layer to layer"
        raise NotApplicableError(reason, expected, "use another method")
    return outputs, attentions


@contextlib.contextmanager
def _silence_transformers() -> Iterator[None]:
    """No warnings to the user about a copy's attention: whether the weights came is checked."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
