"""From a model, batches and arguments to the Trainer of a run: what each argument of the group ``fit`` becomes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import has_length

from hf_imgcls.catalogue import EVALUATION, METRICS, TRAINING, choose_selection, is_higher_better, list_metrics
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import ArgumentError, DataError, ModelError
from hf_imgcls.fit.depthwise import speed_up_depthwise
from hf_imgcls.fit.distill import build_distiller
from hf_imgcls.fit.hooks import Hooks, try_loss
from hf_imgcls.fit.imbalance import build_loss
from hf_imgcls.fit.layers import GradualUnfreezing
from hf_imgcls.fit.lr_range import grow_learning_rate
from hf_imgcls.fit.plan import TrainPlan
from hf_imgcls.fit.resizing import resize_progressively
from hf_imgcls.fit.sampling import build_sampler, choose_order_seed
from hf_imgcls.fit.schedule import ScheduleBuilder, schedule_steps
from hf_imgcls.fit.trainer import ImageClassificationTrainer
from hf_imgcls.fit.training_arguments import refuse_arguments
from hf_imgcls.records import MULTI_LABEL, RunIdentity

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import Arguments, FitArguments
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.evaluation import Accumulator


def build_trainer(
    model: nn.Module,
    processor: BaseImageProcessor,
    batches: BatchPlan,
    new_accumulator: Callable[[], Accumulator],
    args: Arguments,
    training_args: TrainingArguments,
    identity: RunIdentity | None = None,
    hooks: Hooks | None = None,
) -> ImageClassificationTrainer:
    """Put the parts of a run together.

    Args:
        model: From ``hf_imgcls.fit.adapt.adapt_model``.
        processor: Saved with every checkpoint.
        batches: The splits with their transforms attached; what ``--imbalance`` does follows from their record.
        new_accumulator: Makes an empty accumulator for the validation metrics.
        args: What the user asked for; early stopping and the schedule "step" are read from it.
        training_args: From ``hf_imgcls.fit.training_arguments.build_training_arguments``.
        identity: What run the checkpoints belong to.
        hooks: The user's own loss and callbacks; ``batches`` has the transform, and ``model`` is the model.

    Raises:
        ArgumentError: Arguments, hooks and labels do not fit each other.
        DataError: There is nothing to train on, or nothing to evaluate on although that is asked for.
        ModelError: The model cannot checkpoint gradients, or take smaller images, and is asked to.
    """
    hooks = hooks or Hooks()
    _check_splits(training_args, batches)
    _check_gradient_checkpointing(training_args, model)
    multi_label = model.config.problem_type == MULTI_LABEL
    choose_selection_metric(training_args, multi_label, model.config.num_labels, args.fit.adaptation)
    labels, order_seed = list(model.config.id2label.values()), choose_order_seed(training_args)
    if hooks.loss is not None:
        mixes = bool(batches.augmentation.mixup_alpha or batches.augmentation.cutmix_alpha)
        try_loss(hooks.loss, len(labels), multi_label=multi_label, mixes=mixes)
    train_options = {}
    if args.fit.progressive_resizing < 1:
        epochs = math.ceil(training_args.num_train_epochs)
        train_options = resize_progressively(model, batches.train_transform, args.fit.progressive_resizing, epochs)
    if training_args.device.type == "cpu" and not args.fit.quantization_aware_training:  # NNCF looks for convolutions
        speed_up_depthwise(model)
    plan = TrainPlan(
        model=model,
        train_device_transform=batches.train_device_transform,
        eval_device_transform=batches.eval_device_transform,
        new_accumulator=new_accumulator,
        train=batches.train,
        validation=batches.validation,
        processor=processor,
        set_epoch=batches.set_epoch,
        loss=build_loss(args.fit, labels, batches.record.splits.get("train"), multi_label=multi_label),
        own_loss=hooks.loss,
        sampler=build_sampler(args.fit, batches, order_seed),
        distiller=build_distiller(args.fit, args.data, labels, processor, multi_label=multi_label),
        build_schedule=choose_schedule(args, training_args),
        callbacks=[*_build_callbacks(model, args.fit), *hooks.callbacks],
        train_options=train_options,
        layer_lr_decay=args.fit.layer_lr_decay,
        ema_decay=args.fit.ema_decay,
        channels_last=args.fit.channels_last,
        identity=identity,
    )
    try:
        return ImageClassificationTrainer(plan, training_args)
    except (ImportError, RuntimeError, ValueError) as error:
        raise refuse_arguments(error) from error


def _build_callbacks(model: nn.Module, fit: FitArguments) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if fit.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(fit.early_stopping_patience, fit.early_stopping_threshold))
    if fit.unfreeze_epochs:
        callbacks.append(GradualUnfreezing(model, fit.unfreeze_epochs))
    return callbacks


def choose_schedule(args: Arguments, training_args: TrainingArguments) -> ScheduleBuilder | None:
    """Return what builds the run's learning-rate schedule; ``None`` for those of transformers."""
    if args.fit.find_lr:
        return grow_learning_rate
    if args.training.get("lr_scheduler_type") == "step":
        return functools.partial(schedule_steps, training_args, args.training.get("lr_scheduler_kwargs") or {})
    return None


def resolve_workers(training_args: TrainingArguments, batches: BatchPlan, explicit: set[str]) -> None:
    """Use no loader processes, in place, where images are kept decoded and the user asked for none.

    Such batches are copied out of memory, which costs less than handing them from process to process
    (benchmarks/input_pipeline.py, 32 x 32 pixels).
    """
    asked = {"dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor"} & explicit
    if batches.train_transform.resamples_on_device and not asked:
        training_args.dataloader_num_workers = 0


def resolve_unused_parameters(training_args: TrainingArguments, model: nn.Module, image_size: tuple[int, int]) -> None:
    """Spare DDP its search for parameters without a gradient, in place, where all that learn get one.

    A backward pass of one grey image shows it, in evaluation mode, which changes neither BatchNorm nor random state.
    Some models have parameters for a pretraining task only, such as DINOv2's mask token: there the search stays.

    Args:
        training_args: A user's own ``ddp_find_unused_parameters`` stays as it is.
        model: As it is trained.
        image_size: Height and width of its input in pixels.
    """
    if training_args.world_size == 1 or training_args.ddp_find_unused_parameters is not None:
        return
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    try:
        device = next(model.parameters()).device
        logits = model.eval()(pixel_values=torch.zeros(1, 3, *image_size, device=device)).logits
        gradients = torch.autograd.grad(logits.sum(), learning, allow_unused=True)
    finally:
        model.train(training)
    if all(gradient is not None for gradient in gradients):
        training_args.ddp_find_unused_parameters = False


def choose_selection_metric(
    training_args: TrainingArguments, multi_label: bool, num_labels: int, adaptation: str
) -> None:
    """Resolve ``--metric_for_best_model auto``, in place, and refuse a metric that the labels do not have.

    Raises:
        ArgumentError: It is a metric of the other kind of labels, or of more classes.
    """
    name = training_args.metric_for_best_model
    if name == "auto":
        name = choose_selection(adaptation, multi_label=multi_label)
        training_args.metric_for_best_model = name
        training_args.greater_is_better = is_higher_better(name)
    elif name is not None and training_args.load_best_model_at_end:
        known = list_metrics(TRAINING, EVALUATION, multi_label=multi_label)
        kind = "several labels" if multi_label else "one label"
        if name.removeprefix("eval_") in METRICS and name.removeprefix("eval_") not in known:
            raise ArgumentError(
                f"metric_for_best_model is {name!r}, and an image has {kind}",
                "one of " + ", ".join(known),
                "choose one of these, or leave it out",
            )
        if name.removeprefix("eval_") == "top5_accuracy" and num_labels <= 5:
            raise ArgumentError(
                f"metric_for_best_model is {name!r}, and there are {num_labels} classes: it is always 1",
                "more than 5 classes",
                "choose another one, or leave it out",
            )


def _check_splits(training_args: TrainingArguments, batches: BatchPlan) -> None:
    """Refuse data without a split that is needed, or whose training split gives no step, or no end."""
    for split, flag, is_needed, fix in (
        ("train", "--do_train", training_args.do_train, "name one with --train_dir or --train_split_name"),
        ("validation", "--do_eval", training_args.do_eval, "cut one with --train_val_split 0.15, or --do_eval false"),
    ):
        if is_needed and split not in batches.splits:
            raise DataError(f"the dataset has no {split} split", f"one for {flag}", fix)
    train = batches.train
    if isinstance(train, StreamingSplit) and training_args.max_steps <= 0 and not has_length(train):
        raise DataError(
            "a stream whose length is not known, and max_steps is not given",
            "a number of steps, or parquet files, which know how many rows they have",
            "pass --max_steps N: N times the batch size, over all processes, is the number of images",
        )
    needed = training_args.train_batch_size * training_args.world_size
    if training_args.dataloader_drop_last and has_length(train) and len(train) < needed:
        raise DataError(
            f"dataloader_drop_last, and the {len(train)} training images make no batch of {needed}",
            "at least one whole batch",
            "leave out --dataloader_drop_last, or pass a smaller --per_device_train_batch_size",
        )


def _check_gradient_checkpointing(training_args: TrainingArguments, model: Any) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if training_args.gradient_checkpointing and not base.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(base).__name__} has no gradient checkpointing",
            "ViT, Swin and their like",
            "use --auto_find_batch_size",
        )
