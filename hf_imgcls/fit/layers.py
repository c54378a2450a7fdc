"""The layers of a network in order, from the image to the head: which of them learn, how fast, and from when on."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_imgcls.errors import ModelError


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList | nn.Sequential]:
    """The list of blocks or stages: of all module lists the one that holds most parameters, outermost first.

    Returns:
        Its path in the model, and the list.

    Raises:
        ModelError: There is none.
    """
    best: tuple[tuple[bool, int], str, Any] = ((False, 0), "", None)
    for path, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
            # A list of one is taken where there is no other.
            size = len(module) > 1, sum(parameter.numel() for parameter in module.parameters())
            if size > best[0]:
                best = (size, path, module)
    if best[2] is None:
        raise ModelError(
            f"{type(model).__name__} has no list of blocks",
            "an architecture built of blocks or stages",
            "leave out --freeze_layers, --adaptation partial, --layer_lr_decay and --unfreeze_epochs",
        )
    return best[1], best[2]


def number_layers(model: nn.Module) -> dict[str, int]:
    """Number every parameter by its layer.

    Args:
        model: A classification model, or the ``PeftModel`` around one.

    Returns:
        Parameter name -> 0 for embeddings or stem, i for the i-th block or stage (from 1), L + 1 for what comes after
        the last of L: the final normalisation and the head.

    Raises:
        ModelError: The architecture has no list of blocks.
    """
    path, blocks = find_blocks(model)
    numbers, layer = {}, 0
    for name, _ in model.named_parameters():  # in the order of the modules
        if name.startswith(f"{path}."):
            layer = int(name[len(path) + 1 :].partition(".")[0]) + 1
        elif layer == len(blocks):
            layer += 1
        numbers[name] = layer
    return numbers


def decay_learning_rates(optimizer: Optimizer, model: nn.Module, decay: float) -> None:
    """Give every layer a learning rate of its own: the head the whole of it, each layer before ``decay`` times that.

    Args:
        optimizer: New, with ``Trainer``'s groups; each of them is divided by layer, in place, and keeps its settings,
            weight decay among them. The first group is the head's, whose rate is what ``Trainer`` logs.
        model: Whose parameters it has.
        decay: In (0, 1].

    Source: Clark et al. 2020, "ELECTRA" (arXiv:2003.10555), section 3.1; for images Bao et al. 2021, "BEiT"
        (arXiv:2106.08254), appendix.
    """
    numbers = number_layers(model)
    last = max(numbers.values())
    layer_of = {id(parameter): numbers[name] for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        layers: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            layers[layer_of[id(parameter)]].append(parameter)
        groups += [{**group, "params": layers[layer], "lr": group["lr"] * decay ** (last - layer)} for layer in layers]
    optimizer.param_groups = sorted(groups, key=lambda group: -group["lr"])


class GradualUnfreezing(TrainerCallback):
    """The head learns first; every few epochs the layer before joins in.

    A function of the epoch alone, so that a resumed run needs to remember nothing. The optimizer knows all parameters
    from the start and passes over those without a gradient.

    Args:
        model: As it is trained: what is frozen for good stays so.
        epochs: Whole epochs from one layer to the next, at least 1.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification" (arXiv:1801.06146),
        section 3.3.
    """

    def __init__(self, model: nn.Module, epochs: int) -> None:
        self._epochs = epochs
        numbers = number_layers(model)
        last = max(numbers.values())
        self._parameters = [
            (last - numbers[name], parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
        ]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Freeze what is not due yet; also first thing after a resume in mid-epoch."""
        reached = math.floor(state.epoch or 0) // self._epochs
        for distance, parameter in self._parameters:
            parameter.requires_grad_(distance <= reached)
