"""What a run's folder says about the data it was trained on, for commands that come later.

Only the standard library is imported: this is read before arguments are parsed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hf_imgcls.layout import EXPORT_FILE, RECIPE_FILE

logger = logging.getLogger(__name__)

SOURCES = ("dataset_name", "train_dir", "validation_dir", "test_dir", "train_file", "validation_file", "test_file")
# What describes a source and would be wrong about another one.
SOURCE_DETAILS = (
    "dataset_config_name",
    "dataset_revision",
    "train_split_name",
    "validation_split_name",
    "test_split_name",
    "image_column_name",
    "label_column_name",
    "label_separator",
    "group_column",
)


def recall_arguments(argv: Sequence[str]) -> list[str]:
    """Let a command line about a run's model begin with the run's own recipe.

    Without a dataset on the command line, the run's own is meant, cut as the run cut it; with one, everything the
    recipe says about the source is unset. The run's output folder is never meant: another command must not write into
    it unless told to. Nor is its number of processes.

    Args:
        argv: A command line with ``--model_name_or_path``.

    Returns:
        The command line; unchanged if the model is no run of ours, or a ``--config`` is given.
    """
    given = scan_flags(argv)
    recipe = find_run(given.get("model_name_or_path", "")) / RECIPE_FILE
    if "config" in given or not given.get("model_name_or_path") or not recipe.is_file():
        return list(argv)
    unset = {"output_dir", "num_processes"}
    if names_dataset(argv):
        unset |= {*SOURCES, *SOURCE_DETAILS}
    nulls = [word for name in sorted(unset - given.keys()) for word in (f"--{name}", "null")]
    return ["--config", str(recipe), *nulls, *argv]


def find_run(model: str | Path) -> Path:
    """The run's folder that a model belongs to: its own, or for an exported model the one around it."""
    folder = Path(model)
    return folder.parent if (folder / EXPORT_FILE).is_file() else folder


def names_dataset(argv: Sequence[str]) -> bool:
    """Whether a command line says which data it is about."""
    return bool(scan_flags(argv).keys() & {*SOURCES, "config"})


def scan_flags(argv: Sequence[str]) -> dict[str, str]:
    """Flag -> its first word, as far as that can be told without knowing the flags."""
    flags = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value if equals else following
    return flags
