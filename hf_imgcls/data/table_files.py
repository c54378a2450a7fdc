"""CSV, TSV and JSON-lines files as Arrow tables, with the text that stands in them where a guess would change it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from hf_imgcls.arguments.first_word import TABLE_SUFFIXES
from hf_imgcls.errors import DataError

_BLOCK_BYTES = 1 << 20
_LARGEST_BLOCK = (1 << 31) - 1


def is_csv(path: Path) -> bool:
    """Whether a file is a CSV file by its name."""
    return path.suffix.lower() in (".csv", ".tsv")


def read_table(path: Path, flag: str, notes: list[str]) -> pa.Table:
    """Read a whole file; columns of a CSV file have the types that their values look like.

    Args:
        path: A file with one of ``TABLE_SUFFIXES``.
        flag: The flag that named it, for errors.
        notes: What was decided is appended here.

    Raises:
        DataError: It cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{flag} {path} ends in {suffix or 'nothing'!r}",
            "a .csv, .tsv, .jsonl, .ndjson, .json or .parquet file",
            "rename or convert the file",
        )
    try:
        if is_csv(path):
            return _read_csv(path, [], notes)
        if suffix == ".parquet":
            return pq.read_table(path)
        with path.open("rb") as file:
            is_array = file.read(64).lstrip().startswith(b"[")
        return _read_json_array(path) if is_array else _read_json_lines(path)
    except (pa.ArrowException, ValueError, AttributeError, TypeError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            "a CSV file with a header line, or one JSON object per line",
            f"check {flag}",
        ) from error


def read_csv_as_text(path: Path, columns: Sequence[str], flag: str) -> pa.Table:
    """Read a CSV file with some columns as text, so that ``01`` stays ``01``; spaces around it do not count.

    Raises:
        DataError: It is not in UTF-8.
    """
    try:
        table = _read_csv(path, columns, [])
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read: {error}", "text in UTF-8", f"save {flag} as UTF-8") from error
    for name in columns:
        stripped = pc.utf8_trim_whitespace(table[name])
        table = table.set_column(table.column_names.index(name), name, stripped)
    return table


def _read_csv(path: Path, text_columns: Sequence[str], notes: list[str]) -> pa.Table:
    # Without newlines_in_values a line break in quotes is an error where it meets the end of a block.
    parsing = pa.csv.ParseOptions(delimiter=_guess_delimiter(path), newlines_in_values=True)
    conversion = pa.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))

    def read(block_size: int) -> pa.Table:
        reading = pa.csv.ReadOptions(block_size=block_size)
        return pa.csv.read_csv(path, read_options=reading, parse_options=parsing, convert_options=conversion)

    try:
        table = read(_BLOCK_BYTES)
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        table = read(_whole_file(path))
    return _number_repeated(table, path, notes)


def _whole_file(path: Path) -> int:
    """Return the size of a block that holds a line of any length."""
    return min(max(path.stat().st_size + 1, _BLOCK_BYTES), _LARGEST_BLOCK)


def _guess_delimiter(path: Path) -> str:
    """Tell the delimiter from the header line: the candidate that occurs most often in it."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    return max(",\t;", key=header.count)


def _number_repeated(table: pa.Table, path: Path, notes: list[str]) -> pa.Table:
    """Give columns with one name different ones: ``note``, ``note_2``."""
    counts = Counter(table.column_names)
    repeated = [name for name, count in counts.items() if count > 1]
    if not repeated:
        return table
    shown = ", ".join(f"{name!r} ({counts[name]} times)" for name in repeated[:5])
    notes.append(f"{path.name} has columns of the same name, which were numbered: {shown}.")
    return table.rename_columns(_number_names(table.column_names))


def _number_names(given: Sequence[str]) -> list[str]:
    taken, names = set(given), []
    seen: Counter[str] = Counter()
    for name in given:
        seen[name] += 1
        number = seen[name]
        own = name if number == 1 else f"{name}_{number}"
        while number > 1 and own in taken:
            number += 1
            own = f"{name}_{number}"
        taken.add(own)
        names.append(own)
    return names


def list_repeated(path: Path) -> dict[str, str]:
    """Return the columns whose name stands more than once in a CSV file's header: name in the table -> that name."""
    with pa.csv.open_csv(
        path, parse_options=pa.csv.ParseOptions(delimiter=_guess_delimiter(path), newlines_in_values=True)
    ) as reader:
        names, counts = reader.schema.names, Counter(reader.schema.names)
    return {own: name for own, name in zip(_number_names(names), names, strict=True) if counts[name] > 1}


def _read_json_array(path: Path) -> pa.Table:
    rows = json.loads(path.read_text(encoding="utf-8"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _read_json_lines(path: Path) -> pa.Table:
    def read(block_size: int, schema: pa.Schema | None = None) -> pa.Table:
        return pyarrow.json.read_json(
            path,
            read_options=pyarrow.json.ReadOptions(block_size=block_size),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema),
        )

    block_size = _BLOCK_BYTES
    try:
        table = read(block_size)
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        block_size = _whole_file(path)
        table = read(block_size)
    # Arrow takes text such as 2024-01-31 for a time; as a class name or file name it is the text.
    schema = pa.schema([field.with_type(_write_out_times(field.type)) for field in table.schema])
    return table if schema == table.schema else read(block_size, schema)


def _write_out_times(kind: pa.DataType) -> pa.DataType:
    """Return a type with text in place of times, also inside lists and structs."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_write_out_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_write_out_times(field.type)) for field in kind])
    return kind
