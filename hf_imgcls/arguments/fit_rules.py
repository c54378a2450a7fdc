"""What training, a probe and a search ask of the arguments, beyond the rows of `hf_imgcls.arguments.combinations`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.defaults import steps_agree
from hf_imgcls.arguments.metric_names import check_metrics
from hf_imgcls.arguments.types import Argument, CoercionError, check_value, coerce, is_within
from hf_imgcls.errors import ArgumentError
from hf_imgcls.provenance import count_processes

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments, FitArguments

# What ``--tune`` may vary, with an example: what a Trainer that is already built still asks its arguments for.
TUNABLE = {
    "learning_rate": "[0.0001, 0.01]",
    "weight_decay": "[0.0, 0.3]",
    "label_smoothing_factor": "[0.0, 0.2]",
    "num_train_epochs": "[5, 10, 20]",
    "max_grad_norm": "[0.1, 10.0]",
    "adam_beta1": "[0.8, 0.99]",
    "adam_beta2": "[0.95, 0.999]",
    "per_device_train_batch_size": "[16, 32, 64]",
    "gradient_accumulation_steps": "[1, 2, 4]",
    "lr_scheduler_type": "[linear, cosine, constant_with_warmup]",
    "optim": "[adamw_torch, sgd, adafactor]",
}
# What has no effect where the head is solved for: no image is augmented, and no optimizer step is taken.
_STEPS_ONLY = (
    "loss", "imbalance", "teacher_model", "early_stopping_patience", "head_dropout", "ema_decay", "model_soup",
    "find_lr", "progressive_resizing",
)  # fmt: skip


def check_training(arguments: Arguments, complete: bool) -> Iterator[ArgumentError]:
    """Find what keeps a run from training, evaluating and testing as it is asked to.

    Args:
        arguments: With all defaults filled in, those of ``do_train`` and ``eval_strategy`` among them.
        complete: Whether everything the user wrote was understood; if not, nothing is reported as missing.
    """
    if complete:
        yield from _check_task(arguments)
    yield from _check_processes(arguments)
    yield from _check_evaluation(arguments)
    yield from _check_checkpoints(arguments.training)
    yield from _check_probe(arguments)
    training = arguments.training
    if int(training.get("max_steps") or 0) == 0 and "max_steps" in arguments.explicit:
        yield ArgumentError("max_steps is 0", "a number of steps, or -1 for whole epochs", "leave it out")
    yield from check_metrics(arguments)
    if training.get("lr_scheduler_type") == "step":
        yield from _check_step_schedule(training.get("lr_scheduler_kwargs") or {})


def _check_task(arguments: Arguments) -> Iterator[ArgumentError]:
    """Find a run that has nothing to do, or nothing to do it with."""
    data, fit, training = arguments.data, arguments.fit, arguments.training
    if not any(training.get(name) for name in ("do_train", "do_eval", "do_predict")):
        found = "do_train, do_eval and do_predict are all false"
        yield ArgumentError(found, "something to do", "set one of them to true")
    if training["do_train"] and not (data.dataset_name or data.train_dir or data.train_file):
        fix = "add --train_dir or --dataset_name"
        yield ArgumentError("do_train without training data", "a training source", fix)
    if not training["do_train"] and not fit.model_name_or_path:
        found = f"with model_type {fit.model_type}" if fit.model_type else "without a model"
        yield ArgumentError(f"do_train false {found}", "a trained model", "name it: --model_name_or_path")


def _check_processes(arguments: Arguments) -> Iterator[ArgumentError]:
    """Find what only a single process can do."""
    world_size = count_processes()
    for name in ("unfreeze_epochs", "tune"):
        if world_size > 1 and getattr(arguments.fit, name):
            fix = f"leave {name} out, or launch one process"
            yield ArgumentError(f"{name} in {world_size} processes", "a single process", fix)


def _check_evaluation(arguments: Arguments) -> Iterator[ArgumentError]:
    """Find what needs evaluations while training, or a validation split, where there is none."""
    fit, training = arguments.fit, arguments.training
    if fit.tune and not (training["do_train"] and training["do_eval"]):
        fix = "leave --do_train and --do_eval out"
        yield ArgumentError("tune without do_train and do_eval", "both", fix)
    evaluates = training["do_train"] and training["eval_strategy"] != "no"
    if fit.early_stopping_patience is not None and not evaluates:
        fix = "add --eval_strategy epoch"
        yield ArgumentError("early_stopping_patience without evaluation", "an eval_strategy", fix)
    if not training["do_train"]:
        return
    if training["load_best_model_at_end"]:
        yield from _check_best_model(training, evaluates)
    if fit.model_soup and not (evaluates and training["save_strategy"] != "no"):
        fix = "leave eval_strategy and save_strategy out"
        yield ArgumentError("model_soup without evaluation or checkpoints", "both", fix)
    if arguments.measure.calibrate and not training["do_eval"]:
        expected = "a validation split to fit the temperature on"
        yield ArgumentError("calibrate true with do_eval false", expected, "add --do_eval")


def _check_best_model(training: Mapping[str, Any], evaluates: bool) -> Iterator[ArgumentError]:
    """Find checkpoints whose metric is not measured."""
    saved, names = training["save_strategy"], ("eval_strategy", "eval_steps", "save_strategy", "save_steps")
    if not evaluates:
        fix = "add --eval_strategy epoch"
        yield ArgumentError("load_best_model_at_end without evaluation", "an eval_strategy", fix)
    elif saved != "best" and (saved != training["eval_strategy"] or not steps_agree(training)):
        yield ArgumentError(
            "load_best_model_at_end with " + ", ".join(f"{name} {training.get(name)}" for name in names),
            "the same strategy for both, and save_steps a multiple of eval_steps",
            "give one of them only: the other follows",
        )


def _check_checkpoints(training: Mapping[str, Any]) -> Iterator[ArgumentError]:
    named = str(training.get("resume_from_checkpoint"))
    if training["do_train"] and named.lower() not in ("none", "auto", "true", "false") and not os.path.isdir(named):
        yield ArgumentError(
            f"resume_from_checkpoint is {named!r}: there is no such folder",
            "auto, false, or a checkpoint-* folder",
            "correct the path, or leave it out: the newest whole checkpoint in output_dir is found",
        )


def _check_step_schedule(settings: dict[str, Any]) -> Iterator[ArgumentError]:
    ranges = {"step_epochs": "(0, inf)", "gamma": "(0, 1]"}
    wrong = [
        f"{name}: {value!r}"
        for name, value in settings.items()
        if name not in ranges or not isinstance(value, (int, float)) or not is_within(value, ranges[name])
    ]
    if wrong:
        yield ArgumentError(
            f"lr_scheduler_kwargs {{{', '.join(wrong)}}} with lr_scheduler_type step",
            "step_epochs, epochs between two drops, above 0; and gamma, the factor of a drop, in (0, 1]",
            "for example --lr_scheduler_kwargs '{step_epochs: 30, gamma: 0.1}'",
        )


def _check_probe(arguments: Arguments) -> Iterator[ArgumentError]:
    """Find what keeps a head from being solved for, instead of training it or before."""
    fit = arguments.fit
    if fit.adaptation not in ("probe", "auto") or not arguments.training["do_train"]:
        return
    yield from find_probe_obstacles(arguments, f"adaptation {fit.adaptation}")
    asked = [name for name in _STEPS_ONLY if name in arguments.explicit]
    given = [name for name in asked if getattr(fit, name) not in ("auto", "none", False, 1.0)]
    if given and fit.adaptation == "probe":
        found = f"{', '.join(given)} with adaptation probe"
        yield ArgumentError(found, "an adaptation that takes optimizer steps", "use --adaptation head")


def find_probe_obstacles(arguments: Arguments, what: str) -> list[ArgumentError]:
    """Return what in the arguments keeps a probe from being fitted.

    Args:
        arguments: Of the run.
        what: What the probe is for, the first words of the messages.
    """
    problems = []
    if arguments.data.streaming:
        found = f"{what} with streaming true"
        problems.append(ArgumentError(found, "images that are read in order", "leave --streaming out"))
    if not arguments.training["do_eval"]:
        expected = "a validation split, which chooses the penalty"
        problems.append(ArgumentError(f"{what} with do_eval false", expected, "add --do_eval"))
    if (world_size := count_processes()) > 1:
        problems.append(ArgumentError(f"{what} in {world_size} processes", "a single process", "launch one process"))
    return problems


def check_tune_space(
    fit: FitArguments, training: Mapping[str, Any], known: Mapping[str, Argument]
) -> list[ArgumentError]:
    """Return what is wrong with the ranges and choices of a search.

    Args:
        fit: With ``tune_space``.
        training: With all defaults filled in.
        known: The arguments of the command.
    """
    problems = []
    for name, allowed in (fit.tune_space or {}).items():
        found = f"tune_space has {name}: {allowed!r}"
        if name not in TUNABLE:
            problems.append(ArgumentError(found, "a name of " + ", ".join(TUNABLE), "leave it out"))
            continue
        try:
            if not isinstance(allowed, list) or len(allowed) < 2:
                raise CoercionError("two numbers for a range, or a list of three or more to choose from")
            values = [coerce(value, known[name].type) for value in allowed]
        except CoercionError as error:
            problems.append(ArgumentError(found, str(error), f"for example {{{name}: {TUNABLE[name]}}}"))
            continue
        problems += [problem for value in values if (problem := check_value(known[name], value, "tune_space: "))]
        numbers = len(values) == 2 and all(isinstance(value, (int, float)) for value in values)
        if numbers and values[0] >= values[1]:
            problems.append(ArgumentError(found, "the lower end first", "swap the two numbers"))
        if name == "lr_scheduler_type" and "step" in (*values, training.get("lr_scheduler_type")):
            expected = "schedules of transformers, as --lr_scheduler_type too"
            problems.append(ArgumentError(found, expected, "leave step out"))
        if name == "num_train_epochs" and fit.progressive_resizing < 1:
            problems.append(ArgumentError(f"{found} with progressive_resizing", "one of them", "leave one of them out"))
    return problems
