"""Structured pruning: whole channels are taken out, and what is left is an ordinary, smaller model of the same kind.

Which parts hang together is found by torch-pruning (extra ``prune``); how wide what is left may be follows from the
architecture's config, because a model that no config describes could not be loaded.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_MULTIPLE = 8  # widths that processors are fast with


def prune_model(model: PreTrainedModel, ratio: float, image_size: tuple[int, int]) -> PreTrainedModel:
    """Take out the channels with the smallest weights.

    Of ViT and its like the hidden units of the MLPs (``intermediate_size``), in every block as many; of ConvNeXt the
    channels of every stage (``hidden_sizes``) and the four times as many inside its blocks. The head keeps its classes.

    Args:
        model: A trained classifier; what is left must be fine-tuned.
        ratio: Share of the channels that goes, in (0, 1); what stays is rounded to multiples of 8.
        image_size: Height and width of its input in pixels.

    Returns:
        A new model whose config says how wide it is; in training mode where the given one is.

    Raises:
        ModelError: The architecture is another one, or nothing would go.
        MissingExtraError: torch-pruning is not installed.

    Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), for the magnitude as criterion;
        Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv:2301.12900), for what hangs together.
    """
    pruning = require("prune")
    config = copy.deepcopy(model.config)
    pruned = copy.deepcopy(model).eval().requires_grad_(True)
    before = model.num_parameters()
    targets: list[tuple[Any, int]] = []
    if hasattr(config, "intermediate_size"):
        width = _narrow(config.intermediate_size, ratio)
        told = f"intermediate_size {config.intermediate_size} to {width}"
        targets = [
            (module, width)
            for module in pruned.modules()
            if isinstance(module, nn.Linear) and module.out_features == config.intermediate_size
        ]
        config.intermediate_size = width
    elif config.model_type == "convnext":
        widths = [_narrow(size, ratio) for size in config.hidden_sizes]
        told = f"hidden_sizes {config.hidden_sizes} to {widths}"
        stages = [pruned.convnext.embeddings.patch_embeddings]  # type: ignore[union-attr, list-item]
        for stage, width in zip(pruned.convnext.encoder.stages, widths, strict=True):  # type: ignore[union-attr, arg-type]
            stages += [module for module in stage.downsampling_layer if isinstance(module, nn.Conv2d)]
            targets += [(layer.pwconv1, 4 * width) for layer in stage.layers]
        targets += list(zip(stages, widths, strict=True))
        config.hidden_sizes = widths
    if not targets:
        raise ModelError(
            f"{type(model).__name__} cannot be pruned here",
            "ViT, DeiT or BEiT, whose MLPs become narrower, or ConvNeXt, whose stages do",
            "leave out --prune_ratio",
        )
    if config.to_dict() == model.config.to_dict():
        raise ModelError(
            f"prune_ratio {ratio} takes nothing out of {type(model).__name__}: widths are multiples of {_MULTIPLE}",
            "a larger ratio, or a wider model",
            "raise --prune_ratio",
        )
    scales = [(p, 0) for name, p in pruned.named_parameters() if name.endswith("layer_scale_parameter")]
    graph = pruning.DependencyGraph().build_dependency(
        pruned,
        example_inputs={"pixel_values": torch.zeros(1, 3, *image_size)},
        unwrapped_parameters=scales,
        output_transform=lambda output: output.logits.sum(),
        verbose=False,
    )
    for module, width in targets:
        _narrow_layer(pruning, graph, module, width)
    smaller: Any = type(model)(config)
    try:
        smaller.load_state_dict(pruned.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"what is left of {type(model).__name__} is not what its config describes: {str(error)[:300]}",
            "MLPs of another width than the rest, and nothing else that depends on them",
            "leave out --prune_ratio",
        ) from error
    after = smaller.num_parameters()
    logger.info("Pruned: %.2f M parameters to %.2f M, %s", before / 1e6, after / 1e6, told)
    return smaller.train(model.training)


def _narrow(width: int, ratio: float) -> int:
    return max(_MULTIPLE, round(width * (1 - ratio) / _MULTIPLE) * _MULTIPLE)


def _narrow_layer(pruning: Any, graph: Any, module: Any, width: int) -> None:
    """Take the weakest outputs of a layer out of it and of all that depends on them."""
    is_linear = isinstance(module, nn.Linear)
    cut = pruning.prune_linear_out_channels if is_linear else pruning.prune_conv_out_channels
    present = module.out_features if is_linear else module.out_channels
    if width >= present:
        return
    whole = graph.get_pruning_group(module, cut, idxs=list(range(present)))
    strengths = pruning.importance.GroupMagnitudeImportance(p=2)(whole)
    weakest = strengths.argsort()[: present - width].tolist()
    graph.get_pruning_group(module, cut, idxs=weakest).prune()
