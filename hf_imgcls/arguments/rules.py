"""Whether the arguments make sense, alone and together, before any time is spent on them."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.augmentation import resolve_augmentation
from hf_imgcls.arguments.defaults import steps_agree
from hf_imgcls.arguments.fields import EXPORT_FORMATS
from hf_imgcls.arguments.hub_names import find_license_problem, find_notes_problem, is_repo_id
from hf_imgcls.arguments.metric_names import check_metrics
from hf_imgcls.arguments.types import Argument, CoercionError, coerce, is_within, show_value
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments

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
_FOLDERS = ("train_dir", "validation_dir", "test_dir")
_FILES = ("train_file", "validation_file", "test_file")
_FILES_ONLY = ("image_folder", "image_suffix")
_HUB_ONLY = ("dataset_config_name", "dataset_revision", "train_split_name", "validation_split_name", "test_split_name")
_TEACHER_ONLY = ("distillation_temperature", "distillation_weight")
# What has no say where the head is solved for: no image is augmented, and no optimiser step is taken.
_STEPS_ONLY = (
    "loss", "imbalance", "teacher_model", "early_stopping_patience", "head_dropout", "ema_decay", "model_soup",
    "find_lr", "progressive_resizing",
)  # fmt: skip
_NOT_FOR_PRETRAINING = (
    "gradient_checkpointing", "activation_checkpointing", "fsdp", "deepspeed", "auto_find_batch_size",
)  # fmt: skip
_LORA_ONLY = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules")


def check_value(argument: Argument, value: Any, prefix: str) -> ArgumentError | None:
    """Check one value, already of its type, against its argument's choices and range.

    Args:
        argument: What the value is for.
        value: The value.
        prefix: What to put before the argument's name in a message: ``"--"`` or the file's name.
    """
    found = f"{prefix}{argument.name} is {show_value(value)}"
    if argument.type.choices and isinstance(value, str) and value not in argument.type.choices:
        near = difflib.get_close_matches(value, argument.type.choices, n=2)
        fix = f"did you mean {' or '.join(near)}?" if near else "choose one of these"
        return ArgumentError(found, str(argument.type), fix)
    numbers = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, (int, float))]
    if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
        return ArgumentError(found, "an integer below 2**63", "choose a smaller value")
    if argument.within and not all(is_within(number, argument.within) for number in numbers):
        return ArgumentError(found, f"{argument.type} in {argument.within}", "choose a value in this range")
    return None


def check_arguments(
    arguments: Arguments, known: Mapping[str, Argument], *, complete: bool = True
) -> list[ArgumentError]:
    """Find contradictions between arguments, and files and folders that are not there.

    Args:
        arguments: With all defaults filled in.
        known: The arguments this command has; what it does not have is not missing.
        complete: Whether everything the user wrote was understood; if not, nothing is said to be missing.
    """
    measure = arguments.measure
    has_data = arguments.in_memory or measure.predictions or measure.compare
    needs_data = complete and "dataset_name" in known and not has_data
    problems = _check_sources(arguments.data, needs_data) + _check_pixels(arguments.data) + _check_measure(measure)
    problems += _check_model(arguments.fit, arguments.explicit) + _check_card(arguments.publish)
    problems += _check_push(arguments, known, complete) + _check_export(arguments.publish)
    if {"do_train", "eval_strategy"} <= arguments.training.keys():
        problems += _check_training(arguments, complete) + _check_probe(arguments) + _check_tune(arguments, known)
    if "method" in known:
        problems += _check_pretraining(arguments)
    if "repeats" in known:
        problems += _check_repeats(arguments)
    for name in ("deepspeed", "fsdp_config", "accelerator_config"):
        value = arguments.training.get(name)
        if isinstance(value, str) and not os.path.isfile(value):
            problems.append(
                _error(f"{name} is {value!r}, which is no file", "a JSON file or a mapping", "correct the path")
            )
    return problems


def _check_measure(measure: MeasureArguments) -> list[ArgumentError]:
    problems = []
    if measure.compare is not None and len(measure.compare) != 2:
        problems.append(_error(f"compare names {len(measure.compare)} runs", "2: the old one, the new one", "name two"))
    if measure.compare and measure.predictions:
        problems.append(_error("compare and predictions are both given", "one of them", "leave one out"))
    for path in (*(measure.compare or ()), *filter(None, [measure.predictions])):
        if not os.path.exists(path):
            problems.append(_error(f"there is no {path!r}", "a run's folder or a prediction table", "correct the path"))
    if measure.report == "false":
        asked = [
            name for name in ("slice_columns", "goals", "measure_latency", "explain_samples") if getattr(measure, name)
        ]
        if asked:
            problems.append(_error(f"{', '.join(asked)} with report false", "a report", "pass --report true"))
    return problems


def _check_card(publish: PublishArguments) -> list[ArgumentError]:
    """What would be wrong with the card, as far as it is known before training."""
    problems = []
    if wrong := find_license_problem(publish.license, publish.license_name, publish.license_link):
        problems.append(_error(*wrong))
    if publish.card_notes is not None:
        expected = "a Markdown file in UTF-8"
        try:
            with open(publish.card_notes, encoding="utf-8") as file:
                reason = find_notes_problem(file.read())
        except (OSError, ValueError) as error:  # a ValueError is text in no UTF-8, or a name that no file can have
            reason = str(error)
        if reason is not None:
            problems.append(_error(f"card_notes is {publish.card_notes!r}: {reason}", expected, "correct the file"))
    return problems


def _check_push(arguments: Arguments, known: Mapping[str, Argument], complete: bool) -> list[ArgumentError]:
    publish, training = arguments.publish, arguments.training
    problems = []
    for name, value in (("hub_model_id", training.get("hub_model_id")), ("space", publish.space)):
        if value is not None and not is_repo_id(value):
            problems.append(
                _error(
                    f"{name} is {value!r}",
                    "owner/name, both of letters, digits, '.', '_' and '-', at most 96 characters",
                    "for example --hub_model_id me/my_model",
                )
            )
    if publish.hub_tag is not None and (publish.create_pr or not re.fullmatch(r"[\w][\w.+-]{0,99}", publish.hub_tag)):
        why = "with create_pr: a proposal has no tag" if publish.create_pr else f"is {publish.hub_tag!r}"
        problems.append(_error(f"hub_tag {why}", "a tag such as v1.0, on a commit", "leave one of them out"))
    if publish.public and training.get("hub_private_repo"):
        problems.append(_error("public and hub_private_repo are both true", "one of them", "leave one out"))
    if "run" in known and complete:
        if publish.run is None and publish.space is None:
            problems.append(_error("no run is named", "RUN, a run's folder", "python recipes/push.py outputs/my_run"))
        elif publish.run is not None and not os.path.isdir(publish.run):
            problems.append(_error(f"there is no folder {publish.run!r}", "a run's folder", "correct the path"))
        elif publish.run is None and not training.get("hub_model_id"):
            problems.append(_error("space without a model", "RUN or --hub_model_id", "name the model it is to show"))
    return problems


def _check_export(publish: PublishArguments) -> list[ArgumentError]:
    problems = []
    for name in publish.export_formats or ():
        if name not in EXPORT_FORMATS:
            near = difflib.get_close_matches(name, EXPORT_FORMATS, n=3)
            fix = f"did you mean {' or '.join(near)}?" if near else "choose among these"
            problems.append(_error(f"export_formats has {name!r}", f"some of {', '.join(EXPORT_FORMATS)}", fix))
        elif publish.fold_preprocessing and not name.startswith(("onnx", "openvino")):
            problems.append(
                _error(f"fold_preprocessing with {name}", "ONNX or OpenVINO formats", f"export {name} without it")
            )
    return problems


def _error(found: str, expected: str, fix: str) -> ArgumentError:
    return ArgumentError(found, expected, fix)


def _given(part: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(part, name) is not None]


def _check_sources(data: DataArguments, complete: bool) -> list[ArgumentError]:
    problems = []
    kinds = [
        names
        for names in (_given(data, kind) for kind in (("dataset_name",), _FOLDERS, _FILES, ("unlabelled_dir",)))
        if names
    ]
    if len(kinds) > 1:
        problems.append(
            _error(
                f"the data comes from {' and from '.join(', '.join(names) for names in kinds)}",
                "one source: --dataset_name, or --train_dir and its like, or --train_file and its like",
                "keep one of them; `--NAME null` unsets what a file has set",
            )
        )
    if not kinds and complete:
        problems.append(
            _error(
                "no dataset is named",
                "--dataset_name, --train_dir, --train_file or their like",
                "try the built-in sample: --dataset_name digits",
            )
        )
    if data.dataset_name is None and (extra := _given(data, _HUB_ONLY)) and complete:
        problems.append(_error(f"{', '.join(extra)} without dataset_name", "both", "add --dataset_name"))
    if data.dataset_name == "digits" and (extra := _given(data, _HUB_ONLY)):
        found = f"{', '.join(extra)} with digits"
        problems.append(_error(found, "the name alone: there is one of it", f"leave out {extra[0]}"))
    elif data.dataset_revision and os.path.isdir(os.path.expanduser(str(data.dataset_name))):
        found = f"dataset_revision {data.dataset_revision} with the folder {data.dataset_name}"
        problems.append(_error(found, "a dataset on the Hub: a folder is what it is", "leave out dataset_revision"))
    if (extra := _given(data, _FILES_ONLY)) and not _given(data, _FILES) and complete:
        problems.append(_error(f"{', '.join(extra)} without train_file or its like", "both", f"leave out {extra[0]}"))
    if data.image_suffix is not None and not re.fullmatch(r"\.?[A-Za-z0-9]+", data.image_suffix):
        problems.append(_error(f"image_suffix is {data.image_suffix!r}", "a suffix such as .jpg", "correct it"))
    folders = (*_FOLDERS, "unlabelled_dir", "image_folder")
    for names, exists, word in ((folders, os.path.isdir, "folder"), (_FILES, os.path.isfile, "file")):
        for name in _given(data, names):
            path = getattr(data, name)
            if not exists(os.path.expanduser(path)):
                problems.append(
                    _error(f"{name} is {path!r}: there is no such {word}", f"an existing {word}", "correct the path")
                )
        paths = {name: os.path.expanduser(getattr(data, name)) for name in _given(data, names)}
        places = {name: os.path.realpath(path) for name, path in paths.items() if exists(path)}
        for name, other in combinations(places, 2):
            if places[name] == places[other]:
                problems.append(
                    _error(
                        f"{name} and {other} are both {getattr(data, name)!r}",
                        "splits that are apart: else the numbers are about images that training or selection has seen",
                        f"name other images, or leave out {other}: where it is needed, it is cut from train",
                    )
                )
    if data.shots_per_class is not None:
        for name, given in (("streaming", data.streaming), ("max_train_samples", data.max_train_samples is not None)):
            if given:
                problems.append(
                    _error(
                        f"shots_per_class with {name}",
                        "one of them: both choose what is trained on",
                        f"leave {name} out",
                    )
                )
    if data.group_column and data.streaming:
        problems.append(_error("group_column with streaming", "a dataset that is read as a whole", "leave one out"))
    for name in ("train_val_split", "test_split"):
        share = getattr(data, name)
        if isinstance(share, float) and share >= 1:
            problems.append(
                _error(
                    f"{name} is {share}",
                    "a fraction below 1, or a whole number of examples",
                    "write it without a point",
                )
            )
    for name, value in (("scan_images", False), ("streaming", True)):
        if data.on_bad_image == "skip" and getattr(data, name) is value:
            problems.append(
                _error(
                    f"on_bad_image skip with {name} {str(value).lower()}",
                    "every image looked at beforehand: only then is it known which ones to leave out",
                    f"leave out one of them: --{name} {str(not value).lower()}, or --on_bad_image error",
                )
            )
    return problems


def _check_pixels(data: DataArguments) -> list[ArgumentError]:
    problems = []
    for name in ("image_mean", "image_std"):
        value = getattr(data, name)
        if value == "dataset" and data.streaming:
            problems.append(
                _error(f"{name} dataset with streaming true", "images that can be measured first", "give three numbers")
            )
        elif value not in (None, "dataset") and len(value) != 3:
            problems.append(_error(f"{name} has {len(value)} values", "3: red, green, blue", "give three numbers"))
    if data.image_size is not None and data.image_size**2 > data.max_image_pixels:
        problems.append(
            _error(
                f"image_size {data.image_size} makes images of {data.image_size**2:,} pixels",
                f"at most max_image_pixels, {data.max_image_pixels:,}",
                "give the side in pixels that the model is to see, such as 224",
            )
        )
    for name in ("random_crop_scale", "random_crop_ratio"):
        value = getattr(data, name)
        if value is not None and (len(value) != 2 or value[0] > value[1]):
            problems.append(
                _error(f"{name} is {value}", "2 numbers: smallest, largest", "give two numbers in this order")
            )
    problems += _check_augmentation(data)
    if data.alpha_background is not None and not re.fullmatch(r"[A-Za-z]+|#[0-9A-Fa-f]{6}", data.alpha_background):
        problems.append(
            _error(
                f"alpha_background is {data.alpha_background!r}",
                "drop, a colour's name or #rrggbb",
                "try white or '#808080'",
            )
        )
    low_high = data.intensity_range
    if low_high is not None and (len(low_high) != 2 or not -math.inf < low_high[0] < low_high[1] < math.inf):
        problems.append(
            _error(
                f"intensity_range is {low_high}",
                "2 numbers: the value that becomes black, and a larger one that becomes white",
                "for example --intensity_range 0 4095",
            )
        )
    if data.streaming and data.cache_decoded_images == "true":
        problems.append(
            _error("cache_decoded_images true with streaming true", "one of them", "a stream is not kept: use auto")
        )
    return problems


def _check_augmentation(data: DataArguments) -> list[ArgumentError]:
    problems = []
    jitter = data.color_jitter
    if jitter is not None and (len(jitter) != 4 or jitter[3] > 0.5):
        expected = "4 numbers: brightness, contrast, saturation, and hue of at most 0.5"
        problems.append(_error(f"color_jitter is {jitter}", expected, "for example --color_jitter 0.2 0.2 0.2 0.05"))
    asked = resolve_augmentation(data)
    given = [name for name in ("randaugment_num_ops", "randaugment_magnitude") if getattr(data, name) is not None]
    if given and asked.auto_augment != "randaugment":
        found = f"{', '.join(given)} with auto_augment {asked.auto_augment}"
        problems.append(_error(found, "auto_augment randaugment", "add --auto_augment randaugment"))
    if data.show_batch and data.streaming:
        problems.append(_error("show_batch with streaming true", "one of them", "leave out --show_batch"))
    if asked.augmentation_repeats > 1 and data.streaming:
        problems.append(
            _error("augmentation_repeats with streaming true", "one of them", "a stream shows every image once")
        )
    return problems


def _check_model(fit: FitArguments, explicit: set[str]) -> list[ArgumentError]:
    problems = []
    for name in ("model_name_or_path", "config_name"):
        if fit.model_type is not None and getattr(fit, name) is not None:
            problems.append(
                _error(
                    f"model_type {fit.model_type} and {name} {getattr(fit, name)}",
                    "model_type to train from scratch, or a pretrained model",
                    "keep one of them; `--NAME null` unsets what a file has set",
                )
            )
    if fit.model_config is not None and fit.model_type is None:
        problems.append(
            _error("model_config without model_type", "both", "add --model_type, or leave model_config out")
        )
    lora = [name for name in _LORA_ONLY if name in explicit]
    if lora and fit.adaptation != "lora" and (fit.adaptation, fit.auto_finetune) != ("auto", "lora"):
        problems.append(
            _error(f"{', '.join(lora)} with adaptation {fit.adaptation}", "adaptation lora", "add --adaptation lora")
        )
    if "shots_seed" in explicit and "shots_per_class" not in explicit:
        problems.append(_error("shots_seed without shots_per_class", "both", "add --shots_per_class"))
    if fit.prune_ratio and fit.adaptation not in ("full", "partial"):
        found = f"prune_ratio with adaptation {fit.adaptation}"
        problems.append(_error(found, "adaptation full or partial, which mends what is left", "use one of these"))
    if fit.prune_ratio and fit.model_type is not None:
        problems.append(
            _error(f"prune_ratio with model_type {fit.model_type}", "a trained model", "name it: --model_name_or_path")
        )
    if fit.quantization_aware_training:
        if fit.adaptation not in ("full", "partial"):
            found = f"quantization_aware_training with adaptation {fit.adaptation}"
            problems.append(_error(found, "adaptation full or partial, whose weights learn", "use one of these"))
        if fit.model_type is not None:
            found = f"quantization_aware_training with model_type {fit.model_type}"
            problems.append(_error(found, "a trained model", "name it: --model_name_or_path"))
        others = ("prune_ratio", "ema_decay", "model_soup", "unfreeze_epochs")
        given = [name for name in others if getattr(fit, name)]
        given += [name for name in ("progressive_resizing", "layer_lr_decay") if getattr(fit, name) < 1]
        for name in given:
            problems.append(_error(f"quantization_aware_training with {name}", "one after the other", "leave one out"))
    if fit.teacher_model is None and (given := [name for name in _TEACHER_ONLY if name in explicit]):
        problems.append(_error(f"{', '.join(given)} without teacher_model", "both", "add --teacher_model"))
    problems += _check_loss(fit, explicit)
    if fit.freeze_layers and fit.adaptation != "full":
        problems.append(
            _error(
                f"freeze_layers {fit.freeze_layers} with adaptation {fit.adaptation}",
                "adaptation full: the others freeze every layer already",
                "leave freeze_layers out",
            )
        )
    if fit.freeze_batch_norm and fit.model_type is not None:
        found = f"freeze_batch_norm with model_type {fit.model_type}"
        problems.append(_error(found, "a trained model, which has statistics", "leave freeze_batch_norm out"))
    if "auto_finetune" in explicit and fit.adaptation != "auto":
        problems.append(
            _error(f"auto_finetune with adaptation {fit.adaptation}", "adaptation auto", "add --adaptation auto")
        )
    if "train_layers" in explicit and fit.adaptation != "partial":
        problems.append(
            _error(f"train_layers with adaptation {fit.adaptation}", "adaptation partial", "add --adaptation partial")
        )
    for name, is_given, rungs in (
        ("layer_lr_decay", fit.layer_lr_decay < 1, ("full", "partial", "lora", "auto")),
        ("unfreeze_epochs", fit.unfreeze_epochs > 0, ("full", "partial")),
    ):
        if is_given and fit.adaptation not in rungs:
            problems.append(
                _error(
                    f"{name} with adaptation {fit.adaptation}", f"adaptation {' or '.join(rungs)}", f"leave {name} out"
                )
            )
    if fit.unfreeze_epochs and (world_size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        problems.append(
            _error(
                f"unfreeze_epochs in {world_size} processes",
                "one process: several must agree on what learns from the start",
                "leave unfreeze_epochs out, or launch one process",
            )
        )
    return problems


def _check_probe(arguments: Arguments) -> list[ArgumentError]:
    """What stands in the way of solving for a head, instead of training it or before."""
    fit = arguments.fit
    if fit.adaptation not in ("probe", "auto") or not arguments.training["do_train"]:
        return []
    problems = find_probe_obstacles(arguments, f"adaptation {fit.adaptation}")
    asked = [name for name in _STEPS_ONLY if name in arguments.explicit]
    given = [name for name in asked if getattr(fit, name) not in ("auto", "none", False, 1.0)]
    if given and fit.adaptation == "probe":
        problems.append(
            _error(f"{', '.join(given)} with adaptation probe", "a head that is solved for", "use --adaptation head")
        )
    return problems


def find_probe_obstacles(arguments: Arguments, what: str) -> list[ArgumentError]:
    """What in the arguments stands in the way of a probe.

    Args:
        arguments: Of the run.
        what: Begins with a probe, for the messages.
    """
    problems = []
    if arguments.data.streaming:
        problems.append(_error(f"{what} with streaming true", "images that are read in order", "leave out --streaming"))
    if not arguments.training["do_eval"]:
        problems.append(
            _error(f"{what} with do_eval false", "a validation split, which chooses the penalty", "add --do_eval")
        )
    if (world_size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        problems.append(_error(f"{what} in {world_size} processes", "one process", "launch one"))
    return problems


def _check_loss(fit: FitArguments, explicit: set[str]) -> list[ArgumentError]:
    problems = []
    if "focal_gamma" in explicit and "focal" not in (fit.loss, fit.imbalance):
        problems.append(_error(f"focal_gamma with loss {fit.loss}", "the focal loss", "add --loss focal"))
    if "effective_number_beta" in explicit and fit.imbalance != "effective_number":
        found = f"effective_number_beta with imbalance {fit.imbalance}"
        problems.append(_error(found, "imbalance effective_number", "add --imbalance effective_number"))
    if fit.imbalance == "focal" and fit.loss not in ("auto", "focal"):
        problems.append(_error(f"imbalance focal with loss {fit.loss}", "one loss", "leave out --loss"))
    if fit.imbalance == "logit_adjust" and fit.loss in ("bce", "asymmetric"):
        found = f"imbalance logit_adjust with loss {fit.loss}"
        problems.append(_error(found, "a loss of classes that exclude each other", "use --loss cross_entropy"))
    return problems


def _check_training(arguments: Arguments, complete: bool) -> list[ArgumentError]:
    data, fit, training = arguments.data, arguments.fit, arguments.training
    problems = []
    if fit.layer_lr_decay < 1 and training.get("fsdp"):
        problems.append(_error("layer_lr_decay with fsdp", "layers that are not sharded", "leave one of them out"))
    if not any(training.get(name) for name in ("do_train", "do_eval", "do_predict")):
        problems.append(_error("do_train, do_eval and do_predict are all false", "something to do", "set one of them"))
    sources = (arguments.in_memory, data.dataset_name, data.train_dir, data.train_file)
    if training["do_train"] and complete and not any(sources):
        problems.append(
            _error("do_train without training data", "a training source", "add --train_dir or --dataset_name")
        )
    if not training["do_train"] and complete and not fit.model_name_or_path:
        found = f"with model_type {fit.model_type}" if fit.model_type else "without a model"
        problems.append(_error(f"do_train false {found}", "a trained model", "name it: --model_name_or_path"))
    if arguments.publish.export_formats and not training["do_train"]:
        problems.append(
            _error(
                "export_formats with do_train false", "a run that trains", "use recipes/export.py for a trained model"
            )
        )
    if int(training.get("max_steps") or 0) == 0 and "max_steps" in arguments.explicit:
        problems.append(_error("max_steps is 0", "a number of steps, or -1 for whole epochs", "leave it out"))
    evaluates = training["do_train"] and training["eval_strategy"] != "no"
    if training["eval_strategy"] != "no" and not training["do_eval"]:
        problems.append(
            _error(
                f"eval_strategy {training['eval_strategy']} with do_eval false",
                "evaluation on or off",
                "use --eval_strategy no, or --do_eval",
            )
        )
    if training["load_best_model_at_end"] and training["do_train"]:
        if not evaluates:
            problems.append(
                _error("load_best_model_at_end without evaluation", "an eval_strategy", "add --eval_strategy epoch")
            )
        elif training["save_strategy"] != "best" and (
            training["save_strategy"] != training["eval_strategy"] or not steps_agree(training)
        ):
            names = ("eval_strategy", "eval_steps", "save_strategy", "save_steps")
            problems.append(
                _error(
                    "load_best_model_at_end with " + ", ".join(f"{name} {training.get(name)}" for name in names),
                    "the same strategy for both, and save_steps a multiple of eval_steps",
                    "give one of them only: the other follows",
                )
            )
    if data.streaming and fit.imbalance not in ("none", "focal"):
        found = f"imbalance {fit.imbalance} with streaming true"
        problems.append(
            _error(found, "a dataset whose classes can be counted beforehand", "use --imbalance focal, or no streaming")
        )
    if fit.imbalance == "balanced_sampler" and resolve_augmentation(data).augmentation_repeats > 1:
        problems.append(
            _error("imbalance balanced_sampler with augmentation_repeats", "one of them", "leave one of them out")
        )
    if fit.progressive_resizing < 1 and int(training.get("max_steps") or -1) > 0:
        problems.append(_error("progressive_resizing with max_steps", "a run of epochs", "use --num_train_epochs"))
    problems += check_metrics(arguments)
    if fit.model_soup and training["do_train"] and not (evaluates and training["save_strategy"] != "no"):
        problems.append(
            _error("model_soup without evaluation or checkpoints", "both", "leave out eval_strategy and save_strategy")
        )
    if arguments.measure.calibrate and training["do_train"] and not training["do_eval"]:
        problems.append(
            _error("calibrate true with do_eval false", "a validation split to fit the temperature on", "add --do_eval")
        )
    for name in ("fsdp", "deepspeed"):
        if training.get(name) and (given := [part for part in ("ema_decay", "model_soup") if getattr(fit, part)]):
            problems.append(
                _error(f"{', '.join(given)} with {name}", "weights that are not sharded", f"leave out {given[0]}")
            )
    if fit.quantization_aware_training:
        given = [
            name for name in ("fsdp", "deepspeed", "torch_compile", "gradient_checkpointing") if training.get(name)
        ]
        given += ["streaming true"] if data.streaming else []
        given += ["calibrate true"] if arguments.measure.calibrate else []
        for name in given:
            problems.append(_error(f"quantization_aware_training with {name}", "one of them", "leave one out"))
    if fit.model_soup and fit.adaptation in ("lora", "auto"):
        problems.append(
            _error(f"model_soup with adaptation {fit.adaptation}", "checkpoints of whole weights", "use another one")
        )
    tries = [name for name in ("find_lr", "tune") if getattr(fit, name)] + ["dry_run"] * arguments.publish.dry_run
    if len(tries) > 1:
        problems.append(_error(f"{' and '.join(tries)} are all given", "one of them", "leave the others out"))
    if fit.early_stopping_patience is not None and not evaluates:
        problems.append(
            _error("early_stopping_patience without evaluation", "an eval_strategy", "add --eval_strategy epoch")
        )
    if fit.early_stopping_patience is None and "early_stopping_threshold" in arguments.explicit:
        problems.append(
            _error("early_stopping_threshold without early_stopping_patience", "both", "add --early_stopping_patience")
        )
    named = str(training.get("resume_from_checkpoint"))
    if training["do_train"] and named.lower() not in ("none", "auto", "true", "false") and not os.path.isdir(named):
        problems.append(
            _error(
                f"resume_from_checkpoint is {named!r}: there is no such folder",
                "auto, false, or a checkpoint-* folder",
                "correct the path, or leave it out: the newest whole checkpoint in output_dir is found",
            )
        )
    if training.get("bf16") and training.get("fp16"):
        problems.append(_error("bf16 and fp16 are both true", "one of them", "keep bf16 where the hardware has it"))
    if training.get("lr_scheduler_type") == "step":
        problems += _check_step_schedule(training.get("lr_scheduler_kwargs") or {})
    return problems


def _check_tune(arguments: Arguments, known: Mapping[str, Argument]) -> list[ArgumentError]:
    fit, training = arguments.fit, arguments.training
    if not fit.tune:
        return [_error("tune_space without tune", "both", "add --tune 20")] if fit.tune_space is not None else []
    problems = []
    if not training["do_train"] or not training["do_eval"]:
        problems.append(_error("tune without do_train and do_eval", "both", "leave out --do_train and --do_eval"))
    if fit.adaptation in ("probe", "auto"):
        problems.append(_error(f"tune with adaptation {fit.adaptation}", "one that takes steps", "use another one"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = [name for name in ("fsdp", "deepspeed") if training.get(name)]
    if world_size > 1 or sharded:
        found = sharded[0] if sharded else f"{world_size} processes"
        problems.append(_error(f"tune with {found}", "one process", "launch one, with a smaller recipe if needed"))
    if fit.unfreeze_epochs:
        problems.append(_error("tune with unfreeze_epochs", "layers that all learn", "leave unfreeze_epochs out"))
    for name, allowed in (fit.tune_space or {}).items():
        found = f"tune_space has {name}: {allowed!r}"
        if name not in TUNABLE:
            problems.append(_error(found, "a name of " + ", ".join(TUNABLE), "leave it out"))
            continue
        try:
            if not isinstance(allowed, list) or len(allowed) < 2:
                raise CoercionError("two numbers for a range, or a list of three or more to choose from")
            values = [coerce(value, known[name].type) for value in allowed]
        except CoercionError as expected:
            problems.append(_error(found, str(expected), f"for example {{{name}: {TUNABLE[name]}}}"))
            continue
        problems += [problem for value in values if (problem := check_value(known[name], value, "tune_space: "))]
        numbers = len(values) == 2 and all(isinstance(value, (int, float)) for value in values)
        if numbers and values[0] >= values[1]:
            problems.append(_error(found, "the lower end first", "turn them around"))
        if name == "lr_scheduler_type" and "step" in (*values, training.get("lr_scheduler_type")):
            problems.append(_error(found, "schedules of transformers, the recipe's own too", "leave out step"))
        if name == "num_train_epochs" and fit.progressive_resizing < 1:
            problems.append(_error(f"{found} with progressive_resizing", "one of them", "leave one out"))
    return problems


def _check_pretraining(arguments: Arguments) -> list[ArgumentError]:
    """What has no say, or no place, where images are compared and not classified."""
    data, training = arguments.data, arguments.training
    augmentation = resolve_augmentation(data)
    found = [
        ("streaming", data.streaming),
        ("augmentation_repeats", augmentation.augmentation_repeats > 1),
        ("mixup_alpha", augmentation.mixup_alpha > 0),
        ("cutmix_alpha", augmentation.cutmix_alpha > 0),
        ("label_smoothing_factor", bool(training.get("label_smoothing_factor"))),
        ("lr_scheduler_type step", training.get("lr_scheduler_type") == "step"),
        ("save_strategy best", training.get("save_strategy") == "best"),
        *((name, bool(training.get(name))) for name in _NOT_FOR_PRETRAINING),
    ]
    return [
        _error(f"{name} while pretraining", "views of images that are there, in plain steps", f"leave {name} out")
        for name, is_given in found
        if is_given
    ]


def _check_repeats(arguments: Arguments) -> list[ArgumentError]:
    fit, training = arguments.fit, arguments.training
    found = [
        ("tune", bool(fit.tune)),
        ("find_lr", fit.find_lr),
        ("dry_run", arguments.publish.dry_run),
        ("push_to_hub", bool(training.get("push_to_hub"))),
        ("do_train false", not training.get("do_train")),
        ("do_predict false", not training.get("do_predict")),
    ]
    return [
        _error(f"{name} with several runs", "whole runs with a score each", f"leave {name} out")
        for name, is_given in found
        if is_given
    ]


def _check_step_schedule(settings: dict[str, Any]) -> list[ArgumentError]:
    ranges = {"step_epochs": "(0, inf)", "gamma": "(0, 1]"}
    wrong = [
        f"{name}: {value!r}"
        for name, value in settings.items()
        if name not in ranges or not isinstance(value, (int, float)) or not is_within(value, ranges[name])
    ]
    if not wrong:
        return []
    return [
        _error(
            f"lr_scheduler_kwargs {{{', '.join(wrong)}}} with lr_scheduler_type step",
            "step_epochs, epochs between two drops, above 0; and gamma, the factor of a drop, in (0, 1]",
            "for example --lr_scheduler_kwargs '{step_epochs: 30, gamma: 0.1}'",
        )
    ]
