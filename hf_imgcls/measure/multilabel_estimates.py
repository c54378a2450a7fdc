"""Every metric of a multi-label prediction table with its n and a confidence interval, and class by class.

As in `hf_imgcls.measure.estimates`: Wilson's interval for shares of examples, one seeded set of bootstrap draws over
examples for everything else (the decisions about one image are not independent of each other, so images are drawn, not
decisions), means of rankings by the influence of each example. Brier score and calibration error of each class have
normal intervals, whose variance is that of the bootstrap.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from hf_imgcls.measure.estimates import Rankings, estimate_classes, estimate_ranking, make_estimate
from hf_imgcls.measure.formulas import (
    NUM_CALIBRATION_BINS,
    FloatArray,
    IntArray,
    Measured,
    assign_bins,
    assign_mass_bins,
    measure_adaptive_calibration_error,
    measure_calibration_error,
)
from hf_imgcls.measure.intervals import (
    draw_statistics,
    enclose_absolute_sum,
    move_by_influence,
    take_percentiles,
    wilson,
)
from hf_imgcls.measure.multilabel_formulas import (
    MULTI_LABEL_METRIC_NAMES,
    BoolArray,
    average_decisions,
    average_defined,
    measure_decisions,
)
from hf_imgcls.measure.multilabel_table import MultiLabelTable
from hf_imgcls.measure.ranking import rank_class, rank_scores
from hf_imgcls.records import Estimate

MULTI_LABEL_SUMMARY_NAMES = (*MULTI_LABEL_METRIC_NAMES, "brier", "adaptive_ece")


def rank_label_sets(table: MultiLabelTable, level: float) -> Rankings:
    """Rank all examples by the scores of each class that has references, and all decisions by their score.

    Args:
        table: The predictions.
        level: Confidence level.

    Returns:
        ``means`` and ``influences`` of ``mean_average_precision``, ``roc_auc`` and ``micro_average_precision``.
    """
    num_labels, n = len(table.labels), len(table)
    precisions: list[float] = []
    areas: list[float] = []
    influences = {name: np.zeros(n) for name in ("mean_average_precision", "roc_auc")}
    estimates = {}
    support = table.targets.sum(axis=0)
    for index in np.flatnonzero(support).tolist():
        scores, is_positive = table.scores[:, index], table.targets[:, index]
        if support[index] == n:  # nothing to rank: every example is of the class
            precisions.append(1.0)
            estimates[index] = make_estimate(Measured(1.0, "every image has it"), 1.0, 1.0, n, level)
            continue
        ranking = rank_class(scores, is_positive)
        precisions.append(ranking.average_precision)
        areas.append(ranking.roc_auc)
        influences["mean_average_precision"] += ranking.average_precision_influence
        influences["roc_auc"] += ranking.roc_auc_influence
        estimates[index] = estimate_ranking(ranking, int(support[index]), level)
    influences["mean_average_precision"] *= n / max(len(precisions), 1)
    influences["roc_auc"] *= n / max(len(areas), 1)
    pooled, _ = rank_scores(table.scores.ravel(), table.targets.ravel())
    influences["micro_average_precision"] = np.zeros(n)
    if 0 < support.sum() < table.targets.size:
        spread = rank_class(table.scores.ravel(), table.targets.ravel()).average_precision_influence
        influences["micro_average_precision"] = spread.reshape(table.scores.shape).sum(axis=1) * n
    means = {
        "mean_average_precision": average_defined(precisions, num_labels, "without references", "no image has a label"),
        "roc_auc": average_defined(areas, num_labels, "in no image or in all", "every class is in no image or in all"),
        "micro_average_precision": Measured(pooled, None if pooled is not None else "no image has a label"),
    }
    known = {name: values for name, values in influences.items() if means[name].value is not None}
    return Rankings(means, known, estimates)


def estimate_label_metrics(
    table: MultiLabelTable, rankings: Rankings, seed: int, level: float, draws: int
) -> dict[str, Estimate]:
    """Every metric over the whole split.

    Args:
        table: The predictions.
        rankings: From `rank_label_sets`.
        seed: Of the bootstrap.
        level: Confidence level.
        draws: Bootstrap samples.

    Returns:
        Name of `MULTI_LABEL_SUMMARY_NAMES` -> estimate.
    """
    n, targets, scores = len(table), table.targets, table.scores.astype(np.float64)
    flat, positive = scores.ravel(), targets.ravel()
    measured = {
        **rankings.means,
        **measure_decisions(targets, table.answers),
        "log_loss": Measured(float(table.log_loss.mean())),
        "brier": Measured(float(((scores - targets) ** 2).mean())),
        "ece": measure_calibration_error(positive, flat),
        "adaptive_ece": measure_adaptive_calibration_error(positive, flat),
    }
    means = {
        "log_loss": table.log_loss,
        "brier": ((scores - targets) ** 2).mean(axis=1),
        "hamming_loss": (targets != table.answers).mean(axis=1),
        **rankings.influences,
    }
    gaps = {
        "ece": _sum_gaps(scores, targets, assign_bins(flat)),
        "adaptive_ece": _sum_gaps(scores, targets, assign_mass_bins(flat)),
    }
    drawn = _draw(table, means, gaps, seed, draws)
    for name in rankings.influences:
        drawn.means[name] = move_by_influence(rankings.means[name].value or 0.0, drawn.means[name])
    estimates = {}
    for name in MULTI_LABEL_SUMMARY_NAMES:
        item = measured[name]
        if item.value is None:
            estimates[name] = make_estimate(item, None, None, n, level)
        elif name == "subset_accuracy":
            low, high = wilson(round(item.value * n), n, level)
            estimates[name] = Estimate(item.value, float(low), float(high), n, "wilson", item.remark or "")
        elif name in gaps:
            ends = enclose_absolute_sum(gaps[name].sum(axis=1), drawn.gaps[name], level)
            estimates[name] = make_estimate(item, *ends, n, level)
        else:
            low, high = take_percentiles(drawn.means[name], level)
            estimates[name] = make_estimate(item, float(low), float(high), n, level)
    return estimates


class _Drawn(NamedTuple):
    """Bootstrap samples: name -> (D,), and of calibration errors (D, bins), the gaps that they sum."""

    means: dict[str, FloatArray]
    gaps: dict[str, FloatArray]


def _sum_gaps(scores: FloatArray, targets: BoolArray, bins: IntArray) -> FloatArray:
    """What each example adds to the gap of each bin: (bins, N), of all N * K decisions."""
    n, num_labels = scores.shape
    cell = bins * n + np.repeat(np.arange(n), num_labels)
    weights = (targets - scores).ravel() / scores.size
    sums = np.bincount(cell, weights=weights, minlength=NUM_CALIBRATION_BINS * n)
    return sums.astype(np.float64).reshape(NUM_CALIBRATION_BINS, n)


def _draw(
    table: MultiLabelTable, means: dict[str, FloatArray], gaps: dict[str, FloatArray], seed: int, draws: int
) -> _Drawn:
    from scipy.sparse import csr_array, vstack

    n, num_labels = len(table), len(table.labels)
    # Row k of this matrix sums, over the examples drawn, what class k has of references, answers and right answers.
    counted = (table.targets, table.answers, table.targets & table.answers)
    matrix = vstack([csr_array(part.T.astype(np.float64)) for part in counted]).tocsr()
    values = np.concatenate([np.stack(list(means.values())) / n, *gaps.values()]).T
    names = list(average_decisions(*(np.ones(num_labels) for _ in range(3))))

    def statistic(counts: FloatArray) -> FloatArray:
        support, answered, correct = np.split((matrix @ counts.T).T, 3, axis=1)
        averages = average_decisions(support, answered, correct)
        return np.concatenate([np.stack(list(averages.values()), axis=1), counts @ values], axis=1)

    drawn = draw_statistics(statistic, n, seed=seed, draws=draws)
    result = {name: drawn[:, index] for index, name in enumerate([*names, *means])}
    rest = np.split(drawn[:, len(result) :], len(gaps), axis=1)
    return _Drawn(result, dict(zip(gaps, rest, strict=True)))


def estimate_label_classes(
    table: MultiLabelTable, rankings: Rankings, seed: int, level: float, draws: int
) -> dict[str, dict[str, Estimate]]:
    """Precision, recall, F1, average precision, Brier score and calibration error of each class.

    Args:
        table: The predictions.
        rankings: From `rank_label_sets`.
        seed: Of the noise that a calibration error's interval is made with.
        level: Confidence level.
        draws: Of that noise.

    Returns:
        Class name -> name -> estimate; ``brier`` and ``ece`` are about all N decisions on the class.
    """
    classes = estimate_classes(table, rankings, level)
    generator = np.random.default_rng(seed)
    for index, estimates in enumerate(classes.values()):
        scores, targets = table.scores[:, index].astype(np.float64), table.targets[:, index]
        estimates["brier"] = _estimate_mean((scores - targets) ** 2, level)
        estimates["ece"] = _estimate_calibration(scores, targets, generator, level, draws)
    return classes


def _estimate_mean(values: FloatArray, level: float) -> Estimate:
    """A mean with a normal interval."""
    n, mean = len(values), float(values.mean())
    half = NormalDist().inv_cdf(0.5 + level / 2) * float(values.std()) / np.sqrt(n)
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0), n, "normal")


def _estimate_calibration(
    scores: FloatArray, targets: BoolArray, generator: np.random.Generator, level: float, draws: int
) -> Estimate:
    """A calibration error, with the gap of each bin drawn from a normal distribution of the bootstrap's variance."""
    n, bins = len(scores), assign_bins(scores)
    distances = (targets - scores) / n
    gaps = np.bincount(bins, weights=distances, minlength=NUM_CALIBRATION_BINS).astype(np.float64)
    variances = np.bincount(bins, weights=distances**2, minlength=NUM_CALIBRATION_BINS)
    drawn = gaps + generator.standard_normal((draws, NUM_CALIBRATION_BINS)) * np.sqrt(variances)
    low, high = enclose_absolute_sum(gaps, drawn, level)
    return Estimate(float(np.abs(gaps).sum()), low, min(high, 1.0), n, "normal")
