"""Groups of images that belong together: the same patient, place or series. A group is in one split.

Where a group is on both sides, a test measures how well the model recognises it again, not how it does on a new one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from hf_imgcls.errors import DataError
from hf_imgcls.records import GroupRecord, SharedGroups

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_imgcls.data.label_sets import LabelIds

_PAIRS = (("test", "train"), ("test", "validation"), ("validation", "train"))


def read_groups(splits: Mapping[str, Dataset], column: str | None, taken: Collection[str]) -> dict[str, np.ndarray]:
    """Read the group of each image.

    Args:
        splits: Role -> the source's rows.
        column: ``--group_column``; None for no groups.
        taken: Columns that hold images and labels.

    Returns:
        Role -> int64 ``(N,)``, equal for images of one group, across splits too; an image without a group is a group
        of its own. Nothing without a column.

    Raises:
        DataError: A split has no such column, it is one that is taken, or it holds something else than plain values.
    """
    if column is None:
        return {}
    values = {role: _read_values(split, column, taken) for role, split in splits.items()}
    codes = pa.concat_arrays(list(values.values())).dictionary_encode().indices
    groups = codes.fill_null(-1).to_numpy().astype(np.int64)
    alone = np.flatnonzero(groups < 0)
    groups[alone] = len(groups) + alone
    ends = np.cumsum([len(part) for part in values.values()])
    return dict(zip(values, np.split(groups, ends[:-1]), strict=True))


def _read_values(split: Dataset, column: str, taken: Collection[str]) -> pa.Array:
    """The column of a split as texts."""
    if column not in split.column_names or column in taken:
        others = [name for name in split.column_names if name not in taken]
        near = difflib.get_close_matches(column, others, n=3) or others
        what = "holds images or labels" if column in taken else "is not a column of the dataset"
        raise DataError(
            f"--group_column {column} {what}",
            f"a column that names what images belong to: {', '.join(near) or 'the dataset has no other columns'}",
            "correct the name, or leave out --group_column",
        )
    values = split.select_columns(column).with_format("arrow")[:][column]
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise DataError(
            f"--group_column {column} holds {values.type} values", "one text or number per image", "name another column"
        )
    return values.cast(pa.string()).combine_chunks()


def cut_groups(labels: LabelIds, groups: np.ndarray, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Cut held-out parts of whole groups, as close to the sizes and class proportions asked for as groups allow.

    The largest groups are dealt first; each goes to the part where it lowers most the chi-square distance between the
    class counts (and sizes) that the parts have and should have. No part stays empty.

    Args:
        labels: Of N examples: int64 ``(N,)``, or (N, K) bools where there may be several.
        groups: int64 ``(N,)``.
        counts: Part name -> number of examples to cut.
        seed: Decides among groups of equal size.

    Returns:
        ``train`` and each part -> int64 array of rows, ascending.

    Raises:
        DataError: There are fewer groups than parts.

    Source: the greedy assignment of sklearn.model_selection.StratifiedGroupKFold, with parts of unequal sizes.
    """
    num_examples, names = len(groups), ["train", *counts]
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < len(names):
        raise DataError(
            f"train has {len(sizes)} group{'s' if len(sizes) > 1 else ''}, to be cut into {', '.join(names)}",
            "at least one group for each part",
            "set --train_val_split 0 or --test_split 0, name held-out data, or leave out --group_column",
        )
    rows = np.arange(num_examples)
    if isinstance(labels, np.ndarray):
        labels = csr_array((np.ones(num_examples, dtype=np.int64), (rows, labels)))
    owners = csr_array((np.ones(num_examples, dtype=np.int64), (members, rows)), shape=(len(sizes), num_examples))
    # Examples of each class in each group, and behind them all of its examples: (G, K + 1)
    contents = (owners @ labels.astype(np.int64)).tocsr()
    totals = np.append(np.asarray(contents.sum(axis=0)).ravel(), num_examples)
    room = np.array([num_examples - sum(counts.values()), *counts.values()], dtype=np.float64)
    wanted = np.outer(room / num_examples, totals)
    left = wanted.copy()
    part_of = np.full(len(sizes), -1)
    order = np.lexsort((np.random.RandomState(seed % 2**32).permutation(len(sizes)), -sizes))
    for num_dealt, group in enumerate(order):
        own = slice(contents.indptr[group], contents.indptr[group + 1])
        columns = np.append(contents.indices[own], len(totals) - 1)
        amounts = np.append(contents.data[own], sizes[group]).astype(np.float64)
        gain = ((2 * left[:, columns] - amounts) * amounts / wanted[:, columns]).sum(axis=1)
        is_empty = ~np.isin(np.arange(len(names)), part_of)
        if len(order) - num_dealt <= is_empty.sum():
            gain[~is_empty] = -np.inf
        part_of[group] = int(gain.argmax())
        left[part_of[group], columns] -= amounts
    return {name: np.flatnonzero(part_of[members] == part) for part, name in enumerate(names)}


def record_groups(column: str | None, groups: Mapping[str, np.ndarray], notes: list[str]) -> GroupRecord | None:
    """Count the groups of the final splits, and those that two of them share.

    Args:
        column: ``--group_column``.
        groups: Role -> int64 ``(N,)``, from `read_groups`, of the examples that are used.
        notes: A sentence for each pair of splits that share groups is appended.

    Returns:
        The record; None without a column.
    """
    if column is None:
        return None
    shared = []
    for split, other in _PAIRS:
        if split in groups and other in groups:
            is_shared = np.isin(groups[split], groups[other])
            if is_shared.any():
                count = len(np.unique(groups[split][is_shared]))
                shared.append(SharedGroups(split, other, count, int(is_shared.sum()), len(is_shared)))
    notes += [item.describe(column) + "." for item in shared]
    return GroupRecord(column, {role: len(np.unique(codes)) for role, codes in groups.items()}, shared)
