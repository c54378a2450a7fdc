"""Folders that hold splits and not classes: ``train``, ``seg_test``, ``test1``, ``Predict`` and their like.

Where a folder of them was read as a folder of classes, a model would learn to tell "test" from "train".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hf_imgcls.data.image_files import list_image_folders
from hf_imgcls.data.names import list_some
from hf_imgcls.data.splits import ROLES
from hf_imgcls.errors import DataError

# What splits are called, and under "" those whose images have no labels.
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "validate", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
    "": ("predict", "prediction", "predictions", "pred", "unlabeled", "unlabelled", "inference"),
}
_ROLE_OF = {word: role for role, words in _WORDS.items() for word in words}
_FILLER = "set|sets|data|dataset|image|images|imgs|img|split|folder|pictures|photos|samples"
_PATTERN = re.compile(f"({'|'.join(sorted(_ROLE_OF, key=len, reverse=True))})({_FILLER})?")


class SplitName(NamedTuple):
    """A folder's name that is one of a split.

    Attributes:
        role: ``train``, ``validation``, ``test``; or "" for images without labels.
        affix: What else the name says: ``seg`` of ``seg_train``.
    """

    role: str
    affix: str


def read_split_name(name: str) -> SplitName | None:
    """Read a name such as ``train``, ``Test1``, ``seg_train`` or ``valid-images``; return ``None`` for others."""
    chunks = re.findall(r"[^\W\d_]+", name)
    capitals = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
    words = [word.lower() for chunk in chunks for word in (re.findall(capitals, chunk) if chunk.isascii() else [chunk])]
    found = [(index, match) for index, word in enumerate(words) if (match := _PATTERN.fullmatch(word))]
    if len(found) != 1:
        return None
    index, match = found[0]
    others = [word for place, word in enumerate(words) if place != index and not re.fullmatch(_FILLER, word)]
    return SplitName(_ROLE_OF[match[1]], " ".join(others))


def find_split_folders(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Find the splits in a folder that holds folders of splits.

    Args:
        folder: Perhaps a folder of splits.
        notes: What was found and what is left out is appended here.

    Returns:
        Role -> folder of classes; nothing for a folder of classes, also where one of them is called "train".

    Raises:
        DataError: There are folders of splits, and no labelled one to train on, or several for one role.
    """
    children = list_image_folders(folder)
    named = {child: name for child in children if (name := read_split_name(child.name)) is not None}
    others = [child for child in children if child not in named]
    roles = {name.role for name in named.values()}
    if not named:
        return {}
    read_as_class = f"Read as a class, though it has the name of a split: {_list_names(named)}."
    if others and (len(roles) < 2 or len({name.affix for name in named.values()}) > 1):
        notes.append(read_as_class)
        return {}
    labelled = {child: path for child in children if (path := _unwrap(child)) is not None}
    trains = [child for child in labelled if child in named and named[child].role == "train"]
    if others and not any(len(list_image_folders(labelled[child])) > 1 for child in trains):
        notes.append(read_as_class)
        return {}
    found: dict[str, Path] = {}
    for role in ROLES:
        fitting = [child for child in labelled if child in named and named[child].role == role]
        if len(fitting) > 1:
            raise DataError(
                f"{folder} holds several folders that may be the {role} split: {_list_names(fitting)}",
                f"one folder for {role}",
                f"pass the one that is meant: --{role}_dir {fitting[0]}",
            )
        if fitting:
            found[role] = labelled[fitting[0]]
    if "train" not in found:
        raise _describe_unlabelled(folder, named, found)
    shown = ", ".join(str(path.relative_to(folder)) for path in found.values())
    notes.append(f"{folder} is not a folder of classes but of splits; these were read: {shown}.")
    flat = [child for child in children if child not in labelled]
    unknown = [child for child in labelled if child not in named or not named[child].role]
    if flat:
        notes.append(f"Left out: {_list_names(flat)}. Without class folders, the images have no labels.")
    if unknown:
        notes.append(f"Left out: {_list_names(unknown)}. The name is that of none of the splits.")
    return found


def _unwrap(folder: Path) -> Path | None:
    """Return the folder of classes that a split's folder is, or holds alone (``seg_train/seg_train``), or ``None``."""
    inner = list_image_folders(folder)
    if len(inner) == 1 and (inner[0].name == folder.name or read_split_name(inner[0].name)):
        return _unwrap(inner[0])
    return folder if inner else None


def _list_names(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _describe_unlabelled(folder: Path, named: Mapping[Path, SplitName], labelled: Mapping[str, Path]) -> DataError:
    splits = list(named)
    train = next((child for child, name in named.items() if name.role == "train"), splits[0])
    if labelled:
        role, path = next(iter(labelled.items()))
        found = f"only {path.name} has a folder for each class"
        fix = f"pass --train_dir {path} to train on it, or --{role}_dir {path} to measure a model"
    else:
        found = "their images lie in no folders of classes"
        fix = f"list the images with their classes in a CSV file (--train_file labels.csv --image_folder {train})"
    return DataError(
        f"{folder} holds folders of splits ({_list_names(splits)}), and {found}",
        "a training folder with one folder per class: train/cat/1.jpg",
        f"{fix}; if {_list_names(splits)} are the classes, rename the folders",
    )


def check_class_folders(root: Path, folders_of: dict[str, set[str]], notes: list[str]) -> None:
    """Look for folders that are not the classes: those above or below them may be.

    Args:
        root: The folder of classes.
        folders_of: Class -> names of its sub-folders that hold images; "" stands for images of its own.
        notes: What may be meant otherwise is appended here.

    Raises:
        DataError: All classes have the same sub-folders, or sub-folders with names of splits.
    """
    if len(folders_of) < 2:
        return
    first = next(iter(folders_of.values()))
    shown = list_some([os.path.join(name, min(inner)) for name, inner in folders_of.items() if inner], 3)
    splits = [name for name in first if (known := read_split_name(name)) is not None and known.role]
    same = all(inner == first for inner in folders_of.values())
    if same and len(splits) > 1:
        raise DataError(
            f"each class folder of {root} holds folders of splits: {shown}",
            "a folder for each split, and in it one for each class: train/cat/1.jpg",
            "move the folders, or list the images of each split in a CSV file (--train_file, --test_file)",
        )
    if same and len(first) > 1 and "" not in first:
        names = list(folders_of)
        raise DataError(
            f"the folders of {root} all hold the same sub-folders: {shown}",
            "one folder per class",
            f"if {list_some(sorted(first), 3)} are the classes, pass one folder for each split: --train_dir "
            f"{root / names[0]} --test_dir {root / names[1]}; if {list_some(names, 3)} are, move the images up into "
            "them, or list them in a CSV file (--train_file)",
        )
    if not same and not any("" in inner for inner in folders_of.values()):
        notes.append(
            f"The images of {root} lie in sub-folders of the class folders ({shown}): their class is the upper "
            "folder. If it is the lower one, pass a folder that holds the lower ones."
        )
