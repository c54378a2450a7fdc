"""Learning-rate schedules that transformers lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import TrainingArguments

ScheduleBuilder = Callable[[Optimizer, int], Any]


def schedule_steps(
    args: TrainingArguments, settings: dict[str, Any], optimizer: Optimizer, num_training_steps: int
) -> LambdaLR:
    """The schedule "step" of a run; see `build_step_schedule`."""
    steps_per_epoch = num_training_steps / args.num_train_epochs
    return build_step_schedule(optimizer, args.get_warmup_steps(num_training_steps), steps_per_epoch, settings)


def build_step_schedule(
    optimizer: Optimizer, num_warmup_steps: int, steps_per_epoch: float, settings: dict[str, Any]
) -> LambdaLR:
    """Linear warm-up, then the learning rate times ``gamma`` every ``step_epochs`` epochs.

    Args:
        optimizer: Whose learning rates are scheduled.
        num_warmup_steps: Optimiser steps from 0 to the full rate.
        steps_per_epoch: Optimiser steps in one epoch.
        settings: ``lr_scheduler_kwargs``: ``step_epochs`` (default 30) and ``gamma`` (default 0.1).

    Raises:
        ArgumentError: A setting is unknown or out of range.

    Source: the ResNet schedule, He et al. 2015, section 3.4 (arXiv:1512.03385).
    """
    settings = {"step_epochs": 30, "gamma": 0.1, **settings}
    step_epochs, gamma = settings.pop("step_epochs"), settings.pop("gamma")
    if settings or not step_epochs > 0 or not 0 < gamma <= 1:
        raise ArgumentError(
            f"lr_scheduler_kwargs of step: {settings or {'step_epochs': step_epochs, 'gamma': gamma}}",
            "step_epochs > 0 and 0 < gamma <= 1, nothing else",
            'for example --lr_scheduler_kwargs \'{"step_epochs": 30, "gamma": 0.1}\'',
        )

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return gamma ** int(step / steps_per_epoch / step_epochs)

    return LambdaLR(optimizer, factor)
