"""What is trained: everything, the head, the later blocks, or LoRA matrices beside frozen weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_imgcls.compat import lora_target_modules
from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require
from hf_imgcls.fit.layers import find_blocks
from hf_imgcls.fit.model import head_parameter_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_imgcls.arguments import FitArguments

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"


def adapt_model(model: PreTrainedModel, fit: FitArguments) -> nn.Module:
    """Freeze what is not trained, or wrap the model for LoRA.

    Args:
        model: The full classification model; changed in place.
        fit: ``adaptation``, ``freeze_layers`` and the LoRA settings.

    Returns:
        The model itself, or the ``PeftModel`` around it.

    Raises:
        ModelError: More layers are to be frozen than there are, or LoRA has no default targets for the model.
        MissingExtraError: LoRA is asked for and peft is not installed.
    """
    head = head_parameter_names(model.config)
    adapted: nn.Module = model
    if fit.adaptation == "lora":
        adapted = _add_lora(model, fit, head)
    elif fit.adaptation in ("head", "probe"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
    elif fit.freeze_layers:
        _freeze_layers(model, fit.freeze_layers)
    _keep_frozen_parts_in_eval(model)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    total = sum(p.numel() for p in adapted.parameters())
    logger.info("Trainable parameters: %s of %s (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
    return adapted


def merge_adapter(model: Any, output_dir: Path, should_save: bool) -> PreTrainedModel:
    """Save the LoRA adapter beside the run and fold it into the weights.

    Args:
        model: The ``PeftModel`` after training.
        output_dir: The run's folder; the adapter goes to ``adapter/`` in it.
        should_save: Whether this process writes files.

    Returns:
        The plain model with merged weights, as ``pipeline()`` loads it.
    """
    if should_save:
        model.save_pretrained(output_dir / ADAPTER_FOLDER)
    return model.merge_and_unload(safe_merge=True)


def _add_lora(model: PreTrainedModel, fit: FitArguments, head: set[str]) -> nn.Module:
    peft = require("lora")
    config = peft.LoraConfig(
        r=fit.lora_rank,
        lora_alpha=fit.lora_alpha,
        lora_dropout=fit.lora_dropout,
        target_modules=fit.lora_target_modules or lora_target_modules(model),
        # A head that was just made is noise: it must be trained and saved whole, not adapted.
        modules_to_save=sorted({name.rsplit(".", 1)[0] for name in head}),
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"LoRA cannot be added: {error}",
            "names of linear or ungrouped convolution layers",
            "correct --lora_target_modules",
        ) from error


def _freeze_layers(model: PreTrainedModel, num_layers: int) -> None:
    """Freeze everything before the ``num_layers``-th block: embeddings or stem, and the blocks themselves."""
    path, blocks = find_blocks(model)
    if num_layers > len(blocks):
        raise ModelError(
            f"--freeze_layers {num_layers}, but {type(model).__name__} has {len(blocks)} blocks ({path})",
            f"0 to {len(blocks)}",
            "lower --freeze_layers, or use --adaptation head to freeze the whole backbone",
        )
    last = f"{path}.{num_layers - 1}."
    names = [name for name, _ in model.named_parameters()]
    boundary = max(index for index, name in enumerate(names) if name.startswith(last))
    for index, (_, parameter) in enumerate(model.named_parameters()):
        parameter.requires_grad_(index > boundary)


def _keep_frozen_parts_in_eval(model: nn.Module) -> None:
    """Run fully frozen parts in evaluation mode even while the rest trains.

    Otherwise BatchNorm layers of a frozen backbone go on following the batches (and its dropout goes on dropping):
    the features that the head is trained on are then not the ones it is served with. ``Trainer`` calls
    ``model.train()`` before every step, so a hook puts them back just before they run.
    """

    def to_eval(module: nn.Module, _inputs: Any) -> None:
        if module.training:
            module.eval()

    def visit(module: nn.Module) -> None:
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            # A lone linear or convolution (LoRA's base layers) does the same in both modes.
            if any(True for _ in module.children()) or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(to_eval)
        else:
            for child in module.children():
                visit(child)

    visit(model)
