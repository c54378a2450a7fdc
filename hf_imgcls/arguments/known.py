"""Every argument there is, by name: ours and those of the installed TrainingArguments."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from hf_imgcls.arguments.defaults import TRAINING_DEFAULTS
from hf_imgcls.arguments.fields import DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.arguments.installed import NEW_NAMES, OLD_NAMES, kept_fields, parse_source, read_training_fields
from hf_imgcls.arguments.training_policy import POLICY
from hf_imgcls.arguments.types import Argument, read_annotation, read_range

STAGES = (DataArguments, FitArguments, MeasureArguments, PublishArguments)
# Fields of TrainingArguments that mean something else here than in transformers.
_OUR_MEANING = {"hub_private_repo": "False is --public; a new repository is private unless one of them is given."}


@cache
def known_arguments() -> dict[str, Argument]:
    """All arguments by name: ours, the installed ``TrainingArguments``, and old names (hidden from ``--help``)."""
    known = {argument.name: argument for cls in STAGES for argument in _read_stage(cls)}
    for name, argument in (read_training_fields() | kept_fields()).items():
        if argument.type.kinds:  # the rest cannot be written as text
            known.setdefault(name, argument)
    for row in TRAINING_DEFAULTS:
        known[row.name] = dataclasses.replace(known[row.name], default=row.shown)
    for rule in POLICY:
        known[rule.name] = dataclasses.replace(known[rule.name], default=rule.shown)
    for name, text in _OUR_MEANING.items():
        known[name] = dataclasses.replace(known[name], help=text)
    for old, new in (*OLD_NAMES.items(), *NEW_NAMES.items()):
        source = known.get(new)
        if source is not None and (old in OLD_NAMES or old not in known):
            known[old] = dataclasses.replace(source, name=old, help=f"Old name of --{new}.", hidden=True)
    return known


def _read_stage(cls: type) -> Iterator[Argument]:
    """Each argument of a stage's dataclass, whose bases are the groups of ``--help``."""
    group_of = {name: base for base in cls.__mro__ if "GROUP" in vars(base) for name in base.__annotations__}
    texts = {base: _read_texts(base) for base in group_of.values()}
    for item in dataclasses.fields(cls):
        base, annotation = group_of[item.name], str(item.type)
        value_type, interval = read_annotation(annotation), read_range(annotation)
        yield Argument(item.name, value_type, default_of(item), texts[base][item.name], vars(base)["GROUP"], interval)


def _read_texts(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, as single lines."""
    tree = parse_source(Path(str(sys.modules[cls.__module__].__file__)))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    return {
        node.target.id: " ".join(str(below.value.value).split())
        for node, below in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a dataclass's field."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
