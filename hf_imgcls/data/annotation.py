"""Annotation files: a CSV, TSV or JSON-lines file that names an image file and its class on every line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable

from hf_imgcls.data.label_columns import LABEL_COLUMN_NAMES
from hf_imgcls.data.label_sets import split_columns
from hf_imgcls.errors import DataError

FILE_COLUMN_NAMES = ("file_name", "filename", "file", "file_path", "filepath", "path", "image_path", "image", "img")


def read_annotation_file(
    path: Path, image_column: str | None, label_column: str | None, flag: str
) -> tuple[Dataset, str, str]:
    """Read an annotation file.

    Args:
        path: A ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.json`` file. Image paths in it are relative to the
            folder that it is in.
        image_column: The column of file names, or ``None`` to infer it from its name.
        label_column: The column of classes, or ``None`` to infer it from its name.
        flag: The flag that named the file, for errors.

    Returns:
        The dataset with the file column as an undecoded image, then the names of the image and label columns. Labels
        of a CSV file are read as text, so that ``01`` stays ``01``.

    Raises:
        DataError: The file cannot be read, a column is missing or ambiguous, or an image is not there.
    """
    table, delimiter = _read_table(path, flag)
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows", "one row per image", f"check {flag}")
    image_column = _choose_column(
        table.column_names, image_column, FILE_COLUMN_NAMES, "image's file name", "--image_column_name", path
    )
    others = [name for name in table.column_names if name != image_column]
    label_column, label_columns = _choose_label_columns(others, label_column, path)
    if delimiter is not None:
        try:
            table = _read_csv(path, delimiter, text_columns=[image_column, *label_columns])
        except pa.ArrowException as error:
            raise DataError(f"{path} cannot be read: {error}", "text in UTF-8", f"save {flag} as UTF-8") from error
    paths, sizes = _resolve_paths(table[image_column].cast(pa.string()).to_pylist(), path)
    image = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], names=["bytes", "path"]
    )
    table = table.set_column(table.column_names.index(image_column), image_column, image)
    features = Features.from_arrow_schema(table.schema)
    features[image_column] = Image(decode=False)
    # What the file says and the images' sizes: a copy of the folder on another machine is the same dataset.
    fingerprint = hashlib.sha256(path.read_bytes() + repr(sizes).encode()).hexdigest()[:16]
    dataset = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
    return dataset, image_column, label_column


def _read_table(path: Path, flag: str) -> tuple[pa.Table, str | None]:
    """Read the whole file; also return the delimiter of a CSV file, ``None`` for JSON."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            delimiter = _guess_delimiter(path)
            return _read_csv(path, delimiter), delimiter
        if suffix in (".jsonl", ".ndjson", ".json"):
            with path.open("rb") as file:
                is_array = file.read(64).lstrip().startswith(b"[")
            if is_array:
                return pa.Table.from_pylist(json.loads(path.read_text(encoding="utf-8"))), None
            return pyarrow.json.read_json(path), None
    except (pa.ArrowException, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            "a CSV file with a header line, or one JSON object per line",
            f"check {flag}",
        ) from error
    raise DataError(
        f"{flag} {path} ends in {suffix or 'nothing'!r}",
        "a .csv, .tsv, .jsonl, .ndjson or .json file",
        "rename or convert the file; for parquet files pass their folder as --dataset_name",
    )


def _guess_delimiter(path: Path) -> str:
    """Tell the delimiter from the header line: the candidate that occurs most often in it."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    return max(",\t;", key=header.count)


def _read_csv(path: Path, delimiter: str, text_columns: list[str] | None = None) -> pa.Table:
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(text_columns or [], pa.string()))
    table = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter=delimiter), convert_options=options)
    for name in text_columns or []:
        stripped = pc.utf8_trim_whitespace(table[name])
        table = table.set_column(table.column_names.index(name), name, stripped)
    return table


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


def _resolve_paths(files: list[Any], annotation: Path) -> tuple[list[str], list[int]]:
    """Make file names absolute, check that each is there, reading every folder once, and return their sizes too."""
    num_empty = sum(1 for file in files if not file)
    if num_empty:
        raise DataError(f"{annotation}: {num_empty} rows name no file", "a file name on every row", "fill or drop them")
    base = os.path.abspath(annotation.parent)
    paths = [os.path.normpath(os.path.join(base, file)) for file in files]
    present: dict[str, dict[str, int]] = {}
    missing, sizes = [], []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in present:
            try:
                with os.scandir(folder) as entries:
                    present[folder] = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except OSError:
                present[folder] = {}
        if name in present[folder]:
            sizes.append(present[folder][name])
        else:
            missing.append(path)
    if missing:
        shown = ", ".join(os.path.relpath(path, base) for path in missing[:5])
        raise DataError(
            f"{annotation} names {len(missing)} of {len(paths)} files that are not there: {shown}"
            + (" ..." if len(missing) > 5 else ""),
            f"paths relative to {base}",
            "correct the paths, or move the annotation file beside its images",
        )
    return paths, sizes
