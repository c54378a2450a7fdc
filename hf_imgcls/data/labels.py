"""The one map from class names to class ids.

Labels go by name: every split's labels are read as names (``label_columns``) and given the ids of one list, which comes
from the dataset.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal

import numpy as np

from hf_imgcls.data.label_columns import MISSING, RawLabels
from hf_imgcls.data.label_hints import Locate, find_near_name
from hf_imgcls.data.label_sets import LabelIds, build_matrix
from hf_imgcls.data.names import is_hidden_name, list_some, natural_key
from hf_imgcls.data.row_names import list_rows
from hf_imgcls.errors import DataError


def build_label_map(raw: Mapping[str, RawLabels], notes: list[str], locate: Locate) -> list[str]:
    """Make the dataset's one list of class names; the position is the class id.

    The list comes from ``train`` where there is one, else from all splits together. A ``ClassLabel`` keeps its order;
    other labels are sorted naturally.

    Args:
        raw: Role -> labels, for the splits that are used.
        notes: What is worth telling is appended here.
        locate: Names a row of a role.

    Raises:
        DataError: Fewer than two classes, a name that occurs twice, or an example without a label.
    """
    _check_same_kind(raw)
    for split, labels in raw.items():
        _check_labelled(split, labels, locate)
    sources = [raw["train"]] if "train" in raw else list(raw.values())
    if all(labels.declared for labels in sources):
        names = list(dict.fromkeys(name for labels in sources for name in labels.names))
        if len(sources[0].names) != len(set(sources[0].names)):
            twice = sorted({name for name in names if sources[0].names.count(name) > 1})
            raise DataError(
                f"the dataset's list of class names holds {', '.join(map(repr, twice))} more than once",
                "a different name for each class",
                "correct the ClassLabel of the dataset",
            )
    else:
        names = sorted({name for labels in sources for name in labels.used_names}, key=natural_key)
    used = {name for labels in sources for name in labels.used_names}
    if "train" in raw and len(used) < 2:
        raise DataError(
            f"the training split has {'the single class ' + repr(next(iter(used))) if used else 'no labelled example'}",
            "at least two classes",
            "check --label_column_name, or point to the folder that holds one folder per class",
        )
    unused = [name for name in names if name not in used]
    if unused and "train" in raw:
        notes.append(f"{len(unused)} of {len(names)} classes have no training example: {list_some(unused)}.")
    notes += describe_names(names)
    return names


def _check_labelled(split: str, labels: RawLabels, locate: Locate) -> None:
    missing = labels.missing_rows
    if not len(missing):
        return
    places = list_rows([locate(split, int(row)) for row in missing[:3]], len(missing))
    fix = "remove or label these examples"
    if labels.has_minus_one:
        fix += ", or write the labels as text if -1 is a class"
    if labels.rows is not None:
        raise DataError(
            f"split {split!r}: {len(missing)} of {labels.num_examples} examples have no list of labels "
            f"(null), or a list with a label that is none (null, NaN, empty or -1): {places}",
            "a list for every example, an empty one where none of the classes is there",
            fix,
        )
    raise DataError(
        f"split {split!r}: {len(missing)} of {len(labels.ids)} examples have no label "
        f"(null, NaN, empty or -1): {places}",
        "a label for every example",
        fix,
    )


def _check_same_kind(raw: Mapping[str, RawLabels]) -> None:
    kinds = {split: "one label" if labels.rows is None else "a list of labels" for split, labels in raw.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind} per image in {split!r}" for split, kind in kinds.items())
        raise DataError(
            f"the splits have different kinds of label: {found}",
            "one label per image in all splits, or a list of labels in all of them",
            "give the label columns of all splits the same type",
        )


def encode_labels(
    labels: RawLabels, names: list[str], role: str, split: str, notes: list[str], locate: Locate
) -> LabelIds:
    """Translate a split's labels to the dataset's ids, by name.

    Args:
        labels: Of the split.
        names: Class names of the dataset.
        role: The split's role.
        split: The split's name.
        notes: What is worth telling is appended here.
        locate: Names a row of a role.

    Returns:
        int64 array ``(N,)`` of ids into ``names``; with several labels per image a sparse bool matrix ``(N, K)``.

    Raises:
        DataError: A label occurs in this split that the map does not have.
    """
    index_of = {name: index for index, name in enumerate(names)}
    table = np.array([index_of.get(name, MISSING) for name in labels.names], dtype=np.int64)
    unknown = [name for name in labels.used_names if name not in index_of]
    if unknown:
        indices = [labels.names.index(name) for name in unknown]
        count = int(np.isin(labels.ids, indices).sum())
        places = list_rows([locate(role, row) for row in labels.find_rows(indices[0])], count)
        raise DataError(
            f"split {split!r} has {count} examples of classes that training does not have: {list_some(unknown)}"
            f"{suggest_twins(unknown, names)} ({places})",
            f"only the training split's {len(names)} classes: {list_some(names)}",
            f"remove or rename these examples in {split!r}, or add the class to the training split",
        )
    if labels.declared and labels.names != names:
        notes.append(f"The list of class names of {split!r} differs from training's; its labels were matched by name.")
    if labels.rows is not None:
        return build_matrix(table[labels.ids], labels.rows, labels.num_examples, len(names))
    return table[labels.ids]


def describe_names(names: Iterable[str]) -> list[str]:
    """Say what looks wrong about class names: two for one class, or one that is none.

    Returns:
        At most one sentence for each kind.
    """
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(_twin_key(name), []).append(name)
    twins = [_show_twins(group) for group in groups.values() if len(group) > 1]
    phantoms = [name for group in groups.values() for name in group if is_hidden_name(name)]
    notes = []
    if twins:
        more = f" and {len(twins) - 5} more" if len(twins) > 5 else ""
        notes.append(f"Different classes by their names, but perhaps not meant so: {'; '.join(twins[:5])}{more}.")
    if phantoms:
        notes.append(f"Classes with the names of hidden files, perhaps not meant as classes: {list_some(phantoms)}.")
    return notes


def hint_separator(names: Sequence[str]) -> list[str]:
    """Say that class names look like several classes each: ``cat;dog`` beside ``cat``, in a sentence or none.

    It is not decided for the user: class names may hold any character.
    """
    known = set(names)
    for separator in (";", "|", ","):
        joined = [name for name in names if separator in name]
        if joined and any(part.strip() in known for name in joined for part in name.split(separator)):
            return [
                f"{len(joined)} class names hold {separator!r} and look like several classes: {list_some(joined)}. If "
                f"images have several labels, pass --label_separator {separator!r}."
            ]
    return []


def suggest_twins(unknown: Sequence[str], names: Sequence[str]) -> str:
    """Say which known class an unknown one probably is: " ('1' is probably '01')", or nothing."""
    known = {_twin_key(name): name for name in names}
    probable = {name: known.get(_twin_key(name)) or find_near_name(name, names) for name in unknown[:50]}
    pairs = [[name, near] for name, near in probable.items() if near is not None]
    if not pairs:
        return ""
    return f" ({', '.join(_show_twins(pair, ' is probably ') for pair in pairs[:5])})"


def _twin_key(name: str) -> Hashable:
    """What two spellings of one class have in common: case, Unicode form, separators, the value of a number."""
    text = unicodedata.normalize("NFKC", name).strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", text):
        return Decimal(text)
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text.casefold()))


def _show_twins(names: Sequence[str], between: str = " and ") -> str:
    """Write out names that may look alike: those that differ in their Unicode form only are escaped."""
    looks = {unicodedata.normalize("NFC", name) for name in names}
    return between.join(map(repr if len(looks) == len(names) else ascii, names))
