"""Naming a row so that a user finds it: its number, and its image file if it has one."""

from __future__ import annotations

from pathlib import PurePath

from datasets import Dataset, Value

from hf_imgcls.data.file_names import check_names

_LOOKED_AT = 100


def locate_row(split: Dataset, image_column: str, row: int) -> str:
    """Write out where a row is: "row 17, cats/0017.jpg". Rows count from 0, as ``sample_index`` does."""
    value = split.with_format("arrow").select_columns(image_column)[row][image_column][0].as_py()
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str):
        return f"row {row}"
    return f"row {row}, {'/'.join(PurePath(path).parts[-2:])}"


def list_rows(places: list[str], total: int) -> str:
    """Write out the first few of ``total`` places."""
    return "; ".join(places) + (" ..." if total > len(places) else "")


def check_image_texts(split: Dataset, image_column: str, name: str) -> None:
    """Look whether a column of text that is to be read as file names holds them.

    Raises:
        DataError: It holds URLs, or the images themselves as base64.
    """
    feature = split.features[image_column]
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        texts = split.with_format("arrow").select_columns(image_column)[: min(_LOOKED_AT, len(split))]
        check_names(texts[image_column].to_pylist(), f"the column {image_column!r} of split {name!r}")
