"""What happens around the training loop: the progress bar, and the epoch that randomness is drawn from."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_imgcls.catalogue import HEADLINE, has_several_labels, list_shown

logger = logging.getLogger(__name__)


class SetEpochCallback(TrainerCallback):
    """Tells the training transforms which epoch it is: augmentation is a function of seed, epoch and sample.

    Args:
        followers: Each called with the epoch (int, from 0) before the epoch's first batch is asked for.
    """

    def __init__(self, followers: Sequence[Callable[[int], None]]) -> None:
        self._followers = followers

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Epochs are whole numbers here, also after a resume in mid-epoch."""
        for follow in self._followers:
            follow(math.floor(state.epoch or 0))


class TrainingLoop(Protocol):
    """What `RunCallback` and `EndingCallback` need of a Trainer."""

    at_epoch_end: bool
    callback_handler: Any

    def on_begin(self) -> None: ...

    def on_step_begin(self) -> None: ...

    def on_gradients(self) -> None: ...

    def on_weights(self) -> None: ...


class RunCallback(TrainerCallback):
    """Tells the Trainer itself where its loop is, at the places where its methods are not asked.

    Args:
        trainer: Has ``on_begin``, ``on_step_begin``, ``on_gradients``, ``on_weights`` and ``at_epoch_end``.
    """

    def __init__(self, trainer: TrainingLoop) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step, with the state of a resumed run."""
        self._trainer.on_begin()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first micro-batch of a step."""
        self._trainer.at_epoch_end = False
        self._trainer.on_step_begin()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gradients are complete, weights have not moved."""
        self._trainer.on_gradients()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Weights have moved."""
        self._trainer.on_weights()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation and a checkpoint of the epoch may follow; its loss is logged, however short it is."""
        self._trainer.at_epoch_end = True
        if args.logging_strategy != "no":
            control.should_log = True


class EndingCallback(TrainerCallback):
    """Says why training has ended, and which of its evaluations was the best.

    Args:
        trainer: Its callbacks tell whether it has stopped early.
    """

    def __init__(self, trainer: TrainingLoop) -> None:
        self._trainer = trainer

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log one line."""
        stoppers = (
            call for call in self._trainer.callback_handler.callbacks if isinstance(call, EarlyStoppingCallback)
        )
        logger.info("%s", describe_ending(args, state, next(stoppers, None)))


def describe_ending(args: TrainingArguments, state: TrainerState, stopper: EarlyStoppingCallback | None) -> str:
    """Return one line: after how much training stopped, why, and where it was best.

    Args:
        args: Steps or epochs that were asked for, and ``metric_for_best_model``.
        state: At the end.
        stopper: The callback that may have ended training early.
    """
    metric = str(args.metric_for_best_model or "loss").removeprefix("eval_")
    patience = stopper.early_stopping_patience if stopper is not None else 0
    if state.global_step >= state.max_steps:
        why = "max_steps" if args.max_steps > 0 else "all epochs done"
    elif stopper is not None and stopper.early_stopping_patience_counter >= patience:
        unit = "epoch" if args.eval_strategy == "epoch" else "evaluation"
        why = f"{patience} {unit}{'s' if patience > 1 else ''} without a better {metric}"
    else:
        why = "it was stopped"
    epoch = f"epoch {state.epoch:.4g}, " if state.epoch else ""
    line = f"Training ended at {epoch}step {state.global_step:,}: {why}"
    best = _find_best(state, metric)
    if best is None:
        return f"{line}."
    kept = "" if args.load_best_model_at_end else "; the last weights are kept"
    return f"{line}. Best: epoch {best['epoch']:.4g}, step {best['step']:,}, {metric} {state.best_metric:.4f}{kept}."


def _find_best(state: TrainerState, metric: str) -> dict[str, Any] | None:
    """Return the log entry of the best evaluation: of equally good ones that of the best checkpoint, or the least loss.

    Without a best checkpoint the rule is that of `hf_imgcls.fit.trainer.ImageClassificationTrainer`.
    """
    if state.best_metric is None:
        return None
    tied = [entry for entry in state.log_history if entry.get(f"eval_{metric}") == state.best_metric]
    kept = [entry for entry in tied if entry["step"] == state.best_global_step]
    return min(kept or tied, key=lambda entry: entry.get("eval_loss", math.inf), default=None)


class ThroughputProgress(TrainerCallback):
    """One progress bar for the run, in images: rate and time left are images/s and seconds.

    Validation runs inside the same bar. Logged metrics are printed above it, one line each.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._images_per_step = 0
        self._loss = ""

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
        """Print the validation numbers a person follows, and the one that the best model is chosen by."""
        if self._bar is not None and metrics:
            found = {name.removeprefix("eval_"): value for name, value in metrics.items() if isinstance(value, float)}
            selected = (args.metric_for_best_model or "loss").removeprefix("eval_")
            names = dict.fromkeys(("loss", *list_shown(HEADLINE, multi_label=has_several_labels(found)), selected))
            shown = [f"{name} {found[name]:.4f}" for name in names if name in found]
            self._bar.write(f"epoch {state.epoch:.2f}: {self._loss}validation " + ", ".join(shown))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Keep the last training loss beside the bar."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
            self._loss = f"training loss {float(logs['loss']):.4f}, "

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
