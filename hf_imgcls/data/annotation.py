"""Annotation files: a CSV, TSV, JSON-lines or parquet file that names an image file and its class on every row."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable

from hf_imgcls.data.file_names import ImageNames, find_files
from hf_imgcls.data.find_columns import LABEL_COLUMN_NAMES
from hf_imgcls.data.label_sets import split_columns
from hf_imgcls.data.table_files import is_csv, list_repeated, read_csv_as_text, read_table
from hf_imgcls.errors import DataError

ID_COLUMN_NAMES = ("id", "image_id", "img_id")  # where no column has a name of the others
FILE_COLUMN_NAMES = ("file_name", "filename", "file", "file_path", "filepath", "path", "image_path", "image", "img")


class AnnotatedImages(NamedTuple):
    """What an annotation file holds.

    Attributes:
        dataset: Its rows, with the file column as an undecoded image.
        image_column: The image column's name.
        label_column: The label column's name.
    """

    dataset: Dataset
    image_column: str
    label_column: str


def read_annotation_file(
    path: Path, image_column: str | None, label_column: str | None, images: ImageNames, flag: str, notes: list[str]
) -> AnnotatedImages:
    """Read an annotation file.

    Args:
        path: A ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.json`` or ``.parquet`` file with a column of file names.
        image_column: The column of file names, or ``None`` to infer it from its name.
        label_column: The column of classes, or ``None`` to infer it from its name.
        images: How file names become paths.
        flag: The flag that named the file, for errors.
        notes: What was decided is appended here.

    Returns:
        Rows and columns. Labels of a CSV file are read as text, so that ``01`` stays ``01``.

    Raises:
        DataError: The file cannot be read, a column is missing or ambiguous, or an image is not there.
    """
    table = read_table(path, flag, notes)
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows", "one row per image", f"check {flag}")
    has_files = any(name.strip().lower() in FILE_COLUMN_NAMES for name in table.column_names)
    known = FILE_COLUMN_NAMES if has_files else ID_COLUMN_NAMES
    image_column = _choose_column(
        table.column_names, image_column, known, "image's file name", "--image_column_name", path
    )
    others = [name for name in table.column_names if name != image_column]
    label_column, label_columns = _choose_label_columns(others, label_column, path)
    if is_csv(path):
        _check_once(path, [image_column, *label_columns])
        table = read_csv_as_text(path, [image_column, *label_columns], flag)
    found = find_files(_read_names(table[image_column], path, image_column), path, images, notes)
    image = pa.StructArray.from_arrays(
        [pa.nulls(len(found.paths), pa.binary()), pa.array(found.paths, pa.string())], names=["bytes", "path"]
    )
    table = table.set_column(table.column_names.index(image_column), image_column, image)
    table = _drop_repeated(table, found.paths, label_columns, path, notes)
    features = Features.from_arrow_schema(table.schema)
    features[image_column] = Image(decode=False)
    # What the file says and the images' sizes: a copy of the folder on another machine is the same dataset.
    content = path.read_bytes() + repr(found.sizes).encode()
    if images.suffix or images.folder:
        content += repr((images.suffix, os.path.relpath(images.folder or path.parent, path.parent))).encode()
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    dataset = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
    return AnnotatedImages(dataset, image_column, label_column)


def _drop_repeated(
    table: pa.Table, paths: list[str], label_columns: list[str], path: Path, notes: list[str]
) -> pa.Table:
    """Drop rows that name a file and its label once more: an image counts once, and is in one split."""
    num_files = len(set(paths))
    if num_files == len(paths):
        return table
    labels = zip(*(table[name].to_pylist() for name in label_columns), strict=True)
    first: dict[tuple[str, str], int] = {}
    for row, (file, label) in enumerate(zip(paths, labels, strict=True)):
        first.setdefault((file, repr(label)), row)
    text = f"{path.name} has {table.num_rows:,} rows for {num_files:,} files; a file with one label is used once"
    if len(first) > num_files:
        text += f". {len(first) - num_files:,} rows give a file another label than an earlier row; they are used too"
    notes.append(f"{text}.")
    return table.take(list(first.values()))


def _read_names(column: pa.ChunkedArray, path: Path, name: str) -> list[Any]:
    """Return the file names of a column; a list of one name is that name."""
    if pa.types.is_list(column.type) and pc.all(pc.equal(pc.list_value_length(column), 1)).as_py():
        column = pc.list_flatten(column)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise DataError(
                f"{path}: the column {name!r} holds {column.type} values",
                "one file name on each row",
                "write the file names into a column of text, and pass --image_column_name with it",
            )
        column = column.cast(pa.string())
    return list(column.to_pylist())


def _check_once(path: Path, columns: list[str]) -> None:
    """Raise a DataError if one of the columns that are used, maybe by its new name, stands in a CSV file twice."""
    repeated = list_repeated(path)
    twice = [repeated[name] for name in columns if name in repeated]
    if twice:
        raise DataError(
            f"{path} has the column {twice[0]!r} more than once",
            "one column of that name",
            "rename the others in the header line",
        )


def _choose_column(
    columns: list[str], requested: str | None, known: tuple[str, ...], what: str, flag: str, path: Path
) -> str:
    if requested is not None and requested in columns:
        return requested
    if requested is not None:
        raise DataError(
            f"{path} has no column {requested!r}",
            f"one of its columns: {', '.join(columns)}",
            f"pass {flag} with one of them, or leave it out to have it inferred",
        )
    fitting = [name for name in columns if name.strip().lower() in known]
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"{path}: {'several columns' if fitting else 'no column'} may hold the {what}: {', '.join(fitting or columns)}",
        f"one column for the {what}, for example {known[0]!r}",
        f"pass {flag} with one of: {', '.join(columns)}",
    )


def _choose_label_columns(columns: list[str], requested: str | None, path: Path) -> tuple[str, list[str]]:
    """The label column as it will be called, and the columns of the file that it stands for.

    A file may have one column, several of 0 and 1 (``cat,dog``), or a path into one (``objects.category``, JSON only).
    """
    parts = split_columns(Features({name: Value("string") for name in columns}), requested or "")
    heads = [name if name in columns else name.partition(".")[0] for name in parts]
    if requested is not None and (len(parts) > 1 or heads != parts):
        return requested, [_choose_column(columns, name, (), "label", "--label_column_name", path) for name in heads]
    label_column = _choose_column(columns, requested, LABEL_COLUMN_NAMES, "label", "--label_column_name", path)
    return label_column, [label_column]
