"""Before training: what the data is like, what the run will cost on this machine, and what is likely to help."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset

from hf_imgcls.data.decode import EncodedImage
from hf_imgcls.errors import DataError
from hf_imgcls.fit.rehearsal import count_steps
from hf_imgcls.provenance import has_bfloat16
from hf_imgcls.training_defaults import MIN_STEPS

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments import Arguments, FitArguments
    from hf_imgcls.data.load import ImageDataset
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

_SIZED_IMAGES = 200  # whose headers are read
# Parameters: a ViT of 0.3 million took twice as long in bfloat16, a ConvNeXt of 28 million three quarters.
_WORTH_CONVERTING = 5_000_000
# Steps: below it a run from scratch has hardly begun; and how many times what is enough a hint aims at.
_ENOUGH_SCRATCH, _AIM = 500, 1.6
_IMBALANCED, _FEW, _VERY_FEW, _SMALL_VALIDATION = 10, 1000, 100, 200


def advise(
    dataset: ImageDataset, fit: FitArguments, image_size: tuple[int, int], best_metric: str | None = None
) -> list[str]:
    """What a run begins with: figures of the data, and hints that follow from them.

    Args:
        dataset: As loaded.
        fit: What is trained, and how.
        image_size: Height and width of the model's input in pixels.
        best_metric: ``metric_for_best_model``.
    """
    sizes = read_sizes(dataset)
    return [*describe_data(dataset, image_size, sizes), *give_hints(dataset, fit, image_size, sizes, best_metric)]


def advise_steps(asked: Arguments, dataset: ImageDataset, args: TrainingArguments) -> list[str]:
    """Return how many optimizer steps the run will take, and that they are few if they are.

    Args:
        asked: What the user asked for, before a dry run shortened it.
        dataset: As loaded.
        args: Batch sizes and processes as they were settled.
    """
    train = dataset.record.splits.get("train")
    if asked.fit.adaptation == "probe" or train is None or not args.do_train:
        return []
    images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    max_steps, epochs = int(asked.training.get("max_steps") or -1), float(asked.training.get("num_train_epochs") or 3)
    steps = count_steps(max_steps, epochs, train.num_examples, images)
    if not steps:
        return []
    counted = f"{train.num_examples:,} images, {images:,} a step" if train.num_examples else f"{images:,} images a step"
    many = "" if max_steps > 0 else f"{epochs:g} epoch{'s' if epochs != 1 else ''} of "
    lines = [f"Steps        {steps:,} optimizer step{'s' if steps > 1 else ''}: {many}{counted}"]
    scratch = asked.fit.model_type is not None
    if steps < (enough := _ENOUGH_SCRATCH if scratch else MIN_STEPS):
        if max_steps > 0:
            more = f"--max_steps {int(np.ceil(_AIM * enough))}"
        else:
            per_epoch = steps / epochs
            longer = int(np.ceil(_AIM * enough / per_epoch))
            more = f"--num_train_epochs {longer} makes {round(longer * per_epoch):,}"
        what = "from scratch" if scratch else "to fine-tune with"
        smoke = "; the model card will call it a smoke run" if steps < MIN_STEPS else ""
        lines.append(f"Hint         {steps:,} step{'s are' if steps > 1 else ' is'} few {what}{smoke}: {more}")
    return lines


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


def give_hints(
    dataset: ImageDataset,
    fit: FitArguments,
    image_size: tuple[int, int],
    sizes: np.ndarray,
    best_metric: str | None = None,
) -> list[str]:
    """What is likely to help, each with the figure that says so.

    Args:
        dataset: As loaded.
        fit: What is trained, and how.
        image_size: Height and width of the model's input in pixels.
        sizes: From `read_sizes`.
        best_metric: ``metric_for_best_model``.
    """
    hints = []
    splits = dataset.record.splits
    train, validation = splits.get("train"), splits.get("validation")
    class_counts = (train.class_counts if train else None) or {}
    if class_counts:
        counts = list(class_counts.values())
        typical = float(np.median(counts))
        rare = [name for name, count in class_counts.items() if count < 10]
        if rare:
            named = ", ".join(map(repr, rare[:3])) + (" ..." if len(rare) > 3 else "")
            hints.append(f"{len(rare)} classes have fewer than 10 training images ({named}): collect more of them")
        if max(counts) >= _IMBALANCED * max(min(counts), 1) and fit.imbalance == "none" and not dataset.is_multi_label:
            hints.append(
                f"the largest class has {max(counts) / max(min(counts), 1):,.0f} times the images of the smallest: try "
                "--imbalance logit_adjust, and look at macro_f1 rather than accuracy"
            )
        if fit.model_type is not None and typical < _FEW:
            hints.append(
                f"{typical:,.0f} images a class are few to learn from scratch: a pretrained --model_name_or_path is "
                "likely to help more than anything else"
            )
        elif fit.model_type is None and typical < _VERY_FEW and fit.adaptation == "full":
            hints.append(
                f"{typical:,.0f} images a class are few to train all weights with: try --adaptation head or lora first"
            )
    if dataset.record.pixel_mean is not None and fit.model_type is None:
        hints.append(
            "pretrained weights expect the normalization that they were trained with: --image_mean and --image_std "
            "dataset are for training from scratch"
        )
    available = (validation.num_available or validation.num_examples) if validation else None
    if available and available < _SMALL_VALIDATION:
        points = 98 / np.sqrt(available)
        is_fine = fit.adaptation == "auto" or (best_metric or "").removeprefix("eval_") in ("log_loss", "loss")
        finer = "" if is_fine else "--metric_for_best_model log_loss, which is finer, or "
        hints.append(
            f"{available} validation images tell models apart that differ by {points:.0f} points or more: use "
            f"{finer}a larger --train_val_split"
        )
    if len(sizes) and max(image_size) >= 3 * (side := int(np.median(sizes.max(axis=1)))):
        times = (max(image_size) / side) ** 2
        hints.append(
            f"images of {side} pixels are enlarged to {max(image_size)}, which costs {times:.0f} times as much: from "
            "scratch use a smaller --image_size and patch size; pretrained models need theirs"
        )
    return [f"Hint         {hint}" for hint in hints]


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
