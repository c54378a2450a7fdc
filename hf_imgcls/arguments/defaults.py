"""Our defaults for ``TrainingArguments``, where the user gave none: one table, each row with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.augmentation import AUGMENTATION_PARTS
from hf_imgcls.catalogue import is_higher_better
from hf_imgcls.errors import ArgumentError
from hf_imgcls.provenance import count_cores

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments

# What changes nothing where a head is solved for (--adaptation probe).
_STEPS_ONLY = (
    "learning_rate", "num_train_epochs", "max_steps", "weight_decay", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "warmup_ratio", "per_device_train_batch_size", "gradient_accumulation_steps",
    "label_smoothing_factor", "augmentation", *AUGMENTATION_PARTS,
)  # fmt: skip
MIN_STEPS = 100  # fewer show that the machinery works, and nothing about the model
SGD_MOMENTUM = 0.9  # fit/optimizers.py


@dataclass(frozen=True)
class TrainingDefault:
    """One row of the table.

    Attributes:
        name: The argument.
        value: Its default, or how it follows from the arguments; ``None`` leaves it to transformers.
        shown: The default in words, for ``--help``.
        reason: Why it is not transformers' own.
    """

    name: str
    value: Any | Callable[[Arguments], Any]
    shown: Any
    reason: str


def _output_dir(arguments: Arguments) -> str:
    data, fit = arguments.data, arguments.fit
    source = (
        data.dataset_name
        or data.train_dir
        or data.train_file
        or data.unlabelled_dir
        or data.validation_dir
        or data.validation_file
    )
    names = (
        source or data.test_dir or data.test_file or "dataset",
        fit.model_name_or_path or fit.model_type or "model",
    )
    dataset, model = (Path(name.rstrip("/")).stem if os.path.isfile(name) else Path(name).name for name in names)
    return f"outputs/{dataset}_{model}"


def _do_train(arguments: Arguments) -> bool:
    data = arguments.data
    sources = (data.dataset_name, data.train_dir, data.train_file, data.unlabelled_dir)
    return any(sources) and not arguments.training.get("do_eval")


def _do_eval(arguments: Arguments) -> bool:
    data, training = arguments.data, arguments.training
    if "do_train" in arguments.explicit and training["do_train"]:
        return training.get("eval_strategy", "no") != "no"
    sources = (data.dataset_name, data.train_dir, data.train_file, data.validation_dir, data.validation_file)
    return any(sources)


def _evaluates(arguments: Arguments) -> bool:
    return bool(arguments.training.get("do_train") and arguments.training.get("do_eval"))


def _eval_strategy(arguments: Arguments) -> str:
    training = arguments.training
    if not _evaluates(arguments):
        return "no"
    if "eval_steps" not in training and training.get("save_strategy") in ("steps", "epoch"):
        return str(training["save_strategy"])
    return "steps" if arguments.data.streaming or training.keys() & {"eval_steps", "save_steps"} else "epoch"


def _save_strategy(arguments: Arguments) -> str:
    evaluated = arguments.training.get("eval_strategy", "no")
    if "save_steps" in arguments.training or (arguments.data.streaming and evaluated == "no"):
        return "steps"
    return evaluated if evaluated != "no" else "epoch"


def _steps(strategy: str, other: str) -> Callable[[Arguments], Any]:
    def follow(arguments: Arguments) -> Any:
        training = arguments.training
        return training.get(other) or 500 if training.get(strategy) == "steps" else None

    return follow


def _load_best(arguments: Arguments) -> bool:
    training = arguments.training
    evaluated, saved = training["eval_strategy"], training["save_strategy"]
    if not _evaluates(arguments) or evaluated == "no":
        return False
    return saved == "best" or (evaluated == saved and steps_agree(training))


def steps_agree(training: Mapping[str, Any]) -> bool:
    """Whether every checkpoint falls on an evaluation, which choosing the best one needs."""
    if training.get("eval_strategy") != "steps":
        return True
    evaluated, saved = training["eval_steps"], training["save_steps"]
    return (evaluated < 1) == (saved < 1) and abs(saved / evaluated - round(saved / evaluated)) < 1e-9


def _num_workers(arguments: Arguments) -> int:
    cores = count_cores()
    return min(4, cores // 2) if cores > 2 else 0


def _save_total_limit(arguments: Arguments) -> int:
    return 5 if arguments.fit.model_soup else 2


def _greater_is_better(arguments: Arguments) -> bool:
    return is_higher_better(str(arguments.training["metric_for_best_model"]))


# In this order: a row may look at the rows above it.
TRAINING_DEFAULTS = (
    TrainingDefault(
        "output_dir", _output_dir, "outputs/<dataset>_<model>", "each run has a folder that says what it is"
    ),
    TrainingDefault(
        "do_train", _do_train, "true, unless only --do_eval is given", "training is what the command is for"
    ),
    TrainingDefault("do_eval", _do_eval, "true, unless only --do_train is given", "a model is not trained unseen"),
    TrainingDefault("do_predict", True, True, "the test split is scored once, at the end"),
    TrainingDefault(
        "eval_strategy", _eval_strategy, "as save_strategy, or epoch; steps when streaming", "to see progress"
    ),
    TrainingDefault(
        "save_strategy", _save_strategy, "as eval_strategy", "the best checkpoint must have been evaluated"
    ),
    TrainingDefault("eval_steps", _steps("eval_strategy", "save_steps"), "as save_steps, or 500", "as above"),
    TrainingDefault("save_steps", _steps("save_strategy", "eval_steps"), "as eval_steps, or 500", "as above"),
    TrainingDefault("load_best_model_at_end", _load_best, "true when evaluating", "the best epoch is rarely the last"),
    TrainingDefault(
        "metric_for_best_model",
        "auto",
        "auto: accuracy, or mean_average_precision for multi-label data",
        "it is what classifiers are chosen by",
    ),
    TrainingDefault(
        "greater_is_better", _greater_is_better, "false for a loss or an error", "ece has no 'loss' in its name"
    ),
    TrainingDefault(
        "save_total_limit", _save_total_limit, "2; 5 with --model_soup", "best and newest are enough; disks fill up"
    ),
    TrainingDefault(
        "resume_from_checkpoint", "auto", "auto: the newest whole one in output_dir", "a run that was stopped goes on"
    ),
    TrainingDefault("logging_nan_inf_filter", False, False, "true would put 0 into the log for NaN"),
    TrainingDefault(
        "logging_steps", 50, 50, "500 steps are a whole run on a small dataset; an epoch's end is logged too"
    ),
    TrainingDefault("report_to", "none", "none", "4.57 would report to every tracker that is installed"),
    TrainingDefault("per_device_train_batch_size", 32, 32, "images are small beside texts"),
    TrainingDefault(
        "optim_args",
        None,
        f"momentum={SGD_MOMENTUM} for --optim sgd",
        "SGD without momentum is not what is meant by SGD; settings that an optimizer does not have are refused",
    ),
    TrainingDefault("per_device_eval_batch_size", 64, 64, "no gradients are kept"),
    TrainingDefault(
        "dataloader_num_workers",
        _num_workers,
        "half the cores, at most 4; none for small images that are kept decoded",
        "decoding must not wait for the GPU",
    ),
    TrainingDefault("label_names", ["labels"], "labels", "4.57 guesses it from the model's signature"),
    TrainingDefault("remove_unused_columns", False, False, "true would drop the image column before it is read"),
)


def fill_training(arguments: Arguments, known: Collection[str]) -> list[ArgumentError]:
    """Translate what only one transformers line understands, then fill in the table's defaults, in place.

    Args:
        arguments: With what the user gave in ``training``.
        known: The names this command has; no other default is filled in.

    Returns:
        What is wrong with the translated arguments.
    """
    training, problems = arguments.training, []
    if training.pop("save_safetensors", True) is False:
        problems.append(
            ArgumentError("save_safetensors is false", "true: only safetensors files are written", "leave it out")
        )
    if 0 < training.get("warmup_steps", 0) < 1:  # transformers 5 says a ratio this way
        training["warmup_ratio"] = training.pop("warmup_steps")
        arguments.explicit.add("warmup_ratio")
    if training.get("warmup_ratio") and training.get("warmup_steps"):
        del training["warmup_ratio"]
        arguments.notes.append("warmup_ratio is not used, because warmup_steps is given.")
    if training.get("remove_unused_columns"):
        training["remove_unused_columns"] = False
        arguments.notes.append("remove_unused_columns true would drop the image column: it is false.")
    if training.get("logging_nan_inf_filter"):
        training["logging_nan_inf_filter"] = False
        arguments.notes.append("logging_nan_inf_filter true would hide NaN in the log: it is false.")
    if arguments.fit.adaptation == "probe" and (idle := [name for name in _STEPS_ONLY if name in arguments.explicit]):
        arguments.notes.append(f"adaptation probe neither augments nor takes steps: {', '.join(idle)} are not used.")
    organization = training.pop("push_to_hub_organization", None)
    for row in TRAINING_DEFAULTS:
        if row.name in known and row.name not in training:
            value = row.value(arguments) if callable(row.value) else row.value
            if value is not None:
                training[row.name] = list(value) if isinstance(value, list) else value
    if training.get("save_total_limit") == 1 and training.get("load_best_model_at_end"):
        training["save_total_limit"] = 2
        arguments.notes.append("save_total_limit 1 has no room for the best and the newest checkpoint: it is 2.")
    if organization:
        name = training.get("hub_model_id") or Path(training.get("output_dir", "model")).name
        training["hub_model_id"] = f"{organization}/{name.rpartition('/')[2]}"
    return problems
