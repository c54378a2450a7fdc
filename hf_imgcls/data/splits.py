"""Which of a dataset's splits trains, which selects and which judges; and cutting the ones that are not there.

The test split is touched once and never selects anything, so a held-out split that the dataset brings is the test,
and what is needed to select (validation) is cut from train. The cut is stratified and depends on the seed alone:
NumPy's ``RandomState`` stream is frozen, so it is the same on every machine and with every later NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_imgcls.errors import DataError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments

ROLES = ("train", "validation", "test")
RECOGNISED_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def requested_splits(args: DataArguments) -> dict[str, str | None]:
    """Role -> the split name that the user asked for."""
    return {role: getattr(args, f"{role}_split_name") for role in ROLES}


def match_split_names(available: Sequence[str], requested: Mapping[str, str | None]) -> dict[str, str]:
    """Match the roles train, validation and test to a dataset's split names.

    Args:
        available: The dataset's split names.
        requested: Role -> the name the user asked for, or ``None`` for the recognised names.

    Returns:
        Role -> split name, for the roles that are there.

    Raises:
        DataError: A requested split is missing, one split was asked for in two roles, two splits fit one role,
            or none fits any.
    """
    found: dict[str, str] = {}
    for role in ROLES:
        name = requested.get(role)
        if name is not None:
            if name not in available:
                raise DataError(
                    f"there is no split {name!r}",
                    f"one of the dataset's splits: {', '.join(available)}",
                    f"pass --{role}_split_name with one of them, or leave it out",
                )
            if name in found.values():
                raise DataError(
                    f"the split {name!r} is asked for twice",
                    "a different split for each purpose",
                    "name each split once",
                )
            found[role] = name
    for role in ROLES:
        if role in found:
            continue
        fitting = [name for name in available if name.lower() in RECOGNISED_NAMES[role] and name not in found.values()]
        if len(fitting) > 1:
            raise DataError(
                f"several splits may be the {role} split: {', '.join(fitting)}",
                f"one {role} split",
                f"pass --{role}_split_name with one of them",
            )
        if fitting:
            found[role] = fitting[0]
    if not found:
        raise DataError(
            f"no split is recognised; the dataset's splits are: {', '.join(available) or 'none'}",
            "splits called train, validation or test",
            "pass --train_split_name, --validation_split_name and --test_split_name as needed",
        )
    return found


def assign_roles(
    found: Mapping[str, str], hidden: set[str], validation_is_explicit: bool, notes: list[str]
) -> dict[str, str]:
    """Decide what each split is used for.

    Args:
        found: Role -> split name, as named by the dataset.
        hidden: Names of splits whose labels are all missing; they cannot judge anything.
        validation_is_explicit: The user said which data is validation, so it stays that.
        notes: What was decided is appended here.

    Returns:
        Role -> split name. Roles that are missing must be cut from train.
    """
    roles = {role: name for role, name in found.items() if name not in hidden}
    for role in found:
        if role not in roles:
            notes.append(f"The split {found[role]!r} is not used: none of its labels is given.")
    if "validation" in roles and "test" not in roles and "train" in roles and not validation_is_explicit:
        roles["test"] = roles.pop("validation")
        notes.append(
            f"The split {roles['test']!r} is the only labelled held-out data, so it is the test split; "
            "validation is cut from train."
        )
    return roles


def count_cuts(
    roles: Mapping[str, str],
    num_examples: int,
    train_val_split: float,
    test_split: float,
    validation_is_explicit: bool,
    notes: list[str],
) -> dict[str, int]:
    """Decide what is cut from train, and how much.

    Args:
        roles: The roles that are filled.
        num_examples: Examples of train.
        train_val_split: Fraction or count for validation, where it is missing.
        test_split: Fraction or count for test, where it is missing.
        validation_is_explicit: The user named the validation data; then a missing test stays missing.
        notes: What was decided is appended here.

    Returns:
        Role -> number of examples, test first; nothing without train.

    Raises:
        DataError: A count cannot be, or nothing would be left to train on.
    """
    counts = {}
    if "train" in roles and "test" not in roles and not validation_is_explicit:
        counts["test"] = count_held_out(test_split, num_examples, "--test_split")
    if "train" in roles and "validation" not in roles:
        counts["validation"] = count_held_out(train_val_split, num_examples, "--train_val_split")
    if "train" in roles and "test" not in roles and validation_is_explicit:
        notes.append("There is no test split: only validation data was named beside train, and nothing is cut from it.")
    counts = {role: count for role, count in counts.items() if count}
    if counts and sum(counts.values()) >= num_examples:
        raise DataError(
            f"{' and '.join(counts)} take {sum(counts.values())} of {num_examples} examples",
            "a cut that leaves examples to train on",
            "lower --train_val_split or --test_split",
        )
    return counts


def check_not_empty(source: str, sizes: Mapping[str, int]) -> None:
    """Refuse a dataset of which a split has no examples.

    Args:
        source: The dataset, for the error.
        sizes: Split name -> number of examples.

    Raises:
        DataError: A split is empty.
    """
    for name, size in sizes.items():
        if not size:
            raise DataError(f"the split {name!r} of {source} is empty", "splits with examples", "check its files")


def count_held_out(value: float, num_examples: int, flag: str) -> int:
    """Turn a fraction (below 1) or a count into a number of examples.

    Args:
        value: 0 for none, a fraction in (0, 1), or a whole number of examples.
        num_examples: Examples there are to cut from.
        flag: The flag that the value came from, for the error.

    Raises:
        DataError: A negative or fractional count, or one that leaves nothing to train on.
    """
    count = round(value * num_examples) if value < 1 else int(value)
    if value < 0 or (value >= 1 and count != value):
        raise DataError(f"{flag} is {value}", "0, a fraction below 1, or a whole number of examples", f"change {flag}")
    if 0 < value < 1:
        count = max(count, 1)
    if count and count >= num_examples:
        raise DataError(
            f"{flag} {value} takes {count} of {num_examples} training examples",
            "a cut that leaves examples to train on",
            f"lower {flag}, or add training examples",
        )
    return count


def cut_stratified(labels: np.ndarray, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Cut held-out parts from a split so that every part has the whole's class proportions.

    Each class gives every part its exact share, rounded down; the examples still missing come from the classes with
    the largest remainders. What a class that is in none of the earlier parts missed there counts for it, so that small
    classes are not absent from the same parts. A class always keeps at least one example in ``train``, so a class with
    a single example is in ``train`` only.

    Args:
        labels: int64 array ``(N,)`` of class ids, all >= 0.
        counts: Part name -> number of examples to cut.
        seed: Any integer.

    Returns:
        ``train`` and each part -> int64 array of rows, ascending. Together they are 0..N-1, without overlap. A part is
        smaller than asked where the classes have too few examples to give.

    Source: largest-remainder apportionment (Hare-Niemeyer).
    """
    random = np.random.RandomState(seed % 2**32)
    num_classes = int(labels.max()) + 1 if len(labels) else 0
    class_sizes = np.bincount(labels, minlength=num_classes)
    # A random order within each class: shuffle all rows, then sort by class without disturbing that order.
    rows = random.permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(class_sizes)[:-1]]) if num_classes else np.zeros(0, dtype=np.int64)
    tie_breaks = random.permutation(num_classes)
    taken = np.zeros(num_classes, dtype=np.int64)
    is_free = np.ones(len(labels), dtype=bool)
    parts: dict[str, np.ndarray] = {}
    num_cut = 0
    for name, count in counts.items():
        missed = np.where(taken == 0, num_cut * class_sizes / max(len(labels), 1), 0.0)
        quota = _apportion(count, class_sizes, class_sizes - 1 - taken, tie_breaks, missed)
        num_cut += count
        chosen = [
            rows[start + offset : start + offset + size]
            for start, offset, size in zip(starts, taken, quota, strict=True)
            if size
        ]
        part = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
        is_free[part] = False
        parts[name] = part
        taken += quota
    return {"train": np.flatnonzero(is_free), **parts}


def _apportion(
    count: int, sizes: np.ndarray, limits: np.ndarray, tie_breaks: np.ndarray, missed: np.ndarray
) -> np.ndarray:
    """Share ``count`` out over classes in proportion to ``sizes``, at most ``limits`` each: int64 ``(K,)``.

    Remainders count with what a class has ``missed`` before.
    """
    limits = np.maximum(limits, 0)
    exact = count * sizes / max(int(sizes.sum()), 1)
    quota = np.minimum(np.floor(exact).astype(np.int64), limits)
    # Classes at their limit pass their share on, so this may take several rounds.
    while quota.sum() < count and (quota < limits).any():
        order = np.lexsort((tie_breaks, quota - exact - missed))
        order = order[quota[order] < limits[order]][: count - int(quota.sum())]
        quota[order] += 1
    return quota


def choose_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Choose rows at random, equally many of each class, for ``--shots_per_class``.

    Args:
        labels: int64 ``(N,)`` class ids.
        shots: Rows to keep of each class; all of a class that has fewer.
        seed: ``--shots_seed``. More shots keep what fewer kept.

    Returns:
        int64 array of rows, ascending.
    """
    order = np.random.RandomState([seed % 2**32, 1 + len(ROLES)]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])  # of each row's class
    return np.sort(order[np.arange(len(order)) - starts < shots])


def choose_subset(num_examples: int, maximum: int | None, seed: int, role: str) -> np.ndarray | None:
    """Choose rows at random for ``--max_*_samples``.

    Args:
        num_examples: Rows there are.
        maximum: Rows to keep, or ``None`` for all.
        seed: The split seed. A larger maximum keeps what a smaller one kept.
        role: The split, so that splits are not subsampled alike.

    Returns:
        int64 array ``(maximum,)`` of rows, ascending, or ``None`` when all are kept.
    """
    if maximum is None or maximum >= num_examples:
        return None
    random = np.random.RandomState([seed % 2**32, 1 + ROLES.index(role)])
    return np.sort(random.permutation(num_examples)[:maximum])
