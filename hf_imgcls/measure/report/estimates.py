"""Every metric of a prediction table with its n and a confidence interval, over all examples and class by class.

Shares have Wilson's interval, average precision of one class a logit interval. Averages over classes, and means of
losses, have intervals in which a mistake that was not seen has its price: see
`hf_imgcls.measure.statistics.class_means` and `hf_imgcls.measure.statistics.mistakes`. The interval of a calibration
error rests on a seeded bootstrap over examples, and is rather too wide than too narrow where the model is
nearly calibrated: see
`hf_imgcls.measure.statistics.intervals.enclose_calibration_error`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, REPORT, list_metrics
from hf_imgcls.measure.metrics.ranking import ClassRanking, rank_class
from hf_imgcls.measure.metrics.single import (
    NUM_CALIBRATION_BINS,
    Measured,
    assign_bins,
    assign_mass_bins,
    measure_adaptive_calibration_error,
    measure_balanced_accuracy,
    measure_calibration_error,
    measure_precision_recall_f1,
    measure_top_k,
)
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE
from hf_imgcls.measure.statistics.calibration import measure_brier, measure_mistakes
from hf_imgcls.measure.statistics.class_means import (
    Interval,
    RankingSums,
    count_for_means,
    enclose_averages,
    enclose_mean_ranking,
    find_precision_bias,
)
from hf_imgcls.measure.statistics.intervals import draw_statistics, enclose_calibration_error, enclose_ranking, wilson
from hf_imgcls.measure.statistics.mistakes import enclose_mean_loss
from hf_imgcls.measure.tables import PredictionTable, unique_names
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import Table


# ------------------------------------------------------------------------------------------------ rankings


class Rankings(NamedTuple):
    """ROC-AUC and average precision of the classes that have examples.

    Attributes:
        means: Name -> mean over these classes.
        intervals: Name -> interval of that mean, where it is defined.
        average_precisions: Class id -> estimate.
        reason: Why there are none.
    """

    means: dict[str, Measured]
    intervals: dict[str, Interval]
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
    influences = {name: np.zeros(len(table)) for name in names}
    sums = {name: RankingSums([], [], [], []) for name in names}
    estimates = {}
    for index in present.tolist():
        is_positive = table.label == index
        ranking = rank_class(scores[index], is_positive)
        estimates[index] = estimate_ranking(ranking, int(is_positive.sum()), level)
        bias = find_precision_bias(ranking, scores[index], is_positive)
        sums["roc_auc"].add(ranking.roc_auc, ranking.roc_auc_influence, is_positive)
        sums["average_precision"].add(ranking.average_precision, ranking.average_precision_influence, is_positive, bias)
        influences["roc_auc"] += ranking.roc_auc_influence
        influences["average_precision"] += ranking.average_precision_influence
    missing = len(table.labels) - len(present)
    remark = f"left out, without references: {missing} of {len(table.labels)} classes" if missing else None
    absent = name_absent(table, present)
    return Rankings(
        {name: Measured(1.0 - float(np.mean(items.losses)), remark) for name, items in sums.items()},
        {
            name: enclose_mean_ranking(
                items, influences[name] / len(present), absent, level, is_precision=name == "average_precision"
            )
            for name, items in sums.items()
        },
        estimates,
    )


def count_known(table: Table) -> int:
    """How many of the table's classes the dataset has: the first ones, since a model may know others."""
    return int(table.source.get("num_classes", len(table.labels)))


def name_absent(table: Table, present: IntArray) -> list[str]:
    """Names of the dataset's classes that have no value, since none or all of the images are of them."""
    names = unique_names(table.labels)
    return [names[index] for index in sorted(set(range(count_known(table))) - set(present.tolist()))]


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
        Metric of a report -> estimate.
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
    mistakes = measure_mistakes(table)
    losses = {"log_loss": table.log_loss} | ({} if brier is None else {"brier": brier})
    bins = {"ece": assign_bins(confidence), "adaptive_ece": assign_mass_bins(confidence)}
    drawn = _draw_gaps((correct - confidence) / n, bins, seed, draws)
    intervals = rankings.intervals | _enclose_averages(table, level)
    estimates = {}
    for name in list_metrics(EVALUATION, REPORT, multi_label=False):
        item = measured[name]
        if item.value is None:
            estimates[name] = make_estimate(item, None, None, n, level)
        elif name in shares:
            low, high = wilson(round(item.value * n), n, level)
            estimates[name] = Estimate(item.value, float(low), float(high), n, "wilson", item.remark or "")
        elif name in bins:
            ends = enclose_calibration_error(correct, confidence, bins[name], drawn[name], level)
            estimates[name] = make_estimate(item, *ends, n, level)
        elif name in losses:
            most = 2.0 if name == "brier" else np.inf
            ends = enclose_mean_loss(losses[name], mistakes[name], level, most=most)
            estimates[name] = make_estimate(item, *ends, n, level, "gamma")
        else:
            estimates[name] = intervals[name].describe(item.value, n, item.remark or "")
    return estimates


def _enclose_averages(table: PredictionTable, level: float) -> dict[str, Interval]:
    from scipy.sparse import csr_array

    n, names = len(table), unique_names(table.labels)
    targets, answers = (
        csr_array((np.ones(n), (np.arange(n), ids)), shape=(n, len(names))) for ids in (table.label, table.prediction)
    )
    counts = count_for_means(targets, answers, names, count_known(table))
    return enclose_averages(counts, level, is_exclusive=True)


def _draw_gaps(gaps: FloatArray, bins: dict[str, IntArray], seed: int, draws: int) -> dict[str, FloatArray]:
    """Bootstrap samples of the gaps that a calibration error sums: name -> (D, bins).

    Args:
        gaps: (N,) what each example adds.
        bins: Name -> (N,) the bin of each example.
        seed: Of the draws.
        draws: D.
    """
    from scipy.sparse import csr_array

    n = len(gaps)
    placed = np.concatenate([ids + NUM_CALIBRATION_BINS * index for index, ids in enumerate(bins.values())])
    entries = (np.tile(gaps, len(bins)), (placed, np.tile(np.arange(n), len(bins))))
    matrix = csr_array(entries, shape=(NUM_CALIBRATION_BINS * len(bins), n))
    drawn = draw_statistics(lambda counts: (matrix @ counts.T).T, n, seed=seed, draws=draws)
    return dict(zip(bins, np.split(drawn, len(bins), axis=1), strict=True))


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
                low=jaccard_to_f1(jaccard[index].low),
                high=jaccard_to_f1(jaccard[index].high),
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


def jaccard_to_f1(share: float | None) -> float | None:
    """F1, of the share that is both of the class and taken for it, among what is either."""
    return None if share is None else 2 * share / (1 + share)
