"""``Trainer`` with what image classification needs: pixels finished on the device, one exact loss, exact metrics."""

from __future__ import annotations

import functools
import logging
import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments
from transformers.trainer_utils import has_length, speed_metrics

from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import DataError
from hf_imgcls.fit.callbacks import SetEpochCallback
from hf_imgcls.fit.evaluation import build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.layers import decay_learning_rates
from hf_imgcls.fit.loss import LossFunction, choose_loss, divide_losses
from hf_imgcls.fit.optimizers import choose_optimizer, describe_optimizer
from hf_imgcls.fit.quantization import is_quantizer
from hf_imgcls.fit.resumable import ResumableTrainer
from hf_imgcls.fit.sampling import ShuffledSampler, WithoutLast, choose_order_seed, leaves_batch_of_one
from hf_imgcls.fit.solve_head import Solution
from hf_imgcls.fit.training_arguments import refuse_arguments
from hf_imgcls.records import MULTI_LABEL

if TYPE_CHECKING:
    from hf_imgcls.fit.plan import TrainPlan

logger = logging.getLogger(__name__)


class ImageClassificationTrainer(ResumableTrainer):
    """Trains on uint8 batches, evaluates every example once, and can be stopped anywhere.

    Args:
        plan: Model, data, loss and all else of a run that ``TrainingArguments`` do not hold.
        args: ``TrainingArguments``, best from ``hf_imgcls.fit.training_arguments.build_training_arguments``.
        **kwargs: What ``Trainer`` takes in addition, such as ``data_collator``.
    """

    def __init__(self, plan: TrainPlan, args: TrainingArguments, **kwargs: Any) -> None:
        kwargs.setdefault("data_collator", collate_batch)
        self.plan = plan
        self.memory_format = torch.channels_last if plan.channels_last else torch.contiguous_format
        if plan.channels_last:
            plan.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        multi_label = plan.model.config.problem_type == MULTI_LABEL
        self._loss: LossFunction = plan.loss or choose_loss("auto", multi_label=multi_label)
        self._said_without_last = False
        with warnings.catch_warnings():
            # Trainer's own smoothing is not used, and ours does know several labels.
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible with multi-label")
            super().__init__(
                model=plan.model,
                args=args,
                train_dataset=plan.train,
                eval_dataset=plan.validation,
                processing_class=plan.processor,
                callbacks=list(plan.callbacks),
                identity=plan.identity,
                ema_decay=plan.ema_decay,
                compute_loss_func=self._compute_classification_loss,
                **kwargs,
            )
        # A head that accepts **kwargs would be handed num_items_in_batch as well; the loss is ours alone.
        self.model_accepts_loss_kwargs = False
        self._sample_index = torch.empty(0, dtype=torch.int64)
        self.probe: Solution | None = None  # the head that was solved for, on the features that training began with
        followers = [plan.set_epoch, plan.sampler and plan.sampler.set_epoch]
        self.add_callback(SetEpochCallback([follow for follow in followers if follow is not None]))

    # ------------------------------------------------------------------------------------------------ batches

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        plan, training = self.plan, self.model.training
        with torch.no_grad():
            batch = (plan.train_device_transform if training else plan.eval_device_transform)(inputs)
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self.memory_format)
        self._sample_index = batch["sample_index"]
        if plan.distiller is not None and training:
            with self.compute_loss_context_manager():
                plan.distiller.look(batch["pixel_values"])
        options = plan.train_options if training else {}
        return {"pixel_values": batch["pixel_values"], "labels": batch["labels"], **options}

    def _compute_classification_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        entries = labels.shape[1] if self._loss.multi_label else 1
        if self.plan.own_loss is not None:
            count = len(labels) if num_items_in_batch is None else num_items_in_batch / entries
            loss = self.plan.own_loss(outputs.logits, labels, count)
            losses = loss.expand(len(labels))
        else:
            losses = self._loss(outputs.logits, labels, self.args.label_smoothing_factor)
            if self.plan.distiller is not None and self.model.training:
                losses = self.plan.distiller.mix(losses, outputs.logits)
            loss = divide_losses(losses, num_items_in_batch, entries)
        if self.model.training:
            self._watch.add(losses, self._sample_index)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers' estimate takes every pixel for a token, and walks all parameters at each step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        sampler = self.plan.sampler or super()._get_train_sampler(train_dataset)
        # Several processes fill their last batches up from the beginning.
        if self.args.world_size > 1 or self.args.dataloader_drop_last or not has_length(self.train_dataset):
            return sampler
        count, size = len(self.train_dataset), self._train_batch_size
        if not leaves_batch_of_one(self.model, count, size):
            return sampler
        if not self._said_without_last:
            self._said_without_last = True
            logger.warning(
                "%d training images in batches of %d leave a last batch of 1, which BatchNorm cannot normalise: each "
                "epoch leaves out one image, drawn at random.", count, size,
            )  # fmt: skip
        return WithoutLast(self.plan.sampler or ShuffledSampler(count, choose_order_seed(self.args)))

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
                self.plan.new_accumulator(),
                PartialState(),
                device_transform=self.plan.eval_device_transform,
                autocast=self.compute_loss_context_manager,
                on_batch=functools.partial(self._after_evaluation_batch, isinstance(dataset, StreamingSplit)),
            )
        metrics = {name: value for name, value in accumulator.compute().items() if value is not None}
        metrics = {"loss": metrics["log_loss"], **metrics}
        self._check_selection(metrics, accumulator.reasons)
        metrics.pop("num_examples", None)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        count = accumulator.num_examples
        steps = math.ceil(count / (self.args.eval_batch_size * self.args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=count, num_steps=steps))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _check_selection(self, metrics: dict[str, float], reasons: dict[str, str]) -> None:
        name = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if self.is_in_train and self.args.load_best_model_at_end and name not in metrics:
            raise DataError(
                f"{name}, by which the best model is chosen, is not defined on the validation split: "
                f"{reasons.get(name, 'it is not measured')}",
                "a metric that this split can give",
                "choose another --metric_for_best_model, or another validation split",
            )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Transformers' own; of equally good models the one with the lower validation loss is the best."""
        if super()._determine_best_metric(metrics=metrics, trial=trial):
            return True
        state, name = self.state, f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        earlier = [entry for entry in state.log_history if entry["step"] < state.global_step]
        losses = [entry["eval_loss"] for entry in earlier if name in entry and entry[name] == state.best_metric]
        if not losses or metrics[name] != state.best_metric or metrics["eval_loss"] >= min(losses):
            return False
        if state.best_global_step is not None:
            state.best_global_step = state.global_step
        return True

    # ------------------------------------------------------------------------------------------------ optimisation

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Transformers' own, each layer with its learning rate."""
        is_new = self.optimizer is None
        try:
            optimizer = super().create_optimizer(*args, **kwargs)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise refuse_arguments(error, describe_optimizer(self.args)) from error
        if is_new and self.plan.layer_lr_decay < 1:
            decay_learning_rates(optimizer, self.model, self.plan.layer_lr_decay)
        return optimizer

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Transformers' own, with all of ``optim_args``."""
        return choose_optimizer(args, model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Transformers' own; a quantiser's range is no weight that is to be small."""
        return [name for name in super().get_decay_parameter_names(model) if not is_quantizer(name)]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Transformers' schedules, and others."""
        if self.plan.build_schedule is None:
            try:
                return super().create_scheduler(num_training_steps, optimizer)
            except (TypeError, ValueError) as error:
                what = f"--lr_scheduler_type {self.args.lr_scheduler_type.value} with these --lr_scheduler_kwargs"
                raise refuse_arguments(error, what) from error
        if self.lr_scheduler is None:
            self.lr_scheduler = self.plan.build_schedule(optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler
