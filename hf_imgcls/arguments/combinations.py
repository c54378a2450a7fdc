"""Arguments that need one another, and arguments that exclude one another: two tables, one row a rule.

A row consists of conditions. ``"streaming"`` holds where an argument is switched on, which is where it has neither its
default nor an empty value; ``"adaptation lora|auto"`` holds where it has one of these values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.augmentation import POLICIES, resolve_augmentation
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


@dataclass(frozen=True)
class Needs:
    """Arguments that have no effect without another one; it matters that the user gave them, with whatever value.

    Attributes:
        names: The arguments, with commas.
        other: What they need; one of these, where there are commas.
    """

    names: str
    other: str


@dataclass(frozen=True)
class Excludes:
    """Arguments that cannot be combined with others.

    Attributes:
        names: The arguments, with commas.
        others: What none of them goes with, with commas; each is an error of its own.
        expected: What would be accepted.
        fix: What to do; ``{name}`` is the first of ``names`` that is there, ``{other}`` the one of ``others``.
    """

    names: str
    others: str
    expected: str = "one of them"
    fix: str = "leave one of them out"


_OF_HUB_DATASETS = "dataset_config_name, dataset_revision, train_split_name, validation_split_name, test_split_name"
# Where a source has to be named.
SOURCE_NEEDS = (
    Needs(_OF_HUB_DATASETS, "dataset_name"),
    Needs("image_folder, image_suffix", "train_file, validation_file, test_file"),
)
NEEDS = (
    Needs("shots_seed", "shots_per_class"),
    Needs("randaugment_num_ops, randaugment_magnitude", "auto_augment randaugment"),
    Needs("model_config", "model_type"),
    Needs("lora_rank, lora_alpha, lora_dropout, lora_target_modules", "adaptation lora, auto_finetune lora"),
    Needs("auto_finetune", "adaptation auto"),
    Needs("train_layers", "adaptation partial"),
    Needs("distillation_temperature, distillation_weight", "teacher_model"),
    Needs("focal_gamma", "loss focal, imbalance focal"),
    Needs("effective_number_beta", "imbalance effective_number"),
    Needs("early_stopping_threshold", "early_stopping_patience"),
    Needs("tune_space", "tune"),
)
EXCLUDES = (
    # Data
    Excludes(
        _OF_HUB_DATASETS, "dataset_name digits", "the name alone: there is only one version of it", "leave {name} out",
    ),
    Excludes(
        "shots_per_class", "streaming, max_train_samples", "one of them: both choose what is trained on",
        "leave {other} out",
    ),
    Excludes("group_column", "streaming", "a dataset that is read as a whole"),
    Excludes(
        "on_bad_image skip", "scan_images false, streaming", "a scan of every image before training, to find bad ones",
        "use --on_bad_image error, or leave {other} out",
    ),
    Excludes(
        "image_mean dataset, image_std dataset", "streaming", "images that can be measured first", "give three numbers",
    ),
    Excludes("cache_decoded_images true", "streaming", "cache_decoded_images auto: a stream is not cached"),
    Excludes("show_batch", "streaming", fix="leave out --show_batch"),
    Excludes("augmentation_repeats", "streaming", "one of them: a stream shows every image once"),
    Excludes(
        "imbalance weights|effective_number|balanced_sampler|logit_adjust", "streaming",
        "a dataset whose classes can be counted before training", "use --imbalance focal, or no streaming",
    ),
    Excludes("imbalance balanced_sampler", "augmentation_repeats"),
    # What is trained
    Excludes(
        "model_type", "model_name_or_path, config_name", "model_type to train from scratch, or a pretrained model",
        "keep one of them; `--NAME null` unsets what a file has set",
    ),
    Excludes("imbalance focal", "loss cross_entropy|bce|asymmetric", "one loss", "leave out --loss"),
    Excludes(
        "imbalance logit_adjust", "loss bce|asymmetric", "a loss for mutually exclusive classes",
        "use --loss cross_entropy",
    ),
    Excludes(
        "prune_ratio, quantization_aware_training", "adaptation head|probe|lora|auto",
        "adaptation full or partial (training must recover the accuracy that is lost)", "use one of these",
    ),
    Excludes(
        "prune_ratio, quantization_aware_training", "model_type", "a trained model", "name it: --model_name_or_path",
    ),
    Excludes(
        "quantization_aware_training",
        "prune_ratio, ema_decay, model_soup, unfreeze_epochs, progressive_resizing, layer_lr_decay, fsdp, deepspeed, "
        "torch_compile, gradient_checkpointing, activation_checkpointing, streaming, calibrate",
    ),
    Excludes(
        "freeze_layers", "adaptation head|probe|partial|lora|auto",
        "adaptation full: the others choose for themselves what is frozen", "leave freeze_layers out",
    ),
    Excludes(
        "freeze_batch_norm", "model_type", "a trained model, which has running statistics", "leave {name} out",
    ),
    Excludes("layer_lr_decay", "adaptation head|probe", "adaptation full, partial, lora or auto", "leave {name} out"),
    Excludes("unfreeze_epochs", "adaptation head|probe|lora|auto", "adaptation full or partial", "leave {name} out"),
    Excludes("layer_lr_decay, ema_decay, model_soup", "fsdp", "weights that are not sharded", "leave out {name}"),
    Excludes("ema_decay, model_soup", "deepspeed", "weights that are not sharded", "leave out {name}"),
    Excludes("model_soup", "adaptation lora|auto", "checkpoints of whole weights", "use another adaptation"),
    Excludes("progressive_resizing", "max_steps", "a run of epochs", "use --num_train_epochs"),
    Excludes("bf16", "fp16", fix="keep bf16 where the hardware has it"),
    # What is done
    Excludes("tune", "find_lr, dry_run"),
    Excludes("find_lr", "dry_run"),
    Excludes("tune", "adaptation probe|auto", "an adaptation that takes optimizer steps", "use another one"),
    Excludes("tune", "fsdp, deepspeed", "a single process", "launch one, with a smaller recipe if needed"),
    Excludes("tune", "unfreeze_epochs", "layers that are all trained", "leave unfreeze_epochs out"),
    Excludes(
        "export_formats", "do_train false", "a run that trains", "use hf-imgcls export for a trained model",
    ),
    Excludes(
        "eval_strategy steps|epoch", "do_eval false", "evaluation on or off", "use --eval_strategy no, or --do_eval",
    ),
    # Afterwards
    Excludes(
        "slice_columns, goals, measure_latency, explain_samples", "report false", "a report", "pass --report true",
    ),
    Excludes("compare", "predictions"),
    Excludes("public", "hub_private_repo"),
)  # fmt: skip
PRETRAINING_EXCLUDES = (
    "streaming, augmentation_repeats, mixup_alpha, cutmix_alpha, label_smoothing_factor, lr_scheduler_type step, "
    "save_strategy best, gradient_checkpointing, activation_checkpointing, fsdp, deepspeed, auto_find_batch_size"
)
REPEATING_EXCLUDES = "tune, find_lr, dry_run, push_to_hub, do_train false, do_predict false"


class Values:
    """The values of all arguments by name, and whether a condition of a row holds for them."""

    def __init__(self, arguments: Arguments) -> None:
        stages = (arguments.data, arguments.fit, arguments.measure, arguments.publish)
        self._values = {name: value for stage in stages for name, value in vars(stage).items()}
        self._off = {name: value for stage in stages for name, value in vars(type(stage)()).items()}
        # Parts of the augmentation have the values of its policy, and are off where nothing is done.
        self._values |= vars(resolve_augmentation(arguments.data)) | arguments.training
        self._off |= vars(POLICIES["none"])

    def holds(self, condition: str) -> bool:
        """Whether an argument is on, or has one of the values."""
        name, _, words = condition.partition(" ")
        if words:
            return _show(self._values.get(name)) in words.split("|")
        return self._values.get(name) not in (None, False, 0, -1, "", [], {}, self._off.get(name))

    def list_held(self, conditions: str) -> list[str]:
        """Return those of several conditions, with commas between them, that hold."""
        return [condition for condition in conditions.split(", ") if self.holds(condition)]

    def describe(self, condition: str) -> str:
        """Return the argument of a condition with its value, or without a value that is long."""
        name = condition.partition(" ")[0]
        return f"{name} {_show(self._values.get(name))}".rstrip()


def check_needs(rows: Iterable[Needs], values: Values, explicit: set[str]) -> Iterator[ArgumentError]:
    """Find arguments that were given without what they need.

    Args:
        rows: The rules.
        values: Of all arguments.
        explicit: Names that the user gave.
    """
    for row in rows:
        names = ", ".join(name for name in row.names.split(", ") if name in explicit)
        if names and not values.list_held(row.other):
            other = row.other.split(", ")[0]
            name, _, value = other.partition(" ")
            if value:
                yield ArgumentError(f"{names} with {values.describe(name)}", other, f"add --{other}")
            else:
                yield ArgumentError(f"{names} without {name}", "both", f"add --{name}, or leave {names} out")


def check_exclusions(values: Values) -> Iterator[ArgumentError]:
    """Find arguments that exclude one another."""
    for row in EXCLUDES:
        names = values.list_held(row.names)
        for other in values.list_held(row.others) if names else ():
            first, second = names[0].partition(" ")[0], other.partition(" ")[0]
            found = f"{', '.join(_as_given(name, values) for name in names)} with {values.describe(other)}"
            yield ArgumentError(found, row.expected, row.fix.format(name=first, other=second))


def _as_given(condition: str, values: Values) -> str:
    """The name alone, unless the condition is about a value."""
    return values.describe(condition) if " " in condition else condition


def _show(value: Any) -> str:
    """A short value as a file of arguments has it; nothing for a mapping or a list."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else ""
