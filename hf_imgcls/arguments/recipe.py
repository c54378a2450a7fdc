"""The recipe of a run: its arguments in a file that repeats it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from hf_imgcls.arguments.documents import dump_yaml
from hf_imgcls.arguments.fields import GROUPS, Arguments
from hf_imgcls.arguments.known import default_of, known_arguments
from hf_imgcls.arguments.reading import RECIPE_HEADER
from hf_imgcls.arguments.types import SECRETS

_NOT_IN_RECIPE = {"local_rank", "resume_from_checkpoint"}


def to_recipe(arguments: Arguments) -> dict[str, Any]:
    """The arguments as one flat mapping, grouped by stage: what was given, or differs from the default.

    ``training_policy`` is always there: recipes without it are of releases that had none.

    Secrets, the rank that a launcher gave to this process, and the checkpoint it went on from are left out.
    """
    values = arguments.training | {
        item.name: getattr(part, item.name)
        for part in (arguments.data, arguments.fit, arguments.measure, arguments.publish)
        for item in dataclasses.fields(part)
        if item.name in arguments.explicit | {"training_policy"} or getattr(part, item.name) != default_of(item)
    }
    if "metrics" in values:  # a file cannot hold objects
        values["metrics"] = [spec for spec in values["metrics"] or [] if isinstance(spec, str)] or None
    known = known_arguments()
    order = {name: number for number, name in enumerate(known)}
    names = sorted(values, key=lambda name: (list(GROUPS).index(known[name].group), order[name]))
    return {name: values[name] for name in names if name not in SECRETS | _NOT_IN_RECIPE}


def save_recipe(arguments: Arguments, path: str | os.PathLike[str]) -> None:
    """Write `to_recipe` as YAML, one comment per stage; ``--config PATH`` gives equal arguments again."""
    recipe, known = to_recipe(arguments), known_arguments()
    lines = [f"{RECIPE_HEADER} Repeat it with: --config THIS_FILE\n"]
    if arguments.hooks:
        lines = [f"{RECIPE_HEADER} It also had code from Python, which is not in this file:\n"]
        lines += [f"#   {name}: {origin}\n" for name, origin in arguments.hooks.items()]
    for group, title in GROUPS.items():
        part = {name: value for name, value in recipe.items() if known[name].group == group}
        lines += [f"\n# --- {group}: {title} ---\n", dump_yaml(part)] if part else []
    Path(path).write_text("".join(lines), encoding="utf-8")
