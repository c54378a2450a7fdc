"""Before training: what the data is like, what the run will cost on this machine, and what is likely to help."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset

from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.errors import DataError
from hf_imgcls.fit.hints import HINTS, RunPlan, give_hints
from hf_imgcls.fit.model import find_own_size
from hf_imgcls.fit.rehearsal import count_steps
from hf_imgcls.fit.resolve_policy import describe_situation
from hf_imgcls.provenance import has_bfloat16

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

_SIZED_IMAGES = 200  # whose headers are read
# Parameters: a ViT of 0.3 million took twice as long in bfloat16, a ConvNeXt of 28 million three quarters.
_WORTH_CONVERTING = 5_000_000


def describe_plan(
    asked: Arguments,
    dataset: ImageDataset,
    args: TrainingArguments,
    model: nn.Module,
    image_size: tuple[int, int],
    sizes: np.ndarray,
) -> RunPlan:
    """Collect what hints are about.

    Args:
        asked: What the user asked for, before a dry run shortened it, completed by the policy.
        dataset: As loaded.
        args: Batch sizes and processes as they were settled.
        model: What is trained.
        image_size: Height and width of the model's input in pixels.
        sizes: From `read_sizes`.
    """
    train, validation = (dataset.record.splits.get(name) for name in ("train", "validation"))
    num_images = train.num_examples if train else None
    situation = describe_situation(asked.fit, args, model, image_size, num_images, asked.training)
    is_adam = str(getattr(args.optim, "value", args.optim)).startswith("adam")
    own_side = None
    if asked.fit.model_name_or_path is not None and asked.data.image_size is not None:
        own_side = max(find_own_size(asked.fit, asked.data))
    return RunPlan(
        situation,
        model_type=asked.fit.model_type,
        adaptation=asked.fit.adaptation,
        is_adaptation_given="adaptation" in asked.explicit,
        imbalance=asked.fit.imbalance,
        multi_label=dataset.is_multi_label,
        class_counts=(train.class_counts if train else None) or {},
        num_validation=(validation.num_available or validation.num_examples) if validation else None,
        metric=(args.metric_for_best_model or "").removeprefix("eval_"),
        source_side=int(np.median(sizes.max(axis=1))) if len(sizes) else None,
        image_side=max(image_size),
        own_side=own_side,
        steps=_count_steps(asked, num_images, situation.images_per_step),
        has_max_steps=int(asked.training.get("max_steps") or -1) > 0,
        learning_rate=args.learning_rate if is_adam and "learning_rate" not in asked.policy else None,
    )


def advise(asked: Arguments, plan: RunPlan) -> list[str]:
    """Return how many optimizer steps the run will take, and what is likely to help, a line each.

    Args:
        asked: What the user asked for, completed by the policy.
        plan: From `describe_plan`.
    """
    return [*_describe_steps(asked, plan), *(f"Hint         {hint}" for hint in give_hints(HINTS, plan))]


def _describe_steps(asked: Arguments, plan: RunPlan) -> list[str]:
    if not plan.steps or "num_train_epochs" in asked.policy:  # then the policy has said it
        return []
    num_images, images = plan.situation.num_images, plan.situation.images_per_step
    epochs = float(asked.training.get("num_train_epochs") or 3)
    counted = f"{num_images:,} images, {images:,} a step" if num_images else f"{images:,} images a step"
    many = "" if plan.has_max_steps else f"{epochs:g} epoch{'s' if epochs != 1 else ''} of "
    return [f"Steps        {plan.steps:,} optimizer step{'s' if plan.steps > 1 else ''}: {many}{counted}"]


def _count_steps(asked: Arguments, num_images: int | None, images_per_step: int) -> int | None:
    if asked.fit.adaptation == "probe":
        return None
    epochs = float(asked.training.get("num_train_epochs") or 3)
    return count_steps(int(asked.training.get("max_steps") or -1), epochs, num_images, images_per_step)


def describe_data(dataset: ImageDataset, image_size: tuple[int, int], sizes: np.ndarray) -> list[str]:
    """What there is to learn from.

    Args:
        dataset: As loaded.
        image_size: Height and width of the model's input in pixels.
        sizes: From `read_sizes`.
    """
    train = dataset.record.splits.get("train")
    lines = []
    parts = [(name, split.num_available or split.num_examples) for name, split in dataset.record.splits.items()]
    lines.append("Images       " + ", ".join(f"{count:,} {name}" if count else name for name, count in parts))
    if train is not None and train.class_counts:
        counts = sorted(train.class_counts.values())
        ratio = f", imbalance ratio {counts[-1] / counts[0]:,.1f}" if counts[0] else ", some classes without any"
        lines.append(
            f"Per class    {counts[0]:,} to {counts[-1]:,} for training, median {np.median(counts):,.0f}, of "
            f"{len(counts):,} classes{ratio}"
        )
    if len(sizes):
        width, height = np.median(sizes, axis=0).astype(int)
        least, most = sizes.min(), sizes.max()
        lines.append(
            f"Size         {width} x {height} pixels (median), sides of {least} to {most}; the model sees "
            f"{image_size[1]} x {image_size[0]}"
        )
    return lines


def read_sizes(dataset: ImageDataset) -> np.ndarray:
    """Width and height in pixels of up to 200 training images: int64 ``(N, 2)``, empty for a stream."""
    split = dataset.splits.get("train")
    if not isinstance(split, Dataset):
        return np.empty((0, 2), dtype=np.int64)
    rows = np.unique(np.linspace(0, len(split) - 1, _SIZED_IMAGES).astype(int))
    sizes = []
    for source in split.select_columns(["image"])[rows.tolist()]["image"]:
        try:
            sizes.append(EncodedImage(source).size)
        except DataError:
            continue  # said elsewhere, by name
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def advise_precision(args: TrainingArguments, num_parameters: int) -> list[str]:
    """Whether another precision would train faster on this CPU: a user's choice, for it changes numbers.

    Args:
        args: As they were settled.
        num_parameters: Of the model; the smallest are slower in bfloat16, where converting costs more than it saves.
    """
    has = has_bfloat16()
    if args.device.type != "cpu" or args.fp16 or has is None or has == args.bf16:
        return []
    if has and num_parameters < _WORTH_CONVERTING:
        return []
    if has:
        hint = "this CPU multiplies in bfloat16: with --bf16 true a ConvNeXt trained 1.3 times as fast"
    else:
        hint = "this CPU has no instructions for bfloat16: --bf16 true is slower than float32"
    return [f"Hint         {hint}"]


def estimate_cost(
    trainer: ImageClassificationTrainer, seconds: Sequence[float], asked: Arguments, dataset: ImageDataset,
    eval_rate: float | None,
) -> list[str]:  # fmt: skip
    """What the run will take, from steps that were really done.

    Args:
        trainer: After the steps of a dry run.
        seconds: Of the steps, the slow first one included.
        asked: The arguments of the run that was rehearsed.
        dataset: As loaded for the dry run.
        eval_rate: Images a second in evaluation; ``None`` without one.
    """
    args = trainer.args
    images = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if not seconds:
        return ["The run      takes no steps: its head is solved for"]
    step = float(np.median(seconds[1:] or seconds))
    lines = [f"A step       {step:.2f} s for {images} images on {_name_devices(args)}: {images / step:,.0f} images/s"]
    train, validation = dataset.record.splits["train"], dataset.record.splits.get("validation")
    asked_steps, epochs = int(asked.training.get("max_steps") or -1), float(asked.training.get("num_train_epochs") or 3)
    if steps := count_steps(asked_steps, epochs, train.num_examples, images):
        total = steps * step
        text = f"{steps:,} steps"
        available = (validation.num_available or validation.num_examples or 0) if validation else 0
        available = min(available, asked.data.max_eval_samples or available)
        if asked.training.get("eval_strategy") == "epoch" and available and eval_rate:
            total += (int(np.ceil(epochs)) + 1) * available / eval_rate
            text += f" and {int(np.ceil(epochs)) + 1} validations of {available:,} images"
        lines.append(f"The run      about {_say_time(total)} for {text}, without the test at its end")
    if args.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(args.device)
        free = torch.cuda.get_device_properties(args.device).total_memory
        lines.append(f"Memory       {peak / 2**30:.1f} of {free / 2**30:.1f} GiB of the GPU")
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        total_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        lines.append(f"Memory       {peak / 2**30:.1f} of {total_memory / 2**30:.1f} GiB, at most, in a process")
    return lines


def _name_devices(args: TrainingArguments) -> str:
    kind = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "CPU"
    return kind if args.world_size == 1 else f"{args.world_size} x {kind}"


def _say_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
