"""Is the second model better than the first? Asked on the same examples, so that their luck is the same.

A verdict needs two witnesses that agree: a test whose level holds (McNemar's for accuracy, exchange of the two models'
answers for every other metric), and a paired bootstrap interval that leaves 0 out. Exchanging the models mirrors every
number.
"""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import COMPARISON, METRICS, RANKING, SHARE, is_higher_better, list_shown
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.paired_answers import ANSWERS, Measure, PairCounts, PairedAnswers, list_compared
from hf_imgcls.measure.statistics.differences import adjust_by_holm, estimate_paired_difference, run_mcnemar_test
from hf_imgcls.measure.statistics.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL, draw_statistics, take_percentiles
from hf_imgcls.measure.tables import Table, unique_names
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import ComparisonRecord, Estimate, MetricComparison

BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable"
_RANKS = (WORSE, BETTER, NOT_DISTINGUISHABLE)
_NUM_NAMED = 5
# Ranking anew in every draw takes time: so many examples times classes are ranked at most, in at least 200 draws.
_MOST_RANKED = {"bootstrap": 400_000_000, "exchange": 100_000_000}
_FEWEST_DRAWS = 200


def compare_tables(
    a: Table,
    b: Table,
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DEFAULT_DRAWS,
    level: float = DEFAULT_LEVEL,
) -> ComparisonRecord:
    """Compare two models on the examples that both have predicted.

    Args:
        a: The first model's predictions.
        b: The second model's; all verdicts are about it, and all differences are b - a.
        metrics: Of `hf_imgcls.measure.paired_answers.list_compared`; the first one decides. By default those that a
            comparison shows.
        seed: Of the bootstrap and of the exchanges.
        draws: Number of either.
        level: Of the intervals; the tests are held at 1 - level.

    Returns:
        The record. Each of its ``per_class``, ranked (worse, better, others; the largest first), has ``class``, ``n``,
        ``a`` and ``b`` (recall), ``difference``, ``low`` and ``high`` (Newcombe's paired interval, taken alone), ``p``
        (McNemar), ``p_adjusted`` (Holm, over all classes) and ``verdict``.

    Raises:
        ArgumentError: A metric cannot be compared.
        DataError: The tables are about other data, other classes or no common example.
    """
    if metrics is None:
        metrics = list_shown(COMPARISON, multi_label=not task_of(a).is_exclusive)
    _check_metrics(metrics, list_compared(a))
    notes = _check_same_data(a, b)
    labels, first, second, common_notes = _join_tables(a, b)
    notes += common_notes
    pairs = _count_pairs(first, second)
    compared = {
        name: _compare_metric(name, first, second, pairs, _Settings(seed, draws, level))
        for name in dict.fromkeys(metrics)
    }
    return ComparisonRecord(
        split=a.split,
        a=str(a.source.get("model", "a")),
        b=str(b.source.get("model", "b")),
        labels=labels,
        num_examples=sum(pairs),
        confidence_level=level,
        decided_by=metrics[0],
        verdict=compared[metrics[0]].verdict,
        metrics=compared,
        both_right=pairs.both,
        only_a_right=pairs.only_a,
        only_b_right=pairs.only_b,
        none_right=pairs.none,
        per_class=_compare_classes(first.count_pairs(second), unique_names(labels), level),
        notes=notes,
    )


class _Settings(NamedTuple):
    """Of an interval and a test; `draws` is how many samples either of them takes."""

    seed: int
    draws: int
    level: float


class _Pairs(NamedTuple):
    """Examples that both models have right, only the first, only the second, and neither."""

    both: int
    only_a: int
    only_b: int
    none: int


def _count_pairs(a: PairedAnswers, b: PairedAnswers) -> _Pairs:
    right, other = a.right, b.right
    parts = (right & other, right & ~other, other & ~right, ~right & ~other)
    return _Pairs(*(int(part.sum()) for part in parts))


def _compare_metric(
    name: str, a: PairedAnswers, b: PairedAnswers, pairs: _Pairs, settings: _Settings
) -> MetricComparison:
    measure, n, (seed, draws, level) = a.measures[name], sum(pairs), settings
    value_a, value_b = (float(measure(answers, np.ones((1, n)))[0]) for answers in (a, b))
    limits = dict.fromkeys(_MOST_RANKED, draws)
    if METRICS[name].kind == RANKING:
        limits = {key: min(draws, max(_FEWEST_DRAWS, most // a.size)) for key, most in _MOST_RANKED.items()}
    subtract = functools.partial(_subtract, measure, a, b)
    drawn = draw_statistics(subtract, n, seed=seed, draws=limits["bootstrap"])
    low, high = (float(end) for end in take_percentiles(drawn, level))
    method = "bootstrap"
    if METRICS[name].kind == SHARE:
        p_value, is_exact = run_mcnemar_test(pairs.only_a, pairs.only_b)
        p, test = float(p_value), f"McNemar ({'exact' if is_exact else 'mid-p'})"
        if low == high:  # no example tells them apart, and a bootstrap cannot see beyond that
            low, high = (float(end) for end in estimate_paired_difference(*pairs, level)[1:])
            method = "newcombe"
    else:
        p = _exchange_answers(measure, a, b, seed=seed, draws=limits["exchange"])
        test = f"exchanged answers, {limits['exchange']:,} draws"
    return MetricComparison(
        a=value_a,
        b=value_b,
        difference=Estimate(value_b - value_a, low, high, n, method),
        p=p,
        test=test,
        verdict=_judge(low, high, p, level, lower_is_better=not is_higher_better(name)),
    )


def describe_comparison(record: ComparisonRecord) -> str:
    """The verdict as one sentence, with the numbers that it stands on."""
    told = record.metrics[record.decided_by]
    difference = told.difference
    phrase = {
        BETTER: "is better than",
        WORSE: "is worse than",
        NOT_DISTINGUISHABLE: "cannot be told from",
    }[record.verdict]
    return (
        f"{record.b} {phrase} {record.a}: {record.decided_by} {told.b:.4f} against {told.a:.4f}, difference "
        f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}, "
        f"{record.confidence_level:.0%} interval), p = {told.p:.3g} by {told.test}, on the same {record.num_examples} "
        f"examples of {record.split}"
    )


def _subtract(measure: Measure, a: Any, b: Any, counts: FloatArray) -> FloatArray:
    return measure(b, counts) - measure(a, counts)


def _judge(low: float, high: float, p: float, level: float, *, lower_is_better: bool = False) -> str:
    # 1 - 0.95 is a little more than 0.05.
    if p > round(1 - level, 12) or low <= 0 <= high:
        return NOT_DISTINGUISHABLE
    return BETTER if (high < 0) == lower_is_better else WORSE


def _exchange_answers(measure: Measure, a: Any, b: Any, *, seed: int, draws: int) -> float:
    """Two-sided p of a difference: how often one as large comes of dealing each example's two answers out by chance.

    Source:
        Approximate randomisation: Noreen (1989), "Computer-Intensive Methods for Testing Hypotheses".
    """
    generator = np.random.default_rng(seed)
    once = np.ones((1, len(a.log_loss)))
    observed = abs(float(_subtract(measure, a, b, once)[0]))
    reached = 0
    for _ in range(draws):
        exchanged = generator.random(len(a.log_loss)) < 0.5
        one, other = a.exchange(b, exchanged), b.exchange(a, exchanged)
        # Equal differences may differ by rounding.
        reached += abs(float(_subtract(measure, one, other, once)[0])) >= observed * (1 - 1e-9)
    return (1 + reached) / (1 + draws)


def _compare_classes(counts: PairCounts, labels: list[str], level: float) -> list[dict[str, Any]]:
    known = np.flatnonzero(np.sum(counts, axis=0))
    both, only_a, only_b, neither = (count[known] for count in counts)
    n = both + only_a + only_b + neither
    differences, lows, highs = estimate_paired_difference(both, only_a, only_b, neither, level)
    p, _ = run_mcnemar_test(only_a, only_b)
    p_adjusted = adjust_by_holm(p)
    changes = [
        {
            "class": labels[k],
            "n": int(n[i]),
            "a": float((both[i] + only_a[i]) / n[i]),
            "b": float((both[i] + only_b[i]) / n[i]),
            "difference": float(differences[i]),
            "low": float(lows[i]),
            "high": float(highs[i]),
            "p": float(p[i]),
            "p_adjusted": float(p_adjusted[i]),
            "verdict": _judge(float(lows[i]), float(highs[i]), float(p_adjusted[i]), level),
        }
        for i, k in enumerate(known)
    ]
    return sorted(changes, key=lambda item: (_RANKS.index(item["verdict"]), -abs(item["difference"])))


def _check_metrics(metrics: Sequence[str], known: Sequence[str]) -> None:
    for name in metrics or [""]:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ArgumentError(
                f"models cannot be compared by {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""),
                f"at least one of {', '.join(known)}",
                "name one of them",
            )


def _check_same_data(a: Table, b: Table) -> list[str]:
    """Hold the tables' fingerprints against each other; without them, what else they say about their data."""
    if type(a) is not type(b):
        raise DataError(
            "one of the two runs gives an image one label, the other several",
            "two models of the same kind",
            "compare models that were trained on the same labels",
        )
    prints = [table.source.get("fingerprint") for table in (a, b)]
    if all(prints):
        same, notes = prints[0] == prints[1], []
    else:
        same = a.split == b.split
        notes = ["A table has no fingerprint of its data: the examples were matched by number and label alone."]
    if same:
        return notes
    found = [f"fingerprint {prints[0]} and {prints[1]}"] if all(prints) else []
    if a.split != b.split:
        found.append(f"split {a.split!r} and {b.split!r}")
    if len(a.sample_index) != len(b.sample_index):
        found.append(f"{len(a.sample_index)} and {len(b.sample_index)} examples")
    if missing := sorted(set(a.labels) ^ set(b.labels)):
        found.append(f"{len(missing)} classes that only one of them has ({', '.join(missing[:_NUM_NAMED])})")
    raise DataError(
        f"the two runs were measured on other data: {'; '.join(found)}",
        "predictions for the same examples",
        "measure both models on the same data first (same dataset, split, max_*_samples and scan_images)",
    )


def _join_tables(a: Table, b: Table) -> tuple[list[str], PairedAnswers, PairedAnswers, list[str]]:
    """The examples that both tables have, with b's class ids turned into a's by name."""
    labels, ids = _join_labels(a.labels, b.labels)
    _, rows_a, rows_b = np.intersect1d(a.sample_index, b.sample_index, assume_unique=True, return_indices=True)
    if len(rows_a) == 0:
        raise DataError(
            f"none of {len(a.sample_index)} and {len(b.sample_index)} examples is in both tables",
            "predictions for the same examples",
            "measure both models on the same split with the same max_*_samples",
        )
    notes = []
    if len(rows_a) < max(len(a.sample_index), len(b.sample_index)):
        notes.append(
            f"Compared on the {len(rows_a)} examples that both have; the first has {len(a.sample_index)}, the second "
            f"{len(b.sample_index)}."
        )
    kind = ANSWERS[a.problem_type]
    first = kind.take(a, rows_a, np.arange(len(a.labels)), len(labels))
    second = kind.take(b, rows_b, ids, len(labels))
    other = first.find_other_references(second)
    shown = [part.name_reference(row, labels) for row in other[:1].tolist() for part in (first, second)]
    if len(other):
        raise DataError(
            f"{len(other)} of {len(rows_a)} examples have another label in the second table, for example sample_index "
            f"{a.sample_index[rows_a[other[0]]]}: {shown[0]!r} and {shown[1]!r}",
            "the same label for the same example",
            "measure both models on the same data first",
        )
    return labels, first, second, notes


def _join_labels(a: list[str], b: list[str]) -> tuple[list[str], IntArray]:
    """Names of both, a's first; and the id among them of each class of b."""
    if a == b:
        return a, np.arange(len(b))
    repeated = [name for names in (a, b) for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise DataError(
            f"two classes are called {repeated[0]!r}, and the tables order their classes differently",
            "unique class names, or the same names in the same order",
            "make the names unique and measure again",
        )
    labels = [*a, *(name for name in b if name not in set(a))]
    id_of = {name: index for index, name in enumerate(labels)}
    return labels, np.array([id_of[name] for name in b])
