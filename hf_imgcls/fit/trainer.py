"""``Trainer`` with what image classification needs: pixels finished on the device, one exact loss, exact metrics.

And with what a run needs that is left alone for days: it stops on a signal and on numbers that are none, saves
checkpoints that are whole or not there, and goes on from them as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput, speed_metrics

from hf_imgcls.compat import correct_resumed_loss, restore_weights
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import ArgumentError, DataError, Interrupted, NumericsError, UserError
from hf_imgcls.extras import require
from hf_imgcls.fit.averaging import WeightAverage
from hf_imgcls.fit.callbacks import RunCallback, SetEpochCallback, ThroughputProgress
from hf_imgcls.fit.checkpoints import (
    Inspection,
    checkpoint_path,
    describe_run,
    inspect_checkpoint,
    partial_path,
    rotate_checkpoints,
    seal_checkpoint,
    step_of,
)
from hf_imgcls.fit.distill import Distiller
from hf_imgcls.fit.evaluation import Accumulator, BatchTransform, build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.faults import describe_failed_save, name_newest, translate_fault
from hf_imgcls.fit.finite import FiniteWatch
from hf_imgcls.fit.layers import decay_learning_rates
from hf_imgcls.fit.loss import LossFunction, choose_loss, divide_losses
from hf_imgcls.fit.schedule import ScheduleBuilder
from hf_imgcls.fit.stopping import Agreement, StopSignals, WorkerGuard, decide_on_main
from hf_imgcls.records import MULTI_LABEL, CheckpointRecord, RunIdentity

if TYPE_CHECKING:
    pass


logger = logging.getLogger(__name__)


class _EvaluationStopped(Exception):
    """A signal came while the validation split was measured."""


class _TrainingComplete(Exception):
    """The checkpoint that was resumed is the run's last one."""


class ImageClassificationTrainer(Trainer):
    """Trains on uint8 batches, evaluates every example once, restores every tensor, and can be stopped anywhere.

    Args:
        model: A classification model, or the ``PeftModel`` around one.
        args: ``TrainingArguments``, best from ``hf_imgcls.compat.build_training_arguments``.
        train_device_transform: Finishes a training batch on the device (normalises, augments).
        eval_device_transform: The same for evaluation; exactly what the saved processor does.
        new_accumulator: Makes an empty accumulator; its ``compute()`` gives the validation metrics.
        set_epoch: Told the epoch before its first batch.
        build_schedule: Makes a schedule for an optimizer and a number of steps; ``None`` for transformers' own.
        identity: What run the checkpoints belong to.
        push_checkpoint: Told each checkpoint, on the main process; it must not wait for the Hub.
        loss: The loss of each sample, from `hf_imgcls.fit.imbalance.build_loss`; by default that of the model's labels.
        train_sampler: Which examples an epoch shows; by default all of them in random order.
        ema_decay: Average the weights, see `hf_imgcls.fit.averaging`; ``None`` does not.
        distiller: A teacher that the model learns from besides the labels.
        layer_lr_decay: See `hf_imgcls.fit.layers.decay_learning_rates`.
        train_options: What the model's forward is given besides the batch, in training steps.
        **kwargs: What ``Trainer`` takes.
    """

    # Set by Trainer, outside its __init__.
    control: TrainerControl
    lr_scheduler: Any

    def __init__(
        self,
        *,
        train_device_transform: BatchTransform,
        eval_device_transform: BatchTransform,
        new_accumulator: Callable[[], Accumulator],
        set_epoch: Callable[[int], None] | None = None,
        build_schedule: ScheduleBuilder | None = None,
        identity: RunIdentity | None = None,
        push_checkpoint: Callable[[Path], None] | None = None,
        loss: LossFunction | None = None,
        train_sampler: Sampler[int] | None = None,
        ema_decay: float | None = None,
        distiller: Distiller | None = None,
        layer_lr_decay: float = 1.0,
        train_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("data_collator", collate_batch)
        self._loss: LossFunction = loss or choose_loss(
            "auto", multi_label=kwargs["model"].config.problem_type == MULTI_LABEL
        )
        self._train_sampler = train_sampler
        args = kwargs["args"]
        with warnings.catch_warnings():
            # Trainer's own smoothing is not used, and ours does know several labels.
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible with multi-label")
            super().__init__(**kwargs, compute_loss_func=self._compute_classification_loss)
        # A head that accepts **kwargs would be handed num_items_in_batch as well; the loss is ours alone.
        self.model_accepts_loss_kwargs = False
        self.train_device_transform = train_device_transform
        self.eval_device_transform = eval_device_transform
        self.new_accumulator = new_accumulator
        self._build_schedule = build_schedule
        self._distiller = distiller
        self._layer_lr_decay = layer_lr_decay
        self._train_options = train_options or {}
        self.identity = identity or describe_run(self.model, args)
        self._push_checkpoint = push_checkpoint
        self._agreement = Agreement(args.ddp_timeout_delta)
        self._signals = StopSignals()
        self._workers = WorkerGuard()
        self.at_epoch_end = False
        if ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ArgumentError("ema_decay with a sharded model", "one of them", "leave out --ema_decay")
        self._ema_decay = ema_decay
        self._average: WeightAverage | None = None  # while training
        whole_gradients = not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and not args.fp16
        self._watch = FiniteWatch(args.device, gradients=whole_gradients)
        self._sample_index = torch.empty(0, dtype=torch.int64)
        self._resumed: CheckpointRecord | None = None
        self._resumed_from: str | None = None
        self._first_step = 0
        self._saved_step: int | None = None
        self._saved_bytes = 0
        self.add_callback(RunCallback(self))
        if set_epoch is not None:
            self.add_callback(SetEpochCallback(set_epoch))
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.remove_callback(PrinterCallback)
            self.add_callback(ThroughputProgress())

    # ------------------------------------------------------------------------------------------------ batches

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        with torch.no_grad():
            batch = (self.train_device_transform if self.model.training else self.eval_device_transform)(inputs)
        self._sample_index = batch["sample_index"]
        if self._distiller is not None and self.model.training:
            with self.compute_loss_context_manager():
                self._distiller.look(batch["pixel_values"])
        options = self._train_options if self.model.training else {}
        return {"pixel_values": batch["pixel_values"], "labels": batch["labels"], **options}

    def _compute_classification_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        losses = self._loss(outputs.logits, labels, self.args.label_smoothing_factor)
        if self._distiller is not None and self.model.training:
            losses = self._distiller.mix(losses, outputs.logits)
        if self.model.training:
            self._watch.add(losses, self._sample_index)
        return divide_losses(losses, num_items_in_batch, labels.shape[1] if self._loss.multi_label else 1)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers' estimate takes every pixel for a token, and walks all parameters at each step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self._train_sampler or super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> DataLoader:
        """Map-style data is sharded by Accelerate; a stream is already this process's shard and is left alone."""
        if not isinstance(self.train_dataset, StreamingSplit):
            loader = super().get_train_dataloader()
            inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps the one that starts the workers
            inner.worker_init_fn = functools.partial(self._workers.set_up, inner.worker_init_fn)
            return loader
        self.train_dataset.set_batch_size(self._train_batch_size)
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            worker_init_fn=functools.partial(self._workers.set_up, None),
            drop_last=True,
        )

    # ------------------------------------------------------------------------------------------------ evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of a split, every example counted once, on every process the same.

        Args:
            eval_dataset: A split with its evaluation transform attached; default: the Trainer's own.
            ignore_keys: Unused; part of ``Trainer``'s signature.
            metric_key_prefix: ``"eval"`` gives ``eval_loss``, ``eval_accuracy`` and so on.

        Returns:
            Metric name -> number; metrics that are not defined on this split are left out. ``eval_loss`` is the mean
            cross-entropy over the examples (binary, with several labels per image), without label smoothing and
            whatever the loss that is trained.

        Raises:
            NumericsError: The model answers with NaN or infinity.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.time()
        dataloader = build_eval_dataloader(
            dataset,
            self.args.eval_batch_size,
            PartialState(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            worker_init_fn=functools.partial(self._workers.set_up, None),
        )
        # Only a sharded model must be called through its wrapper. DistributedDataParallel must not: it synchronises
        # buffers at every forward, also in evaluation.
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        # Not in the middle of training, whose weights would stay rounded.
        if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train:
            model = model.to(torch.bfloat16 if self.args.bf16_full_eval else torch.float16)
        with self._averaged_weights():
            accumulator: Any = evaluate_batches(
                model,
                dataloader,
                self.new_accumulator(),
                PartialState(),
                device_transform=self.eval_device_transform,
                autocast=self.compute_loss_context_manager,
                on_batch=functools.partial(self._after_evaluation_batch, isinstance(dataset, StreamingSplit)),
            )
        metrics = {name: value for name, value in accumulator.compute().items() if value is not None}
        metrics = {"loss": metrics["log_loss"], **metrics}
        metrics.pop("num_examples", None)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        count = accumulator.num_examples
        steps = math.ceil(count / (self.args.eval_batch_size * self.args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=count, num_steps=steps))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

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

    # ------------------------------------------------------------------------------------------------ optimisation

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Transformers' own, each layer with its learning rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self._layer_lr_decay < 1:
            decay_learning_rates(optimizer, self.model, self._layer_lr_decay)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Transformers' schedules, and others."""
        if self._build_schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = self._build_schedule(optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

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
                raise
            except (UserError, Interrupted):
                raise
            except Exception as error:
                fault = translate_fault(error, self.args)
                if fault is None:
                    raise
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
        if is_evaluation_due or self._saved_step != self.state.global_step:
            self._write_checkpoint(is_evaluation_due=is_evaluation_due)
        self._raise_interrupted()

    def _raise_interrupted(self) -> NoReturn:
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
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, math.nan, {})

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """See ``Trainer.log``; speed and mean loss of a resumed run are those of the part that was run now."""
        if "train_loss" in logs and self._first_step:
            images = (self.state.global_step - self._first_step) * self._images_per_step
            logs["train_samples_per_second"] = round(images / logs["train_runtime"], 3)
            logs["train_steps_per_second"] = round(images / self._images_per_step / logs["train_runtime"], 3)
            logs["train_loss"] = correct_resumed_loss(logs["train_loss"], self.state.global_step, self._first_step)
        super().log(logs, *args, **kwargs)

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
        )
        self._all_or_none(lambda: self._seal(folder, record), partial)
        self._saved_step = step
        if self._push_checkpoint is not None and self.is_world_process_zero():
            self._push_checkpoint(checkpoint_path(folder, step))

    def _write_files(self, partial: Path, with_state: bool) -> None:
        with self._averaged_weights():
            self.save_model(str(partial), _internal_call=True)
        if self.args.should_save:
            # A pickle that resuming does not need.
            (partial / "training_args.bin").unlink(missing_ok=True)
        if with_state:
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
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
            restore_weights(model or self.model, resume_from_checkpoint)
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
        if self.restores_itself():
            restore_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def restores_itself(self) -> bool:
        """Whether weights are restored here, tensor by tensor.

        Adapters and sharded models have their own formats, which ``Trainer`` loads right.
        """
        from transformers import PreTrainedModel

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return isinstance(self.model, PreTrainedModel) and not sharded


def _inspect_if_there(path: Path) -> Inspection | None:
    return inspect_checkpoint(path) if path.is_dir() else None
