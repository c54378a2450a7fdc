"""Which column holds the image and which the labels, and what stands there, as names.

Nothing here looks at pixels, and every step over rows is one Arrow or NumPy operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_imgcls.data.class_lists import (
    ClassLists,
    FileFeatures,
    describe_lost_names,
    match_class_lists,
    read_class_names,
)
from hf_imgcls.data.label_sets import (
    Elements,
    LabelFeature,
    find_vector_length,
    holds_zeros_and_ones,
    is_unlabelled,
    list_nested_paths,
    read_elements,
    read_indicator_columns,
    read_multi_hot,
    resolve_feature,
    split_columns,
    split_texts,
)
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
MISSING = -1  # the id of a label that is not given


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
    if not candidates:
        _check_no_lists(features)
    return _choose(candidates, features, ("image",), "image", "--image_column_name")


def holds_images(features: Features) -> bool:
    """Whether a column holds images, or encoded ones, and not only names of files."""
    items = [resolve_feature(features, name) for name in features]
    return any(item is not None and (isinstance(item.item, Image) or _is_encoded_image(item.item)) for item in items)


def _check_no_lists(features: Features) -> None:
    """Raise a DataError for images that lie in lists."""
    for name in features:
        found = resolve_feature(features, name)
        if found is not None and found.is_list and (isinstance(found.item, Image) or _is_encoded_image(found.item)):
            raise DataError(
                f"the column {name!r} holds lists of images",
                "one image on each row",
                f"unpack lists of one: dataset.map(lambda row: {{'image': row[{name!r}][0]}}, "
                f"remove_columns=[{name!r}]), and save the dataset again",
            )


def find_label_column(features: Features, requested: str | None, image_column: str) -> str:
    """Name the label column.

    A ``ClassLabel`` wins over plain columns. Of several, ``label`` wins (the name Trainer scripts assume), and of the
    pair ``fine_label``/``coarse_label`` (cifar100) the fine one. Without a ``ClassLabel``, a column with a label's name
    and a list of ``ClassLabel`` (several labels per image) come next, then a list inside a column (``objects.category``
    of COCO), then any plain column.

    Args:
        features: The source's features.
        requested: The user's ``--label_column_name``: a column, a dotted path into one, or several columns of 0 and 1
            with commas between them; ``None`` to infer it.
        image_column: The image column, which is never the label.

    Raises:
        DataError: The requested column is missing or cannot hold labels, or none or several columns qualify.
    """
    if requested is not None:
        _check_requested(features, requested, image_column)
        return requested
    others = {name: feature for name, feature in features.items() if name != image_column}
    candidates = [name for name, feature in others.items() if isinstance(feature, ClassLabel)]
    if set(candidates) == {"fine_label", "coarse_label"}:
        candidates = ["fine_label"]
    if not candidates:
        plain = [name for name, feature in others.items() if _may_hold_labels(feature)]
        candidates = [name for name in plain if name.lower() in LABEL_COLUMN_NAMES]
        candidates += [name for name in others if _is_label_list(features, name)]
        nested = [path for name in others for path in list_nested_paths(features, name)]
        candidates = candidates or [path for path in nested if _is_label_list(features, path)] or plain
    return _choose(candidates, features, ("label",), "label", "--label_column_name")


def _check_requested(features: Features, requested: str, image_column: str) -> None:
    columns = split_columns(features, requested)
    for column in columns or [requested]:
        found = resolve_feature(features, column)
        if found is None:
            _check_column_exists(features, column, "--label_column_name")
        elif column == image_column or not _may_hold_labels(found.item) or (found.is_list and len(columns) > 1):
            raise DataError(
                f"the column {column!r} holds {_describe(found.item)}",
                "0 or 1 in each of several label columns"
                if len(columns) > 1
                else "one class per image: a ClassLabel, a string, an integer or a boolean; or a list of these",
                f"pass --label_column_name with another of: {', '.join(features)}",
            )


def _is_label_list(features: Features, path: str) -> bool:
    """Whether a list is meant as labels by its type or its name."""
    found = resolve_feature(features, path)
    if found is None or not found.is_list:
        return False
    is_named = path.rpartition(".")[2].lower() in LABEL_COLUMN_NAMES
    return isinstance(found.item, ClassLabel) or (is_named and _may_hold_labels(found.item))


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
        return "bytes" in feature and set(feature) <= {"bytes", "path"}
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
        ids: int64 array ``(N,)``: index into ``names``; -1 where the label is missing. With several labels per image
            ``(M,)``, all labels one after another.
        names: The split's own class names, in the split's own order.
        declared: Whether ``names`` is a ``ClassLabel``'s list, whose order is part of the dataset.
        rows: With several labels per image: int64 array ``(M,)``, the example that each belongs to; else ``None``.
        is_missing: With several labels per image: bool array ``(N,)``, examples without a list of labels. An empty
            list is one: the image shows none of the classes.
    """

    ids: np.ndarray
    names: list[str]
    declared: bool
    rows: np.ndarray | None = None
    is_missing: np.ndarray | None = None

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.ids if self.is_missing is None else self.is_missing)

    @property
    def missing_rows(self) -> np.ndarray:
        """Examples without a label, or with a label that is none: int64, ascending."""
        if self.is_missing is None or self.rows is None:
            return np.flatnonzero(self.ids == MISSING)
        return np.unique(np.concatenate([np.flatnonzero(self.is_missing), self.rows[self.ids == MISSING]]))

    def find_rows(self, index: int, limit: int = 3) -> list[int]:
        """Return the first examples that have a class."""
        places = np.flatnonzero(self.ids == index)[:limit]
        return [int(row) for row in (places if self.rows is None else self.rows[places])]

    @property
    def is_hidden(self) -> bool:
        """Whether no example has a label, as in a benchmark's test split."""
        return self.num_examples > 0 and bool((self.ids == MISSING).all())

    @property
    def used_names(self) -> list[str]:
        """Names that occur, in the split's own order."""
        return [self.names[index] for index in np.unique(self.ids[self.ids != MISSING])]


def read_raw_labels(
    splits: Mapping[str, Dataset],
    column: str,
    separator: str | None,
    files: Mapping[str, Sequence[FileFeatures]],
    notes: list[str],
) -> dict[str, RawLabels]:
    """Read the label column of all splits as names and indices.

    Integers, booleans and whole-numbered floats become names by ``str``. An empty string counts as missing, and so does
    "nan", which is how Python writes a missing number. What the values are is decided for all splits together.

    Args:
        splits: Split -> rows.
        column: As `find_label_column` gives it.
        separator: What is between the labels of a text; ``None`` where a text is one label.
        files: Split -> the data files that it was read from, where they declare features of their own.
        notes: What was decided is appended here.

    Raises:
        DataError: A label is no name: a fraction, or an index outside the ``ClassLabel``'s list; or the class lists of
            the files do not fit together.
    """
    found: dict[str, LabelFeature] = {}
    parts: dict[str, Elements] = {}
    result: dict[str, RawLabels] = {}
    for split, dataset in splits.items():
        columns = split_columns(dataset.features, column)
        if separator is not None:
            _check_is_text(dataset.features, column)
            texts = split_texts(dataset, column, separator)
            result[split] = _read_names(texts, LabelFeature(Value("string"), True), column, split, None)
        elif len(columns) > 1:
            ids, rows = read_indicator_columns(dataset, columns, split)
            result[split] = RawLabels(ids, columns, declared=True, rows=rows, is_missing=np.zeros(len(dataset), bool))
        else:
            feature = resolve_feature(dataset.features, column)
            if feature is None:
                raise DataError(f"split {split!r} has no column {column!r}", "the same columns in all splits", "add it")
            found[split], parts[split] = feature, read_elements(dataset, column)
    if not found:
        return result
    declared = next(iter(found.values())).item
    lists = match_class_lists(declared, files, column, notes)
    if not lists:
        notes += describe_lost_names(declared)
    if any(feature.is_list for feature in found.values()):
        vectors = [(found[split], elements) for split, elements in parts.items() if found[split].is_list]
        length = find_vector_length(vectors, column)
        if length is not None:
            return _read_vectors(parts, length, column, notes)
        if all(isinstance(feature.item, Value) for feature in found.values()) and all(
            holds_zeros_and_ones(elements) for elements in parts.values()
        ):
            notes.append(f"The lists in column {column!r} are read as lists of the classes 0 and 1, not as vectors.")
    for split, feature in found.items():
        result[split] = _read_names(parts[split], feature, column, split, lists.get(split))
    return result


def _read_vectors(parts: Mapping[str, Elements], length: int, column: str, notes: list[str]) -> dict[str, RawLabels]:
    """Read vectors of 0 and 1 as several labels per image, or as one if every row of every split has exactly one 1."""
    names = [str(place) for place in range(length)]
    nothing = np.zeros(0, dtype=np.int64)
    read = {
        split: (nothing, nothing) if is_unlabelled(elements) else read_multi_hot(elements, length)
        for split, elements in parts.items()
    }
    is_one_hot = all(
        np.array_equal(read[split][1], np.flatnonzero(~elements.is_missing))
        for split, elements in parts.items()
        if not is_unlabelled(elements)
    )
    if is_one_hot:
        notes.append(
            f"The column {column!r} holds one-hot vectors with {length} places: every row has exactly one 1, so an "
            f"image has one label, '0' to '{length - 1}', the place of the 1."
        )
    else:
        notes.append(f"The column {column!r} holds vectors of 0 and 1 with {length} places, one for each class.")
    result = {}
    for split, (ids, rows) in read.items():
        is_missing = parts[split].is_missing
        if is_one_hot:
            single = np.full(len(is_missing), MISSING, dtype=np.int64)
            single[rows] = ids
            result[split] = RawLabels(single, names, declared=True)
        else:
            result[split] = RawLabels(ids, names, declared=True, rows=rows, is_missing=is_missing)
    return result


def _check_is_text(features: Features, column: str) -> None:
    feature = features.get(column)
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        raise DataError(
            f"--label_separator, and the label column {column!r} holds "
            + ("no text" if feature is None else _describe(feature)),
            "one column of texts such as cat;dog",
            "leave out --label_separator, or name such a column by --label_column_name",
        )


def _read_names(
    elements: Elements, feature: LabelFeature, column: str, split: str, lists: ClassLists | None
) -> RawLabels:
    """Read labels that lie one after another."""
    raw = _read_values(elements, feature.item, column, split, lists)
    if feature.is_list:
        raw.rows, raw.is_missing = elements.rows, elements.is_missing
    return raw


def _read_values(elements: Elements, feature: Any, column: str, split: str, lists: ClassLists | None) -> RawLabels:
    values = elements.values
    if lists is not None:
        ids = pc.fill_null(values.cast(pa.int64()), MISSING).to_numpy(zero_copy_only=False)
        return RawLabels(lists.translate(ids, elements.rows, column, split), lists.names, declared=True)
    if isinstance(feature, ClassLabel):
        ids = pc.fill_null(values, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
        if len(ids) and (ids.max() >= feature.num_classes or ids.min() < MISSING):
            wrong = ids[(ids >= feature.num_classes) | (ids < MISSING)]
            raise DataError(
                f"split {split!r}: the label column {column!r} holds {wrong[0]} ({len(wrong)} such values)",
                f"a class index from 0 to {feature.num_classes - 1}, as its ClassLabel declares",
                "correct the dataset's label column or its list of names",
            )
        return RawLabels(ids, read_class_names(feature), declared=True)
    if pa.types.is_floating(values.type):
        values = _whole_numbers(values, column, split)
    if pa.types.is_null(values.type):  # every list is empty
        values = values.cast(pa.string())
    encoded = values.dictionary_encode()
    ids = pc.fill_null(encoded.indices, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
    names = [str(value) for value in encoded.dictionary.to_pylist()]
    for index, name in enumerate(names):
        if name.strip().lower() in ("", "nan"):
            ids[ids == index] = MISSING
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
