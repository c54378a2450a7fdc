"""Every metric of a prediction table with its n and a confidence interval, over all examples and class by class.

Shares have Wilson's interval, average precision of one class a logit interval; everything else a seeded bootstrap over
examples, one set of draws for all numbers. A mean over classes of ROC-AUC or average precision is resampled by the
influence of each example on it, since ranking a thousand classes anew in every draw would take hours. Neither sees
beyond a perfect number: where all draws agree on 0 or 1, Wilson's interval takes its place. The interval of a
calibration error is rather too wide than too narrow where the model is nearly calibrated, see
`hf_imgcls.measure.intervals.enclose_absolute_sum`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_imgcls.measure.calibration import measure_brier
from hf_imgcls.measure.formulas import (
    NUM_CALIBRATION_BINS,
    FloatArray,
    IntArray,
    Measured,
    assign_bins,
    assign_mass_bins,
    average_counts,
    measure_adaptive_calibration_error,
    measure_balanced_accuracy,
    measure_calibration_error,
    measure_precision_recall_f1,
    measure_top_k,
    sum_gaps,
)
from hf_imgcls.measure.intervals import (
    draw_statistics,
    enclose_absolute_sum,
    enclose_ranking,
    move_by_influence,
    take_percentiles,
    wilson,
)
from hf_imgcls.measure.metrics import METRIC_NAMES
from hf_imgcls.measure.predictions import NOT_EVERY_SCORE, PredictionTable, unique_names
from hf_imgcls.measure.ranking import ClassRanking, rank_class
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from hf_imgcls.measure.multilabel_table import Table

SUMMARY_NAMES = (*METRIC_NAMES, "top3_accuracy", "average_precision", "brier", "adaptive_ece")


# ------------------------------------------------------------------------------------------------ rankings


class Rankings(NamedTuple):
    """ROC-AUC and average precision of the classes that have examples.

    Attributes:
        means: Name -> mean over these classes.
        influences: Name -> (N,) influence of each example on that mean, times N.
        average_precisions: Class id -> estimate.
        reason: Why there are none.
    """

    means: dict[str, Measured]
    influences: dict[str, FloatArray]
    average_precisions: dict[int, Estimate]
    reason: str = ""


def rank_classes(table: PredictionTable, level: float) -> Rankings:
    """Rank all examples by the scores of each class that has examples.

    Args:
        table: The predictions.
        level: Confidence level.
    """
    scores, present = table.scores_by_class(), np.unique(table.label)
    reason = ""
    if scores is None:
        reason = NOT_EVERY_SCORE
    elif len(present) < 2:
        reason = "the references hold one class only: there is nothing to tell it from"
    names = ("roc_auc", "average_precision")
    if reason or scores is None:
        return Rankings({name: Measured(None, reason) for name in names}, {}, {}, reason)
    values: dict[str, list[float]] = {name: [] for name in names}
    influences = {name: np.zeros(len(table)) for name in names}
    estimates = {}
    for index in present.tolist():
        is_positive = table.label == index
        ranking = rank_class(scores[index], is_positive)
        values["roc_auc"].append(ranking.roc_auc)
        values["average_precision"].append(ranking.average_precision)
        influences["roc_auc"] += ranking.roc_auc_influence
        influences["average_precision"] += ranking.average_precision_influence
        estimates[index] = estimate_ranking(ranking, int(is_positive.sum()), level)
    missing = len(table.labels) - len(present)
    remark = f"left out, without references: {missing} of {len(table.labels)} classes" if missing else None
    return Rankings(
        {name: Measured(float(np.mean(items)), remark) for name, items in values.items()},
        {name: items * (len(table) / len(present)) for name, items in influences.items()},
        estimates,
    )


def estimate_ranking(ranking: ClassRanking, num_positives: int, level: float) -> Estimate:
    """One class's average precision."""
    low, high = enclose_ranking(ranking.average_precision, ranking.average_precision_influence, num_positives, level)
    return make_estimate(Measured(ranking.average_precision), low, high, num_positives, level, "logit")


# ------------------------------------------------------------------------------------------------ metrics


def estimate_metrics(
    table: PredictionTable, rankings: Rankings, seed: int, level: float, draws: int
) -> dict[str, Estimate]:
    """Every metric over the whole split.

    Args:
        table: The predictions.
        rankings: From `rank_classes`.
        seed: Of the bootstrap.
        level: Confidence level.
        draws: Bootstrap samples.

    Returns:
        Name of `SUMMARY_NAMES` -> estimate.
    """
    n, num_labels, correct, confidence = len(table), len(table.labels), table.correct, table.confidence
    counts = (table.label, table.prediction, num_labels)
    brier = measure_brier(table) if table.is_complete else None
    shares = {
        "accuracy": Measured(float(correct.mean())),
        "top3_accuracy": measure_top_k(table.reference_rank, num_labels, 3),
        "top5_accuracy": measure_top_k(table.reference_rank, num_labels, 5),
    }
    averages = measure_precision_recall_f1(*counts) | {"balanced_accuracy": measure_balanced_accuracy(*counts)}
    shares["weighted_recall"] = averages["weighted_recall"]  # the accuracy, by another name
    measured = {
        **averages,
        **shares,
        **rankings.means,
        "log_loss": Measured(float(table.log_loss.mean())),
        "brier": Measured(None, NOT_EVERY_SCORE) if brier is None else Measured(float(brier.mean())),
        "ece": measure_calibration_error(correct, confidence),
        "adaptive_ece": measure_adaptive_calibration_error(correct, confidence),
    }
    means = {"log_loss": table.log_loss, **rankings.influences} | ({} if brier is None else {"brier": brier})
    bins = {"ece": assign_bins(confidence), "adaptive_ece": assign_mass_bins(confidence)}
    drawn = _draw_metrics(table, means, bins, seed, draws)
    for name in rankings.influences:
        drawn[name] = move_by_influence(rankings.means[name].value or 0.0, drawn[name])
    estimates = {}
    for name in SUMMARY_NAMES:
        item = measured[name]
        if item.value is None:
            estimates[name] = make_estimate(item, None, None, n, level)
        elif name in shares:
            low, high = wilson(round(item.value * n), n, level)
            estimates[name] = Estimate(item.value, float(low), float(high), n, "wilson", item.remark or "")
        elif name in bins:
            gaps = sum_gaps(correct, confidence, bins[name], NUM_CALIBRATION_BINS)
            estimates[name] = make_estimate(item, *enclose_absolute_sum(gaps, drawn[name], level), n, level)
        else:
            low, high = take_percentiles(drawn[name], level)
            estimates[name] = make_estimate(item, float(low), float(high), n, level)
    return estimates


def _draw_metrics(
    table: PredictionTable, means: dict[str, FloatArray], bins: dict[str, IntArray], seed: int, draws: int
) -> dict[str, FloatArray]:
    """Bootstrap samples of the averages over classes, of means over examples, and of calibration gaps.

    Returns:
        Name -> (D,); for a calibration error (D, bins), the gaps that it sums.
    """
    from scipy.sparse import csr_array

    n, num_labels, correct = len(table), len(table.labels), table.correct
    rows, columns = np.arange(n), (table.label, table.prediction)
    right = np.flatnonzero(correct)
    gaps = (correct - table.confidence) / n
    # Row g of this matrix sums, over the examples drawn, what belongs to group g: classes three times, then bins.
    groups = [*columns, table.label[right], *bins.values()]
    examples = [rows, rows, right, *([rows] * len(bins))]
    weights = [np.ones(n), np.ones(n), np.ones(len(right)), *([gaps] * len(bins))]
    sizes = [num_labels] * 3 + [NUM_CALIBRATION_BINS] * len(bins)
    starts = np.cumsum([0, *sizes])
    placed = np.concatenate([group + start for group, start in zip(groups, starts[:-1], strict=True)])
    matrix = csr_array((np.concatenate(weights), (placed, np.concatenate(examples))), shape=(int(starts[-1]), n))
    values = np.stack(list(means.values()), axis=1) / n

    def statistic(counts: FloatArray) -> FloatArray:
        sums = (matrix @ counts.T).T
        support, predicted, hits, *gap_sums = np.split(sums, starts[1:-1], axis=1)
        averages = average_counts(support, predicted, hits)
        return np.concatenate([np.stack(list(averages.values()), axis=1), counts @ values, *gap_sums], axis=1)

    drawn = draw_statistics(statistic, n, seed=seed, draws=draws)
    names = [*average_counts(*(np.ones(1) for _ in range(3))), *means]
    result = {name: drawn[:, index] for index, name in enumerate(names)}
    for index, name in enumerate(bins):
        start = len(names) + index * NUM_CALIBRATION_BINS
        result[name] = drawn[:, start : start + NUM_CALIBRATION_BINS]
    return result


def make_estimate(
    item: Measured, low: float | None, high: float | None, n: int, level: float, method: str = "bootstrap"
) -> Estimate:
    """An estimate, if there is a value; with Wilson's interval where the method sees nothing beside a perfect one."""
    value, remark = item.value, item.remark or ""
    if value is None or low is None or high is None:
        return Estimate(None, None, None, n, "none", remark)
    if low == high and value in (0.0, 1.0):
        ends = wilson(round(value * n), n, level)
        return Estimate(value, float(ends[0]), float(ends[1]), n, "wilson", remark)
    return Estimate(value, min(low, value), max(high, value), n, method, remark)


# ------------------------------------------------------------------------------------------------ classes


def estimate_classes(table: Table, rankings: Rankings, level: float) -> dict[str, dict[str, Estimate]]:
    """Precision, recall, F1 and average precision of each class.

    Args:
        table: The predictions.
        rankings: From `rank_classes`.
        level: Confidence level.

    Returns:
        Class name -> ``precision`` (``n``: predictions of the class), ``recall`` (its examples, the support), ``f1``
        (both together) and ``average_precision`` (its examples) -> estimate. The names are those of `unique_names`.
    """
    support, predicted, correct = table.count_classes()
    union = support + predicted - correct
    recall = _estimate_shares(correct, support, level, "no example is of this class")
    precision = _estimate_shares(correct, predicted, level, "never predicted")
    # Of the examples that are of the class or were taken for it, a share J is both, and F1 = 2 J / (1 + J).
    jaccard = _estimate_shares(correct, union, level, "no example is of this class or was taken for it")
    nothing = Estimate(None, None, None, 0, "none", rankings.reason or "no example is of this class")
    return {
        name: {
            "precision": precision[index],
            "recall": recall[index],
            "f1": dataclasses.replace(
                jaccard[index],
                value=None if not union[index] else float(2 * correct[index] / (support[index] + predicted[index])),
                low=_jaccard_to_f1(jaccard[index].low),
                high=_jaccard_to_f1(jaccard[index].high),
            ),
            "average_precision": rankings.average_precisions.get(
                index, dataclasses.replace(nothing, n=int(support[index]))
            ),
        }
        for index, name in enumerate(unique_names(table.labels))
    }


def _estimate_shares(successes: IntArray, n: IntArray, level: float, otherwise: str) -> list[Estimate]:
    low, high = wilson(successes, n, level)
    return [
        Estimate(x / size, float(low[index]), float(high[index]), size, "wilson")
        if size
        else Estimate(None, None, None, 0, "none", otherwise)
        for index, (x, size) in enumerate(zip(successes.tolist(), n.tolist(), strict=True))
    ]


def _jaccard_to_f1(share: float | None) -> float | None:
    return None if share is None else 2 * share / (1 + share)
