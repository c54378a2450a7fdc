"""The first word of a command line, which needs no flag: the data to train on, or the run that a command is about.

Only names, suffixes and folder listings are looked at; no image is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.arguments.near_paths import suggest_path
from hf_imgcls.arguments.recall import SOURCE_DETAILS, SOURCES, scan_flags
from hf_imgcls.errors import ArgumentError
from hf_imgcls.layout import RECIPE_FILE, RUN_FILE

BUILT_IN_SAMPLE = "digits"
# What --train_file, --validation_file and --test_file take.
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_CONFIG_SUFFIXES = (".yaml", ".yml")
# What a folder in the layout of the Hub, or one that `datasets` has saved, holds in itself or one folder deeper.
_HUB_FILES = ("dataset_dict.json", "state.json", "metadata.csv", "metadata.jsonl", "metadata.parquet")
_HUB_SUFFIXES = (".parquet", ".arrow", ".tar", ".zip")
_TRAINING_SOURCES = ("dataset_name", "train_dir", "train_file")
_EXPECTED = f"a folder, a {', '.join(TABLE_SUFFIXES)} or .zip file, a dataset on the Hub, or {BUILT_IN_SAMPLE}"


def name_first_word(argv: list[str], name: str) -> list[str]:
    """Let a command line begin with the value of its most important flag: ``RUN ...`` is ``--NAME RUN ...``.

    Raises:
        ArgumentError: The flag is given as well.
    """
    if not argv or argv[0].startswith("-"):
        return argv
    _check_said_once(argv, (name,))
    return [f"--{name}", *argv]


def name_data(argv: list[str]) -> list[str]:
    """Let a command line begin with the data to train on: ``photos/ ...`` is ``--train_dir photos/ ...``.

    A YAML file as the first word is ``--config``. Data that is named so replaces what a ``--config`` says about its
    own: the source, its splits and its columns.

    Raises:
        ArgumentError: The word may mean two things or names nothing, or a flag names the data as well.
    """
    if not argv or argv[0].startswith("-"):
        return argv
    word, *rest = argv
    if word.endswith(_CONFIG_SUFFIXES):
        return ["--config", *argv]
    name = find_source(word)
    _check_said_once(argv, _TRAINING_SOURCES)
    given = scan_flags(rest)
    about = {*SOURCES, *SOURCE_DETAILS, "image_folder", "image_suffix"} if "config" in given else set()
    nulls = [part for other in sorted(about - given.keys() - {name}) for part in (f"--{other}", "null")]
    return [f"--{name}", word, *nulls, *rest]


def name_repeated_run(argv: list[str]) -> list[str]:
    """Let a command line begin with the run to repeat, whose recipe it then goes by; else with data, as `name_data`.

    The repeats go into ``RUN_repeated`` unless ``--output_dir`` says otherwise, and are not pushed.

    Raises:
        ArgumentError: As of `name_data`.
    """
    if not argv or not (Path(argv[0]) / RECIPE_FILE).is_file():
        return name_data(argv)
    run, *rest = argv
    _check_said_once(argv, ("config",))
    settings = {
        "config": str(Path(run) / RECIPE_FILE),
        "output_dir": f"{run.rstrip(os.sep)}_repeated",
        "push_to_hub": "false",
        "num_processes": "null",
        "overwrite_output_dir": "false",
    }
    given = scan_flags(rest)
    return [part for name, value in settings.items() if name not in given for part in (f"--{name}", value)] + rest


def find_source(word: str) -> str:
    """Return the argument that a word naming data is the value of: ``dataset_name``, ``train_dir`` or ``train_file``.

    Args:
        word: A folder or file on this machine, a dataset's id on the Hub, or the built-in sample.

    Raises:
        ArgumentError: It may mean two things, or names nothing that can be trained on.
    """
    path = Path(word).expanduser()
    if word == BUILT_IN_SAMPLE:  # a folder of that name is ./digits
        return "dataset_name"
    if path.is_dir():
        try:
            return _judge_folder(path, word)
        except OSError as error:
            found = f"{word} cannot be read: {error.strerror}"
            raise ArgumentError(found, "a folder that may be read", "check its permissions") from error
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".json":
            fix = f"write --train_file {word}, or --config {word}"
            raise ArgumentError(f"{word} may hold data or arguments", "a flag that tells which", fix)
        if suffix in TABLE_SUFFIXES:
            return "train_file"
        if suffix == ".zip":
            return "dataset_name"
        raise ArgumentError(f"{word} is a file that ends in {suffix or 'nothing'!r}", _EXPECTED, "convert or rename it")
    is_path = word.startswith((".", "~")) or word.endswith(os.sep) or suffix in (*TABLE_SUFFIXES, ".zip")
    if is_path or not is_repo_id(word):
        raise ArgumentError(f"there is no {word!r}", _EXPECTED, suggest_path(path, "the path"))
    if "/" in word and path.parent.is_dir():
        fix = f"{suggest_path(path, 'the path')}; for the dataset of that name on the Hub: --dataset_name {word}"
        raise ArgumentError(f"the folder {path.parent} has no {path.name!r}", _EXPECTED, fix)
    return "dataset_name"


def _judge_folder(path: Path, word: str) -> str:
    """``train_dir`` for a folder of classes or of splits, ``dataset_name`` for one in the layout of the Hub."""
    if (path / RUN_FILE).is_file():
        fix = f"name the data, and the model to train further: --model_name_or_path {word}"
        raise ArgumentError(f"{word} is the folder of a run", "data to train on", fix)
    children = sorted(child for child in path.iterdir() if not child.name.startswith((".", "_")))
    folders = [child for child in children if child.is_dir()]
    if _is_hub_layout([path, *folders]):
        return "dataset_name"
    tables = [child for child in children if child.suffix.lower() in TABLE_SUFFIXES and child.is_file()]
    if tables:
        found = f"the labels of {word} may be in {tables[0].name} or be the names of its folders"
        if not folders:
            found = f"{word} has no folders, and the file {tables[0].name}"
        fix = f"for the labels in the file: {tables[0]}" + f"; for the folders: --train_dir {word}" * bool(folders)
        raise ArgumentError(found, "one folder per class, or a file with the labels", fix)
    if not folders:
        fix = "put the images of each class into a folder of its name, or list them with their labels in a .csv file"
        raise ArgumentError(f"{word} has no folders", "one folder per class: cat/1.jpg", fix)
    return "train_dir"


def _is_hub_layout(folders: Iterable[Path]) -> bool:
    """Whether one of the folders holds data files or metadata that `datasets` reads."""
    for folder in folders:
        if any((folder / name).is_file() for name in _HUB_FILES):
            return True
        # Data files lie among themselves, so a few names tell; a class may have a million images.
        if any(file.suffix.lower() in _HUB_SUFFIXES for file in islice(folder.iterdir(), 100)):
            return True
    return False


def _check_said_once(argv: list[str], names: tuple[str, ...]) -> None:
    """Raise an error if one of the flags is given as well as the first word."""
    flags = scan_flags(argv[1:])
    for name in names:
        if flags.get(name, "null") != "null":
            found = f"{argv[0]} and --{name} {flags[name]} are both given"
            raise ArgumentError(found, "one of them", "leave one out")
