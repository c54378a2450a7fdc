"""Every argument there is, by name: ours and those of the installed TrainingArguments."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from hf_imgcls.arguments.defaults import TRAINING_DEFAULTS
from hf_imgcls.arguments.fields import DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.arguments.installed import NEW_NAMES, OLD_NAMES, kept_fields, read_training_fields
from hf_imgcls.arguments.training_policy import POLICY
from hf_imgcls.arguments.types import Argument, read_annotation

# Fields of TrainingArguments that mean something else here than in transformers.
_OUR_MEANING = {"hub_private_repo": "False is --public; a new repository is private unless one of them is given."}


@cache
def known_arguments() -> dict[str, Argument]:
    """All arguments by name: ours, the installed ``TrainingArguments``, and old names (hidden from ``--help``)."""
    known: dict[str, Argument] = {}
    stages = {"data": DataArguments, "fit": FitArguments, "measure": MeasureArguments, "publish": PublishArguments}
    for stage, cls in stages.items():
        for item in dataclasses.fields(cls):
            value_type = dataclasses.replace(read_annotation(str(item.type)), choices=item.metadata["choices"])
            known[item.name] = Argument(
                item.name,
                value_type,
                default_of(item),
                item.metadata["help"],
                item.metadata["group"] or stage,
                item.metadata["within"],
            )
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


def default_of(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
