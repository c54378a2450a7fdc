"""What stands in a label column, as names.

Nothing here looks at pixels, and every step over rows is one Arrow or NumPy operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from hf_imgcls.data.class_lists import (
    ClassLists,
    FileFeatures,
    describe_lost_names,
    match_class_lists,
    read_class_names,
)
from hf_imgcls.data.find_columns import describe_feature
from hf_imgcls.data.label_sets import (
    Elements,
    LabelFeature,
    find_vector_length,
    holds_zeros_and_ones,
    is_unlabelled,
    read_elements,
    read_indicator_columns,
    read_multi_hot,
    resolve_feature,
    split_columns,
    split_texts,
)
from hf_imgcls.errors import DataError

MISSING = -1  # the id of a label that is not given


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
        has_minus_one: Whether the number -1 stands in the column and is read as no label.
    """

    ids: np.ndarray
    names: list[str]
    declared: bool
    rows: np.ndarray | None = None
    is_missing: np.ndarray | None = None
    has_minus_one: bool = False

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
    if all(feature.is_list for feature in found.values()):
        length = find_vector_length([(found[split], elements) for split, elements in parts.items()], column)
        if length is not None:
            return _read_vectors(parts, length, column, notes)
        if all(isinstance(feature.item, Value) for feature in found.values()) and all(
            holds_zeros_and_ones(elements) for elements in parts.values()
        ):
            notes.append(f"The lists in column {column!r} are read as lists of the classes 0 and 1, not as vectors.")
    given = parts
    if all(isinstance(feature.item, Value) for feature in found.values()):
        parts = _drop_minus_one(parts, column, notes)
    for split, feature in found.items():
        result[split] = _read_names(parts[split], feature, column, split, lists.get(split))
        result[split].has_minus_one = parts[split].values.null_count > given[split].values.null_count
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
            + ("no text" if feature is None else describe_feature(feature)),
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


def _drop_minus_one(parts: dict[str, Elements], column: str, notes: list[str]) -> dict[str, Elements]:
    """Read -1 among numbers from 0 on as no label, which is how benchmarks hide the labels of their test split.

    Numbers below -1, or a single other value (-1 and 1 for two classes), make it a class like the others.
    """
    values = {split: elements.values for split, elements in parts.items()}
    if any(not (pa.types.is_integer(part.type) or pa.types.is_floating(part.type)) for part in values.values()):
        return parts
    found = {float(value) for part in values.values() for value in pc.unique(part.drop_null()).to_pylist()}
    if -1.0 not in found or min(found) < -1 or len(found) < 3:
        return parts
    notes.append(f"-1 in the label column {column!r} is read as no label.")
    return {
        split: elements._replace(values=pc.if_else(pc.equal(elements.values, -1), None, elements.values))
        for split, elements in parts.items()
    }


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
