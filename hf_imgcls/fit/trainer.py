"""``Trainer`` with what image classification needs: pixels finished on the device, one exact loss, exact metrics."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput, speed_metrics

from hf_imgcls.compat import restore_weights
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import DataError
from hf_imgcls.fit.callbacks import SetEpochCallback, ThroughputProgress
from hf_imgcls.fit.evaluation import Accumulator, BatchTransform, build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.schedule import build_step_schedule

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments import Arguments
    from hf_imgcls.data.transforms import BatchPlan


def compute_classification_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy, divided exactly once.

    Most image heads of transformers ignore ``num_items_in_batch`` and return a mean per micro-batch, which ``Trainer``
    then does not divide by the number of accumulated micro-batches: gradients come out N times too large
    (https://github.com/huggingface/transformers/issues/37766). Here the sum over the micro-batch is divided by the
    number of examples in the whole accumulated batch, over all processes.

    Args:
        outputs: Model output with ``logits`` of shape ``(B, K)``.
        labels: ``(B,)`` int64 class ids.
        num_items_in_batch: Examples in the whole accumulated batch; ``None`` means this micro-batch is all of it.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1).

    Returns:
        A scalar float32 tensor.
    """
    total = nn.functional.cross_entropy(
        outputs.logits.float(), labels, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class ImageClassificationTrainer(Trainer):
    """Trains on uint8 batches, evaluates every example once, restores every tensor.

    Args:
        model: A classification model, or the ``PeftModel`` around one.
        args: ``TrainingArguments``, best from ``hf_imgcls.compat.build_training_arguments``.
        train_device_transform: Finishes a training batch on the device (normalises, augments).
        eval_device_transform: The same for evaluation; exactly what the saved processor does.
        new_accumulator: Makes an empty accumulator; its ``compute()`` gives the validation metrics.
        set_epoch: Told the epoch before its first batch.
        step_schedule: ``lr_scheduler_kwargs`` of the schedule "step", or ``None`` for transformers' own schedules.
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
        step_schedule: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("data_collator", collate_batch)
        args = kwargs["args"]
        loss = functools.partial(compute_classification_loss, label_smoothing=args.label_smoothing_factor)
        super().__init__(**kwargs, compute_loss_func=loss)
        # A head that accepts **kwargs would be handed num_items_in_batch as well; the loss is ours alone.
        self.model_accepts_loss_kwargs = False
        self.train_device_transform = train_device_transform
        self.eval_device_transform = eval_device_transform
        self.new_accumulator = new_accumulator
        self._step_schedule = step_schedule
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
        return {"pixel_values": batch["pixel_values"], "labels": batch["labels"]}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train; see ``Trainer.train``. A stream is told where it goes on, so that nothing is read twice."""
        if isinstance(self.train_dataset, StreamingSplit) and isinstance(resume_from_checkpoint, str):
            self._resume_stream(resume_from_checkpoint)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        result.metrics.pop("total_flos", None)
        return result

    def _resume_stream(self, checkpoint: str) -> None:
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        accumulation = self.args.gradient_accumulation_steps
        steps_per_epoch = max(math.ceil(len(self.get_train_dataloader()) / accumulation), 1)
        epoch, steps = divmod(state.global_step, steps_per_epoch)
        self.train_dataset.set_epoch(epoch)
        # Trainer skips the used batches by taking them: they are given to it empty.
        self.train_dataset.resume_from(steps * accumulation * self._train_batch_size, stand_in=True)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers' estimate takes every pixel for a token, and walks all parameters at each step."""
        return 0

    def get_train_dataloader(self) -> DataLoader:
        """Map-style data is sharded by Accelerate; a stream is already this process's shard and is left alone."""
        if not isinstance(self.train_dataset, StreamingSplit):
            return super().get_train_dataloader()
        self.train_dataset.set_batch_size(self._train_batch_size)
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
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
            cross-entropy over the examples, without label smoothing.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.time()
        dataloader = build_eval_dataloader(
            dataset,
            self.args.eval_batch_size,
            PartialState(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # Only a sharded model must be called through its wrapper. DistributedDataParallel must not: it synchronises
        # buffers at every forward, also in evaluation.
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        if self.args.bf16_full_eval or self.args.fp16_full_eval:
            model = model.to(torch.bfloat16 if self.args.bf16_full_eval else torch.float16)
        accumulator: Any = evaluate_batches(
            model,
            dataloader,
            self.new_accumulator(),
            PartialState(),
            device_transform=self.eval_device_transform,
            autocast=self.compute_loss_context_manager,
            on_batch=lambda: self.callback_handler.on_prediction_step(self.args, self.state, self.control),
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

    # ------------------------------------------------------------------------------------------------ optimisation

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Transformers' schedules, and "step"."""
        if self._step_schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = build_step_schedule(
                optimizer or self.optimizer,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps / self.args.num_train_epochs,
                self._step_schedule,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ------------------------------------------------------------------------------------------------ checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._restores_itself():
            restore_weights(model or self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._restores_itself():
            restore_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _restores_itself(self) -> bool:
        """Adapters and sharded models have their own formats, which ``Trainer`` loads right."""
        from transformers import PreTrainedModel

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return isinstance(self.model, PreTrainedModel) and not sharded


def build_trainer(
    model: nn.Module,
    processor: BaseImageProcessor,
    batches: BatchPlan,
    new_accumulator: Callable[[], Accumulator],
    args: Arguments,
    training_args: TrainingArguments,
) -> ImageClassificationTrainer:
    """Put the parts of a run together.

    Args:
        model: From ``hf_imgcls.fit.adapt.adapt_model``.
        processor: Saved with every checkpoint.
        batches: The splits with their transforms attached.
        new_accumulator: Makes an empty accumulator for the validation metrics.
        args: What the user asked for; early stopping and the schedule "step" are read from it.
        training_args: From ``hf_imgcls.compat.build_training_arguments``.

    Raises:
        DataError: There is nothing to train on, or nothing to evaluate on although that is asked for.
    """
    for split, flag, is_needed, fix in (
        ("train", "--do_train", training_args.do_train, "name one with --train_dir or --train_split_name"),
        ("validation", "--do_eval", training_args.do_eval, "cut one with --train_val_split 0.15, or --do_eval false"),
    ):
        if is_needed and split not in batches.splits:
            raise DataError(f"the dataset has no {split} split", f"one for {flag}", fix)
    callbacks = []
    if args.fit.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.fit.early_stopping_patience, args.fit.early_stopping_threshold))
    if isinstance(batches.train, StreamingSplit):
        batches.train.seed = training_args.seed
    is_step = args.training.get("lr_scheduler_type") == "step"
    return ImageClassificationTrainer(
        model=model,
        args=training_args,
        train_dataset=batches.train,
        eval_dataset=batches.validation,
        processing_class=processor,
        callbacks=callbacks,
        train_device_transform=batches.train_device_transform,
        eval_device_transform=batches.eval_device_transform,
        new_accumulator=new_accumulator,
        set_epoch=batches.set_epoch,
        step_schedule=dict(args.training.get("lr_scheduler_kwargs") or {}) if is_step else None,
    )
