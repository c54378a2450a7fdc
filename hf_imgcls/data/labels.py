"""Which column holds the image and which the label, and the one map from class names to class ids.

Labels go by name: every split's labels are read as names and given the ids of one list, which comes from the dataset.
Nothing here looks at pixels, and every step over rows is one Arrow or NumPy operation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_imgcls.errors import DataError

IMAGE_COLUMN_NAMES = ("image", "img", "images", "picture", "photo")
LABEL_COLUMN_NAMES = (
    "label",
    "labels",
    "fine_label",
    "class",
    "class_name",
    "class_label",
    "label_name",
    "category",
    "target",
    "breed",
    "species",
)
_MISSING = -1


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key under which class ``"2"`` comes before ``"10"``, and ``"-1"`` before ``"0"``."""
    pattern = r"-?[0-9]+" if re.fullmatch(r"-?[0-9]+", name) else r"[0-9]+"
    parts = [part for part in re.split(f"({pattern})", name) if part]
    numbers_first = [(0, int(part), "") if re.fullmatch(pattern, part) else (1, 0, part.casefold()) for part in parts]
    return (numbers_first, name)


def find_image_column(features: Features, requested: str | None) -> str:
    """Name the image column.

    Args:
        features: The source's features.
        requested: The user's ``--image_column_name``, or ``None`` to infer it.

    Raises:
        DataError: The requested column is missing or cannot hold images, or none or several columns qualify.
    """
    if requested is not None:
        _check_column_exists(features, requested, "--image_column_name")
        if not _may_hold_images(features[requested]):
            raise DataError(
                f"the column {requested!r} holds {_describe(features[requested])}",
                "images: an Image feature, encoded bytes, or file paths",
                f"pass --image_column_name with another of: {', '.join(features)}",
            )
        return requested
    candidates = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not candidates:
        candidates = [name for name, feature in features.items() if _is_encoded_image(feature)]
    return _choose(candidates, features, ("image",), "image", "--image_column_name")


def find_label_column(features: Features, requested: str | None, image_column: str) -> str:
    """Name the label column.

    A ``ClassLabel`` wins over plain columns. Of several, ``label`` wins (the name Trainer scripts assume), and of the
    pair ``fine_label``/``coarse_label`` (cifar100) the fine one.

    Args:
        features: The source's features.
        requested: The user's ``--label_column_name``, or ``None`` to infer it.
        image_column: The image column, which is never the label.

    Raises:
        DataError: The requested column is missing or cannot hold labels, or none or several columns qualify.
    """
    if requested is not None:
        _check_column_exists(features, requested, "--label_column_name")
        if requested == image_column or not _may_hold_labels(features[requested]):
            raise DataError(
                f"the column {requested!r} holds {_describe(features[requested])}",
                "one class per image: a ClassLabel, a string, an integer or a boolean",
                f"pass --label_column_name with another of: {', '.join(features)}",
            )
        return requested
    others = {name: feature for name, feature in features.items() if name != image_column}
    candidates = [name for name, feature in others.items() if isinstance(feature, ClassLabel)]
    if set(candidates) == {"fine_label", "coarse_label"}:
        candidates = ["fine_label"]
    if not candidates:
        plain = [name for name, feature in others.items() if _may_hold_labels(feature)]
        candidates = [name for name in plain if name.lower() in LABEL_COLUMN_NAMES] or plain
    return _choose(candidates, features, ("label",), "label", "--label_column_name")


def _choose(candidates: list[str], features: Features, favourites: Sequence[str], what: str, flag: str) -> str:
    favourite = [name for name in candidates if name in favourites]
    if len(favourite) == 1 or len(candidates) == 1:
        return (favourite or candidates)[0]
    if candidates:
        raise DataError(
            f"{len(candidates)} columns may hold the {what}: {', '.join(candidates)}",
            f"exactly one {what} column",
            f"pass {flag} with one of them",
        )
    raise DataError(
        f"no column looks like the {what}; the columns are: {', '.join(features) or 'none'}",
        f"a column that holds one {what} per row",
        f"pass {flag}, or check that this is an image classification dataset",
    )


def _check_column_exists(features: Features, column: str, flag: str) -> None:
    if column not in features:
        raise DataError(
            f"there is no column {column!r}",
            f"one of the dataset's columns: {', '.join(features)}",
            f"pass {flag} with one of them, or leave it out to have it inferred",
        )


def _is_encoded_image(feature: Any) -> bool:
    """Whether a feature without an Image type still looks like encoded images."""
    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def _may_hold_images(feature: Any) -> bool:
    is_text = isinstance(feature, Value) and feature.dtype in ("string", "large_string")
    return isinstance(feature, Image) or is_text or _is_encoded_image(feature)


def _may_hold_labels(feature: Any) -> bool:
    if isinstance(feature, ClassLabel):
        return True
    return isinstance(feature, Value) and (
        feature.dtype in ("string", "large_string", "bool") or feature.dtype.startswith(("int", "uint", "float"))
    )


def _describe(feature: Any) -> str:
    if isinstance(feature, Value):
        return f"{feature.dtype} values"
    return f"a {type(feature).__name__} feature"


@dataclass
class RawLabels:
    """One split's labels before they have the dataset's ids.

    Attributes:
        ids: int64 array ``(N,)``: index into ``names``; -1 where the label is missing.
        names: The split's own class names, in the split's own order.
        declared: Whether ``names`` is a ``ClassLabel``'s list, whose order is part of the dataset.
    """

    ids: np.ndarray
    names: list[str]
    declared: bool

    @property
    def is_hidden(self) -> bool:
        """Whether no example has a label, as in a benchmark's test split."""
        return len(self.ids) > 0 and bool((self.ids == _MISSING).all())

    @property
    def used_names(self) -> list[str]:
        """Names that occur, in the split's own order."""
        return [self.names[index] for index in np.unique(self.ids[self.ids != _MISSING])]


def read_raw_labels(dataset: Dataset, column: str, split: str) -> RawLabels:
    """Read a split's label column as names and indices.

    Integers, booleans and whole-numbered floats become names by ``str``. An empty string counts as missing, and so does
    "nan", which is how Python writes a missing number.

    Raises:
        DataError: A label is no name: a fraction, or an index outside the ``ClassLabel``'s list.
    """
    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns(column)[:][column]
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(feature, ClassLabel):
        ids = pc.fill_null(values, _MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
        if len(ids) and (ids.max() >= feature.num_classes or ids.min() < _MISSING):
            wrong = ids[(ids >= feature.num_classes) | (ids < _MISSING)]
            raise DataError(
                f"split {split!r}: the label column {column!r} holds {wrong[0]} ({len(wrong)} such values)",
                f"a class index from 0 to {feature.num_classes - 1}, as its ClassLabel declares",
                "correct the dataset's label column or its list of names",
            )
        return RawLabels(ids, list(feature.names), declared=True)
    if pa.types.is_floating(values.type):
        values = _whole_numbers(values, column, split)
    encoded = values.dictionary_encode()
    ids = pc.fill_null(encoded.indices, _MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
    names = [str(value) for value in encoded.dictionary.to_pylist()]
    for index, name in enumerate(names):
        if name.strip().lower() in ("", "nan"):
            ids[ids == index] = _MISSING
    return RawLabels(ids, names, declared=False)


def _whole_numbers(values: pa.Array, column: str, split: str) -> pa.Array:
    """Turn floats such as 3.0, which a column of integers becomes when one is missing, back into integers."""
    values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"split {split!r}: the label column {column!r} holds fractions ({error})",
            "one class per image",
            "pass --label_column_name with the column of classes; regression is not supported",
        ) from error


def build_label_map(raw: Mapping[str, RawLabels], notes: list[str]) -> list[str]:
    """Make the dataset's one list of class names; the position is the class id.

    The list comes from ``train`` where there is one, else from all splits together. A ``ClassLabel`` keeps its order;
    other labels are sorted naturally.

    Args:
        raw: Split -> labels, for the splits that are used.
        notes: What is worth telling is appended here.

    Raises:
        DataError: Fewer than two classes, a name that occurs twice, or an example without a label.
    """
    for split, labels in raw.items():
        num_missing = int((labels.ids == _MISSING).sum())
        if num_missing:
            raise DataError(
                f"split {split!r}: {num_missing} of {len(labels.ids)} examples have no label (null, NaN, empty or -1)",
                "a label for every example",
                "remove or label these examples",
            )
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


def encode_labels(labels: RawLabels, names: list[str], split: str, notes: list[str]) -> np.ndarray:
    """Translate a split's labels to the dataset's ids, by name.

    Returns:
        int64 array ``(N,)`` of ids into ``names``.

    Raises:
        DataError: A label occurs in this split that the map does not have.
    """
    index_of = {name: index for index, name in enumerate(names)}
    table = np.array([index_of.get(name, _MISSING) for name in labels.names], dtype=np.int64)
    unknown = [name for name in labels.used_names if name not in index_of]
    if unknown:
        count = int(np.isin(labels.ids, [labels.names.index(name) for name in unknown]).sum())
        raise DataError(
            f"split {split!r} has {count} examples of classes that training does not have: {list_some(unknown)}"
            + suggest_twins(unknown, names),
            f"only the training split's {len(names)} classes: {list_some(names)}",
            f"remove or rename these examples in {split!r}, or add the class to the training split",
        )
    if labels.declared and labels.names != names:
        notes.append(f"The list of class names of {split!r} differs from training's; its labels were matched by name.")
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


def suggest_twins(unknown: Sequence[str], names: Sequence[str]) -> str:
    """Say which known class an unknown one probably is: " ('1' is probably '01')", or nothing."""
    known = {_twin_key(name): name for name in names}
    pairs = [[name, known[_twin_key(name)]] for name in unknown if _twin_key(name) in known]
    if not pairs:
        return ""
    return f" ({', '.join(_show_twins(pair, ' is probably ') for pair in pairs[:5])})"


def is_hidden_name(name: str) -> bool:
    """Whether file managers and notebooks hide such a file or folder: ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith((".", "__"))


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


def list_some(names: Sequence[str], limit: int = 5) -> str:
    """Write out the first few names of a list that may be long."""
    text = ", ".join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
