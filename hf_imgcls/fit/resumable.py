"""A ``Trainer`` for a run that is left alone for days.

It stops on a signal and on numbers that are none, saves checkpoints that are whole or not there, and goes on from them
as if it had never stopped; the average of the weights, if there is one, goes with them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from hf_imgcls.compat.models import correct_resumed_loss, keep_fast_processor, restore_weights
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import ArgumentError, DataError, Interrupted, NumericsError, UserError
from hf_imgcls.extras import require
from hf_imgcls.fit.averaging import WeightAverage
from hf_imgcls.fit.batch_size import is_out_of_memory
from hf_imgcls.fit.callbacks import EndingCallback, RunCallback, ThroughputProgress
from hf_imgcls.fit.checkpoints import (
    Inspection,
    checkpoint_path,
    inspect_checkpoint,
    partial_path,
    rotate_checkpoints,
    seal_checkpoint,
    step_of,
)
from hf_imgcls.fit.faults import describe_failed_save, name_newest, translate_fault
from hf_imgcls.fit.finite import FiniteWatch
from hf_imgcls.fit.mirror import mirror_folder
from hf_imgcls.fit.quantization import is_quantized, plain_state, read_quantizers, save_quantizers
from hf_imgcls.fit.same_run import describe_run
from hf_imgcls.fit.stopping import Agreement, StopSignals, WorkerGuard, decide_on_main
from hf_imgcls.fit.trackers import Tracker, wrap_trackers
from hf_imgcls.peers import get_peers
from hf_imgcls.records import CheckpointRecord, RunIdentity

logger = logging.getLogger(__name__)


class _EvaluationStopped(Exception):
    """A signal came while the validation split was measured."""


class _TrainingComplete(Exception):
    """The checkpoint that was resumed is the run's last one."""


class ResumableTrainer(Trainer):
    """Can be stopped anywhere, and restores every tensor.

    Args:
        identity: What run the checkpoints belong to.
        ema_decay: Average the weights, see `hf_imgcls.fit.averaging`; ``None`` does not.
        **kwargs: What ``Trainer`` takes.

    Attributes:
        push_checkpoint: Told each checkpoint, on the main process; it must not wait for the Hub. ``None`` at first.
    """

    # Set by Trainer, outside its __init__.
    control: TrainerControl
    lr_scheduler: Any

    def __init__(
        self,
        *,
        identity: RunIdentity | None = None,
        ema_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        args = self.args
        self.identity = identity or describe_run(self.model, args)
        self.push_checkpoint: Callable[[Path], None] | None = None
        self._agreement, self._signals = Agreement(args.ddp_timeout_delta), StopSignals()
        self._workers = WorkerGuard()
        self.at_epoch_end = False
        if ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ArgumentError("ema_decay with a sharded model", "one of them", "leave out --ema_decay")
        if is_quantized(self.model) and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            found = "quantization_aware_training with a sharded model"
            raise ArgumentError(found, "one of them", "leave out --quantization_aware_training")
        self._ema_decay = ema_decay
        self._average: WeightAverage | None = None  # while training
        self._watch = self._new_watch()
        self._resumed: CheckpointRecord | None = None
        self._resumed_from: str | None = None
        self._first_step = 0
        self._started_at = time.monotonic()
        self._running_loss: torch.Tensor | None = None  # summed since the last log, as Trainer does it
        self._saved_step: int | None = None
        self._saved_bytes = 0
        self.add_callback(RunCallback(self))
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.remove_callback(PrinterCallback)
            self.add_callback(ThroughputProgress())
        self.add_callback(EndingCallback(self))  # once the bar is closed
        self.callback_handler.callbacks = wrap_trackers(self.callback_handler.callbacks, self.identity.recipe)

    # ------------------------------------------------------------------------------------------------ the run

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train; see ``Trainer.train``.

        Args:
            resume_from_checkpoint: A checkpoint's folder; verify it before, with
                `hf_imgcls.fit.checkpoints.choose_checkpoint`.
            *args: What ``Trainer.train`` takes.
            **kwargs: The same by name.

        Returns:
            As ``Trainer``; without metrics if the checkpoint was the run's last one.

        Raises:
            Interrupted: SIGTERM or SIGINT came; a checkpoint was saved.
            DataError: An image cannot be decoded.
            NumericsError: A loss, gradient or metric is not finite.
            OutputError: A checkpoint could not be written.
            MachineError: Memory is used up, or a worker or another process has gone.
        """
        if isinstance(resume_from_checkpoint, str):
            self._resumed_from = resume_from_checkpoint
            self._resumed = inspect_checkpoint(Path(resume_from_checkpoint)).record
            # Trainer skips a stream's used batches by taking them: it is told where to go on instead.
            if isinstance(self.train_dataset, StreamingSplit):
                self._resume_stream(resume_from_checkpoint)
        # A trial of a search must not go on with what another one has left.
        self._average = None
        self._watch = self._new_watch()
        self._workers.needed = True
        with StopSignals() as self._signals:
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
                (stop,) = self._agreement.any(self._signals.received is not None)
                if stop and self._saved_step == self.state.global_step:
                    self._raise_interrupted()
            except _TrainingComplete:
                result = self._finish()
            except DataError as error:  # of an image that cannot be decoded
                found = f"after step {self.state.global_step}: {error.found}"
                raise DataError(found, error.expected, error.fix) from error
            except NumericsError as error:
                if self.hp_search_backend is not None:  # such a learning rate is an answer too
                    raise require("tune").TrialPruned from error
                self._average, self.is_in_train = None, False  # who catches it goes on with other weights
                raise
            except (UserError, Interrupted):
                raise
            except Exception as error:
                fault = translate_fault(error, self.args)
                if fault is None:
                    raise
                if self.hp_search_backend is not None and is_out_of_memory(error):
                    raise require("tune").TrialPruned from error
                if self._signals.received is not None:  # the same signal has taken a worker or another process
                    self._raise_interrupted()
                raise fault from error
            finally:
                self._workers.needed = False
        result.metrics.pop("total_flos", None)
        if self._average is not None:
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
                self._average.settle(self.model)
            self._average = None
        return result

    def finish_tracking(self, metrics: dict[str, float]) -> None:
        """Give the trackers the test result, if there is one, and end their runs."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, Tracker):
                callback.finish(self.args, self.state, self.control, metrics, self.model)

    def _resume_stream(self, checkpoint: str) -> None:
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        accumulation = self.args.gradient_accumulation_steps
        steps_per_epoch = max(math.ceil(len(self.get_train_dataloader()) / accumulation), 1)
        epoch, steps = divmod(state.global_step, steps_per_epoch)
        self.train_dataset.set_epoch(epoch)
        self.train_dataset.resume_from(steps * accumulation * self._train_batch_size, stand_in=True)

    def on_begin(self) -> None:
        """Called by `RunCallback` when the state of a resumed run has been loaded and no step has been done."""
        self._begin_average()
        self._first_step = self._saved_step = self.state.global_step
        self._started_at, self._running_loss = time.monotonic(), None
        if self._first_step == 0:
            self._saved_step = None
            return
        # The state says how often to save, evaluate and log as it was asked then.
        self.state.compute_steps(self.args, self.state.max_steps)
        self._restore_early_stopping()
        self._recall_best()
        if self._resumed is not None and self._resumed.is_evaluation_due:
            # Trainer restores the random state at the first step; a checkpoint of this step is to hold it already.
            self._load_rng_state(self._resumed_from)
            self.control.should_log = False
            self.control.should_evaluate, self.control.should_save = True, self._resumed.is_save_due
            epoch = math.floor(self.state.epoch or 0)
            super()._maybe_log_save_evaluate(None, None, self.model_wrapped, None, epoch, None, time.time())
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            raise _TrainingComplete

    def _new_watch(self) -> FiniteWatch:
        whole_gradients = not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and not self.args.fp16
        return FiniteWatch(self.args.device, gradients=whole_gradients)

    def _begin_average(self) -> None:
        if self._ema_decay is not None and self._average is None:
            self._average = WeightAverage(self.model, self._ema_decay)

    def on_step_begin(self) -> None:
        """Called by `RunCallback` before the first micro-batch of a step."""
        self._watch.begin_step(self.state.global_step + 1)

    def on_gradients(self) -> None:
        """Called by `RunCallback` when a step's gradients are complete and the weights have not moved."""
        if not self.args.max_grad_norm:  # else Trainer hands their norm on
            self._watch.measure_gradients(self.model.parameters())

    def on_weights(self) -> None:
        """Called by `RunCallback` when the optimiser has moved the weights."""
        if self._average is not None:
            self._average.update(self.model)

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """After each step, and once more after each epoch: stop if that is asked for, once what is due is done."""
        self._running_loss = tr_loss
        if not self.at_epoch_end:
            self._watch.end_step(grad_norm)
        due = self.control.should_evaluate or self.control.should_save or self.control.should_training_stop
        finite = self._watch.is_finite(wait=due or self.at_epoch_end)
        stop, not_finite = self._agreement.any(self._signals.received is not None, not finite)
        if not_finite:
            self._raise_not_finite()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        # After an epoch's last step Trainer goes on to the epoch's end, where an evaluation may be due.
        if stop and (self.at_epoch_end or not float(self.state.epoch or 0).is_integer()):
            self._leave()

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            return super()._evaluate(*args, **kwargs)
        except _EvaluationStopped:
            self._leave(is_evaluation_due=True)
        except NumericsError as error:
            found = f"validation after step {self.state.global_step}: {error.found}"
            raise NumericsError(found, error.expected, error.fix) from error

    def _leave(self, *, is_evaluation_due: bool = False) -> NoReturn:
        get_peers().expect_end()
        if is_evaluation_due or self._saved_step != self.state.global_step:
            self._write_checkpoint(is_evaluation_due=is_evaluation_due)
        self._raise_interrupted()

    def _raise_interrupted(self) -> NoReturn:
        get_peers().expect_end()
        received = self._signals.received or "a signal to another process"
        named = str(self.args.resume_from_checkpoint).lower() not in ("none", "auto", "true")
        command = "the same command without --resume_from_checkpoint" if named else "the same command"
        raise Interrupted(received, name_newest(self.args.output_dir), command)

    def _raise_not_finite(self) -> NoReturn:
        described = [text for text in gather_object([self._watch.describe()]) if text is not None]
        step = min((number for number, _ in described), default=self.state.global_step)
        # A loss says more than the gradients, which every process shares.
        found = [text for number, texts in described for text in texts if number == step]
        found = [text for text in found if "loss" in text] or found[:1]
        saved = (
            f"checkpoint-{self._saved_step} is the last one saved, from before" if self._saved_step else "none saved"
        )
        raise self._everywhere(
            NumericsError(
                f"step {step}: {'; '.join(found)} (last checkpoint, from before: {saved})",
                "finite losses and gradients",
                "look at these images (sample_index counts the rows of the source's split); lower --learning_rate or "
                "--max_grad_norm, or use bf16 instead of fp16",
            )
        )

    def _everywhere(self, error: UserError) -> BaseException:
        """An error that all processes have found: one of them says it."""
        return error if self.is_world_process_zero() else SystemExit(error.exit_code)

    def _finish(self) -> TrainOutput:
        """What ``Trainer`` does after the last step, for a run that was stopped right there."""
        self.is_in_train = False
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        metrics = self._sum_up(0.0, 0.0)
        if metrics:
            super().log(metrics)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, metrics.get("train_loss", math.nan), metrics)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """See ``Trainer.log``; time, speed and mean loss of a resumed run are those of all its parts together."""
        if "train_loss" in logs and self._first_step:
            step, seconds = self.state.global_step, logs["train_runtime"]
            steps = step - self._first_step
            loss = correct_resumed_loss(logs["train_loss"], step, self._first_step)
            logs |= self._sum_up(loss * steps, seconds) or {
                "train_samples_per_second": round(steps * self._images_per_step / seconds, 3),
                "train_steps_per_second": round(steps / seconds, 3),
                "train_loss": loss,
            }
        super().log(logs, *args, **kwargs)

    def _sum_up(self, loss_sum: float, seconds: float) -> dict[str, float]:
        """The metrics of a resumed run's training, of all its parts together.

        Args:
            loss_sum: Sum of the mean loss of the steps since it was resumed.
            seconds: What they took.

        Returns:
            What ``Trainer`` calls them, and ``train_num_starts``; nothing where the checkpoint, of an older release,
            does not tell of the earlier parts.
        """
        earlier, step = self._resumed, self.state.global_step
        if earlier is None or earlier.loss_sum is None:
            return {}
        seconds += earlier.train_seconds
        return {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(step * self._images_per_step / seconds, 3),
            "train_steps_per_second": round(step / seconds, 3),
            "train_loss": (earlier.loss_sum + loss_sum) / step,
            "train_num_starts": earlier.num_starts + (step > self._first_step),
        }

    def _measure_progress(self) -> tuple[float | None, float, int]:
        """Loss sum, seconds and starts of the whole run so far, for its checkpoint; called on every process."""
        earlier, part = self._resumed, float(self._total_loss_scalar)
        if self._running_loss is not None:
            losses = self.accelerator.gather(self._running_loss.detach().reshape(1))
            part += float(losses.mean())
        seconds = time.monotonic() - self._started_at
        if earlier is None or not self._first_step:
            return part, seconds, 1
        total = None if earlier.loss_sum is None else earlier.loss_sum + part
        is_new = self.state.global_step > self._first_step
        return total, earlier.train_seconds + seconds, earlier.num_starts + is_new

    @property
    def _images_per_step(self) -> int:
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _restore_early_stopping(self) -> None:
        """Go on counting evaluations without a better metric where the checkpoint was."""
        for callback in self.callback_handler.callbacks:
            saved = self.state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, EarlyStoppingCallback) and isinstance(saved, dict):
                callback.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
                if callback.early_stopping_patience_counter >= callback.early_stopping_patience:
                    self.control.should_training_stop = True

    def _averaged_weights(self) -> AbstractContextManager[None]:
        """Within, the model has the weights that will be served."""
        return nullcontext() if self._average is None else self._average.in_place(self.model)

    def _after_evaluation_batch(self, is_stream: bool) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        # The processes' shares of a stream may differ by a batch, and they must ask each other equally often.
        if self.is_in_train and (not is_stream or self.args.world_size == 1):
            (stop,) = self._agreement.any(self._signals.received is not None)
            if stop:
                raise _EvaluationStopped

    # ------------------------------------------------------------------------------------------------ checkpoints

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the card is written from the run's records, see `hf_imgcls.publish.card`, and must stay."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._write_checkpoint()

    def _write_checkpoint(self, *, is_evaluation_due: bool = False) -> None:
        """Save what ``Trainer`` saves, whole or not at all; see `hf_imgcls.fit.checkpoints`."""
        stop, not_finite = self._agreement.any(self._signals.received is not None, not self._watch.is_finite(wait=True))
        if not_finite:
            self._raise_not_finite()
        step, folder = self.state.global_step, Path(self.args.output_dir)
        if self.args.save_strategy == "best" and not is_evaluation_due and self.control.should_save:
            self.state.best_global_step = step
        partial = partial_path(folder, step)
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        # A run that is stopped goes on, whatever its checkpoints are for otherwise.
        self._all_or_none(lambda: self._write_files(partial, stop or not self.args.save_only_model), partial)
        loss_sum, seconds, num_starts = self._measure_progress()
        record = CheckpointRecord(
            step,
            dataclasses.replace(
                self.identity,
                world_size=self.args.world_size,
                per_device_train_batch_size=self.args.per_device_train_batch_size,
                gradient_accumulation_steps=self.args.gradient_accumulation_steps,
            ),
            is_evaluation_due,
            is_save_due=is_evaluation_due and self.control.should_save,
            loss_sum=loss_sum,
            train_seconds=seconds,
            num_starts=num_starts,
        )
        self._all_or_none(lambda: self._seal(folder, record), partial)
        self._saved_step = step
        if self.push_checkpoint is not None and self.is_world_process_zero():
            self.push_checkpoint(checkpoint_path(folder, step))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """See ``Trainer``; what is saved is an ordinary model, with quantisers, if there are any, beside it."""
        if is_quantized(self.model):
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_quantizers(self.model, folder)
            state_dict = plain_state(self.model)  # it is not sharded, see __init__
        super()._save(output_dir, state_dict)
        keep_fast_processor(self.processing_class, output_dir or str(self.args.output_dir))

    def _write_files(self, partial: Path, with_state: bool) -> None:
        with self._averaged_weights():
            self.save_model(str(partial), _internal_call=True)
        if self.args.should_save:
            # A pickle that resuming does not need.
            (partial / "training_args.bin").unlink(missing_ok=True)
        if with_state:
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            self._gather_rng_states(partial)
        # On every process: each loads the best weights at the end.
        best = self.state.best_global_step
        folder = Path(self.args.output_dir)
        if best and (best == self.state.global_step or checkpoint_path(folder, best).is_dir()):
            self.state.best_model_checkpoint = str(checkpoint_path(folder, best))
        if not self.args.should_save:
            return
        if self._average is not None and with_state:
            self._average.save(partial, self.model)
        for part in (*self.callback_handler.callbacks, self.control):
            if isinstance(part, ExportableState):
                self.state.stateful_callbacks[type(part).__name__] = part.state()
        self.state.save_to_json(str(partial / "trainer_state.json"))

    def _gather_rng_states(self, partial: Path) -> None:
        """Write the random state of every process, on the main one: the others may not see its folder."""
        with tempfile.TemporaryDirectory() as own:
            self._save_rng_state(own)
            states = [(file.name, file.read_bytes()) for file in Path(own).iterdir()]
        for name, content in gather_object(states) if self.args.world_size > 1 else states:
            if self.args.should_save:
                (partial / name).write_bytes(content)

    def _seal(self, folder: Path, record: CheckpointRecord) -> None:
        if self.args.should_save:
            seal_checkpoint(folder, record)
            self._saved_bytes = sum(file.size for file in record.files.values())
            best = self.state.best_model_checkpoint
            kept = step_of(Path(best)) if best else None
            rotate_checkpoints(folder, self.args.save_total_limit, record.step, kept)

    def _all_or_none(self, write: Callable[[], None], partial: Path) -> None:
        """Write on all processes, and give up on all of them if one cannot."""
        error: Exception | None = None
        try:
            write()
        except (OSError, RuntimeError, SafetensorError) as caught:
            error = caught
        (failed,) = self._agreement.any(error is not None)
        if not failed:
            return
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        if error is None:
            sys.exit(UserError.exit_code)  # the other process says why
        if (fault := translate_fault(error, self.args)) is not None:
            raise fault from error
        path = checkpoint_path(Path(self.args.output_dir), self.state.global_step)
        needed = self._saved_bytes or sum(p.numel() * p.element_size() for p in self.model.parameters()) * 3
        raise describe_failed_save(path, error, needed) from error

    def _recall_best(self) -> None:
        """Look the best checkpoint up in this run's folder, which may have been moved, and make sure of it."""
        # Not from the live state: 5.x forgets a path that is not there any more.
        saved = TrainerState.load_from_json(os.path.join(str(self._resumed_from), "trainer_state.json"))
        if not saved.best_model_checkpoint:
            return
        path = Path(self.args.output_dir) / Path(saved.best_model_checkpoint).name
        inspection = decide_on_main(functools.partial(_inspect_if_there, path))
        self.state.best_model_checkpoint = str(path)
        if inspection is None or inspection.damage or inspection.record is None:
            reason = inspection.reasons if inspection is not None else "it is not there"
            logger.warning(
                "%s was the best checkpoint so far and cannot be used: %s. The best one is chosen from here on.",
                path.name, reason,
            )  # fmt: skip
            self.state.best_model_checkpoint = self.state.best_metric = self.state.best_global_step = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.restores_itself():
            self._restore(resume_from_checkpoint, model or self.model)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._begin_average()
        if self._average is not None:
            self._average.load(Path(resume_from_checkpoint), model or self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """See ``Trainer``; there, several processes on CPUs load to a device "cpu:0", which torch refuses."""
        if checkpoint is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        asked = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        rates = list(getattr(self.lr_scheduler, "base_lrs", []))
        for name, part in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            path = Path(checkpoint) / name
            if path.exists():  # else it was asked for by name, and told
                part.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # The state holds learning rate and weight decay as they were; the user may have changed them since.
        for group, wanted in zip(self.optimizer.param_groups, asked, strict=True):
            rate = group["lr"]
            if group.get("initial_lr"):
                rate *= wanted["initial_lr"] / group["initial_lr"]
            group.update(wanted, lr=rate)
        if rates:
            self.lr_scheduler.base_lrs = rates
            self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what is logged

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = mirror_folder(str(best))
        if self.restores_itself():
            self._restore(self.state.best_model_checkpoint, self.model)
        else:
            super()._load_best_model()
        self.state.best_model_checkpoint = best

    def _restore(self, checkpoint: str, model: Any) -> None:
        restore_weights(model, checkpoint, read_quantizers(Path(checkpoint)) if is_quantized(model) else None)

    def restores_itself(self) -> bool:
        """Whether weights are restored here, tensor by tensor.

        Adapters and sharded models have their own formats, which ``Trainer`` loads right.
        """
        from transformers import PreTrainedModel

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return isinstance(self.model, PreTrainedModel) and not sharded


def _inspect_if_there(path: Path) -> Inspection | None:
    return inspect_checkpoint(path) if path.is_dir() else None
