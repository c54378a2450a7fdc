"""Read and check the command line and the file it names; the same for Python users."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from hf_imgcls.arguments.defaults import fill_training
from hf_imgcls.arguments.fields import (
    DEFAULT_MODEL,
    GROUPS,
    Arguments,
    DataArguments,
    FitArguments,
    MeasureArguments,
    PublishArguments,
)
from hf_imgcls.arguments.first_word import name_data, name_first_word
from hf_imgcls.arguments.installed import NEW_NAMES, OLD_NAMES, ONLY_IN_4, ONLY_IN_5, read_training_fields
from hf_imgcls.arguments.known import known_arguments
from hf_imgcls.arguments.other_names import OTHER_NAMES
from hf_imgcls.arguments.reading import read_file, read_flags
from hf_imgcls.arguments.rules import check_arguments
from hf_imgcls.arguments.small_configs import choose_small_config
from hf_imgcls.arguments.types import SECRETS, Argument, CoercionError, check_value, coerce, plain_value, show_value
from hf_imgcls.errors import ArgumentError, join_errors

FINETUNE_GROUPS = tuple(group for group in GROUPS if group not in ("score", "push", "pretrain", "repeat"))

_FIRST_WORDS = {"data": "DATA", "run": "RUN", "model_name_or_path": "RUN"}
# What a message has before the name of an argument; for a file, its own name.
FLAG, KEYWORD = "--", ""
_PATHS = frozenset(f"{split}_{kind}" for split in ("train", "validation", "test") for kind in ("dir", "file")) | {
    "unlabelled_dir",
    "image_folder",
    "output_dir",
    "cache_dir",
    "card_notes",
    "run",
}


def parse_arguments(
    argv: Sequence[str] | None = None,
    *,
    description: str = "",
    groups: Sequence[str] = FINETUNE_GROUPS,
    also: Sequence[str] = (),
    positional: str = "",
) -> Arguments:
    """Read and check the command line and the file it names.

    Args:
        argv: The command line without the program's name; by default ``sys.argv[1:]``.
        description: What the command does, for ``--help``.
        groups: The groups of flags that this command has. Keys of other groups in a file are passed over, so that one
            recipe serves all commands; as flags they are unknown.
        also: Names out of other groups that this command has.
        positional: The name that a first word without a flag belongs to; ``"data"`` for the data to train on, whose
            argument is found by `hf_imgcls.arguments.first_word.name_data`.

    Returns:
        The arguments, with defaults filled in.

    Raises:
        ArgumentError: Anything that is wrong with them: all of it, in one error.
        SystemExit: With status 0, after ``--help``.
    """
    known = {name: argument for name, argument in known_arguments().items() if argument.group in groups or name in also}
    argv = list(sys.argv[1:] if argv is None else argv)
    problems: list[ArgumentError] = []
    try:
        if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
            argv = ["--config", argv[0]]
        elif positional:
            argv = name_data(argv) if positional == "data" else name_first_word(argv, positional)
    except ArgumentError as problem:
        problems.append(problem)
        argv = argv[1:]
    used = {argument.group for argument in known.values()}
    titles = {group: title for group, title in GROUPS.items() if group in used}
    flags, unknown = read_flags(argv, known, titles, description, problems, _FIRST_WORDS.get(positional, ""))
    problems += [_unknown(name, FLAG, known) for name in unknown]
    content = _read_config(flags.pop("config", None), known, problems)
    arguments = _combine(content, _settle(flags, FLAG, known, problems), known, problems)
    if problems:
        raise join_errors(list(problems))
    return arguments


def make_arguments(*, groups: Sequence[str] = FINETUNE_GROUPS, also: Sequence[str] = (), **names: Any) -> Arguments:
    """Check arguments given as Python keywords, and fill in the defaults, as `parse_arguments` does for a command line.

    ``make_arguments(dataset_name="digits", learning_rate=1e-4, config="run.yaml")`` is
    ``--dataset_name digits --learning_rate 1e-4 --config run.yaml``. A value may also be a path object, a tuple, an
    enumeration's member or a NumPy scalar; ``None`` means "not given" and undoes what the file says.

    Args:
        groups: The groups of arguments that are accepted, as for `parse_arguments`.
        also: Names out of other groups that are accepted too.
        **names: The arguments.

    Returns:
        The arguments, with defaults filled in.

    Raises:
        ArgumentError: Anything that is wrong with them: all of it, in one error.
    """
    known = {name: argument for name, argument in known_arguments().items() if argument.group in groups or name in also}
    problems: list[ArgumentError] = []
    values = {name: plain_value(value) for name, value in names.items()}
    content = _read_config(values.pop("config", None), known, problems)
    arguments = _combine(content, _settle(values, KEYWORD, known, problems), known, problems)
    if problems:
        raise join_errors([_as_keywords(problem, known) for problem in problems])
    return arguments


def _read_config(path: Any, known: dict[str, Argument], problems: list[ArgumentError]) -> dict[str, Any]:
    """The settled content of a file of arguments, without what only other commands have."""
    if path is None:
        return {}
    if not isinstance(path, str):
        problems.append(ArgumentError(f"config is {show_value(path)}", "the path of a YAML or JSON file", "correct it"))
        return {}
    content = read_file(path, problems)
    content = {name: value for name, value in content.items() if name in known or name not in known_arguments()}
    return _settle(content, f"{path}: ", known, problems)


def _combine(
    content: dict[str, Any],
    named: dict[str, Any],
    known: dict[str, Argument],
    problems: list[ArgumentError],
) -> Arguments:
    """Merge what a file and the user's words say, fill in the defaults and check the whole."""
    # Two ways to say one thing: the word replaces both ways of the file.
    if named.keys() & {"warmup_steps", "warmup_ratio"}:
        content = {name: value for name, value in content.items() if name not in ("warmup_steps", "warmup_ratio")}
    # `null` means "not given", so that a flag can undo what the file says.
    given = {name: value for name, value in (content | named).items() if value is not None}
    arguments = _build(given, known, problems)
    problems += check_arguments(arguments, known, complete=not problems)
    return arguments


def _current_name(name: str) -> str:
    """Today's name of an argument, as the installed transformers spells it."""
    name = OLD_NAMES.get(name, name)
    installed = read_training_fields()
    for newer, older in NEW_NAMES.items():
        if name in (newer, older):
            return newer if newer in installed else older
    return name


def _settle(
    content: dict[str, Any], prefix: str, known: dict[str, Argument], problems: list[ArgumentError]
) -> dict[str, Any]:
    """Give each value its type and each name its current spelling; mistakes are added to ``problems``.

    Args:
        content: Name as written -> value as written.
        prefix: What a message has before the name: `FLAG`, `KEYWORD`, or the name of a file and ``": "``.
        known: The arguments of this command.
        problems: The list that mistakes are added to.
    """
    settled: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, raw in content.items():
        argument, current = known.get(name), _current_name(name)
        if argument is None:
            problems.append(_unknown(name, prefix, known))
            continue
        if raw is None and prefix == KEYWORD:
            settled.setdefault(current, None)
            continue
        shown = "a hidden value" if current in SECRETS else show_value(raw)
        try:
            value = coerce(raw, argument.type)
        except CoercionError as expected:
            found, fix = f"{prefix}{name} is {shown}", "correct the value"
            if prefix != FLAG:
                found += f" ({type(raw).__name__})"
                fix = "put it in quotes" if "str" in argument.type.kinds else fix
            problems.append(ArgumentError(found, str(expected), fix))
            continue
        problem = check_value(argument, value, prefix)
        if problem:
            problems.append(problem)
            continue
        if settled.get(current) is not None:
            problems.append(
                ArgumentError(
                    f"{prefix}{name} and {written[current]} are both given", "one of them", f"keep {current} only"
                )
            )
        settled[current], written[current] = value, name
    return settled


def _unknown(name: str, prefix: str, known: dict[str, Argument]) -> ArgumentError:
    """The error for a name that this command does not have: what is close to it, or where it went."""
    line, hint = ("4", ONLY_IN_4[name]) if name in ONLY_IN_4 else ("5", ONLY_IN_5.get(name))
    if hint is not None:
        return ArgumentError(
            f"{prefix}{name} exists only on transformers {line}",
            f"an argument of transformers {version('transformers')}",
            hint,
        )
    if name in known_arguments():
        return ArgumentError(
            f"{prefix}{name} is not an argument of this command", "a name that --help lists", "leave it out"
        )
    dashes = FLAG if prefix == FLAG else ""
    ours = [dashes + other for other in OTHER_NAMES.get(name, ()) if other in known]
    close = [dashes + other for other in difflib.get_close_matches(name, known, n=3)]
    if ours:
        fix = f"here it is {' or '.join(ours)}"
    else:
        fix = f"did you mean {' or '.join(close)}?" if close else "run with --help to see all names"
    return ArgumentError(f"{prefix}{name} is not a known argument", "a name that --help lists", fix)


def _as_keywords(problem: ArgumentError, known: dict[str, Argument]) -> ArgumentError:
    """Return an error whose advice names keywords: ``loss="focal"`` where a command line has ``--loss focal``."""

    def spell(flag: re.Match[str]) -> str:
        name, space, word = flag.groups(default="")
        if name == "help":
            return f"the command's --help{space}{word}"
        if name not in known and name != "NAME":
            return flag[0]
        if word in ("true", "false", "null"):
            return f"{name}={'None' if word == 'null' else word.title()}"
        if word.isdigit() or word in (known[name].type.choices or () if name in known else ()):
            return f"{name}={word if word.isdigit() else repr(word)}"
        return f"{name}{space}{word}"

    texts = (re.sub(r"(?<![\w-])--(\w+)(?:( )(\w+))?", spell, text) for text in (problem.expected, problem.fix))
    return ArgumentError(problem.found, *texts)


def _build(given: dict[str, Any], known: dict[str, Argument], problems: list[ArgumentError]) -> Arguments:
    """Sort the values into their dataclasses and fill in what was not given."""
    explicit, hub_token = set(given), given.pop("hub_token", None)
    for name in _PATHS & given.keys():
        given[name] = os.path.expanduser(given[name]) if given[name] else given[name]

    def take(cls: Any) -> dict[str, Any]:
        return {item.name: given.pop(item.name) for item in dataclasses.fields(cls) if item.name in given}

    data, fit = DataArguments(**take(DataArguments)), FitArguments(**take(FitArguments))
    measure, publish = MeasureArguments(**take(MeasureArguments)), PublishArguments(**take(PublishArguments))
    if fit.model_name_or_path is None and fit.model_type is None:
        fit.model_name_or_path = DEFAULT_MODEL
    is_open = fit.training_policy == "auto"
    small = choose_small_config(fit.model_type, data.image_size, fit.model_config or {}) if is_open else None
    arguments = Arguments(data, fit, measure, publish, given, hub_token, explicit)
    if small is not None:
        fit.model_config = small
        arguments.notes.append(
            f"{fit.model_type} for small images: model_config is {show_value(small)}; --model_config changes it."
        )
    problems += fill_training(arguments, known)
    return arguments
