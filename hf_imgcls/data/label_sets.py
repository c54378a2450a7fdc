"""Several labels per image: lists, nested lists, columns of 0 and 1, and text with a separator, as one kind of thing.

In memory the labels of N examples are a sparse (N, K) matrix of bools, beside the (N,) class ids of single labels; the
two go through the same steps of ``load``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from scipy.sparse import csr_array

from hf_imgcls.errors import DataError

# (N,) int64 class ids, or (N, K) bools in CSR layout with sorted columns.
LabelIds: TypeAlias = "np.ndarray | csr_array"

_TRUTHS = {"1": True, "true": True, "0": False, "false": False}


class LabelFeature(NamedTuple):
    """What a label column, or a field inside one, holds.

    Attributes:
        item: The feature of one label.
        is_list: Whether an example has a list of them.
    """

    item: Any
    is_list: bool


class Elements(NamedTuple):
    """The labels of a split one after another.

    Attributes:
        values: Arrow array ``(M,)``.
        rows: int64 ``(M,)``, the example that each belongs to, ascending.
        is_missing: bool ``(N,)``, examples whose list is null, which is not the same as an empty one.
    """

    values: pa.Array
    rows: np.ndarray
    is_missing: np.ndarray


# ------------------------------------------------------------------------------------------------ finding


def resolve_feature(features: Features, path: str) -> LabelFeature | None:
    """Follow a column's name, or a dotted path into one: ``objects.category``.

    Returns:
        What is there, or ``None`` if nothing is.
    """
    parts = _split_path(features, path)
    feature: Any = features
    is_list = False
    for part in parts:
        if not isinstance(feature, Mapping) or part not in feature:
            return None
        feature = feature[part]
        while (inner := _open_list(feature)) is not None:
            feature, is_list = inner, True
    return LabelFeature(feature, is_list)


def list_nested_paths(features: Features, column: str) -> list[str]:
    """Dotted paths to the lists inside a column of structs: ``objects.category``, ``objects.id`` ..."""
    found = resolve_feature(features, column)
    if found is None or not isinstance(found.item, Mapping) or {"bytes"} <= set(found.item) <= {"bytes", "path"}:
        return []
    paths = [f"{column}.{name}" for name in found.item]
    return [path for path in paths if (inner := resolve_feature(features, path)) is not None and inner.is_list]


def split_columns(features: Features, name: str) -> list[str]:
    """The columns that a comma-separated ``--label_column_name`` names; one that is a column itself is not split."""
    return [name] if name in features else [part.strip() for part in name.split(",") if part.strip()]


def _split_path(features: Features, path: str) -> list[str]:
    return [path] if path in features else path.split(".")


def _open_list(feature: Any) -> Any:
    """What a list holds, ``None`` for anything else: `datasets` writes lists in four ways."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


# ------------------------------------------------------------------------------------------------ reading


def read_elements(dataset: Dataset, path: str) -> Elements:
    """Read the lists at a path, however deep they lie."""
    parts = _split_path(dataset.features, path)
    array = _combine(dataset, parts[0])
    rows, is_missing = np.arange(len(array)), np.zeros(len(array), dtype=bool)
    for part in [None, *parts[1:]]:
        if part is not None:
            array = pc.struct_field(array, part)
        while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or _is_fixed(array.type):
            is_missing[rows[pc.is_null(array).to_numpy(zero_copy_only=False)]] = True
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            rows, array = np.repeat(rows, lengths), pc.list_flatten(array)
    return Elements(array, rows, is_missing)


def split_texts(dataset: Dataset, column: str, separator: str) -> Elements:
    """Read a column of texts such as ``cat;dog``: spaces around the parts do not count, an empty text is no label."""
    texts = _combine(dataset, column)
    is_missing = pc.is_null(texts).to_numpy(zero_copy_only=False)
    parts = pc.split_pattern(pc.fill_null(texts, ""), separator)
    rows = np.repeat(np.arange(len(texts)), pc.list_value_length(parts).to_numpy(zero_copy_only=False))
    values = pc.utf8_trim_whitespace(pc.list_flatten(parts))
    keep = pc.not_equal(values, "")
    return Elements(values.filter(keep), rows[keep.to_numpy(zero_copy_only=False)], is_missing)


def read_indicator_columns(dataset: Dataset, columns: list[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read columns of 0 and 1, one for each class.

    Returns:
        int64 ``(M,)`` numbers of columns, and the examples ``(M,)`` that they are 1 for, which ascend.

    Raises:
        DataError: A value is neither 0 nor 1.
    """
    table = np.empty((len(dataset), len(columns)), dtype=bool)
    for index, column in enumerate(columns):
        texts = [str(value).strip().lower().removesuffix(".0") for value in _combine(dataset, column).to_pylist()]
        wrong = [(row, text) for row, text in enumerate(texts) if text not in _TRUTHS]
        if wrong:
            row, text = wrong[0]
            raise DataError(
                f"split {split!r}: the label column {column!r} holds {text!r} in row {row} ({len(wrong)} such values)",
                "0 or 1 (false or true) in each of several label columns",
                "correct the values, or name one column of classes",
            )
        table[:, index] = [_TRUTHS[text] for text in texts]
    rows, ids = np.nonzero(table)
    return ids.astype(np.int64), rows.astype(np.int64)


def find_vector_length(parts: Collection[tuple[LabelFeature, Elements]], column: str) -> int | None:
    """Tell vectors of 0 and 1, with one place for each class, from lists of the classes 0 and 1.

    Vectors all have one length, over all splits, which is at least 2. Lists of two that hold 0 and 1 once each would
    give every image both classes if they were lists of classes, so they are vectors too. A list of one value says the
    same either way and is read as a class.

    Args:
        parts: Feature and elements of each split; a split without values says nothing.
        column: The label column, for errors.

    Returns:
        The number of places, ``None`` for lists of classes.

    Raises:
        DataError: Lists of 0 and 1 that hold a value twice, which only vectors do, have several lengths.
    """
    lengths: set[int] = set()
    repeats = False
    for feature, elements in parts:
        kind = elements.values.type
        if not len(elements.rows):
            continue
        if not isinstance(feature.item, Value):
            return None
        if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        if is_unlabelled(elements):
            continue
        given = pc.cast(elements.values.drop_null(), pa.float64()).to_numpy(zero_copy_only=False)
        if elements.values.null_count or not np.isin(given, (-1, 0, 1)).all():
            return None
        counts = np.bincount(elements.rows, minlength=len(elements.is_missing))
        lengths |= set(counts[~elements.is_missing].tolist())
        cells = np.unique(elements.rows * 3 + given.astype(np.int64) + 1)
        repeats |= len(cells) < len(given)
        unlabelled = elements.rows[given == -1]
        if len(unlabelled) and not repeats:
            return None
        if len(unlabelled):
            raise DataError(
                f"the label column {column!r} holds vectors of 0 and 1, and -1 in {len(np.unique(unlabelled))} rows "
                f"(row {unlabelled[0]} is the first)",
                "0 or 1 for each class",
                "remove or label these rows",
            )
    if repeats and len(lengths) > 1:
        found = ", ".join(map(str, sorted(lengths)[:5]))
        raise DataError(
            f"the label column {column!r} holds vectors of 0 and 1 with {found} places",
            "the same number of places in every row and split, one for each class",
            "correct or remove these rows",
        )
    return lengths.pop() if len(lengths) == 1 and max(lengths) > 1 else None


def is_unlabelled(elements: Elements) -> bool:
    """Whether no list holds a label: all are empty or null, or hold -1 as where labels are not published."""
    values = set(pc.unique(elements.values).to_pylist()) if len(elements.values) else set()
    return values <= {None, -1}


def holds_zeros_and_ones(elements: Elements) -> bool:
    """Whether all values of lists are the numbers 0 and 1, so that they might be meant as vectors."""
    if not (pa.types.is_integer(elements.values.type) or pa.types.is_floating(elements.values.type)):
        return False
    values = set(pc.unique(elements.values).to_pylist())
    return bool(values) and values <= {0, 1}


def read_multi_hot(elements: Elements, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Read vectors of 0 and 1: places ``(M,)`` of the ones, and the examples ``(M,)`` they belong to."""
    places = np.arange(len(elements.rows)) % length
    is_set = pc.cast(elements.values, pa.float64()).to_numpy(zero_copy_only=False).astype(bool)
    return places[is_set], elements.rows[is_set]


def _combine(dataset: Dataset, column: str) -> pa.Array:
    values = dataset.with_format("arrow").select_columns(column)[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


# ------------------------------------------------------------------------------------------------ class ids


def build_matrix(ids: np.ndarray, rows: np.ndarray, num_examples: int, num_classes: int) -> csr_array:
    """Make the (N, K) matrix; a label that an example has twice counts once.

    Args:
        ids: ``(M,)`` class ids.
        rows: ``(M,)`` the example that each belongs to.
        num_examples: N.
        num_classes: K.
    """
    cells = np.unique(rows.astype(np.int64) * num_classes + ids)
    indptr = np.searchsorted(cells, np.arange(num_examples + 1) * num_classes)
    data = np.ones(len(cells), dtype=bool)
    return csr_array((data, cells % num_classes, indptr), shape=(num_examples, num_classes))


def is_multi_label(labels: LabelIds) -> bool:
    """Whether an example may have several labels."""
    return labels.ndim == 2


def count_classes(labels: LabelIds, num_classes: int) -> np.ndarray:
    """Examples of each class: int64 ``(K,)``."""
    ids = labels.indices if isinstance(labels, csr_array) else labels
    return np.bincount(ids, minlength=num_classes)


def describe_sets(labels: Mapping[str, LabelIds], column: str, num_classes: int) -> list[str]:
    """Say in one sentence what kind of labels was found."""
    sizes = np.concatenate([matrix.sum(axis=1) for matrix in labels.values()])
    empty = int((sizes == 0).sum())
    return [
        f"Several labels per image (column {column!r}): {num_classes} classes, {sizes.mean():.2f} labels per image, "
        f"at most {int(sizes.max())}; {empty:,} of {len(sizes):,} images have none."
    ]


def label_feature(labels: LabelIds, names: list[str]) -> Any:
    """The feature of the column ``label``."""
    feature: Any = ClassLabel(names=names)
    return Sequence(feature) if is_multi_label(labels) else feature


def to_column(labels: LabelIds) -> Any:
    """The column ``label``: class ids, or ascending lists of them."""
    if not isinstance(labels, csr_array):
        return labels
    ids = pa.array(labels.indices.astype(np.int64), pa.int64())
    return pa.ListArray.from_arrays(pa.array(labels.indptr, pa.int32()), ids)


def read_label_ids(split: Dataset) -> LabelIds:
    """Class ids of a split that ``load`` has made, from its column ``label``."""
    found = resolve_feature(split.features, "label")
    elements = read_elements(split, "label")
    ids = elements.values.to_numpy(zero_copy_only=False).astype(np.int64)
    if found is None or not found.is_list:
        return ids
    return build_matrix(ids, elements.rows, len(split), found.item.num_classes)


def list_owners(labels: csr_array) -> np.ndarray:
    """The example that each label belongs to: int64 ``(M,)``."""
    return np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr))
