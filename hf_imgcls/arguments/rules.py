"""Whether the arguments make sense, alone and together, before any time is spent on them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hf_imgcls.arguments.combinations import (
    NEEDS,
    PRETRAINING_EXCLUDES,
    REPEATING_EXCLUDES,
    SOURCE_NEEDS,
    Values,
    check_exclusions,
    check_needs,
)
from hf_imgcls.arguments.data_rules import check_paths, check_pixels, check_source
from hf_imgcls.arguments.fields import EXPORT_FORMATS
from hf_imgcls.arguments.fit_rules import check_training, check_tune_space
from hf_imgcls.arguments.hub_names import find_license_problem, find_notes_problem, is_repo_id
from hf_imgcls.arguments.types import Argument
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments, MeasureArguments, PublishArguments


def check_arguments(
    arguments: Arguments, known: Mapping[str, Argument], *, complete: bool = True
) -> Iterator[ArgumentError]:
    """Find contradictions between arguments, and files and folders that are not there.

    Args:
        arguments: With all defaults filled in.
        known: The arguments this command has; what it does not have is not missing.
        complete: Whether everything the user wrote was understood; if not, nothing is reported as missing.
    """
    data, measure, training = arguments.data, arguments.measure, arguments.training
    needs_data = complete and "dataset_name" in known and not (measure.predictions or measure.compare)
    values = Values(arguments)
    yield from check_source(data, needs_data)
    yield from check_paths(data)
    yield from check_pixels(data)
    if complete:
        yield from check_needs((*SOURCE_NEEDS * needs_data, *NEEDS), values, arguments.explicit)
    yield from check_exclusions(values)
    if {"do_train", "eval_strategy"} <= training.keys():
        yield from check_training(arguments, complete)
        if arguments.fit.tune:
            yield from check_tune_space(arguments.fit, training, known)
    yield from _check_measure(measure)
    yield from _check_card(arguments.publish)
    yield from _check_push(arguments, known, complete)
    yield from _check_export(arguments.publish)
    if "method" in known:
        yield from _check_verb("pretraining", PRETRAINING_EXCLUDES, values, "plain training steps on stored images")
    if "repeats" in known:
        yield from _check_verb("repeating", REPEATING_EXCLUDES, values, "whole runs with a score each")
    for name in ("deepspeed", "fsdp_config", "accelerator_config"):
        value = training.get(name)
        if isinstance(value, str) and not os.path.isfile(value):
            yield ArgumentError(f"{name} is {value!r}, not a file", "a JSON file or a mapping", "correct the path")


def _check_verb(verb: str, conditions: str, values: Values, expected: str) -> Iterator[ArgumentError]:
    for condition in values.list_held(conditions):
        yield ArgumentError(f"{condition} while {verb}", expected, f"leave {condition.partition(' ')[0]} out")


def _check_measure(measure: MeasureArguments) -> Iterator[ArgumentError]:
    if measure.compare is not None and len(measure.compare) != 2:
        yield ArgumentError(f"compare names {len(measure.compare)} runs", "2: the old one, the new one", "name two")
    for path in (*(measure.compare or ()), *filter(None, [measure.predictions])):
        if not os.path.exists(path):
            yield ArgumentError(f"there is no {path!r}", "a run's folder or a prediction table", "correct the path")


def _check_card(publish: PublishArguments) -> Iterator[ArgumentError]:
    """Find what would be wrong with the card, as far as it is known before training."""
    if wrong := find_license_problem(publish.license, publish.license_name, publish.license_link):
        yield ArgumentError(*wrong)
    if publish.card_notes is not None:
        try:
            with open(publish.card_notes, encoding="utf-8") as file:
                reason = find_notes_problem(file.read())
        except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a name that no file can have
            reason = str(error)
        if reason is not None:
            found = f"card_notes is {publish.card_notes!r}: {reason}"
            yield ArgumentError(found, "a Markdown file in UTF-8", "correct the file")


def _check_push(arguments: Arguments, known: Mapping[str, Argument], complete: bool) -> Iterator[ArgumentError]:
    publish, training = arguments.publish, arguments.training
    for name, value in (("hub_model_id", training.get("hub_model_id")), ("space", publish.space)):
        if value is not None and not is_repo_id(value):
            expected = "owner/name, both of letters, digits, '.', '_' and '-', at most 96 characters"
            yield ArgumentError(f"{name} is {value!r}", expected, "for example --hub_model_id me/my_model")
    if publish.hub_tag is not None and (publish.create_pr or not re.fullmatch(r"[\w][\w.+-]{0,99}", publish.hub_tag)):
        why = "with create_pr: a pull request has no tag" if publish.create_pr else f"is {publish.hub_tag!r}"
        yield ArgumentError(f"hub_tag {why}", "a tag such as v1.0, on a commit", "leave one of them out")
    if "run" in known and complete:
        if publish.run is None and publish.space is None:
            yield ArgumentError("no run is named", "RUN, a run's folder", "hf-imgcls push outputs/my_run")
        elif publish.run is not None and not os.path.isdir(publish.run):
            yield ArgumentError(f"there is no folder {publish.run!r}", "a run's folder", "correct the path")
        elif publish.run is None and not training.get("hub_model_id"):
            yield ArgumentError("space without a model", "RUN or --hub_model_id", "name the model it is to show")


def _check_export(publish: PublishArguments) -> Iterator[ArgumentError]:
    for name in publish.export_formats or ():
        if name not in EXPORT_FORMATS:
            near = difflib.get_close_matches(name, EXPORT_FORMATS, n=3)
            fix = f"did you mean {' or '.join(near)}?" if near else "choose some of these"
            yield ArgumentError(f"export_formats has {name!r}", f"some of {', '.join(EXPORT_FORMATS)}", fix)
        elif publish.fold_preprocessing and not name.startswith(("onnx", "openvino")):
            found = f"fold_preprocessing with {name}"
            yield ArgumentError(found, "ONNX or OpenVINO formats", f"export {name} without it")
