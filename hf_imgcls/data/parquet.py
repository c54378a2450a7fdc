"""Parquet files as numbered rows: counted from their footers, read a row group at a time, near or far (fsspec).

A footer is a few kilobytes at the end of a file. With all footers known, any row of a dataset of any size can be named,
counted, shared out and skipped without reading it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from hf_imgcls.data.class_lists import FileFeatures
from hf_imgcls.data.ranges import RangeCache, RangeReader
from hf_imgcls.errors import DataError

_NUM_THREADS = 16
_ROWS_PER_READ = 256
_MAX_GAP = 8 << 10  # bytes that are read for nothing rather than asked around


@dataclass
class ParquetFiles:
    """The files of one split.

    Attributes:
        urls: Paths or URLs (``hf://datasets/...``), in the dataset's order.
        footers: Each file's metadata.
        sizes: Bytes of each file.
        token: Hub token for ``hf://`` URLs.
        attempts: How often a range of a file is tried.
        groups: int64 array ``(S, 4)``, one row per row group that has rows, in the dataset's order: file, row group in
            the file, row number of its first row in the split, number of rows.
        cache: Where the ranges of remote files are kept that were read.
    """

    urls: list[str]
    footers: list[pq.FileMetaData]
    sizes: list[int]
    token: str | bool | None
    attempts: int
    groups: np.ndarray
    cache: RangeCache | None = None

    def read_features(self) -> list[FileFeatures]:
        """Return what each file declares, as its schema (and the ``huggingface`` key in it) tells it."""
        return [
            FileFeatures(url, footer.num_rows, Features.from_arrow_schema(footer.schema.to_arrow_schema()))
            for url, footer in zip(self.urls, self.footers, strict=True)
        ]

    def find_file(self, row: int) -> int:
        """Return the number of the file that a row of the split is in."""
        return int(self.groups[np.searchsorted(self.groups[:, 2], row, side="right") - 1, 0])

    def read_group(
        self, piece: np.ndarray, first: int, columns: Sequence[str], share: float = 1.0
    ) -> Generator[tuple[int, dict[str, Any]], None, None]:
        """Read a row group; its rows, or some of them, become Python objects a few hundred at a time.

        All of the row group's columns are in memory meanwhile, uncompressed.

        Args:
            piece: int64 array ``(4,)``: a row of ``groups``, or a part of it: a later first row, fewer rows.
            first: Row number (in the split) to begin at; earlier ones are skipped.
            columns: Columns to read.
            share: Share of the cache's room that may be full afterwards.

        Yields:
            Row number in the split, and the row.
        """
        file, group, begin, size = (int(value) for value in piece)
        lowest, highest = max(first, begin), begin + size
        at = int(self.groups[(self.groups[:, 0] == file) & (self.groups[:, 1] == group), 2][0])
        table = self._read_table(file, group, columns, share)
        for start in range(max(lowest - at, 0), highest - at, _ROWS_PER_READ):
            rows = table.slice(start, min(_ROWS_PER_READ, highest - at - start))
            yield from enumerate(rows.to_pylist(), at + start)

    def _read_table(self, file: int, group: int, columns: Sequence[str], share: float) -> pa.Table:
        """Read columns of a row group at once.

        A reader that goes on in Arrow's threads can call into an interpreter that is shutting down; and one that lives
        on keeps what it has read from the file.
        """
        with self._open(file, find_blocks(self.footers[file], [group], columns), share) as handle:
            reader = pq.ParquetFile(handle, metadata=self.footers[file])
            return reader.read_row_group(group, columns=list(columns), use_threads=False)

    def _open(self, file: int, blocks: Sequence[tuple[int, int]], share: float) -> RangeReader:
        return RangeReader(
            self.urls[file], self.token, self.attempts,
            size=self.sizes[file], blocks=blocks, cache=self.cache, share=share,
        )  # fmt: skip

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """Read small columns of all rows, 16 files at a time.

        Raises:
            DataError: The files have other types of a column.
        """

        def read(file: int) -> pa.Table:
            footer = self.footers[file]
            with self._open(file, find_blocks(footer, range(footer.num_row_groups), names), 1.0) as handle:
                reader = pq.ParquetFile(handle, metadata=footer)
                return reader.read(list(names), use_threads=False).replace_schema_metadata(None)

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            tables = list(pool.map(read, range(len(self.urls))))
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"the files of a split have different types in {', '.join(names)}: {error}",
                "the same types in all files",
                "write the files again with one schema",
            ) from error


def open_parquet(
    urls: Sequence[str], token: str | bool | None, *, attempts: int = 1, cache: RangeCache | None = None
) -> ParquetFiles:
    """Read the footers of files, 16 at a time.

    Args:
        urls: Paths or URLs.
        token: Hub token for ``hf://`` URLs.
        attempts: How often a range of a file is tried.
        cache: Where ranges of remote files are kept.

    Raises:
        DataError: A file cannot be read or is not parquet.
    """

    def read_footer(url: str) -> tuple[pq.FileMetaData, int]:
        try:
            with RangeReader(url, token, attempts) as handle:
                return pq.read_metadata(handle), handle.size
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{url} cannot be read: {next(iter(str(error).splitlines()), type(error).__name__)}",
                "a whole parquet file",
                "check the file and the connection",
            ) from error

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = list(pool.map(read_footer, urls))
    footers, sizes = [footer for footer, _ in found], [size for _, size in found]
    groups = [
        (file, group, 0, footer.row_group(group).num_rows)
        for file, footer in enumerate(footers)
        for group in range(footer.num_row_groups)
        if footer.row_group(group).num_rows
    ]
    table = np.array(groups, dtype=np.int64).reshape(-1, 4)
    table[:, 2] = np.cumsum(table[:, 3]) - table[:, 3]
    return ParquetFiles(list(urls), footers, sizes, token, attempts, table, cache)


def find_blocks(footer: pq.FileMetaData, groups: Iterable[int], columns: Sequence[str]) -> list[tuple[int, int]]:
    """Find the bytes of some columns in some row groups; neighbours are one block, which is one request.

    Returns:
        Ranges ``(start, stop)`` in bytes, ascending.
    """
    chunks = []
    for group in groups:
        row_group = footer.row_group(group)
        for index in range(row_group.num_columns):
            chunk = row_group.column(index)
            if chunk.path_in_schema.partition(".")[0] not in columns:
                continue
            offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
            start = min(offset for offset in offsets if offset is not None and offset > 0)
            chunks.append((start, start + chunk.total_compressed_size))
    blocks: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        if blocks and start - blocks[-1][1] <= _MAX_GAP:
            blocks[-1] = (blocks[-1][0], max(stop, blocks[-1][1]))
        else:
            blocks.append((start, stop))
    return blocks


def take_groups(groups: np.ndarray, count: int, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Divide row groups in two at random: ``count`` rows, and the rest. The last group taken is cut where it must be.

    Args:
        groups: int64 array ``(S, 4)`` as in ``ParquetFiles.groups``.
        count: Rows to take, at most all.
        seed: Seed of the choice.

    Returns:
        The taken groups and the others, both in the order of ``groups``.
    """
    order = np.random.RandomState([value % 2**32 for value in seed]).permutation(len(groups))
    shuffled = groups[order]
    ends = np.cumsum(shuffled[:, 3])
    num_whole = int(np.searchsorted(ends, count, side="right"))
    missing = count - (int(ends[num_whole - 1]) if num_whole else 0)
    taken, rest = shuffled[:num_whole], shuffled[num_whole:].copy()
    if missing:
        part = rest[:1].copy()
        part[0, 3] = missing
        rest[0, 2] += missing
        rest[0, 3] -= missing
        taken = np.concatenate([taken, part])
    return taken[np.argsort(taken[:, 2])], rest[np.argsort(rest[:, 2])]


def slice_groups(groups: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Cut rows ``start`` to ``stop``, counted over ``groups``, out of a sequence of row groups.

    Returns:
        int64 array ``(P, 4)`` of whole row groups and, at both ends, parts of them.
    """
    ends = np.cumsum(groups[:, 3])
    begins = ends - groups[:, 3]
    pieces = groups[(ends > start) & (begins < stop)].copy()
    if start >= stop or not len(pieces):
        return pieces[:0]
    ahead = start - int(begins[ends > start][0])
    pieces[0, 2] += ahead
    pieces[0, 3] -= ahead
    pieces[-1, 3] -= max(int(ends[begins < stop][-1]) - stop, 0)
    return pieces
