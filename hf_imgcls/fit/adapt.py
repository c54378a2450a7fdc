"""What is trained: everything, the head, the later blocks, or LoRA matrices beside frozen weights."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_imgcls.classifier.head import find_head_modules, head_parameter_names
from hf_imgcls.compat.models import lora_target_modules
from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require
from hf_imgcls.fit.layers import find_blocks, number_layers
from hf_imgcls.layout import ADAPTER_FOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_imgcls.arguments.fields import FitArguments

logger = logging.getLogger(__name__)


def adapt_model(model: PreTrainedModel, fit: FitArguments) -> nn.Module:
    """Freeze what is not trained, or wrap the model for LoRA.

    Args:
        model: The full classification model; changed in place.
        fit: ``adaptation`` and its settings, and ``head_dropout``.

    Returns:
        The model itself, or the ``PeftModel`` around it.

    Raises:
        ModelError: More layers are to be frozen or trained than there are, LoRA has no default targets, or there is no
            BatchNorm whose statistics could be kept.
        MissingExtraError: LoRA is asked for and peft is not installed.
    """
    head = head_parameter_names(model.config)
    adapted: nn.Module = model
    if choose_finetuning(fit) == "lora":
        adapted = _add_lora(model, fit, head)
    elif fit.adaptation in ("head", "probe"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
    elif fit.adaptation == "partial":
        _freeze_layers(model, _count_frozen(model, fit.train_layers))
    elif fit.freeze_layers:
        _freeze_layers(model, fit.freeze_layers)
    if fit.head_dropout:
        for module in find_head_modules(adapted):
            module.register_forward_pre_hook(partial(_drop_inputs, fit.head_dropout))
    _keep_frozen_parts_in_eval(model, changing=fit.unfreeze_epochs > 0)
    if fit.freeze_batch_norm:
        _freeze_statistics(model)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    total = sum(p.numel() for p in adapted.parameters())
    logger.info("Trainable parameters: %s of %s (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
    return adapted


def choose_finetuning(fit: FitArguments) -> str:
    """What optimiser steps train: ``adaptation``, or what ``auto`` tries after its probe."""
    return fit.auto_finetune if fit.adaptation == "auto" else fit.adaptation


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
    numbers = number_layers(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(numbers[name] > num_layers)


def _count_frozen(model: PreTrainedModel, num_trained: int) -> int:
    path, blocks = find_blocks(model)
    if num_trained >= len(blocks):
        raise ModelError(
            f"--train_layers {num_trained}, but {type(model).__name__} has {len(blocks)} blocks ({path})",
            f"1 to {len(blocks) - 1}",
            "lower --train_layers, or train all of it with --adaptation full",
        )
    return len(blocks) - num_trained


def _drop_inputs(share: float, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Dropout before the head, as a hook: a layer of its own would be in the saved weights' names."""
    return (nn.functional.dropout(inputs[0], share, training=module.training), *inputs[1:])


def _keep_frozen_parts_in_eval(model: nn.Module, *, changing: bool) -> None:
    """Run fully frozen parts in evaluation mode even while the rest trains.

    Otherwise BatchNorm layers of a frozen backbone go on following the batches (and its dropout goes on dropping):
    the features that the head is trained on are then not the ones it is served with. ``Trainer`` calls
    ``model.train()`` before every step, so a hook puts them back just before they run.

    Args:
        model: Frozen as it will be trained.
        changing: What is frozen changes while it is trained: each part is asked when it runs.
    """

    def to_eval(module: nn.Module, _inputs: Any) -> None:
        if module.training and not _learns(module):
            module.eval()

    def visit(module: nn.Module) -> None:
        if next(module.parameters(), None) is None:
            return
        # A lone linear or convolution (LoRA's base layers) does the same in both modes.
        differs = next(module.children(), None) is not None or isinstance(module, nn.modules.batchnorm._BatchNorm)
        if differs and (changing or not _learns(module)):
            module.register_forward_pre_hook(to_eval)
        if changing or _learns(module):
            for child in module.children():
                visit(child)

    visit(model)


def _freeze_statistics(model: nn.Module) -> None:
    """Run BatchNorm with the statistics that were saved, also while its weight and bias learn.

    Raises:
        ModelError: The model has no BatchNorm.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise ModelError(
            f"--freeze_batch_norm, and {type(model).__name__} has no BatchNorm",
            "a network with BatchNorm",
            "leave out --freeze_batch_norm",
        )
    for norm in norms:
        norm.has_frozen_statistics = True
        norm.register_forward_pre_hook(lambda module, inputs: module.eval() and None)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
