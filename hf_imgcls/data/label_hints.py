"""Class names that are probably another one, typed wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hf_imgcls.data.label_columns import RawLabels
from hf_imgcls.data.row_names import list_rows

# How a row of a role is named: see ``row_names.locate_row``
Locate = Callable[[str, int], str]

_FEW, _TIMES = 2, 10  # a class of at most two rows is held against those with ten times as many
_SIMILARITY = 0.8  # difflib's ratio; one pair of letters of five in the wrong order
_SHORTEST = 4
_MOST_NAMES = 50


def hint_typing_errors(used: Mapping[str, RawLabels], locate: Locate) -> list[str]:
    """Say which classes of one or two training rows have nearly the name of a large class, one sentence for each."""
    labels = used.get("train")
    if labels is None:
        return []
    counts = np.bincount(labels.ids[labels.ids >= 0], minlength=len(labels.names))
    few = np.flatnonzero((counts > 0) & (counts <= _FEW)).tolist()
    rare = [index for index in few if len(labels.names[index]) >= _SHORTEST]
    notes = []
    for index in rare[:_MOST_NAMES]:
        name, count = labels.names[index], int(counts[index])
        large = [labels.names[other] for other in np.flatnonzero(counts >= _TIMES * count)]
        if (near := find_near_name(name, large)) is None:
            continue
        places = list_rows([locate("train", row) for row in labels.find_rows(index)], count)
        notes.append(
            f"{count} row{'s' if count > 1 else ''} of {name!r} ({places}): did you mean {near!r}, which has "
            f"{counts[labels.names.index(near)]:,}?"
        )
    return notes


def find_near_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that is nearly this one, with the same digits: ``flags`` for ``flgas``."""
    if len(name) < _SHORTEST:
        return None
    digits = re.sub(r"\D", "", name)
    fitting = {other.casefold(): other for other in known if re.sub(r"\D", "", other) == digits}
    near = difflib.get_close_matches(name.casefold(), fitting, n=1, cutoff=_SIMILARITY)
    return fitting[near[0]] if near else None
