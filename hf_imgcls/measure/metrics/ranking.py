"""How well one class's scores rank its own examples before all others: ROC-AUC and average precision.

Both come with the influence of every example, from which the uncertainty of their mean over a thousand classes follows
without ranking a thousand classes anew in every bootstrap sample.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray


def rank_scores(scores: npt.NDArray[Any], is_positive: npt.NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """Average precision and ROC-AUC of one class, without influences.

    Args:
        scores: (N,) the class's scores.
        is_positive: (N,) which examples are of the class.

    Returns:
        Average precision, ``None`` without positives; ROC-AUC, ``None`` without positives or without negatives.
    """
    positives = int(is_positive.sum())
    if not positives:
        return None, None
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    seen, found = last + 1.0, np.cumsum(is_positive[order])[last].astype(np.float64)
    gained = np.diff(found, prepend=0.0)
    average_precision = float(gained @ (found / seen) / positives)
    negatives = len(scores) - positives
    if not negatives:
        return average_precision, None
    beaten = negatives - (seen - found) + np.diff(seen - found, prepend=0.0) / 2
    return average_precision, float(gained @ beaten / (positives * negatives))


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
    order = np.argsort(scores)[::-1]
    ranked, positive = scores[order], is_positive[order]
    # Examples of the same score are one group: they pass a threshold together.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    seen = last + 1.0  # examples in this group and above
    found = np.cumsum(positive)[last].astype(np.float64)  # positives among them
    size, positives = np.diff(seen, prepend=0.0), np.diff(found, prepend=0.0)
    negatives, total, others = size - positives, found[-1], seen[-1] - found[-1]

    precision = found / seen
    average_precision = float(positives @ precision / total)
    # Weight on an example raises or lowers the precision at its own rank and at every positive below.
    gain = np.cumsum((positives / seen)[::-1])[::-1]
    loss = np.cumsum((positives * precision / seen)[::-1])[::-1]
    ap_of_negative = -loss / total
    ap_of_positive = (precision - average_precision + gain - loss) / total

    beaten = (others - (seen - found) + negatives / 2) / others  # share of negatives that a positive beats
    beating = (found - positives / 2) / total  # share of positives that beat a negative
    roc_auc = float(positives @ beaten / total)
    auc_of_positive, auc_of_negative = (beaten - roc_auc) / total, (beating - roc_auc) / others

    group = np.repeat(np.arange(len(last)), size.astype(np.int64))
    influences = np.empty((2, len(scores)))
    influences[0, order] = np.where(positive, auc_of_positive[group], auc_of_negative[group])
    influences[1, order] = np.where(positive, ap_of_positive[group], ap_of_negative[group])
    return ClassRanking(roc_auc, average_precision, influences[0], influences[1])
