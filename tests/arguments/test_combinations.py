"""The tables of arguments that need or exclude one another: each row names what exists, and speaks up."""

from __future__ import annotations

from typing import Any

import pytest

from hf_imgcls.arguments.combinations import (
    EXCLUDES,
    NEEDS,
    PRETRAINING_EXCLUDES,
    REPEATING_EXCLUDES,
    SOURCE_NEEDS,
    Excludes,
    Needs,
    Values,
    check_exclusions,
    check_needs,
)
from hf_imgcls.arguments.fields import Arguments
from hf_imgcls.arguments.installed import NEW_NAMES
from hf_imgcls.arguments.known import known_arguments
from hf_imgcls.arguments.parse import parse_arguments

ON = {"bool": True, "int": 7, "float": 0.7, "str": "x", "list": ["x"], "dict": {"x": 1}}


def split(conditions: str) -> list[tuple[str, list[str]]]:
    parts = [condition.partition(" ") for condition in conditions.split(", ")]
    return [(name, words.split("|") if words else []) for name, _, words in parts]


def switch_on(arguments: Arguments, condition: str) -> None:
    """Let a condition hold."""
    ((name, words),) = split(condition)
    kinds = known_arguments()[name].type.kinds if name in known_arguments() else {"bool"}
    value: Any = words[0] if words else next(ON[kind] for kind in ON if kind in kinds)
    value = value == "true" if value in ("true", "false") and "bool" in kinds else value
    for part in (arguments.data, arguments.fit, arguments.measure, arguments.publish):
        if hasattr(part, name):
            setattr(part, name, value)
            return
    arguments.training[name] = value


def test_rows_name_arguments_and_choices_that_exist() -> None:
    conditions = [row.names for row in (*NEEDS, *SOURCE_NEEDS, *EXCLUDES)]
    conditions += [row.other for row in (*NEEDS, *SOURCE_NEEDS)] + [row.others for row in EXCLUDES]
    named = [pair for text in (*conditions, PRETRAINING_EXCLUDES, REPEATING_EXCLUDES) for pair in split(text)]
    assert len(named) > 120
    known = known_arguments()
    for name, words in named:
        if name in NEW_NAMES:  # of one line of transformers
            continue
        choices = known[name].type.choices
        if "bool" in known[name].type.kinds and words:
            choices = ("true", "false")
        assert not choices or set(words) <= set(choices), (name, words)


@pytest.mark.parametrize("row", EXCLUDES, ids=lambda row: f"{row.names[:20]} - {row.others[:20]}")
def test_each_pair_of_a_row_is_refused(row: Excludes) -> None:
    for name in row.names.split(", "):
        for other in row.others.split(", "):
            arguments = parse_arguments(["--dataset_name", "digits", "--save_strategy", "epoch"])
            assert not list(check_exclusions(Values(arguments)))
            switch_on(arguments, name)
            switch_on(arguments, other)
            found = [str(problem) for problem in check_exclusions(Values(arguments))]
            named, with_what = name.partition(" ")[0], other.partition(" ")[0]
            (text,) = [text for text in found if text.startswith(named) and f" with {with_what}" in text]
            assert "{" not in text.partition("to fix:")[2]


@pytest.mark.parametrize("row", NEEDS + SOURCE_NEEDS, ids=lambda row: row.names[:30])
def test_what_is_given_without_what_it_needs_is_refused(row: Needs) -> None:
    for name in row.names.split(", "):
        for other in ("", *row.other.split(", ")):
            arguments = parse_arguments(["--train_dir", "."])
            arguments.data.train_dir = None
            if other:
                switch_on(arguments, other)
            problems = list(check_needs([row], Values(arguments), {name}))
            assert len(problems) == (not other)
            assert all(str(problem).startswith(f"{name} with") for problem in problems)
    assert not list(check_needs([row], Values(arguments), set()))
