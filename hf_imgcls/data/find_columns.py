"""Which column holds the image and which the labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_imgcls.data.label_sets import list_nested_paths, resolve_feature, split_columns
from hf_imgcls.errors import DataError

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
    "cls",
)
# Levels of one hierarchy: "class" is the name of one of them too.
_TAXONOMY = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
# What WebDataset and pandas add.
_KEYS = ("__key__", "__url__", "__index_level_0__")
_FEW_ROWS = 20  # of so few, every class may well be there once
_MAX_SHOWN = 20
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


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
                f"the column {requested!r} holds {describe_feature(features[requested])}",
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


def find_label_column(features: Features, requested: str | None, image_column: str, rows: Dataset | None = None) -> str:
    """Name the label column.

    A ``ClassLabel`` wins over plain columns. Of several, ``label`` wins (the name Trainer scripts assume), and of the
    pair ``fine_label``/``coarse_label`` (cifar100) the fine one. Without a ``ClassLabel``, a column with a label's name
    and a list of ``ClassLabel`` (several labels per image) come next, then a list inside a column (``objects.category``
    of COCO), then any plain column. Keys, addresses, fractions and columns with another value in every row (or another
    number in every second one) are no candidates.

    Args:
        features: The source's features.
        requested: The user's ``--label_column_name``: a column, a dotted path into one, or several columns of 0 and 1
            with commas between them; ``None`` to infer it.
        image_column: The image column, which is never the label.
        rows: The rows, where they are here.

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
        plain = [name for name, feature in others.items() if _may_hold_labels(feature) and name not in _KEYS]
        candidates = [name for name in plain if name.lower() in LABEL_COLUMN_NAMES]
        plain = [name for name in plain if rows is None or _looks_like_classes(rows, name)]
        candidates += [name for name in others if _is_label_list(features, name)]
        nested = [path for name in others for path in list_nested_paths(features, name)]
        candidates = candidates or [path for path in nested if _is_label_list(features, path)] or plain
    return _choose(
        candidates, features, ("label",), "label", "--label_column_name", _suggest_indicators(candidates, rows)
    )


def describe_choice(features: Features, chosen: str, image_column: str) -> list[str]:
    """Name the other columns that may be meant as labels, by their types and names: one sentence, or none."""
    others = {name: feature for name, feature in features.items() if name not in (chosen, image_column)}
    ranks = [name for name in features if name.lower() in _TAXONOMY]
    names = (*LABEL_COLUMN_NAMES, *(_TAXONOMY if len(ranks) > 1 else ()))
    found = [
        repr(name)
        for name, feature in others.items()
        if isinstance(feature, ClassLabel) or (name.lower() in names and _may_hold_labels(feature))
    ]
    if not found:
        return []
    return [f"Labels are read from the column {chosen!r}; --label_column_name takes {', '.join(found)} instead."]


def _looks_like_classes(rows: Dataset, column: str) -> bool:
    """Whether a plain column may hold classes: its values come again, and are no addresses and no fractions."""
    values = rows.data.column(column).drop_null()
    num_distinct = pc.count_distinct(values).as_py()
    if len(values) >= _FEW_ROWS and num_distinct == len(values):
        return False
    if pa.types.is_floating(values.type):
        values = values.filter(pc.is_finite(values))
        if not pc.all(pc.equal(values, pc.round(values))).as_py():
            return len(values) == 0
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return len(values) < _FEW_ROWS or num_distinct <= len(values) / 2
    return not all(_URL.match(value) for value in values[:100].to_pylist()) or len(values) == 0


def _suggest_indicators(candidates: list[str], rows: Dataset | None) -> str:
    """Say that columns of 0 and 1 may be one class each, or nothing."""
    if rows is None:
        return ""
    zero_one = pa.array([0, 1])
    indicators = []
    for name in candidates:
        values = rows.data.column(name) if name in rows.column_names else pa.array([], pa.string())
        is_number = pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
        if is_number and len(values) and pc.all(pc.is_in(pc.unique(values).cast(pa.int64()), zero_one)).as_py():
            indicators.append(name)
    if len(indicators) < 2:
        return ""
    shown = ",".join(indicators) if len(indicators) <= _MAX_SHOWN else ",".join([*indicators[:_MAX_SHOWN], "..."])
    return f"; columns of 0 and 1 that are one class each go together: --label_column_name {shown}"


def _check_requested(features: Features, requested: str, image_column: str) -> None:
    columns = split_columns(features, requested)
    for column in columns or [requested]:
        found = resolve_feature(features, column)
        if found is None:
            _check_column_exists(features, column, "--label_column_name")
        elif column == image_column or not _may_hold_labels(found.item) or (found.is_list and len(columns) > 1):
            raise DataError(
                f"the column {column!r} holds {describe_feature(found.item)}",
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


def _choose(
    candidates: list[str], features: Features, favourites: Sequence[str], what: str, flag: str, hint: str = ""
) -> str:
    favourite = [name for name in candidates if name in favourites]
    if len(favourite) == 1 or len(candidates) == 1:
        return (favourite or candidates)[0]
    if candidates:
        raise DataError(
            f"{len(candidates)} columns may hold the {what}: {', '.join(candidates)}",
            f"exactly one {what} column",
            f"pass {flag} with one of them{hint}",
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


def describe_feature(feature: Any) -> str:
    """Return what a column holds, in words."""
    if isinstance(feature, Value):
        return f"{feature.dtype} values"
    return f"a {type(feature).__name__} feature"
