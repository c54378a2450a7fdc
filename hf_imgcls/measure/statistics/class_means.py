"""Intervals of averages over classes: precision, recall and F1, ROC-AUC and average precision.

Every class adds the uncertainty of its own images, also one that was always right: see `enclose_mistakes`. A class of
which nothing was seen may have any value. Where such classes weigh little the interval is that much wider, and where
they weigh more there is none, with the reason "too few images of X".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray
from hf_imgcls.measure.metrics.ranking import ClassRanking
from hf_imgcls.measure.statistics.mistakes import Mistakes, enclose_mistakes
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Up to this share of an average may be unknown before there is no interval.
_MOST_UNKNOWN = 0.05
_MAX_NAMED = 3


class Interval(NamedTuple):
    """Both ends, or None and why there is none."""

    low: float | None
    high: float | None
    reason: str = ""

    def describe(self, value: float, n: int, remark: str) -> Estimate:
        """The estimate with this interval; the ends are between 0 and 1 and hold the value."""
        if self.low is None or self.high is None:
            return Estimate(value, None, None, n, "none", "; ".join(filter(None, [self.reason, remark])))
        low, high = max(min(self.low, value), 0.0), min(max(self.high, value), 1.0)
        return Estimate(value, low, high, n, "saddlepoint", remark)


class ClassCounts(NamedTuple):
    """What the averages are made of.

    Attributes:
        support: (K,) references of each class.
        predicted: (K,) predictions of each class.
        correct: (K,) those that are both.
        targets: (N, K) sparse 0 and 1, the classes of each image.
        answers: (N, K) sparse 0 and 1, its predicted classes.
        right: (N, K) sparse, both.
        is_known: (K,) whether the dataset has the class; a model may know others.
        names: Of the classes.
    """

    support: FloatArray
    predicted: FloatArray
    correct: FloatArray
    targets: csr_array
    answers: csr_array
    right: csr_array
    is_known: npt.NDArray[np.bool_]
    names: Sequence[str]


def count_for_means(targets: csr_array, answers: csr_array, names: Sequence[str], num_known: int) -> ClassCounts:
    """Count references, predictions and right ones of each class.

    Args:
        targets: (N, K), as of `ClassCounts`.
        answers: (N, K).
        names: K names; the dataset's classes come first.
        num_known: How many of them the dataset has.
    """
    right = targets.multiply(answers).tocsr()
    support, predicted, correct = (np.asarray(part.sum(axis=0), dtype=np.float64) for part in (targets, answers, right))
    is_known = np.arange(len(names)) < num_known
    return ClassCounts(support, predicted, correct, targets, answers, right, is_known, names)


def enclose_averages(counts: ClassCounts, level: float, *, is_exclusive: bool) -> dict[str, Interval]:
    """Intervals of macro and weighted precision, recall and F1.

    A recall is a share of the class's images, a precision one of its predictions. F1 is lost by images that are missed
    and by others that are taken for the class, each at the price that it has to first order.

    Args:
        counts: From `count_for_means`.
        level: Confidence level.
        is_exclusive: Whether an image has one class, so that one mistake counts in two classes.

    Returns:
        Name -> interval. Where classes are exclusive ``weighted_recall`` is left out, which is the accuracy, and
        ``balanced_accuracy`` is there.
    """
    support, predicted, num_labels = counts.support, counts.predicted, float(counts.support.sum())
    occurs, has_images = support + predicted > 0, support > 0
    absent = counts.is_known & ~has_images
    weightings = {
        "macro": _Weights((occurs | absent) / max(int((occurs | absent).sum()), 1)),
        "weighted": _Weights(support / max(num_labels, 1.0), num_labels),
    }
    present = _Weights((has_images | absent) / max(int((has_images | absent).sum()), 1))
    intervals = {}
    for prefix, weights in weightings.items():
        intervals[f"{prefix}_precision"] = _enclose_shares(counts, "predictions", weights, level)
        intervals[f"{prefix}_f1"] = _enclose_f1(counts, weights, level, is_exclusive=is_exclusive)
    intervals["macro_recall"] = _enclose_shares(counts, "images", weightings["macro"], level)
    if not is_exclusive:
        intervals["weighted_recall"] = _enclose_shares(counts, "images", weightings["weighted"], level)
        return intervals
    is_same = np.array_equal(present.values, weightings["macro"].values)
    intervals["balanced_accuracy"] = (
        intervals["macro_recall"] if is_same else _enclose_shares(counts, "images", present, level)
    )
    return intervals


class _Weights(NamedTuple):
    """Weight of each class in an average, (K,); and, where it is its share of all labels, how many there are."""

    values: FloatArray
    num_labels: float = np.inf

    def influence(self, counts: ClassCounts, values: FloatArray) -> FloatArray:
        """(N,) of each image on the average of these values, by the weights that its labels change."""
        moved: FloatArray = counts.targets @ ((values - self.values @ values) / self.num_labels)
        return moved


def _enclose_shares(counts: ClassCounts, what: str, weights: _Weights, level: float) -> Interval:
    """An average of recalls (shares of the images of each class) or precisions (shares of its predictions)."""
    of_images = what == "images"
    n, members = (counts.support, counts.targets) if of_images else (counts.predicted, counts.answers)
    # A class that the dataset lacks is never rightly predicted.
    unknown = counts.is_known & (n == 0)
    if reason := _say_unknown(counts, unknown, weights.values, what):
        return Interval(None, None, reason)
    share, each = counts.correct / np.maximum(n, 1), weights.values / np.maximum(n, 1)
    influence = counts.right @ each - members @ (each * share) + weights.influence(counts, share)
    seen = (n > 0) & (each > 0)
    if not seen.any():
        return Interval(None, None, f"no interval: too few {what}")
    mistakes = Mistakes(n[seen], (n - counts.correct)[seen], each[seen])
    low, high = enclose_mistakes(mistakes, level, variance=float(influence @ influence))
    most = float(weights.values[seen].sum())
    return Interval(most - high, most - low + float(weights.values[unknown].sum()))


def _enclose_f1(counts: ClassCounts, weights: _Weights, level: float, *, is_exclusive: bool) -> Interval:
    n, num_images = counts.support, counts.targets.shape[0]
    unknown = counts.is_known & (n == 0)
    if reason := _say_unknown(counts, unknown, weights.values, "images"):
        return Interval(None, None, reason)
    size = np.maximum(n + counts.predicted, 1)
    f1, each = 2 * counts.correct / size, weights.values / size
    influence = counts.right @ (2 * each) - (counts.targets + counts.answers) @ (each * f1)
    influence += weights.influence(counts, f1)
    seen = (n > 0) & (each > 0)
    others = seen & (num_images > n)
    if not seen.any():
        return Interval(None, None, "no interval: too few images")
    # What one more costs, of F1 as it is after one further image of each kind.
    further = 2 * counts.correct / (size + 2)
    missed, invented = each * (2 - further), np.maximum(each * further, 1e-9 * each.max())
    mistakes = Mistakes(
        np.concatenate([n[seen], (num_images - n)[others]]),
        np.concatenate([(n - counts.correct)[seen], (counts.predicted - counts.correct)[others]]),
        np.concatenate([missed[seen], invented[others]]),
    )
    unseen = _find_dearest_pair(missed, invented) if is_exclusive else None
    low, high = enclose_mistakes(mistakes, level, variance=float(influence @ influence), unseen=unseen)
    # The average falls with what is lost: to first order, and from 1 where nothing is.
    value, lost = float(weights.values @ f1), float(mistakes.cost @ mistakes.lost)
    most = float(weights.values[seen].sum())
    rises = [lost - low, (most - value) * (1 - low / lost) if lost > 0 else most - value]
    return Interval(value - (high - lost), value + max(rises) + float(weights.values[unknown].sum()))


def _find_dearest_pair(missed: FloatArray, invented: FloatArray) -> float:
    """The most that an image costs which is missed in one class and invented in another."""
    if len(missed) < 2:
        return float(missed.max())
    first, second = np.argsort(missed)[-2:], np.argsort(invented)[-2:]
    return max(float(missed[a] + invented[b]) for a in first for b in second if a != b)


def _say_unknown(counts: ClassCounts, unknown: npt.NDArray[np.bool_], weight: FloatArray, what: str) -> str:
    """Why there is no interval, if classes of which nothing was seen weigh too much."""
    if float(weight[unknown].sum()) <= _MOST_UNKNOWN:
        return ""
    names = [counts.names[index] for index in np.flatnonzero(unknown & (weight > 0)).tolist()]
    return f"no interval: {name_few(names, what)}"


def name_few(names: Sequence[str], what: str) -> str:
    """What is missing: "too few images of 'cat', 'dog'"."""
    shown = ", ".join(map(repr, names[:_MAX_NAMED]))
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return f"too few {what} of {shown}{more}"


# ------------------------------------------------------------------------------------------------ rankings


class RankingSums(NamedTuple):
    """What the mean of a ranking's values over classes is made of, class by class.

    Attributes:
        positives: Images of the class.
        losses: 1 minus its value.
        spread: Sum of squared influences of its own images on its value.
        bias: How much too high its value is on average.
    """

    positives: list[float]
    losses: list[float]
    spread: list[float]
    bias: list[float]

    def add(self, value: float, influence: FloatArray, is_positive: npt.NDArray[np.bool_], bias: float = 0.0) -> None:
        """Add a class; the influence of its own images is scaled, in place, to be without bias (n / (n - 1))."""
        n = float(is_positive.sum())
        influence[is_positive] *= np.sqrt(n / max(n - 1.0, 1.0))
        self.positives.append(n)
        self.losses.append(1 - value)
        self.spread.append(float(influence[is_positive] @ influence[is_positive]))
        self.bias.append(bias)


def enclose_mean_ranking(
    sums: RankingSums, influence: FloatArray, missing: Sequence[str], level: float, *, is_precision: bool
) -> Interval:
    """Interval of a mean over classes of ROC-AUC or average precision.

    Both are means over the images of a class, of the share of other images that rank below, or of the precision at the
    image's rank: each image may lose up to 1. How much less than that losses vary is told by the influences.

    Args:
        sums: Of the classes that have a value.
        influence: (N,) of each image, on the mean.
        missing: Names of the classes without a value.
        level: Confidence level.
        is_precision: Whether it is average precision. An image of another class that ranks first then costs more than
            an image of the class that ranks last; and of few images it is too high on average, since the image at each
            threshold counts itself.
    """
    num_known = len(sums.losses)
    total = num_known + len(missing)
    if not num_known or len(missing) / total > _MOST_UNKNOWN:
        return Interval(None, None, f"no interval: {name_few(missing, 'images')}")
    n, losses, spread = (np.array(part) for part in (sums.positives, sums.losses, sums.spread))
    cost = 1 / (total * n)
    unseen = float(cost.max())
    if is_precision:
        from scipy.special import digamma

        rarest = float(n.min())
        unseen *= max(1.0, float(digamma(rarest + 2) + np.euler_gamma - 1))
    shares = float((spread**2 / np.maximum(n - 1, 1)).sum())
    freedom = float(spread.sum()) ** 2 / shares if shares > 0 else np.inf
    variance = float(influence @ influence) * (num_known / total) ** 2
    mistakes = Mistakes(n, n * losses, cost)
    low, high = enclose_mistakes(mistakes, level, variance=variance, unseen=unseen, freedom=freedom)
    known = num_known / total
    return Interval(known - high - max(float(np.sum(sums.bias)) / total, 0.0), known - low + 1 - known)


def find_precision_bias(ranking: ClassRanking, scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> float:
    """How much too high an average precision is on average, because the image at each threshold counts itself.

    Of n images, the r-th from above has r / (n + 1) of all images of its class above it on average, and not r / n. And
    a precision is convex in the number of others above, which varies by chance (to second order, as Poisson's).

    Args:
        ranking: Of these scores.
        scores: (N,).
        is_positive: (N,).
    """
    own, others = np.sort(scores[is_positive])[::-1], np.sort(scores[~is_positive])
    n = len(own)
    above = len(others) - (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / 2
    found = np.arange(1, n + 1) * (n / (n + 1))
    curvature = found * above / (found + above) ** 3
    return ranking.average_precision - float((found / (found + above) - curvature).mean())
