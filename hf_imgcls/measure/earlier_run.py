"""What a run's folder says about the data it was trained on, for commands that come later.

Only the standard library is imported: this is read before arguments are parsed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hf_imgcls.digests import describe_changes, find_changes
from hf_imgcls.records import DataRecord
from hf_imgcls.run import DATA_FILE, EXPORT_FILE, RECIPE_FILE, is_main_process

logger = logging.getLogger(__name__)

_SOURCES = ("dataset_name", "train_dir", "validation_dir", "test_dir", "train_file", "validation_file", "test_file")
# What describes a source and would be wrong about another one.
_SOURCE_DETAILS = (
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
    given = _read_flags(argv)
    recipe = find_run(given.get("model_name_or_path", "")) / RECIPE_FILE
    if "config" in given or not given.get("model_name_or_path") or not recipe.is_file():
        return list(argv)
    unset = {"output_dir", "num_processes"}
    if names_dataset(argv):
        unset |= {*_SOURCES, *_SOURCE_DETAILS}
    nulls = [word for name in sorted(unset - given.keys()) for word in (f"--{name}", "null")]
    return ["--config", str(recipe), *nulls, *argv]


def find_run(model: str | Path) -> Path:
    """The run's folder that a model belongs to: its own, or for an exported model the one around it."""
    folder = Path(model)
    return folder.parent if (folder / EXPORT_FILE).is_file() else folder


def check_run(model: str | Path | None) -> str:
    """Say what has changed in a run's folder since it finished, before its model or a number of it is used.

    Args:
        model: A run's folder, an exported model in it, or anything else, which has recorded nothing.

    Returns:
        The sentence that was logged, see `hf_imgcls.digests.describe_changes`; ``""`` if nothing has changed.
    """
    if not model or not is_main_process():
        return ""
    folder = find_run(model)
    changes = describe_changes(find_changes(folder))
    if changes:
        logger.warning("Warning: %s was changed. %s", folder, changes)
    return changes


def names_dataset(argv: Sequence[str]) -> bool:
    """Whether a command line says which data it is about."""
    return bool(_read_flags(argv).keys() & {*_SOURCES, "config"})


def compare_data(folder: str | Path, record: DataRecord, split: str) -> list[str]:
    """Say how a split differs from the one that a run recorded under the same name.

    Args:
        folder: The run's folder; anything else has recorded nothing.
        record: The data as it is now.
        split: The split that is about to be used.

    Returns:
        One sentence for each difference.
    """
    path = find_run(folder) / DATA_FILE
    if not path.is_file():
        return []
    earlier = DataRecord.load(path)
    then, now = earlier.splits.get(split), record.splits.get(split)
    notes = []
    if earlier.revision != record.revision:
        notes.append(f"The dataset is at revision {record.revision}; the run used {earlier.revision}.")
    if then is not None and now is not None and then.num_examples != now.num_examples:
        notes.append(f"The {split} split has {now.num_examples} examples; the run's had {then.num_examples}.")
    elif then is not None and now is not None and then.class_counts != now.class_counts:
        notes.append(f"The {split} split has other numbers of examples per class than the run's.")
    elif then is not None and now is not None and then.fingerprint and then.fingerprint != now.fingerprint:
        notes.append(f"The {split} split has other images, labels or order than the run's.")
    return notes


def _read_flags(argv: Sequence[str]) -> dict[str, str]:
    """Flag -> its first word, as far as that can be told without knowing the flags."""
    flags = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value if equals else following
    return flags
