"""Which rows of a trained head belong to which of the dataset's classes: labels go by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from hf_imgcls.data.names import list_some

_NO_NAME = re.compile(r"LABEL_\d+")  # what transformers calls a class that has no name


def match_rows(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """Find the head's row for each class of the dataset.

    Names are compared exactly first; names left over match where only case and white space differ and exactly one name
    on either side does. A name that several rows have, or that is a placeholder (``LABEL_0``), matches nothing, unless
    both lists are equal.

    Args:
        old: Name of each row.
        new: Class names of the dataset.

    Returns:
        For each class its row, or ``None`` for a class that the head does not know.
    """
    if list(old) == list(new):
        return list(range(len(new)))
    rows: list[int | None] = [None] * len(new)
    for spell in (str, lambda name: " ".join(name.split()).casefold()):
        free_rows = [row for row in range(len(old)) if row not in rows and not _NO_NAME.fullmatch(old[row])]
        free_classes = [index for index, row in enumerate(rows) if row is None]
        rows_of, classes_of = _group(old, free_rows, spell), _group(new, free_classes, spell)
        for name, classes in classes_of.items():
            found = rows_of.get(name, [])
            if len(found) == len(classes) == 1:
                rows[classes[0]] = found[0]
    return rows


def _group(names: Sequence[str], indices: list[int], spell: Callable[[str], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(spell(names[index]), []).append(index)
    return groups


def pick_rows(trained: torch.Tensor, fresh: torch.Tensor, rows: Sequence[int | None]) -> torch.Tensor:
    """Fill one of the head's tensors: the trained row of each class that has one, the fresh one for the others.

    Args:
        trained: ``(old K, ...)``.
        fresh: ``(new K, ...)``; not changed.
        rows: From `match_rows`.
    """
    picked = fresh.clone()
    kept = [index for index, row in enumerate(rows) if row is not None]
    picked[kept] = trained[[row for row in rows if row is not None]].to(picked)
    return picked


def describe_rows(model: str, old: Sequence[str] | None, new: Sequence[str], rows: Sequence[int | None]) -> str | None:
    """Say in one line what became of a head; ``None`` if all of it stays as it is.

    Args:
        model: Its name.
        old: Name of each row; ``None`` for a model without a head.
        new: Class names of the dataset.
        rows: From `match_rows`.
    """
    if old is None:
        return f"New head: {model} has none, the data has {len(new)} classes."
    fresh = [name for name, row in zip(new, rows, strict=True) if row is None]
    if len(fresh) == len(new):
        return (
            f"New head: {model} was trained for {len(old)} other classes ({', '.join(old[:3])} ...), the data has "
            f"{len(new)} classes."
        )
    if fresh:
        return f"{len(new) - len(fresh)} of {len(new)} classes keep their head rows, by name; new: {list_some(fresh)}."
    if len(new) < len(old):
        return f"All {len(new)} classes keep their head rows, by name; the head's other {len(old) - len(new)} are gone."
    if list(rows) != list(range(len(new))):
        return f"The head's {len(new)} rows were reordered by class name."
    return None
