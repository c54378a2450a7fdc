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
from typing import NamedTuple

import numpy as np

from hf_imgcls.arrays import IntArray
from hf_imgcls.catalogue import EVALUATION, METRICS, RANK, REPORT, SHARE, list_metrics
from hf_imgcls.measure.metrics.multi_label import NO_LABEL, average_defined
from hf_imgcls.measure.metrics.ranking import ClassRanking, rank_class
from hf_imgcls.measure.metrics.single import (
    Measured,
    assign_bins,
    assign_mass_bins,
    measure_adaptive_calibration_error,
    measure_calibration_error,
)
from hf_imgcls.measure.report.evidence import Evidence, find_evidence, jaccard_to_f1, make_estimate
from hf_imgcls.measure.statistics.class_means import (
    Interval,
    RankingSums,
    count_for_means,
    enclose_averages,
    enclose_mean_ranking,
    find_precision_bias,
)
from hf_imgcls.measure.statistics.intervals import enclose_calibration_error, enclose_ranking, wilson
from hf_imgcls.measure.statistics.mistakes import enclose_mean_loss
from hf_imgcls.measure.tables import Table, unique_names
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import Estimate

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


def rank_classes(table: Table, level: float) -> Rankings:
    """Rank all examples by the scores of each class that has examples.

    Args:
        table: The predictions.
        level: Confidence level.
    """
    evidence, n = find_evidence(table), len(table)
    names = ("roc_auc", evidence.mean_precision)
    if reason := evidence.explain_no_ranking():
        return Rankings({name: Measured(None, reason) for name in names}, {}, {}, reason)
    influences = {name: np.zeros(n) for name in names}
    sums = {name: RankingSums([], [], [], []) for name in names}
    estimates, ranked = {}, {name: list[int]() for name in names}
    for index, scores, is_positive in evidence.list_ranked():
        ranked[evidence.mean_precision].append(index)
        if is_positive.all():  # nothing to rank: every example is of the class
            sums[evidence.mean_precision].add(1.0, np.zeros(n), is_positive)
            estimates[index] = make_estimate(Measured(1.0, "every image has it"), 1.0, 1.0, n, level)
            continue
        ranked["roc_auc"].append(index)
        ranking = rank_class(scores, is_positive)
        estimates[index] = _estimate_ranking(ranking, int(is_positive.sum()), level)
        bias = find_precision_bias(ranking, scores, is_positive)
        sums["roc_auc"].add(ranking.roc_auc, ranking.roc_auc_influence, is_positive)
        precision_influence = ranking.average_precision_influence
        sums[evidence.mean_precision].add(ranking.average_precision, precision_influence, is_positive, bias)
        influences["roc_auc"] += ranking.roc_auc_influence
        influences[evidence.mean_precision] += precision_influence
    missing = {"roc_auc": evidence.no_area, evidence.mean_precision: ("without references", NO_LABEL)}
    means = {
        name: average_defined([1 - loss for loss in items.losses], len(table.labels), *missing[name])
        for name, items in sums.items()
    }
    intervals = {
        name: enclose_mean_ranking(
            items,
            influences[name] / max(len(items.losses), 1),
            _name_absent(table, ranked[name]),
            level,
            is_precision=name != "roc_auc",
        )
        for name, items in sums.items()
        if means[name].value is not None
    }
    return Rankings(means, intervals, estimates)


def count_known(table: Table) -> int:
    """How many of the table's classes the dataset has: the first ones, since a model may know others."""
    return int(table.source.get("num_classes", len(table.labels)))


def _name_absent(table: Table, present: list[int]) -> list[str]:
    """Names of the dataset's classes that have no value, since none or all of the images are of them."""
    names = unique_names(table.labels)
    return [names[index] for index in sorted(set(range(count_known(table))) - set(present))]


def _estimate_ranking(ranking: ClassRanking, num_positives: int, level: float) -> Estimate:
    """One class's average precision."""
    low, high = enclose_ranking(ranking.average_precision, ranking.average_precision_influence, num_positives, level)
    return make_estimate(Measured(ranking.average_precision), low, high, num_positives, level, "logit")


# ------------------------------------------------------------------------------------------------ metrics


def estimate_metrics(table: Table, rankings: Rankings, seed: int, level: float, draws: int) -> dict[str, Estimate]:
    """Every metric over the whole split.

    Args:
        table: The predictions.
        rankings: From `rank_classes`.
        seed: Of the bootstrap.
        level: Confidence level.
        draws: Bootstrap samples.

    Returns:
        Name of each metric of an evaluation and of a report -> estimate.
    """
    task, evidence, n = task_of(table), find_evidence(table), len(table)
    correct, confidence = task.pair_scores(table)
    measured = {
        **evidence.measure(),
        **rankings.means,
        "ece": measure_calibration_error(correct, confidence),
        "adaptive_ece": measure_adaptive_calibration_error(correct, confidence),
    }
    bins = {"ece": assign_bins(confidence), "adaptive_ece": assign_mass_bins(confidence)}
    drawn = evidence.draw_gaps(bins, seed=seed, level=level, draws=draws)
    intervals = rankings.intervals | _enclose_averages(table, evidence, level) | evidence.enclose_pooled(level)
    estimates = evidence.estimate_pooled_ranking(level)
    for name, item in measured.items():
        if item.value is None:
            estimates[name] = make_estimate(item, None, None, n, level)
        elif METRICS[name].kind in (SHARE, RANK) or name in evidence.more_shares:
            low, high = wilson(round(item.value * n), n, level)
            estimates[name] = Estimate(item.value, float(low), float(high), n, "wilson", item.remark or "")
        elif name in bins:
            ends = enclose_calibration_error(correct, confidence, bins[name], drawn[name], level)
            estimates[name] = make_estimate(item, *ends, n, level)
        elif name in evidence.losses:
            values, mistake, most = evidence.losses[name]
            estimates[name] = make_estimate(
                item, *enclose_mean_loss(values, mistake, level, most=most), n, level, "gamma"
            )
        else:
            estimates[name] = intervals[name].describe(item.value, n, item.remark or "")
    return {name: estimates[name] for name in list_metrics(EVALUATION, REPORT, multi_label=not task.is_exclusive)}


def _enclose_averages(table: Table, evidence: Evidence, level: float) -> dict[str, Interval]:
    targets, answers = evidence.mark_classes()
    counts = count_for_means(targets, answers, unique_names(table.labels), count_known(table))
    return enclose_averages(counts, level, is_exclusive=task_of(table).is_exclusive)


# ------------------------------------------------------------------------------------------------ classes


def estimate_classes(
    table: Table, rankings: Rankings, seed: int, level: float, draws: int
) -> dict[str, dict[str, Estimate]]:
    """Precision, recall, F1 and average precision of each class; with several labels per image its calibration too.

    Args:
        table: The predictions.
        rankings: From `rank_classes`.
        seed: Of the noise that a calibration error's interval is made with.
        level: Confidence level.
        draws: Of that noise.

    Returns:
        Class name -> ``precision`` (``n``: predictions of the class), ``recall`` (its examples, the support), ``f1``
        (both together), ``average_precision`` (its examples) and, with several labels per image, ``brier`` and ``ece``
        (all N decisions on the class) -> estimate. The names are those of `unique_names`.
    """
    support, predicted, correct = table.count_classes()
    union = support + predicted - correct
    recall = _estimate_shares(correct, support, level, "no example is of this class")
    precision = _estimate_shares(correct, predicted, level, "never predicted")
    # Of the examples that are of the class or were taken for it, a share J is both, and F1 = 2 J / (1 + J).
    jaccard = _estimate_shares(correct, union, level, "no example is of this class or was taken for it")
    nothing = Estimate(None, None, None, 0, "none", rankings.reason or "no example is of this class")
    further = find_evidence(table).estimate_calibration(seed, level, draws)
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
            **next(further),
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
