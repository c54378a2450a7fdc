"""Slices: groups of examples on which a classifier may be better or worse than on the rest.

Each group is held against all other examples. Looking at many groups finds "gaps" by chance, so the tests are adjusted
together (Holm): in data without any gap, the chance that a single group is called worse or better is at most 1 - level.
Groups are formed without looking at the predictions.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import rankdata, spearmanr

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.errors import ArgumentError
from hf_imgcls.measure.statistics.differences import (
    adjust_by_holm,
    estimate_difference,
    estimate_stratified_difference,
    run_fisher_test,
)
from hf_imgcls.measure.statistics.intervals import wilson

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import Table

# Below it the interval of an accuracy near 0.9 is wider than 0.2.
MIN_SAMPLES = 30
NUM_BINS = 4
_MAX_VALUES = 50  # of a column of texts; the rest is taken together
_MAX_DISCRETE = 10  # so many different numbers are shown one by one
_MOST_DISTINCT = 0.5  # a column with more different texts than that share of its examples forms no groups
_MISSING = "(missing)"
_EXPLAINED = "its {0} may be all that sets it apart: at the same mix of {0} no gap can be told"
_NOT_JUDGED = {
    **dict.fromkeys(("gap", "gap_low", "gap_high", "same_class_gap", "same_class_gap_low", "same_class_gap_high")),
    "p": None,
    "p_adjusted": None,
    "verdict": "too few samples",
    "remark": "",
}
_RANKS = ("worse", "better", "not distinguishable", "too few samples")
# Up to here p comes from permutations; scipy's approximation is documented as accurate above 500 observations.
_MAX_PERMUTED = 500
_NUM_PERMUTATIONS = 9_999


class _Column(NamedTuple):
    """Which group each example is in: (N,) codes into the groups' names."""

    name: str
    codes: IntArray
    groups: list[str]


def build_slices(
    table: Table,
    columns: Sequence[str] = (),
    image_statistics: Mapping[str, FloatArray] | None = None,
    *,
    min_samples: int = MIN_SAMPLES,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Measure the accuracy of groups of examples, and find those that differ from the rest.

    Columns of texts and of up to 10 different numbers are grouped by value (the 50 most frequent ones), other numbers
    into quarters of the examples. Columns that name single examples are left out, see `find_identifiers`.

    Args:
        table: The predictions.
        columns: Names in ``table.metadata``.
        image_statistics: Name -> (N,) numbers, as `measure_images` gives them; those that are the same for all
            images are left out.
        min_samples: Groups with fewer examples, or with fewer left outside, are not judged.
        level: Of the intervals, and 1 minus the chance of any false verdict.

    Returns:
        One dict for each group, ranked: worse ones first, largest gap first; then better ones; then the others.

        - ``column``, ``group`` (text), ``n``, ``metric`` ("accuracy", or "subset_accuracy" where an image may have
          several labels), ``value``, ``low``, ``high`` (Wilson);
        - ``rest_n``, ``rest``: the other examples' number and accuracy (None without any);
        - ``gap``, ``gap_low``, ``gap_high``: value - rest (Newcombe), each interval taken alone;
        - ``same_class_gap``, ``same_class_gap_low``, ``same_class_gap_high``: the gap at the same mix of classes, or of
          numbers of labels per image (Mantel-Haenszel): near 0 where the group merely holds harder classes; None where
          no class is on both sides, or either side is all right or all wrong;
        - ``p`` (Fisher), ``p_adjusted`` (Holm, over all groups that are judged);
        - ``verdict``: ``"worse"``, ``"better"``, ``"not distinguishable"`` or ``"too few samples"``. The gaps and p of
          the last are None;
        - ``remark``: said where the classes of a group may be all that sets it apart.

    Raises:
        ArgumentError: The table has no such column.
    """
    identifiers = find_identifiers(table, columns)
    kept = [name for name in check_columns(table, columns) if name not in identifiers]
    grouped = [_group_column(name, table.metadata[name]) for name in kept]
    for name, values in (image_statistics or {}).items():
        column = _group_column(name, values.tolist())
        if len(column.groups) > 1:
            grouped.append(column)
    if not grouped:
        return []
    members, right = _count_groups(table, grouped)
    stratum, num_strata = table.strata
    everyone, everyone_right = (
        np.bincount(stratum[chosen], minlength=num_strata) for chosen in (slice(None), table.correct)
    )
    n, x = members.sum(axis=1), right.sum(axis=1)
    rest_n, rest_x = len(table) - n, everyone_right.sum() - x
    low, high = wilson(x, n, level)
    names = [(column.name, group) for column in grouped for group in column.groups]
    slices = [
        {
            "column": name,
            "group": group,
            "n": int(n[row]),
            "metric": table.share_name,
            "value": float(x[row] / n[row]),
            "low": float(low[row]),
            "high": float(high[row]),
            "rest_n": int(rest_n[row]),
            "rest": float(rest_x[row] / rest_n[row]) if rest_n[row] else None,
            **_NOT_JUDGED,
        }
        for row, (name, group) in enumerate(names)
    ]
    judged = np.flatnonzero((n >= min_samples) & (rest_n >= min_samples))
    pair = (x[judged], n[judged], rest_x[judged], rest_n[judged])
    gaps = np.stack(estimate_difference(*pair, level), axis=-1).tolist()
    strata = (right[judged], members[judged], everyone_right - right[judged], everyone - members[judged])
    same_class_gaps = np.stack(estimate_stratified_difference(*strata, level), axis=-1).tolist()
    p = run_fisher_test(*pair)
    tests = np.stack((p, adjust_by_holm(p)), axis=-1).tolist()
    for row, gap, same_class_gap, test in zip(judged, gaps, same_class_gaps, tests, strict=True):
        slices[row] |= _judge(gap, same_class_gap, test, level, _EXPLAINED.format(table.strata_name))
    return sorted(slices, key=_rank)


def check_columns(table: Table, columns: Sequence[str]) -> list[str]:
    """The columns, each once.

    Raises:
        ArgumentError: The table has no such column; the nearest name is offered.
    """
    for name in columns:
        if name not in table.metadata:
            near = difflib.get_close_matches(name, list(table.metadata), n=3)
            raise ArgumentError(
                f"there is no column {name!r} to slice by" + (f"; did you mean {', '.join(near)}?" if near else ""),
                f"columns of the dataset beside image and label: {', '.join(table.metadata) or 'it has none'}",
                "correct --slice_columns",
            )
    return list(dict.fromkeys(columns))


def find_identifiers(table: Table, columns: Sequence[str]) -> dict[str, str]:
    """Columns that form no groups, such as file names, ids and times: fewer than two examples share a value on average.

    Args:
        table: The predictions.
        columns: Names in ``table.metadata``.

    Returns:
        Name of each such column -> a sentence that says why it is left out.
    """
    found = {}
    for name in check_columns(table, columns):
        values = [value for value in table.metadata[name] if not _is_missing(value)]
        distinct = len({str(value) for value in values})
        if distinct > _MAX_DISCRETE and distinct > _MOST_DISTINCT * len(values) and not _are_numbers(values):
            found[name] = (
                f"The column {name!r} was not used for groups: its {len(values):,} examples have {distinct:,} "
                "different values, on average fewer than two examples for each."
            )
    return found


def relate_support_to_recall(
    table: Table,
    train_counts: Mapping[str, int],
    *,
    effect: tuple[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask whether classes with more training examples are recognised better: Spearman's rank correlation.

    Args:
        table: The predictions.
        train_counts: Class name -> training examples, as in ``data.json``.
        effect: What was done about rare classes, see `hf_imgcls.fit.imbalance.describe_effect`.
        seed: Of the permutations.

    Returns:
        ``classes``: for each class that has both numbers its name, ``train`` (examples), ``n``, ``recall``, ``low``
        and ``high`` (Wilson), by ascending ``train``; ``rho`` and ``p`` (two-sided) or None with a ``remark``;
        ``method``: how p was made; ``effect``: what was done in words, or None, and then how much of it for each class
        under the same key.
    """
    n, _, right = table.count_classes()
    known = [k for k, name in enumerate(table.labels) if n[k] > 0 and name in train_counts]
    known.sort(key=lambda k: (train_counts[table.labels[k]], k))
    train = np.array([train_counts[table.labels[k]] for k in known], dtype=np.float64)
    recall = right[known] / n[known]
    low, high = wilson(right[known], n[known])
    result: dict[str, Any] = {
        "classes": [
            {
                "class": table.labels[k],
                "train": int(train[i]),
                "n": int(n[k]),
                "recall": float(recall[i]),
                "low": float(low[i]),
                "high": float(high[i]),
                **({} if effect is None else {"effect": effect[1][table.labels[k]]}),
            }
            for i, k in enumerate(known)
        ],
        "effect": effect and effect[0],
        "rho": None,
        "p": None,
        "method": "none",
        "remark": "",
    }
    if len(known) < 3:
        return result | {"remark": f"only {len(known)} classes have training and measured examples"}
    for values, what in ((train, "the same number of training examples"), (recall, "the same recall")):
        if np.ptp(values) == 0:
            return result | {"remark": f"all classes have {what}"}
    rho, p = (float(value) for value in spearmanr(train, recall))
    method = "t approximation"
    if len(known) <= _MAX_PERMUTED:
        method = f"{_NUM_PERMUTATIONS:,} permutations"
        p = _permute_ranks(train, recall, np.random.default_rng(seed))
    return result | {"rho": rho, "p": p, "method": method}


def _permute_ranks(first: FloatArray, second: FloatArray, generator: np.random.Generator) -> float:
    """Two-sided p of the rank correlation; the data themselves count as one of the permutations."""
    one, other = (ranks - ranks.mean() for ranks in (rankdata(first), rankdata(second)))
    shuffled = generator.permuted(np.tile(other, (_NUM_PERMUTATIONS, 1)), axis=1)
    # Rank sums are multiples of 1/4, so equal ones differ by rounding only.
    reached = np.abs(shuffled @ one) >= abs(other @ one) - 1e-6
    return float((1 + reached.sum()) / (1 + _NUM_PERMUTATIONS))


def _count_groups(table: Table, grouped: Sequence[_Column]) -> tuple[IntArray, IntArray]:
    """(groups of all columns, strata) each: examples by stratum, and the right ones among them."""
    stratum, num_strata = table.strata

    def count(column: _Column, counted: Any) -> IntArray:
        cells = (column.codes * num_strata + stratum)[counted]
        return np.bincount(cells, minlength=len(column.groups) * num_strata).reshape(-1, num_strata)

    members = [count(column, slice(None)) for column in grouped]
    return np.concatenate(members), np.concatenate([count(column, table.correct) for column in grouped])


def _judge(
    gap: list[float], same_class_gap: list[float], test: list[float], level: float, explained: str
) -> dict[str, Any]:
    """What is known of a group that is judged.

    Args:
        gap: Value and the ends of its interval.
        same_class_gap: The same at the same mix of classes; NaN where it cannot be told.
        test: p and adjusted p.
        level: Of the intervals.
        explained: What is remarked where that mix may be all there is to the gap.
    """
    judged: dict[str, Any] = dict(zip(("gap", "gap_low", "gap_high", "p", "p_adjusted"), gap + test, strict=True))
    # Test and interval must agree, so that no verdict stands beside an interval that contains 0.
    is_certain = test[1] <= round(1 - level, 12) and not gap[1] <= 0 <= gap[2]
    judged["verdict"] = "not distinguishable" if not is_certain else "worse" if gap[2] < 0 else "better"
    if not math.isnan(same_class_gap[0]):
        ends = ("same_class_gap", "same_class_gap_low", "same_class_gap_high")
        judged |= dict(zip(ends, same_class_gap, strict=True))
        if is_certain and same_class_gap[1] <= 0 <= same_class_gap[2]:
            judged["remark"] = explained
    return judged


def _rank(entry: dict[str, Any]) -> tuple[Any, ...]:
    verdict = entry["verdict"]
    size = -entry["n"] if entry["gap"] is None else -entry["gap"] if verdict == "better" else entry["gap"]
    return _RANKS.index(verdict), size, entry["column"], entry["group"]


def _group_column(name: str, values: Sequence[Any]) -> _Column:
    missing = np.array([_is_missing(value) for value in values])
    present = [value for value, is_missing in zip(values, missing, strict=True) if not is_missing]
    if present and _are_numbers(present):
        codes_of_present, groups = _group_numbers(np.array(present, dtype=np.float64))
    else:
        codes_of_present, groups = _group_texts([str(value) for value in present])
    codes = np.full(len(values), len(groups), dtype=np.int64)
    codes[~missing] = codes_of_present
    return _Column(name, codes, [*groups, _MISSING] if missing.any() else groups)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _group_texts(values: list[str]) -> tuple[IntArray, list[str]]:
    counts = Counter(values)
    groups = [text for text, _ in counts.most_common(_MAX_VALUES)]
    if others := len(counts) - len(groups):
        groups.append(f"({others:,} other values)")
    code_of = {text: code for code, text in enumerate(groups)}
    return np.array([code_of.get(text, _MAX_VALUES) for text in values], dtype=np.int64), groups


def _group_numbers(values: FloatArray) -> tuple[IntArray, list[str]]:
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) <= _MAX_DISCRETE:
        return codes.astype(np.int64), [f"{value:.12g}" for value in distinct]
    # Edges are values that occur; with many equal values there are fewer groups than quarters.
    quarters = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS, method="inverted_cdf")
    edges = np.unique(quarters[quarters < distinct[-1]])
    if len(edges) == 0:  # nearly all are the largest value
        edges = distinct[-2:-1]
    texts = _format_edges(edges)
    groups = [f"up to {texts[0]}"]
    groups += [f"above {low}, up to {high}" for low, high in itertools.pairwise(texts)]
    return np.searchsorted(edges, values, side="left").astype(np.int64), [*groups, f"above {texts[-1]}"]


def _format_edges(edges: FloatArray) -> list[str]:
    """As few digits as tell the edges apart, but at least three."""
    texts: list[str] = []
    for digits in range(3, 18):
        texts = [_format_number(float(edge), digits) for edge in edges]
        if len(set(texts)) == len(edges):
            break
    return texts


def _format_number(number: float, digits: int) -> str:
    if not 1e-4 <= abs(number) < 1e12:
        return f"{number:.{digits}g}"
    decimals = 0 if number.is_integer() else max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{decimals}f}"
