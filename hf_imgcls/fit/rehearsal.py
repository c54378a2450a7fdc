"""A run that is tried out: the same recipe with other arguments, a few steps long and into a folder of its own."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments

_STEPS = 4  # of a dry run: the first one is slow and not counted


def shorten_run(args: Arguments, folder: Path, max_steps: int, **training: Any) -> Arguments:
    """The arguments of a run that evaluates, saves, resumes, reports and pushes nothing on its way.

    Args:
        args: What the user asked for; not changed.
        folder: Where it may write.
        max_steps: Its steps.
        **training: What else is different in ``args.training``.
    """
    warmups = ("warmup_steps", "warmup_ratio")
    short = {
        **{name: value for name, value in args.training.items() if name not in warmups},
        "output_dir": str(folder), "max_steps": max_steps, "eval_strategy": "no", "save_strategy": "no",
        "load_best_model_at_end": False, "resume_from_checkpoint": "false", "push_to_hub": False,
        "report_to": ["none"], **training,
    }  # fmt: skip
    fit = dataclasses.replace(args.fit, early_stopping_patience=None, model_soup=False)
    if max_steps > 0:  # of the full size: the dear ones
        fit = dataclasses.replace(fit, progressive_resizing=1.0)
    return dataclasses.replace(args, fit=fit, training=short)


def count_steps(max_steps: int, num_epochs: float, num_examples: int | None, images_per_step: int) -> int:
    """Steps of a whole run; 0 where that is not known.

    Args:
        max_steps: If positive, that is it.
        num_epochs: Otherwise so many times the examples are seen.
        num_examples: Of the training split; ``None`` for a stream whose length is not known.
        images_per_step: Of all processes and micro-batches.
    """
    if max_steps > 0:
        return max_steps
    return math.ceil(num_epochs * math.ceil((num_examples or 0) / images_per_step))


def rehearse(args: Arguments, folder: Path) -> Arguments:
    """The arguments of a dry run: four steps, and one batch of validation.

    Nothing is exported or reported, and the test split is not touched.

    Args:
        args: What the user asked for; not changed.
        folder: Where it may write.
    """
    batch = args.training["per_device_eval_batch_size"]
    most = min(args.data.max_eval_samples or batch, batch)
    return dataclasses.replace(
        shorten_run(args, folder, _STEPS, do_predict=False),
        data=dataclasses.replace(args.data, max_eval_samples=most),
        measure=dataclasses.replace(args.measure, report="false", goals=None, max_parity_samples=most, calibrate=False),
        publish=dataclasses.replace(args.publish, export_formats=None),
    )


class StepTimes(TrainerCallback):
    """Times the steps of a dry run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Waiting for the batch is over; what comes before counts to the step before."""
        now = time.perf_counter()
        if self._start:
            self.seconds.append(now - self._start)
        self._start = now
