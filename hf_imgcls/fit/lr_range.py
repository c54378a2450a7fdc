"""A learning-rate range test: the rate grows from step to step until the loss explodes, and the curve is drawn.

Source: Smith (2017), "Cyclical Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186, section
3.3; where the loss falls fastest is what fastai suggests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_imgcls.errors import NumericsError
from hf_imgcls.extras import require
from hf_imgcls.fit.rehearsal import shorten_run

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

_STEPS = 200
_LOWEST, _HIGHEST = 1e-5, 1.0
_UNSETTLED = 0.1  # share of the steps whose running mean is that of a few
_EXPLODED = 3.0  # times the least loss so far
_SMOOTHING = 0.95  # share of the running mean that stays at a step


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """What the test found.

    Attributes:
        rates: The learning rate of each step.
        losses: Its training loss, smoothed.
        suggested: Where the loss falls fastest; ``None`` if it never falls.
        lowest: Where it is lowest; beyond, training soon is not stable any more.
    """

    rates: list[float]
    losses: list[float]
    suggested: float | None
    lowest: float


def prepare_range_test(args: Arguments, folder: Path) -> Arguments:
    """The arguments of the test: the same run of at most 200 steps, measured nowhere and without averaged weights.

    Args:
        args: What the user asked for; not changed.
        folder: Where it may write.
    """
    short = shorten_run(args, folder, _STEPS, learning_rate=_LOWEST, logging_strategy="steps", logging_steps=1)
    return dataclasses.replace(short, fit=dataclasses.replace(short.fit, ema_decay=None))


def grow_learning_rate(optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
    """A schedule that multiplies the rate by the same factor at each step, from 1e-5 to 1."""
    return LambdaLR(optimizer, lambda step: (_HIGHEST / _LOWEST) ** (step / max(num_training_steps - 1, 1)))


class _StopExploded(TrainerCallback):
    """Ends the test when the loss has grown to three times its least value."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """One loss for each step."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            if self.losses[-1] > _EXPLODED * min(self.losses) and len(self.losses) > 5:
                control.should_training_stop = True


def find_learning_rate(trainer: ImageClassificationTrainer) -> LearningRates:
    """Run the test.

    Args:
        trainer: Of the arguments of `prepare_range_test`, with the schedule `grow_learning_rate`.

    Returns:
        The curve and what follows from it.
    """
    trainer.add_callback(stop := _StopExploded())
    with suppress(NumericsError):  # which is where it ends
        trainer.train()
    return read_curve(stop.losses, trainer.args.max_steps)


def read_curve(losses: Sequence[float], num_steps: int) -> LearningRates:
    """Smooth the losses of the steps and find where they fall fastest.

    Args:
        losses: Of the steps that were done.
        num_steps: Of the whole test.
    """
    rates = [_LOWEST * (_HIGHEST / _LOWEST) ** (step / max(num_steps - 1, 1)) for step in range(len(losses))]
    mean, smooth = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smooth.append(mean / (1 - _SMOOTHING**step))
    first = min(int(_UNSETTLED * num_steps), len(smooth) - 1)
    lowest = first + int(np.argmin(smooth[first:]))
    suggested = None
    if smooth[lowest] < smooth[first]:
        slopes = np.gradient(np.array(smooth), np.log(rates))
        suggested = rates[first + int(slopes[first : lowest + 1].argmin())]
    return LearningRates(rates, smooth, suggested, rates[lowest])


def describe_curve(found: LearningRates) -> str:
    """One line for the user."""
    if found.suggested is None:
        return f"The loss did not fall in {len(found.rates)} steps: no learning rate can be suggested."
    return (
        f"The loss falls fastest at --learning_rate {found.suggested:.1e} and is lowest at {found.lowest:.1e}; "
        "the first is a good start, half of the second a limit"
    )


def draw_curve(found: LearningRates, path: Path) -> None:
    """Draw loss over learning rate as a PNG (extra ``report``)."""
    require("report")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(found.rates, found.losses, color="#0072b2")
    if found.suggested is not None:
        axes.axvline(found.suggested, color="#d55e00", linestyle="--")
        axes.set_title(f"falls fastest at {found.suggested:.1e}", fontsize=9, loc="left")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=200)
