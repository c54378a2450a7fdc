"""What the estimates of a prediction table are made from: where images have one label, and where they have several.

`hf_imgcls.measure.report.estimates` computes every value and interval from it, the same way for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.multi_label import BoolArray, measure_decisions, measure_pooled
from hf_imgcls.measure.metrics.ranking import rank_class
from hf_imgcls.measure.metrics.single import (
    NUM_CALIBRATION_BINS,
    Measured,
    assign_bins,
    measure_balanced_accuracy,
    measure_precision_recall_f1,
    measure_top_k,
)
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE
from hf_imgcls.measure.statistics.calibration import measure_brier, measure_label_mistakes, measure_mistakes
from hf_imgcls.measure.statistics.class_means import Interval
from hf_imgcls.measure.statistics.intervals import (
    draw_statistics,
    enclose_calibration_error,
    enclose_ranking,
    follow_quantiles,
    wilson,
)
from hf_imgcls.measure.statistics.mistakes import enclose_mean_loss, enclose_pooled_share
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable, Table
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Loss(NamedTuple):
    """A metric that is a mean over images.

    Attributes:
        values: (N,) of each image.
        mistake: What one mistake would add to an image's value on average.
        most: The largest value.
    """

    values: FloatArray
    mistake: float
    most: float


class Evidence:
    """What a table shows.

    Args:
        table: The predictions.

    Attributes:
        mean_precision: Name of the mean average precision.
        more_shares: Names of metrics that are shares of images by another name than the catalogue's.
        no_area: Why a class has no ROC-AUC, and why none has.
    """

    mean_precision: ClassVar[str]
    more_shares: ClassVar[frozenset[str]] = frozenset()
    no_area: ClassVar[tuple[str, str]]

    def __init__(self, table: Any) -> None:
        self.table = table

    def explain_no_ranking(self) -> str:
        """Return why no class can be ranked; "" where some can."""
        return ""

    def list_ranked(self) -> Iterator[tuple[int, npt.NDArray[np.float32], BoolArray]]:
        """Yield class id, scores (N,) and which images are of the class (N,), of each class that has images."""
        raise NotImplementedError

    def measure(self) -> dict[str, Measured]:
        """Compute the metrics but for calibration errors and means of rankings."""
        raise NotImplementedError

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The metrics that are mean losses, where they are measured."""
        raise NotImplementedError

    def mark_classes(self) -> tuple[csr_array, csr_array]:
        """Return references and answers: (N, K) of 0 and 1 each."""
        raise NotImplementedError

    def draw_gaps(
        self, bins: dict[str, IntArray], *, seed: int, level: float, draws: int
    ) -> dict[str, npt.NDArray[Any]]:
        """Draw bootstrap samples over images of the gaps that a calibration error sums.

        Args:
            bins: Name -> (M,) the bin of each score.
            seed: Of the draws.
            level: Confidence level.
            draws: D.

        Returns:
            Name -> (D, bins) float64.
        """
        raise NotImplementedError

    def enclose_pooled(self, level: float) -> dict[str, Interval]:
        """Return intervals of metrics that pool the decisions about all classes."""
        return {}

    def estimate_pooled_ranking(self, level: float) -> dict[str, Estimate]:
        """Return the average precision of all decisions together, where there are several to an image."""
        return {}

    def estimate_calibration(self, seed: int, level: float, draws: int) -> Iterator[dict[str, Estimate]]:
        """Yield Brier score and calibration error of each class, where every class is a decision of its own."""
        while True:
            yield {}


class SingleLabelEvidence(Evidence):
    """Of images with one label each."""

    table: PredictionTable
    mean_precision = "average_precision"
    more_shares = frozenset({"weighted_recall"})  # it is the accuracy
    no_area = ("without references", "no image has a label")

    def explain_no_ranking(self) -> str:
        if not self.table.is_complete:
            return NOT_EVERY_SCORE
        only_one = len(np.unique(self.table.label)) < 2
        return "the references hold one class only: there is nothing to tell it from" if only_one else ""

    def list_ranked(self) -> Iterator[tuple[int, npt.NDArray[np.float32], BoolArray]]:
        scores = self.table.scores_by_class()
        assert scores is not None  # see `explain_no_ranking`
        for index in np.unique(self.table.label).tolist():
            yield index, scores[index], self.table.label == index

    def measure(self) -> dict[str, Measured]:
        table, num_labels = self.table, len(self.table.labels)
        counts = (table.label, table.prediction, num_labels)
        return {
            **measure_precision_recall_f1(*counts),
            "balanced_accuracy": measure_balanced_accuracy(*counts),
            "accuracy": Measured(float(table.correct.mean())),
            "top3_accuracy": measure_top_k(table.reference_rank, num_labels, 3),
            "top5_accuracy": measure_top_k(table.reference_rank, num_labels, 5),
            "brier": Measured(None, NOT_EVERY_SCORE),
            **{name: Measured(float(loss.values.mean())) for name, loss in self.losses.items()},
        }

    @cached_property
    def losses(self) -> dict[str, Loss]:
        mistakes = measure_mistakes(self.table)
        losses = {"log_loss": Loss(self.table.log_loss, mistakes["log_loss"], np.inf)}
        if self.table.is_complete:
            losses["brier"] = Loss(measure_brier(self.table), mistakes["brier"], 2.0)
        return losses

    def mark_classes(self) -> tuple[csr_array, csr_array]:
        from scipy.sparse import csr_array

        n, shape = len(self.table), (len(self.table), len(self.table.labels))
        targets, answers = (
            csr_array((np.ones(n), (np.arange(n), ids)), shape=shape)
            for ids in (self.table.label, self.table.prediction)
        )
        return targets, answers

    def draw_gaps(
        self, bins: dict[str, IntArray], *, seed: int, level: float, draws: int
    ) -> dict[str, npt.NDArray[Any]]:
        from scipy.sparse import csr_array

        n = len(self.table)
        gaps = (self.table.correct - self.table.confidence) / n
        placed = np.concatenate([ids + NUM_CALIBRATION_BINS * index for index, ids in enumerate(bins.values())])
        entries = (np.tile(gaps, len(bins)), (placed, np.tile(np.arange(n), len(bins))))
        matrix = csr_array(entries, shape=(NUM_CALIBRATION_BINS * len(bins), n))
        drawn = draw_statistics(lambda counts: (matrix @ counts.T).T, n, seed=seed, draws=draws)
        return dict(zip(bins, np.split(drawn, len(bins), axis=1), strict=True))


class MultiLabelEvidence(Evidence):
    """Of images that may have several labels.

    The decisions about one image are not independent of each other, so the variance is that of images.
    """

    table: MultiLabelTable
    mean_precision = "mean_average_precision"
    no_area = ("in no image or in all", "every class is in no image or in all")

    def __init__(self, table: MultiLabelTable) -> None:
        super().__init__(table)
        self.scores = table.scores.astype(np.float64)

    def list_ranked(self) -> Iterator[tuple[int, npt.NDArray[np.float32], BoolArray]]:
        for index in np.flatnonzero(self.table.targets.any(axis=0)).tolist():
            yield index, self.table.scores[:, index], self.table.targets[:, index]

    def measure(self) -> dict[str, Measured]:
        table = self.table
        return {
            **measure_decisions(table.targets, table.answers),
            "log_loss": Measured(float(table.log_loss.mean())),
            "brier": Measured(float(((self.scores - table.targets) ** 2).mean())),
        }

    @cached_property
    def losses(self) -> dict[str, Loss]:
        # An image's loss is a mean over classes, and so is what one wrong decision adds to it.
        num_labels = len(self.table.labels)
        mistakes = measure_label_mistakes(self.scores, self.table.targets)
        costs = {name: float(values.mean()) / num_labels for name, values in mistakes.items()}
        squares = ((self.scores - self.table.targets) ** 2).mean(axis=1)
        return {
            "log_loss": Loss(self.table.log_loss, costs["log_loss"], np.inf),
            "brier": Loss(squares, costs["brier"], 1.0),
        }

    def mark_classes(self) -> tuple[csr_array, csr_array]:
        from scipy.sparse import csr_array

        return csr_array(self.table.targets.astype(np.float64)), csr_array(self.table.answers.astype(np.float64))

    def draw_gaps(
        self, bins: dict[str, IntArray], *, seed: int, level: float, draws: int
    ) -> dict[str, npt.NDArray[Any]]:
        from scipy.special import stdtrit

        n, num_labels = self.scores.shape
        images = np.repeat(np.arange(n), num_labels)

        def add_up(ids: IntArray, weights: FloatArray) -> FloatArray:
            sums = np.bincount(ids * n + images, weights=weights, minlength=NUM_CALIBRATION_BINS * n)
            return sums.astype(np.float64).reshape(NUM_CALIBRATION_BINS, n)

        distances = (self.table.targets - self.scores).ravel() / self.scores.size
        gaps = {name: add_up(ids, distances) for name, ids in bins.items()}
        counts = add_up(bins["adaptive_ece"], np.ones(self.scores.size))
        gaps["adaptive_ece"] = follow_quantiles(gaps["adaptive_ece"], counts)
        values = np.concatenate(list(gaps.values())).T
        drawn, middle = draw_statistics(lambda counts: counts @ values, n, seed=seed, draws=draws), values.sum(axis=0)
        # Draws of N images vary less than they should: by a factor of (N - 1) / N, and as if the variance were known.
        freedom = np.array([max(n - 1, 1), np.inf])
        wider = np.sqrt(n / freedom[0]) * np.divide(*stdtrit(freedom, 0.5 + level / 2))
        return dict(zip(gaps, np.split(middle + wider * (drawn - middle), len(gaps), axis=1), strict=True))

    def enclose_pooled(self, level: float) -> dict[str, Interval]:
        """Return intervals of the micro averages and of Hamming loss: shares of decisions, several to an image."""
        targets, answers = self.table.targets, self.table.answers
        either, both = (targets | answers).sum(axis=1), (targets & answers).sum(axis=1)
        counted = {
            "micro_precision": (both, answers.sum(axis=1)),
            "micro_recall": (both, targets.sum(axis=1)),
            "micro_f1": (both, either),
            "hamming_loss": (either - both, np.full(len(targets), targets.shape[1])),
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

    def estimate_pooled_ranking(self, level: float) -> dict[str, Estimate]:
        table, n = self.table, len(self.table)
        item = measure_pooled(table.targets, table.scores)
        if item.value is None:
            estimate = make_estimate(item, None, None, n, level)
        elif table.targets.all():
            estimate = make_estimate(item, 1.0, 1.0, n, level)
        else:
            influence = rank_class(table.scores.ravel(), table.targets.ravel()).average_precision_influence
            of_images = influence.reshape(table.scores.shape).sum(axis=1)
            ends = enclose_ranking(item.value, of_images, int(table.targets.any(axis=1).sum()), level)
            estimate = make_estimate(item, *ends, n, level, "logit")
        return {"micro_average_precision": estimate}

    def estimate_calibration(self, seed: int, level: float, draws: int) -> Iterator[dict[str, Estimate]]:
        """Yield Brier score and calibration error of each class.

        The gap of each bin is drawn from a normal distribution of the bootstrap's variance.
        """
        generator, n = np.random.default_rng(seed), len(self.table)
        mistakes = measure_label_mistakes(self.scores, self.table.targets)["brier"].tolist()
        for own, targets, mistake in zip(self.scores.T, self.table.targets.T, mistakes, strict=True):
            squares = (own - targets) ** 2
            ends = enclose_mean_loss(squares, mistake, level, most=1.0)
            brier = make_estimate(Measured(float(squares.mean())), *ends, n, level, "gamma")
            bins, distances = assign_bins(own), (targets - own) / n
            gaps = np.bincount(bins, weights=distances, minlength=NUM_CALIBRATION_BINS).astype(np.float64)
            variances = np.bincount(bins, weights=distances**2, minlength=NUM_CALIBRATION_BINS)
            drawn = gaps + generator.standard_normal((draws, NUM_CALIBRATION_BINS)) * np.sqrt(variances)
            low, high = enclose_calibration_error(targets, own, bins, drawn, level)
            yield {"brier": brier, "ece": Estimate(float(np.abs(gaps).sum()), low, high, n, "normal")}


_EVIDENCE: Mapping[str, type[Evidence]] = {
    PredictionTable.problem_type: SingleLabelEvidence,
    MultiLabelTable.problem_type: MultiLabelEvidence,
}


def find_evidence(table: Table) -> Evidence:
    """Return the evidence of a table of either kind."""
    return _EVIDENCE[table.problem_type](table)


def make_estimate(
    item: Measured, low: float | None, high: float | None, n: int, level: float, method: str = "bootstrap"
) -> Estimate:
    """Return an estimate, if there is a value; with Wilson's interval where the method sees a perfect value alone."""
    value, remark = item.value, item.remark or ""
    if value is None or low is None or high is None:
        return Estimate(None, None, None, n, "none", remark)
    if low == high and value in (0.0, 1.0):
        ends = wilson(round(value * n), n, level)
        return Estimate(value, float(ends[0]), float(ends[1]), n, "wilson", remark)
    return Estimate(value, min(low, value), max(high, value), n, method, remark)


def jaccard_to_f1(share: float | None) -> float | None:
    """Return F1, of the share that is both of the class and taken for it, among what is either."""
    return None if share is None else 2 * share / (1 + share)
