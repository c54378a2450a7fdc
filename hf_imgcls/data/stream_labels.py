"""Labels of streams: class lists from the files' footers, or, without one, the label column of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetInfo, Features
from datasets.table import InMemoryTable

from hf_imgcls.data.class_lists import (
    ClassLists,
    FileFeatures,
    describe_lost_names,
    match_class_lists,
    repeat_class_list,
)
from hf_imgcls.data.label_columns import read_raw_labels
from hf_imgcls.data.label_hints import hint_typing_errors
from hf_imgcls.data.label_sets import LabelIds, is_multi_label, resolve_feature, split_columns
from hf_imgcls.data.labels import build_label_map, describe_names, encode_labels, suggest_twins
from hf_imgcls.data.names import list_some
from hf_imgcls.data.parquet import ParquetFiles
from hf_imgcls.errors import DataError

_PEEK_ROWS = 1000


@dataclass
class ListedLabels:
    """Labels that are read with the images, as class ids of lists that the files declare.

    Attributes:
        files: The files of the split.
        column: The label column in the files.
        table: int64 ``(F, C)``: class id in file f -> the dataset's; negative where it has no such class.
        is_list: Whether an image has a list of labels.
    """

    files: ParquetFiles
    column: str
    table: np.ndarray
    is_list: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (self.column,)

    def find(self, row: Mapping[str, Any], sample_index: int) -> int | list[int]:
        """Return the label of a row, or its labels, ascending."""
        label = row[self.column]
        if not self.is_list:
            return self._translate(label, sample_index)
        if label is None:
            raise _describe_label(sample_index, label, self.table.shape[1])
        return sorted({self._translate(item, sample_index) for item in label})

    def _translate(self, label: int | None, sample_index: int) -> int:
        own = self.table[self.files.find_file(sample_index)]
        if label is None or not 0 <= label < len(own) or own[label] < 0:
            raise _describe_label(sample_index, label, int((own >= 0).sum()))
        return int(own[label])


@dataclass
class KnownLabels:
    """Labels that were read beforehand.

    Attributes:
        ids: Of all rows of the split.
        columns: None: a row needs no label column.
    """

    ids: LabelIds
    columns: tuple[str, ...] = ()

    def find(self, _row: Mapping[str, Any], sample_index: int) -> int | list[int]:
        """Return the label of a row, or its labels, ascending."""
        if isinstance(self.ids, np.ndarray):
            return int(self.ids[sample_index])
        start, stop = self.ids.indptr[sample_index : sample_index + 2]
        return sorted(int(index) for index in self.ids.indices[start:stop])


@dataclass
class StreamLabels:
    """Labels of all splits of a stream.

    Attributes:
        names: Class names of the dataset; the position is the id.
        is_multi_label: Whether an image may have several labels.
        hidden: Splits none of whose labels is given.
        sources: Split -> where its labels come from, for the others.
    """

    names: list[str]
    is_multi_label: bool
    hidden: set[str]
    sources: dict[str, ListedLabels | KnownLabels] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledFiles:
    """The files of a stream, and the column that holds their labels.

    Attributes:
        files: Role -> files.
        found: Role -> split.
        features: Split -> features.
        declared: Split -> what each of its files declares.
        column: The label column.
    """

    files: Mapping[str, ParquetFiles]
    found: Mapping[str, str]
    features: Mapping[str, Features]
    declared: Mapping[str, list[FileFeatures]]
    column: str


def label_streams(source: LabelledFiles, label_separator: str | None, notes: list[str]) -> StreamLabels:
    """Find the classes of a stream and the labels of its rows.

    Args:
        source: The stream.
        label_separator: What stands between the labels of an image, where they are one text.
        notes: What is worth telling is appended here.

    Raises:
        DataError: The labels of the splits do not fit together, or are no classes.
    """
    every = [part.features for parts in source.declared.values() for part in parts] + list(source.features.values())
    resolved = [resolve_feature(part, source.column) for part in every if source.column in part]
    if any(item is not None and isinstance(item.item, ClassLabel) for item in resolved) and not label_separator:
        labels = _label_by_lists(source, notes)
    else:
        labels = _label_by_values(source, label_separator, notes)
    if len(labels.names) < 2:
        raise DataError(
            f"the dataset has the single class {labels.names[0]!r}" if labels.names else "the dataset has no class",
            "at least two classes",
            "check --label_column_name",
        )
    return labels


def _label_by_lists(source: LabelledFiles, notes: list[str]) -> StreamLabels:
    found, column = source.found, source.column
    lists = _match_files(source.features, source.declared, column, notes)
    is_list = _agree_on_kind({split: _is_list(source.features[split], column) for split in found.values()})
    if is_list:
        size = len(next(iter(lists.values())).names)
        notes.append(f"Several labels per image (column {column!r}): {size} classes.")
    names = (lists[found["train"]] if "train" in found else next(iter(lists.values()))).names
    notes += describe_names(names)
    hidden = {split for role, split in found.items() if role != "train" and _is_hidden(source.files[role], column)}
    sources: dict[str, ListedLabels | KnownLabels] = {
        split: ListedLabels(source.files[role], column, _match_names(lists[split], names, split, notes), is_list)
        for role, split in found.items()
        if split not in hidden
    }
    return StreamLabels(names, is_list, hidden, sources)


def _label_by_values(source: LabelledFiles, label_separator: str | None, notes: list[str]) -> StreamLabels:
    """Read the label column of all rows: what its classes are stands nowhere else."""
    found, column, splits = source.found, source.column, {}
    for role, split in found.items():
        features = source.features[split]
        names = list(dict.fromkeys(name.partition(".")[0] for name in split_columns(features, column)))
        names = [column] if column in features else names
        table = source.files[role].read_columns(names)
        info = DatasetInfo(features=Features({name: features[name] for name in names}))
        splits[split] = Dataset(InMemoryTable(table), info=info)
    raw = read_raw_labels(splits, column, label_separator, source.declared, notes)
    total = sum(len(split) for split in splits.values())
    notes.append(
        f"The column {column!r} declares no classes, so the labels of all {total:,} rows were read beforehand."
    )
    hidden = {split for role, split in found.items() if role != "train" and raw[split].is_hidden}
    used = {role: raw[split] for role, split in found.items() if split not in hidden}

    def locate(role: str, row: int) -> str:
        return f"row {row} of {found[role]}"

    labels = build_label_map(used, notes, locate)
    ids = {found[role]: encode_labels(part, labels, role, found[role], notes, locate) for role, part in used.items()}
    notes += hint_typing_errors(used, locate)
    multi_label = any(is_multi_label(part) for part in ids.values())
    return StreamLabels(labels, multi_label, hidden, {split: KnownLabels(part) for split, part in ids.items()})


def _read_declaration(features: Features, label_column: str, split: str) -> ClassLabel:
    """Return the feature of one label of a split, whose class names must be known."""
    found = resolve_feature(features, label_column)
    if found is None or not isinstance(found.item, ClassLabel) or label_column not in features:
        raise DataError(
            f"the label column {label_column!r} of {split!r} is {features.get(label_column)}, so its classes are not "
            "known beforehand",
            "a ClassLabel or a list of it, for streaming",
            "leave --streaming out, or cast the column to a ClassLabel and save the dataset again",
        )
    return found.item


def _is_list(features: Features, label_column: str) -> bool:
    found = resolve_feature(features, label_column)
    return found is not None and found.is_list


def _match_files(
    features: Mapping[str, Features], files: Mapping[str, list[FileFeatures]], label_column: str, notes: list[str]
) -> dict[str, ClassLists]:
    """Bring the class lists of all files together; a file without one must not be guessed at."""
    first = resolve_feature(next(iter(features.values())), label_column)
    lists = match_class_lists(first.item if first is not None else None, files, label_column, notes)
    for part in lists.values():
        part.check_all_declared(label_column)
    declared = {split: _read_declaration(found, label_column, split) for split, found in features.items()}
    if lists:
        return lists
    notes += describe_lost_names(next(iter(declared.values())))
    return {split: repeat_class_list(feature, files[split]) for split, feature in declared.items()}


def _agree_on_kind(is_list: dict[str, bool]) -> bool:
    if len(set(is_list.values())) > 1:
        found = ", ".join(
            f"{'a list of labels' if kind else 'one label'} in {split!r}" for split, kind in is_list.items()
        )
        raise DataError(
            f"the splits have different kinds of label: {found}", "the same in all splits", "correct the dataset"
        )
    return next(iter(is_list.values()))


def _is_hidden(files: ParquetFiles, label_column: str) -> bool:
    """Whether the first labels of a split are all missing."""
    rows = islice(files.read_group(files.groups[0], 0, (label_column,)), _PEEK_ROWS)
    return all(row[label_column] in (None, -1, []) for _, row in rows)


def _match_names(lists: ClassLists, labels: list[str], split: str, notes: list[str]) -> np.ndarray:
    """Return the table from class ids in the files to the dataset's: int64 ``(F, C)``, -2 where there is no class."""
    unknown = [name for name in lists.names if name not in labels]
    if unknown:
        raise DataError(
            f"split {split!r} declares classes that training does not have: {list_some(unknown)}"
            + suggest_twins(unknown, labels),
            f"only the training split's {len(labels)} classes",
            "correct the ClassLabel of that split",
        )
    if lists.names != labels:
        notes.append(f"The list of class names of {split!r} differs from training's; its labels were matched by name.")
    own = np.array([labels.index(name) for name in lists.names], dtype=np.int64)
    return np.where(lists.table >= 0, own[lists.table], lists.table)


def _describe_label(sample_index: int, label: Any, num_classes: int) -> DataError:
    return DataError(
        f"sample {sample_index} has the label {label}",
        f"a class index from 0 to {num_classes - 1}",
        "remove or label such examples",
    )
