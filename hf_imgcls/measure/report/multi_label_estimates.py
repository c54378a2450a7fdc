"""Every metric of a multi-label prediction table with its n and a confidence interval, and class by class.

As in `hf_imgcls.measure.report.estimates`: the decisions about one image are not independent of each other, so the
variance is that of images. Calibration errors rest on one seeded set of bootstrap draws over images.
"""

from __future__ import annotations

import numpy as np

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, REPORT, list_metrics
from hf_imgcls.measure.metrics.multi_label import (
    BoolArray,
    average_defined,
    measure_decisions,
    measure_pooled,
)
from hf_imgcls.measure.metrics.ranking import rank_class
from hf_imgcls.measure.metrics.single import (
    NUM_CALIBRATION_BINS,
    Measured,
    assign_bins,
    assign_mass_bins,
    measure_adaptive_calibration_error,
    measure_calibration_error,
)
from hf_imgcls.measure.report.estimates import (
    Rankings,
    count_known,
    estimate_classes,
    estimate_ranking,
    jaccard_to_f1,
    make_estimate,
    name_absent,
)
from hf_imgcls.measure.statistics.calibration import measure_label_mistakes
from hf_imgcls.measure.statistics.class_means import (
    Interval,
    RankingSums,
    count_for_means,
    enclose_averages,
    enclose_mean_ranking,
    find_precision_bias,
)
from hf_imgcls.measure.statistics.intervals import (
    draw_statistics,
    enclose_calibration_error,
    enclose_ranking,
    follow_quantiles,
    wilson,
)
from hf_imgcls.measure.statistics.mistakes import enclose_mean_loss, enclose_pooled_share
from hf_imgcls.measure.tables import MultiLabelTable, unique_names
from hf_imgcls.records import Estimate


def rank_label_sets(table: MultiLabelTable, level: float) -> Rankings:
    """Rank all examples by the scores of each class that has references, and all decisions by their score.

    Args:
        table: The predictions.
        level: Confidence level.

    Returns:
        ``means`` of ``mean_average_precision``, ``roc_auc`` and ``micro_average_precision``; ``intervals`` of the first
        two.
    """
    num_labels, n = len(table.labels), len(table)
    influences = {name: np.zeros(n) for name in ("mean_average_precision", "roc_auc")}
    sums = {name: RankingSums([], [], [], []) for name in influences}
    estimates = {}
    support = table.targets.sum(axis=0)
    ranked = np.flatnonzero((support > 0) & (support < n))
    for index in np.flatnonzero(support).tolist():
        scores, is_positive = table.scores[:, index], table.targets[:, index]
        if support[index] == n:  # nothing to rank: every example is of the class
            sums["mean_average_precision"].add(1.0, np.zeros(n), is_positive)
            estimates[index] = make_estimate(Measured(1.0, "every image has it"), 1.0, 1.0, n, level)
            continue
        ranking = rank_class(scores, is_positive)
        estimates[index] = estimate_ranking(ranking, int(support[index]), level)
        bias = find_precision_bias(ranking, scores, is_positive)
        found = {
            "mean_average_precision": (ranking.average_precision, ranking.average_precision_influence),
            "roc_auc": (ranking.roc_auc, ranking.roc_auc_influence),
        }
        for name, (value, influence) in found.items():
            sums[name].add(value, influence, is_positive, 0.0 if name == "roc_auc" else bias)
            influences[name] += influence
    precisions, areas = ([1 - loss for loss in sums[name].losses] for name in influences)
    means = {
        "mean_average_precision": average_defined(precisions, num_labels, "without references", "no image has a label"),
        "roc_auc": average_defined(areas, num_labels, "in no image or in all", "every class is in no image or in all"),
        "micro_average_precision": measure_pooled(table.targets, table.scores),
    }
    intervals = {
        name: enclose_mean_ranking(
            items,
            influences[name] / max(len(items.losses), 1),
            name_absent(table, ranked if name == "roc_auc" else np.flatnonzero(support)),
            level,
            is_precision=name != "roc_auc",
        )
        for name, items in sums.items()
        if means[name].value is not None
    }
    return Rankings(means, intervals, estimates)


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
        Metric of a report -> estimate.
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
    bins = {"ece": assign_bins(flat), "adaptive_ece": assign_mass_bins(flat)}
    drawn = _draw_gaps(scores, targets, bins, seed=seed, level=level, draws=draws)
    intervals = rankings.intervals | _enclose_averages(table, level) | _enclose_pooled(table, level)
    # An image's loss is a mean over classes, and so is what one wrong decision adds to it.
    mistakes = {
        name: float(costs.mean()) / len(table.labels) for name, costs in measure_label_mistakes(scores, targets).items()
    }
    losses = {"log_loss": table.log_loss, "brier": ((scores - targets) ** 2).mean(axis=1)}
    estimates = {}
    for name in list_metrics(EVALUATION, REPORT, multi_label=True):
        item = measured[name]
        if item.value is None:
            estimates[name] = make_estimate(item, None, None, n, level)
        elif name == "subset_accuracy":
            low, high = wilson(round(item.value * n), n, level)
            estimates[name] = Estimate(item.value, float(low), float(high), n, "wilson", item.remark or "")
        elif name in bins:
            ends = enclose_calibration_error(positive, flat, bins[name], drawn[name], level)
            estimates[name] = make_estimate(item, *ends, n, level)
        elif name in losses:
            most = 1.0 if name == "brier" else np.inf
            ends = enclose_mean_loss(losses[name], mistakes[name], level, most=most)
            estimates[name] = make_estimate(item, *ends, n, level, "gamma")
        elif name in intervals:
            estimates[name] = intervals[name].describe(item.value, n, item.remark or "")
        elif targets.all():
            estimates[name] = make_estimate(item, 1.0, 1.0, n, level)
        else:
            influence = rank_class(table.scores.ravel(), positive).average_precision_influence
            of_images = influence.reshape(scores.shape).sum(axis=1)
            ends = enclose_ranking(item.value, of_images, int(targets.any(axis=1).sum()), level)
            estimates[name] = make_estimate(item, *ends, n, level, "logit")
    return estimates


def _enclose_averages(table: MultiLabelTable, level: float) -> dict[str, Interval]:
    from scipy.sparse import csr_array

    targets, answers = (csr_array(part.astype(np.float64)) for part in (table.targets, table.answers))
    counts = count_for_means(targets, answers, unique_names(table.labels), count_known(table))
    return enclose_averages(counts, level, is_exclusive=False)


def _enclose_pooled(table: MultiLabelTable, level: float) -> dict[str, Interval]:
    """Intervals of the micro averages and of Hamming loss: shares of decisions, which come several to an image."""
    targets, answers = table.targets, table.answers
    either, both = (targets | answers).sum(axis=1), (targets & answers).sum(axis=1)
    counted = {
        "micro_precision": (both, answers.sum(axis=1)),
        "micro_recall": (both, targets.sum(axis=1)),
        "micro_f1": (both, either),
        "hamming_loss": (either - both, np.full(len(table), targets.shape[1])),
    }
    intervals = {}
    for name, (successes, chances) in counted.items():
        if not chances.any():
            intervals[name] = Interval(None, None, "no interval: too few predictions")
            continue
        low, high = enclose_pooled_share(successes.astype(np.float64), chances.astype(np.float64), level)
        if name == "micro_f1":
            intervals[name] = Interval(jaccard_to_f1(low), jaccard_to_f1(high))
        else:
            intervals[name] = Interval(low, high)
    return intervals


def _draw_gaps(
    scores: FloatArray, targets: BoolArray, bins: dict[str, IntArray], *, seed: int, level: float, draws: int
) -> dict[str, FloatArray]:
    """Bootstrap samples of the gaps that a calibration error sums: name -> (D, bins).

    Of N images they vary less than they should: by a factor of (N - 1) / N, and as if the variance were known.
    """
    from scipy.special import stdtrit

    n, num_labels = scores.shape
    images = np.repeat(np.arange(n), num_labels)

    def add_up(ids: IntArray, weights: FloatArray) -> FloatArray:
        sums = np.bincount(ids * n + images, weights=weights, minlength=NUM_CALIBRATION_BINS * n)
        return sums.astype(np.float64).reshape(NUM_CALIBRATION_BINS, n)

    distances = (targets - scores).ravel() / scores.size
    gaps = {name: add_up(ids, distances) for name, ids in bins.items()}
    gaps["adaptive_ece"] = follow_quantiles(gaps["adaptive_ece"], add_up(bins["adaptive_ece"], np.ones(scores.size)))
    values = np.concatenate(list(gaps.values())).T
    drawn, middle = draw_statistics(lambda counts: counts @ values, n, seed=seed, draws=draws), values.sum(axis=0)
    freedom = np.array([max(n - 1, 1), np.inf])
    wider = np.sqrt(n / freedom[0]) * np.divide(*stdtrit(freedom, 0.5 + level / 2))
    return dict(zip(gaps, np.split(middle + wider * (drawn - middle), len(gaps), axis=1), strict=True))


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
    scores = table.scores.astype(np.float64)
    mistakes = measure_label_mistakes(scores, table.targets)["brier"].tolist()
    for index, estimates in enumerate(classes.values()):
        own, targets = scores[:, index], table.targets[:, index]
        squares = (own - targets) ** 2
        ends = enclose_mean_loss(squares, mistakes[index], level, most=1.0)
        estimates["brier"] = make_estimate(Measured(float(squares.mean())), *ends, len(table), level, "gamma")
        estimates["ece"] = _estimate_calibration(own, targets, generator, level, draws)
    return classes


def _estimate_calibration(
    scores: FloatArray, targets: BoolArray, generator: np.random.Generator, level: float, draws: int
) -> Estimate:
    """A calibration error, with the gap of each bin drawn from a normal distribution of the bootstrap's variance."""
    n, bins = len(scores), assign_bins(scores)
    distances = (targets - scores) / n
    gaps = np.bincount(bins, weights=distances, minlength=NUM_CALIBRATION_BINS).astype(np.float64)
    variances = np.bincount(bins, weights=distances**2, minlength=NUM_CALIBRATION_BINS)
    drawn = gaps + generator.standard_normal((draws, NUM_CALIBRATION_BINS)) * np.sqrt(variances)
    low, high = enclose_calibration_error(targets, scores, bins, drawn, level)
    return Estimate(float(np.abs(gaps).sum()), low, high, n, "normal")
