"""The parquet file of a prediction table: its columns, written and read some thousand rows at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.top_scores import class_dtype

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE_VERSION = 1  # of the file's layout
TABLE_KEY = b"hf_imgcls.predictions"
METADATA_PREFIX = "metadata."
_ROWS = 4096  # of a row group: converted at a time, so that memory holds a table once

# Column of the file -> the table's attribute, the type of its values in the file (None: the smallest for class ids),
# and in memory (None: as in the file). Rows of bools are stored as lists of the places that are true.
Layout = dict[str, tuple[str, type | None, type | None]]


def find_type(values: npt.NDArray[Any], stored: type) -> pa.DataType:
    """Return the type of a column of the file.

    Args:
        values: (N,) numbers, (N, k) numbers, or (N, K) bools.
        stored: The type of one number.
    """
    import pyarrow as pa

    kind = pa.from_numpy_dtype(stored)
    if values.ndim == 1:
        return kind
    return pa.list_(kind) if values.dtype == bool else pa.list_(kind, values.shape[1])


def write_column(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Turn some rows of an array into a column of the file; ``kind`` is from `find_type`."""
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values, kind)
    if values.dtype == bool:
        offsets = np.concatenate([[0], np.cumsum(values.sum(axis=1))])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.nonzero(values)[1], kind.value_type))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind.value_type), kind.list_size)


def read_columns(
    file: pq.ParquetFile, layout: Layout, num_labels: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[Any]]]:
    """Read a file into arrays that are as long as it from the start, so that memory holds no column twice.

    Args:
        file: The file.
        layout: Of the table.
        num_labels: K.

    Returns:
        Attribute of the table -> its array; and column -> values, for the columns that the layout does not have.
    """
    schema, arrays = file.schema_arrow, {}
    for name, (_, stored, loaded) in layout.items():
        kind = schema.field(name).type
        width = getattr(kind, "list_size", num_labels if hasattr(kind, "value_type") else None)
        shape = (file.metadata.num_rows, *filter(None, [width]))
        arrays[name] = np.zeros(shape, dtype=loaded or stored or class_dtype(num_labels))
    lists: dict[str, list[Any]] = {name: [] for name in schema.names if name not in arrays}
    start = 0
    for batch in file.iter_batches(_ROWS):
        rows = slice(start, start + len(batch))
        for name, column in zip(schema.names, batch.columns, strict=True):
            if name in lists:
                lists[name] += column.to_pylist()
            else:
                _read_column(column, arrays[name][rows])
        start = rows.stop
    return {layout[name][0]: values for name, values in arrays.items()}, lists


def _read_column(column: pa.Array, into: npt.NDArray[Any]) -> None:
    if into.ndim == 1:
        into[:] = column.to_numpy()
    elif into.dtype == bool:
        owners = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
        into[owners, column.flatten().to_numpy()] = True
    else:
        into[:] = column.flatten().to_numpy().reshape(into.shape)


def write_parquet(
    path: str | os.PathLike[str], schema: pa.Schema, to_arrow: Callable[[slice, pa.Schema], pa.Table], num_rows: int
) -> None:
    """Write a table piece by piece, in one step for a reader.

    Args:
        path: The file.
        schema: Its columns.
        to_arrow: Makes the columns of some rows.
        num_rows: N.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Probabilities hardly repeat: a dictionary of them would only cost time.
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer:
            for start in range(0, num_rows, _ROWS):
                writer.write_table(to_arrow(slice(start, min(start + _ROWS, num_rows)), schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def public_source(source: dict[str, Any]) -> dict[str, Any]:
    """What a table's file says about where it comes from: it may be published, the model's place may not."""
    model = source.get("model")
    is_path = isinstance(model, str) and os.path.isabs(model)
    return source | ({"model": os.path.basename(str(model).rstrip(os.sep))} if is_path else {})


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a table says about itself: version, split, labels, source; ``problem_type`` where it is multi-label."""
    import pyarrow.parquet as pq

    about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(TABLE_KEY, b"{}"))
    if about.get("version") != TABLE_VERSION:
        raise unreadable(path, "it was not written by this release")
    return about


@contextlib.contextmanager
def reading_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say in our words why a table cannot be read."""
    import pyarrow as pa

    try:
        yield
    except (OSError, KeyError, IndexError, ValueError, TypeError, pa.ArrowException) as error:
        raise unreadable(path, str(error)) from error


def unreadable(path: str | os.PathLike[str], reason: str) -> DataError:
    return DataError(
        f"{path} cannot be used: {reason}",
        "a prediction table (predictions_<split>.parquet) as hf-imgcls measure writes it",
        "measure the model again, or name another file",
    )
