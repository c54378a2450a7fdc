"""The class lists that data files declare, each for itself.

``datasets`` takes the features of the first file of the first split for all files and casts the others to them: class
ids go by position, and files that list the classes in another order get wrong labels. The lists are in every file
(the key ``huggingface`` of the Arrow schema, in the footer of a parquet file), so ids can be matched by name.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetBuilder, Features, Value

from hf_imgcls.data.label_sets import resolve_feature
from hf_imgcls.errors import DataError

_RECORD = "file_features.json"
_NUM_THREADS = 16
_UNKNOWN = -2  # of a class id that a file's list does not have; -1 is a missing label
# Values that YAML reads as something else than text, and what was probably written; null has many spellings.
_LOST = {"False": "no, off or false", "True": "yes, on or true", "None": "null or ~"}


class FileFeatures(NamedTuple):
    """What one data file declares.

    Attributes:
        file: Path or URL.
        num_rows: Rows in it.
        features: Its own features.
    """

    file: str
    num_rows: int
    features: Features


class ClassLists(NamedTuple):
    """Class lists of the files of one split, brought together by name.

    Attributes:
        names: Class names of the split; the position is the id.
        table: int64 ``(F, C)``: class id in file f -> id in ``names``; -2 where the file has no such class.
        ends: int64 ``(F,)``: one past the last row of each file.
        files: The files' names, for errors.
        declaring: The name of a file that has a class list.
    """

    names: list[str]
    table: np.ndarray
    ends: np.ndarray
    files: list[str]
    declaring: str

    def translate(self, ids: np.ndarray, rows: np.ndarray, column: str, split: str) -> np.ndarray:
        """Give class ids of files the ids of the split.

        Args:
            ids: int64 ``(M,)`` ids as they stand in the files; -1 is missing and stays.
            rows: int64 ``(M,)``: the row that each belongs to.
            column: The label column, for errors.
            split: The split, for errors.

        Raises:
            DataError: A file has ids and no class list, or an id outside of its list.
        """
        if len(rows) and (not len(self.ends) or rows.max() >= self.ends[-1]):
            raise DataError(
                f"split {split!r} has more rows than its files declare",
                f"{self.ends[-1] if len(self.ends) else 0} rows",
                "delete the dataset's folder in the datasets cache, and load it again",
            )
        owners = np.searchsorted(self.ends, rows, side="right")
        is_given = ids != -1
        inside = is_given & (ids >= 0) & (ids < self.table.shape[1])
        result = np.where(is_given, _UNKNOWN, ids)
        result[inside] = self.table[owners[inside], ids[inside]]
        if (result == _UNKNOWN).any():
            position = int(np.argmax(result == _UNKNOWN))
            raise self._describe(int(owners[position]), int(ids[position]), column, split)
        return result

    def check_all_declared(self, column: str) -> None:
        """Raise a DataError if a file has no class list."""
        for name, row in zip(self.files, self.table, strict=True):
            if (row == _UNKNOWN).all():
                raise describe_missing_list(column, name, self.declaring)

    def _describe(self, file: int, label: int, column: str, split: str) -> DataError:
        name, size = self.files[file], int((self.table[file] != _UNKNOWN).sum())
        if size:
            return DataError(
                f"split {split!r}: the label column {column!r} holds {label} in {name}",
                f"a class index from 0 to {size - 1}, as its ClassLabel declares",
                "correct the dataset's label column or its list of names",
            )
        return describe_missing_list(column, name, self.declaring)


def describe_missing_list(column: str, file: str, declaring: str) -> DataError:
    """Make the error for files of which only some declare what their class ids mean."""
    return DataError(
        f"the label column {column!r} has a list of class names in {declaring}, and none in {file}",
        "a list in every file, or in none: labels are matched by name, and the ids alone may mean other classes",
        f"write {file} again with the same ClassLabel feature as {declaring}",
    )


# ------------------------------------------------------------------------------------------------ reading


def read_class_names(feature: ClassLabel) -> list[str]:
    """Return the names of a ``ClassLabel`` as text: a dataset card in YAML may have given numbers, bools or null."""
    return [str(name) for name in feature.names]


def write_out_dates(feature: Any) -> None:
    """Replace class names that YAML has read as dates by text, in place: ``datasets`` cannot save them."""
    if isinstance(feature, ClassLabel):
        feature.names = [str(name) if isinstance(name, datetime.date) else name for name in feature.names]
    elif isinstance(feature, Mapping):
        for inner in feature.values():
            write_out_dates(inner)
    elif hasattr(feature, "feature"):
        write_out_dates(feature.feature)


def describe_lost_names(feature: Any) -> list[str]:
    """Say which class names YAML did not read as they were written: one sentence, or none."""
    names = getattr(feature, "names", None) or []
    lost = [str(name) for name in names if name is None or isinstance(name, bool)]
    changed = [str(name) for name in names if isinstance(name, (int, float)) and not isinstance(name, bool)]
    notes = []
    if lost:
        found = ", ".join(f"{name} (written {_LOST[name]}?)" for name in lost)
        notes.append(
            f"The dataset card's YAML reads class names that are not in quotes as other values: {found}. "
            "Put class names in README.md in quotes: 'no'."
        )
    if changed:
        notes.append(
            f"Class names that the dataset card gives as numbers are read as the texts {', '.join(changed[:5])}"
            f"{' ...' if len(changed) > 5 else ''}; put them in quotes if they were written otherwise (007, 1.50)."
        )
    return notes


def read_file_features(file: str, token: str | bool | None = None) -> FileFeatures | None:
    """Read what a parquet or Arrow file declares, from its footer or first bytes.

    Args:
        file: Path or URL.
        token: Hub token for ``hf://`` URLs.

    Returns:
        Its features and size; ``None`` for another kind of file.
    """
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in (".parquet", ".arrow"):
        return None
    with open_file(file, token) as handle:
        if suffix == ".parquet":
            footer = pq.read_metadata(handle)
            return FileFeatures(file, footer.num_rows, Features.from_arrow_schema(footer.schema.to_arrow_schema()))
        try:
            reader = pa.ipc.open_stream(handle)
        except pa.ArrowInvalid:
            handle.seek(0)
            table = pa.ipc.open_file(handle)
            num_rows = sum(table.get_batch(index).num_rows for index in range(table.num_record_batches))
            return FileFeatures(file, num_rows, Features.from_arrow_schema(table.schema))
        return FileFeatures(file, sum(batch.num_rows for batch in reader), Features.from_arrow_schema(reader.schema))


def open_file(file: str, token: str | bool | None = None) -> Any:
    """Open a local path, which is never a pattern or a chain of file systems, or a URL."""
    if "://" not in file:
        return open(file, "rb")
    return fsspec.open(
        file, "rb", **({"token": token} if file.startswith("hf://") and token is not None else {})
    ).open()


def read_prepared_features(
    builder: DatasetBuilder, splits: Collection[str], token: str | bool | None
) -> dict[str, list[FileFeatures]]:
    """Read what the files of a prepared dataset declare.

    Files of the Hub are read where they were just downloaded to; a record beside the prepared data spares a later run
    to read them again, and is all there is when the Hub cannot be reached.

    Args:
        builder: After ``download_and_prepare``.
        splits: The splits that are used.
        token: Hub token.

    Returns:
        Split -> its files in order; nothing for files that declare no features.
    """
    record = Path(builder.cache_dir) / _RECORD
    if record.is_file():
        saved = json.loads(record.read_text(encoding="utf-8"))
        return {
            split: [FileFeatures(file, num_rows, Features.from_dict(features)) for file, num_rows, features in files]
            for split, files in saved.items()
            if split in splits
        }
    downloads = getattr(builder, "dl_manager", None)
    paths = downloads.downloaded_paths if downloads is not None else {}
    found: dict[str, list[FileFeatures]] = {}
    is_remote = False
    for split, files in (builder.config.data_files or {}).items():
        if str(split) not in splits:
            continue
        is_remote |= any("://" in str(file) for file in files)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            parts = list(pool.map(lambda file: read_file_features(str(paths.get(file, file)), token), files))
        declared = [part._replace(file=str(file)) for file, part in zip(files, parts, strict=True) if part is not None]
        if len(declared) == len(files):
            found[str(split)] = declared
    if is_remote:
        _save_record(record, found)
    return found


def _save_record(path: Path, found: Mapping[str, Sequence[FileFeatures]]) -> None:
    content = {split: [(f.file, f.num_rows, f.features.to_dict()) for f in files] for split, files in found.items()}
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
    except OSError:  # a cache that cannot be written to: the files are read again next time
        temporary.unlink(missing_ok=True)


def drop_conflicting(
    splits: Mapping[str, Dataset],
    files: Mapping[str, Sequence[FileFeatures]],
    used: Collection[str],
    notes: list[str],
) -> dict[str, Dataset]:
    """Drop other columns of class ids that mean different classes in different files.

    Args:
        splits: Role -> rows.
        files: Split -> its files.
        used: Columns that are kept whatever they hold, or the beginning of a dotted path into one.
        notes: What was dropped is appended here.
    """
    kept = {column.partition(".")[0] for column in used} | set(used)
    every = [part.features for parts in files.values() for part in parts]
    columns = [
        name
        for name in dict.fromkeys(name for features in every for name in features)
        if name not in kept and len({repr(features[name]) for features in every if name in features}) > 1
        if any("ClassLabel" in repr(features.get(name)) for features in every)
    ]
    if columns:
        notes.append(f"Left out, because files list its classes differently: column {', '.join(map(repr, columns))}.")
    return {
        role: split.remove_columns([name for name in columns if name in split.column_names])
        for role, split in splits.items()
    }


# ------------------------------------------------------------------------------------------------ bringing together


def match_class_lists(
    declared: Any, files: Mapping[str, Sequence[FileFeatures]], column: str, notes: list[str]
) -> dict[str, ClassLists]:
    """Bring the class lists of a dataset's files together, by name.

    Args:
        declared: The feature of the label (or of one of a list of them) as the dataset card has it, or as ``datasets``
            took it from one of the files.
        files: Split -> its files, in order.
        column: The label column, or a dotted path into one.
        notes: What was done is appended here.

    Returns:
        Split -> lists; nothing when no file has one, so that ``declared`` holds.

    Raises:
        DataError: The dataset card has other names than a file.
    """
    own = {split: [_find_list(file.features, column) for file in parts] for split, parts in files.items()}
    known = [names for lists in own.values() for names in lists if names is not None]
    if not known:
        return {}
    every = [(names, part) for split, lists in own.items() for names, part in zip(lists, files[split], strict=True)]
    declaring = next(os.path.basename(part.file) for names, part in every if names is not None)
    common = read_class_names(declared) if isinstance(declared, ClassLabel) else None
    card = common if common not in known else None
    result = {}
    for split, lists in own.items():
        parts = files[split]
        for index, (names, part) in enumerate(zip(lists, parts, strict=True)):
            if names is None and _is_text(part.features, column):
                if common is None:
                    raise describe_missing_list(column, os.path.basename(part.file), declaring)
                lists[index] = common  # ``datasets`` has looked the names up
            elif card is not None:
                lists[index] = card if names is None else _hold_against_card(names, card, part.file, notes)
        result[split] = _merge(lists, parts, card or known[0], declaring, keeps_order=card is not None)
        if note := _describe_differences(split, lists, parts):
            notes.append(note)
    return result


def repeat_class_list(declared: ClassLabel, parts: Sequence[FileFeatures]) -> ClassLists:
    """Return the class lists of files that all have the list of the dataset card."""
    names = read_class_names(declared)
    return _merge([names] * len(parts), parts, names, "README.md", keeps_order=True)


def _find_list(features: Features, column: str) -> list[str] | None:
    found = resolve_feature(features, column)
    return read_class_names(found.item) if found is not None and isinstance(found.item, ClassLabel) else None


def _is_text(features: Features, column: str) -> bool:
    found = resolve_feature(features, column)
    return found is not None and isinstance(found.item, Value) and found.item.dtype in ("string", "large_string")


def _hold_against_card(names: list[str], card: list[str], file: str, notes: list[str]) -> list[str]:
    """Return the names that a file's ids have: its own, or those that the dataset card gives them."""
    if set(names) <= set(card):
        return names
    shared = [(name, position) for position, name in enumerate(names) if name in card]
    if len(names) == len(card) and all(card.index(name) == position for name, position in shared):
        note = f"The dataset card renames the classes of the data files: {_pair(names, card)}."
        if note not in notes:
            notes.append(note)
        return card
    raise DataError(
        f"the dataset card lists the classes {_show(card)}, and {os.path.basename(file)} lists {_show(names)}",
        "the same names",
        "correct the class names in the dataset card (README.md, dataset_info), or remove them there",
    )


def _merge(
    lists: Sequence[list[str] | None],
    parts: Sequence[FileFeatures],
    common: list[str],
    declaring: str,
    *,
    keeps_order: bool,
) -> ClassLists:
    own_names = list(dict.fromkeys(name for own in lists for name in own or []))
    names = common if keeps_order or not own_names else own_names
    index_of = {name: index for index, name in enumerate(names)}
    table = np.full((len(lists), max((len(own or []) for own in lists), default=0)), _UNKNOWN, dtype=np.int64)
    for row, own in zip(table, lists, strict=True):
        row[: len(own or [])] = [index_of[name] for name in own or []]
    ends = np.cumsum([part.num_rows for part in parts], dtype=np.int64)
    return ClassLists(names, table, ends, [os.path.basename(part.file) for part in parts], declaring)


def _describe_differences(split: str, lists: Sequence[list[str] | None], parts: Sequence[FileFeatures]) -> str | None:
    """Say that files of a split list the classes differently, with the first two that do."""
    first = next(((own, part) for own, part in zip(lists, parts, strict=True) if own), None)
    if first is None:
        return None
    other = next(((own, part) for own, part in zip(lists, parts, strict=True) if own and own != first[0]), None)
    if other is None:
        return None
    shown = " and ".join(f"{os.path.basename(part.file)} ({_show(own)})" for own, part in (first, other))
    return f"Files of the split {split!r} list the classes differently: {shown}. Labels were matched by name."


def _show(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "")


def _pair(names: Iterable[str], card: Iterable[str]) -> str:
    pairs = [f"{old!r} is {new!r}" for old, new in zip(names, card, strict=True) if old != new]
    return ", ".join(pairs[:5]) + (" ..." if len(pairs) > 5 else "")
