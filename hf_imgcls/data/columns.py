"""The columns of a source, and the columns that its splits have from then on."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.find_columns import find_image_column, find_label_column
from hf_imgcls.data.label_sets import LabelIds, label_feature, split_columns, to_column
from hf_imgcls.data.sources import Source
from hf_imgcls.errors import DataError

COLUMNS = ("image", "label", "sample_index")


def check_fixed_columns(source: Source, args: DataArguments) -> None:
    """Refuse the name of another column where a source has one image and one label column.

    Raises:
        DataError: Such a name is given.
    """
    for flag, requested, fixed in (
        ("--image_column_name", args.image_column_name, source.image_column),
        ("--label_column_name", args.label_column_name, source.label_column),
    ):
        if requested is not None and fixed is not None and requested != fixed:
            raise DataError(
                f"{flag} {requested}, but {source.name} has no such column",
                f"its only one, {fixed!r}",
                f"leave out {flag}",
            )


def agree_on_column(source: Source, requested: str | None, image_column: str | None) -> str:
    """Return the image column (or, given it, the label column), which all splits must have under one name.

    Raises:
        DataError: The splits have it under different names; or as ``find_image_column`` and ``find_label_column``.
    """
    found: dict[str, str] = {}
    for role, split in source.splits.items():
        decided = next(iter(found.values()), None)
        if requested is None and decided in split.features:
            column = str(decided)  # by the first split's values, of which another one may have few
        elif image_column is None:
            column = find_image_column(split.features, requested)
        else:
            column = find_label_column(split.features, requested, image_column, split)
        found[source.split_names[role]] = column
    first = next(iter(found.values()))
    for name, column in found.items():
        if column != first:
            what = "image" if image_column is None else "label"
            raise DataError(
                f"the {what} column is {first!r} in {next(iter(found))!r} and {column!r} in {name!r}",
                "one name in all splits",
                f"rename the column, or pass --{what}_column_name",
            )
    return first


def unify_columns(split: Dataset, image_column: str, label_column: str, ids: LabelIds, names: list[str]) -> Dataset:
    """Give a split the columns image, label and sample_index first, without touching the images themselves."""
    split = split.with_format(None)
    # Of a path into a column, the column stays: it holds more than labels.
    used = [name for name in split_columns(split.features, label_column) if name in split.features]
    taken = [name for name in COLUMNS if name in split.column_names and name not in (image_column, *used)]
    renamed: dict[str, str] = {}
    for name in taken:
        renamed[name] = f"source_{name}"
        while renamed[name] in split.column_names:
            renamed[name] = f"source_{renamed[name]}"
    split = split.rename_columns(renamed)
    split = split.remove_columns(used)
    if image_column != "image":
        split = split.rename_column(image_column, "image")
    if split.features["image"] != Image(decode=False):
        split = split.cast_column("image", Image(decode=False))
    rest = [name for name in split.column_names if name not in COLUMNS]
    split = split.add_column("label", to_column(ids), feature=label_feature(ids, names))
    split = split.add_column("sample_index", np.arange(len(split), dtype=np.int64))
    return split.select_columns([*COLUMNS, *rest])
