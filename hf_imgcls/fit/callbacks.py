"""What happens around the training loop: the progress bar, and the epoch that randomness is drawn from."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SetEpochCallback(TrainerCallback):
    """Tells the training transforms which epoch it is: augmentation is a function of seed, epoch and sample.

    Args:
        set_epoch: Called with the epoch (int, from 0) before the epoch's first batch is asked for.
    """

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self._set_epoch = set_epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Epochs are whole numbers here, also after a resume in mid-epoch."""
        self._set_epoch(math.floor(state.epoch or 0))


class ThroughputProgress(TrainerCallback):
    """One progress bar for the run, in images: rate and time left are images/s and seconds.

    Validation runs inside the same bar. Logged metrics are printed above it, one line each.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._images_per_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step the run starts from."""
        if not state.is_world_process_zero:
            return
        self._images_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._bar = tqdm(
            total=state.max_steps * self._images_per_step,
            initial=state.global_step * self._images_per_step,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            desc="train",
            # A log file gets a line now and then, a terminal a smooth bar.
            mininterval=0.1 if sys.stderr.isatty() else 15,
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance by one optimiser step's images."""
        if self._bar is not None:
            self._bar.update(self._images_per_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Print the validation numbers a person follows."""
        if self._bar is not None and metrics:
            shown = [f"{name[5:]} {metrics[name]:.4f}" for name in _SHOWN if isinstance(metrics.get(name), float)]
            self._bar.write(f"epoch {state.epoch:.2f}: validation " + ", ".join(shown))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Keep the last training loss beside the bar."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_SHOWN = ("eval_loss", "eval_accuracy", "eval_macro_f1")
