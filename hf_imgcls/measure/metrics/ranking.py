"""How well one class's scores rank its own examples before all others: ROC-AUC and average precision.

Both come with the influence of every example, from which the uncertainty of their mean over a thousand classes follows
without ranking a thousand classes anew in every bootstrap sample.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray


def find_roc_auc(scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> float:
    """One class's area under the ROC curve; ties count one half.

    Args:
        scores: (N,) the class's scores.
        is_positive: (N,) which examples are of the class; at least one is, and at least one is not.

    Source:
        The Mann-Whitney form: Hanley and McNeil (1982), https://doi.org/10.1148/radiology.143.1.7063747
    """
    every, own = np.sort(scores), np.sort(scores[is_positive])
    # For each example of the class: how many of the others score lower, and how many the same.
    lower = np.searchsorted(every, own, "left") - np.searchsorted(own, own, "left")
    lower_or_same = np.searchsorted(every, own, "right") - np.searchsorted(own, own, "right")
    return float((lower.sum() + lower_or_same.sum()) / (2.0 * len(own) * (len(every) - len(own))))


class _Ranks(NamedTuple):
    """Examples by falling score; those of the same score are one group, since they pass a threshold together.

    Attributes:
        order: (N,) the examples.
        seen: (G,) examples in each group and above.
        found: (G,) positives among them.
        positives: (G,) positives in each group.
    """

    order: IntArray
    seen: FloatArray
    found: FloatArray
    positives: FloatArray

    def average_precision(self) -> float:
        """Mean, over the positives, of the precision among all that score at least as high."""
        return float(self.positives @ (self.found / self.seen) / self.found[-1])


def _rank(scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> _Ranks:
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(is_positive[order])[last].astype(np.float64)
    return _Ranks(order, (last + 1).astype(np.float64), found, np.diff(found, prepend=0.0))


def find_average_precision(scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> float:
    """One class's average precision.

    Args:
        scores: (N,) the class's scores.
        is_positive: (N,) which examples are of the class; at least one is.
    """
    return _rank(scores, is_positive).average_precision()


class ClassRanking(NamedTuple):
    """The ranking of N examples by the score of one class.

    Attributes:
        roc_auc: One-vs-rest area under the ROC curve; ties count one half.
        average_precision: Mean, over the class's examples, of the precision among all that score at least as high.
        roc_auc_influence: (N,) derivative of ``roc_auc`` by the weight of each example; the sum is 0.
        average_precision_influence: (N,) the same of ``average_precision``.
    """

    roc_auc: float
    average_precision: float
    roc_auc_influence: FloatArray
    average_precision_influence: FloatArray


def rank_class(scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> ClassRanking:
    """Rank examples by one class's scores; equal to scikit-learn's ``roc_auc_score`` and ``average_precision_score``.

    Args:
        scores: (N,) the class's scores.
        is_positive: (N,) which examples are of the class; at least one is, and at least one is not.

    Source:
        Influence as the derivative by the weight of an example: Efron (1981), "Nonparametric standard errors and
        confidence intervals", Canadian Journal of Statistics 9, 139-158 (infinitesimal jackknife).
    """
    ranks = _rank(scores, is_positive)
    order, seen, found, positives = ranks
    size = np.diff(seen, prepend=0.0)
    negatives, total, others = size - positives, found[-1], seen[-1] - found[-1]

    precision, average_precision = found / seen, ranks.average_precision()
    # Weight on an example raises or lowers the precision at its own rank and at every positive below.
    gain = np.cumsum((positives / seen)[::-1])[::-1]
    loss = np.cumsum((positives * precision / seen)[::-1])[::-1]
    ap_of_negative = -loss / total
    ap_of_positive = (precision - average_precision + gain - loss) / total

    beaten = (others - (seen - found) + negatives / 2) / others  # share of negatives that a positive beats
    beating = (found - positives / 2) / total  # share of positives that beat a negative
    roc_auc = find_roc_auc(scores, is_positive)
    auc_of_positive, auc_of_negative = (beaten - roc_auc) / total, (beating - roc_auc) / others

    group, positive = np.repeat(np.arange(len(seen)), size.astype(np.int64)), is_positive[order]
    influences = np.empty((2, len(scores)))
    influences[0, order] = np.where(positive, auc_of_positive[group], auc_of_negative[group])
    influences[1, order] = np.where(positive, ap_of_positive[group], ap_of_negative[group])
    return ClassRanking(roc_auc, average_precision, influences[0], influences[1])
