"""What a dataset says about its examples beside image and label: names of files, and columns of scalars."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from hf_imgcls.arrays import IntArray
from hf_imgcls.data.columns import COLUMNS


def read_columns(split: Any, sample_index: IntArray) -> tuple[list[str | None], dict[str, list[Any]]]:
    """Names of files, and the columns of scalars, in the order of a prediction table. No image is read.

    Args:
        split: Has the column ``sample_index``; of a stream nothing is known afterwards.
        sample_index: (N,) ascending, all examples of the split.

    Returns:
        N names, None where an image has none; and column -> N values: text, numbers, bools or None. Classes are given
        by name, times as text.
    """
    if not isinstance(split, Dataset):
        return [None] * len(sample_index), {}
    plain = split.with_format(None).with_format("arrow")
    order = np.argsort(plain.select_columns("sample_index")[:]["sample_index"].to_numpy())
    names = [name for name in split.column_names if name not in COLUMNS and _is_scalar(split.features[name])]
    metadata = {}
    for name, column in zip(names, plain.select_columns(names)[:].columns if names else [], strict=True):
        metadata[name] = _to_scalars(column.take(pa.array(order)), split.features[name])
    # Flattened, the paths are a column of their own, and the bytes beside them stay where they are.
    paths = plain.select_columns("image").flatten().select_columns("image.path")[:]["image.path"]
    return name_files(paths.take(pa.array(order)).to_pylist()), metadata


def _is_scalar(feature: Any) -> bool:
    if isinstance(feature, ClassLabel):
        return True
    return isinstance(feature, Value) and "binary" not in feature.dtype


def _to_scalars(column: pa.ChunkedArray, feature: Any) -> list[Any]:
    values = column.to_pylist()
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
    )
    if any(is_kind(column.type) for is_kind in kinds):
        return values
    return [None if value is None else str(value) for value in values]


def name_files(paths: list[str | None]) -> list[str | None]:
    """Paths relative to the folder that holds them all, so that they are the same on every machine.

    Args:
        paths: As the dataset has them: absolute, relative, ``zip://member::archive`` or None.
    """
    members = [path and path.split("::")[0].removeprefix("zip://") for path in paths]
    absolute = [path for path in members if path and os.path.isabs(path)]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""
    return [os.path.relpath(path, root) if path and os.path.isabs(path) else path for path in members]
