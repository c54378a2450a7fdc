"""Fill in what the user has left open, by the training policy, once the data and the model are known."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from torch import nn

from hf_imgcls.arguments.recipe import to_recipe
from hf_imgcls.arguments.training_policy import AUTO_IMAGES, Situation, choose_values
from hf_imgcls.earlier_start import list_changed_arguments, list_left_open
from hf_imgcls.fit.adapt import choose_finetuning
from hf_imgcls.fit.probe import explain_no_probe
from hf_imgcls.fit.rehearsal import count_steps
from hf_imgcls.fit.training_arguments import update_training_arguments
from hf_imgcls.records import RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel, TrainingArguments

    from hf_imgcls.arguments.fields import Arguments, FitArguments
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

# Who says how the weights are trained gets just that, without a probe before it.
_STEPS = (
    "learning_rate", "num_train_epochs", "max_steps", "adaptation", "freeze_layers", "unfreeze_epochs", "teacher_model",
    "prune_ratio", "quantization_aware_training", "model_soup", "progressive_resizing", "tune", "find_lr", "loss",
    "imbalance",
)  # fmt: skip


def resolve_policy(
    args: Arguments,
    asked: Arguments,
    training_args: TrainingArguments,
    model: PreTrainedModel,
    image_size: tuple[int, int],
    dataset: ImageDataset,
    run_file: Path,
) -> tuple[Arguments, Arguments]:
    """Fill in what the user has left open.

    Args:
        args: What runs: ``asked``, or a shortened version of it (a dry run, a search), whose own values stay.
        asked: What the user asked for.
        training_args: Built from ``args``; changed in place.
        model: As it was built, before anything of it is frozen.
        image_size: Height and width of its input in pixels.
        dataset: As loaded.
        run_file: ``run.json`` of an earlier start of this very run, if there was one: it goes on with the values it
            began with, on another number of processes, too.

    Returns:
        ``args`` and ``asked`` with the values, which they name in ``policy``.
    """
    if asked.fit.training_policy == "none" or not training_args.do_train:
        return args, asked
    values = _read_earlier(run_file, asked) or _choose(asked, training_args, model, image_size, dataset)
    if training_args.world_size > 1:  # the folder of an earlier start may be on the main process's machine alone
        values = broadcast_object_list([values])[0]
    update_training_arguments(training_args, {k: v for k, v in values.items() if k not in args.training})
    return _fill(args, values), _fill(asked, values)


def describe_policy(asked: Arguments, dataset: ImageDataset, args: TrainingArguments) -> list[str]:
    """Return in one line what was filled in, and how to change it.

    Args:
        asked: From `resolve_policy`.
        dataset: As loaded.
        args: Batch sizes and processes as they were settled.
    """
    if not asked.policy - {"training_policy"}:
        return []
    values, parts = to_recipe(asked), []
    images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    train = dataset.record.splits.get("train")
    if "adaptation" in asked.policy:
        parts.append(f"adaptation {values['adaptation']}")
    if "num_train_epochs" in asked.policy and train is not None and train.num_examples:
        epochs = float(values["num_train_epochs"])
        steps = count_steps(-1, epochs, train.num_examples, images)
        parts.append(f"{train.num_examples:,} images: {epochs:g} epochs, {steps:,} steps")
    if "learning_rate" in asked.policy:
        parts.append(f"learning rate {values['learning_rate']:g}")
    others = sorted(asked.policy - {"adaptation", "num_train_epochs", "learning_rate", "training_policy"})
    parts += [f"{name} {values[name]}" for name in others]
    flags = ", ".join(f"--{name}" for name in ("num_train_epochs", "learning_rate") if name in asked.policy)
    return [f"Policy       {'; '.join(parts)}" + (f" ({flags} change it)" if flags else "")]


def _read_earlier(run_file: Path, asked: Arguments) -> dict[str, Any] | None:
    """Return the values that this very run began with, if it was begun and not finished."""
    if not run_file.exists():
        return None
    run = RunRecord.load(run_file)
    if run.state == "finished" or list_changed_arguments(run, asked):
        return None
    return {"training_policy": "none", **{name: run.recipe[name] for name in list_left_open(run)}}


def _choose(
    asked: Arguments,
    training_args: TrainingArguments,
    model: PreTrainedModel,
    image_size: tuple[int, int],
    dataset: ImageDataset,
) -> dict[str, Any]:
    train = dataset.record.splits["train"]
    values: dict[str, Any] = {"training_policy": "none"}  # the values hold, whatever a later release's policy says
    fit = asked.fit
    if _starts_from_probe(asked, model, image_size, train.num_examples):
        fit = dataclasses.replace(fit, adaptation="auto")
        values["adaptation"] = "auto"
    situation = describe_situation(fit, training_args, model, image_size, train.num_examples, asked.training)
    return values if fit.adaptation == "probe" else values | choose_values(situation, asked.explicit)


def describe_situation(
    fit: FitArguments,
    training_args: TrainingArguments,
    model: nn.Module,
    image_size: tuple[int, int],
    num_images: int | None,
    asked: Mapping[str, Any],
) -> Situation:
    """Return what the policy's table is asked with.

    Args:
        fit: What is trained.
        training_args: Batch sizes and processes.
        model: For its kind of normalization.
        image_size: Height and width of its input in pixels.
        num_images: Training images; None where nobody knows.
        asked: The user's own training arguments.
    """
    return Situation(
        trained=choose_finetuning(fit),
        is_scratch=fit.model_type is not None,
        has_batch_norm=any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()),
        num_images=num_images,
        images_per_step=training_args.train_batch_size
        * training_args.gradient_accumulation_steps
        * training_args.world_size,
        image_size=max(image_size),
        starts_from_probe=fit.adaptation == "auto",
        schedule=asked.get("lr_scheduler_type"),
    )


def _starts_from_probe(
    asked: Arguments, model: PreTrainedModel, image_size: tuple[int, int], num_images: int | None
) -> bool:
    """Whether a run that was not told what to train begins with a probe (``--adaptation auto``)."""
    if (
        asked.explicit.intersection(_STEPS)
        or asked.hooks.keys() & {"loss", "model"}
        or asked.fit.model_type is not None
    ):
        return False
    if not num_images or num_images > AUTO_IMAGES:
        return False
    reason = explain_no_probe(model, asked, image_size)
    if reason is not None:
        logger.info("All weights are trained from the start, without a probe: %s.", reason)
    return reason is None


def _fill(args: Arguments, values: dict[str, Any]) -> Arguments:
    parts, training = {}, dict(values)
    for stage in ("data", "fit"):
        names = {field.name for field in dataclasses.fields(getattr(args, stage))} & values.keys()
        if names:  # else kept as it is, with what its fields do not hold: how the model's images are read
            parts[stage] = dataclasses.replace(getattr(args, stage), **{name: training.pop(name) for name in names})
    return dataclasses.replace(args, **parts, training=training | args.training, policy=set(values))
