"""The formulas of the metrics where an image may show several classes, or none.

Everything is float64 numpy and equals scikit-learn to 1e-12 (tests/measure/test_multilabel_metrics.py). What cannot be
defined is ``None`` with a reason:

- *mean average precision* is the plain mean, over the classes that occur among the references, of each class's average
  precision; scikit-learn would count a class without references as 0;
- *macro* averages run over the classes that occur among the references **or** the answers. Scikit-learn runs over all
  classes and counts one in neither as 0 (``zero_division=0``): give it ``labels=`` the classes that occur;
- *micro* averages pool all decisions, one for each image and class;
- *calibration* is that of the decisions: of those with a score of 0.8, eight in ten should be positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.ranking import find_average_precision, find_roc_auc
from hf_imgcls.measure.metrics.single import Measured, average_counts

BoolArray = npt.NDArray[np.bool_]

DEFAULT_THRESHOLD = 0.5
NO_LABEL = "no image has a label"


def sigmoid(logits: FloatArray) -> FloatArray:
    """The logistic function, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def binary_log_losses(logits: FloatArray, targets: npt.NDArray[Any]) -> FloatArray:
    """Binary cross-entropy of each decision: (N, K) float64, exact where the sigmoid has rounded to 0 or 1."""
    return np.maximum(logits, 0.0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))


def count_decisions(targets: BoolArray, answers: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """References, answers and right answers of each class: (K,) int64 each."""
    return targets.sum(axis=0), answers.sum(axis=0), (targets & answers).sum(axis=0)


def measure_decisions(targets: BoolArray, answers: BoolArray) -> dict[str, Measured]:
    """The metrics that depend on the thresholds.

    Args:
        targets: (N, K), N >= 1.
        answers: (N, K), the classes whose score reaches their threshold.
    """
    support, answered, correct = count_decisions(targets, answers)
    num_labels, occurs = len(support), (support + answered) > 0
    parts = []
    if absent := int((~occurs).sum()):
        parts.append(f"left out, in neither references nor answers: {absent} of {num_labels} classes")
    if unanswered := int(((answered == 0) & occurs).sum()):
        parts.append(f"never answered, counted with precision 0: {unanswered} of {num_labels} classes")
    if unreferenced := int(((support == 0) & occurs).sum()):
        parts.append(f"answered but without references, counted with recall 0: {unreferenced} of {num_labels} classes")
    remark = "; ".join(parts) or None
    measured = {
        "subset_accuracy": Measured(float((targets == answers).all(axis=1).mean())),
        "hamming_loss": Measured(float((targets != answers).mean())),
    }
    averages = average_decisions(support, answered, correct)
    for name, value in averages.items():
        if not support.any():
            measured[name] = Measured(None, NO_LABEL)
        elif name == "micro_precision" and not answered.any():
            measured[name] = Measured(0.0, "no class was answered for any image: counted as 0")
        else:
            measured[name] = Measured(float(value), remark if name.startswith("macro") else None)
    return measured


def average_decisions(
    support: npt.NDArray[Any], answered: npt.NDArray[Any], correct: npt.NDArray[Any]
) -> dict[str, FloatArray]:
    """Micro, macro and weighted precision, recall and F1, of one sample or of many at once.

    Args:
        support: (..., K) references of each class.
        answered: (..., K) answers of each class.
        correct: (..., K) right answers of each class.

    Returns:
        Name -> (...,) float64; 0 where a denominator is 0.
    """
    totals = [counts.sum(axis=-1) for counts in (support, answered, correct)]
    micro = {
        "micro_precision": totals[2] / np.maximum(totals[1], 1),
        "micro_recall": totals[2] / np.maximum(totals[0], 1),
        "micro_f1": 2 * totals[2] / np.maximum(totals[0] + totals[1], 1),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        averages = average_counts(support, answered, correct)
    averages.pop("balanced_accuracy")
    return micro | {name: np.nan_to_num(values) for name, values in averages.items()}


def decide(scores: npt.NDArray[Any], thresholds: npt.ArrayLike) -> BoolArray:
    """Return the answers: the classes whose score reaches their threshold.

    Args:
        scores: (N, K), or (K,) for one image; float32, as ``pipeline()`` gives them.
        thresholds: (K,).
    """
    return np.asarray(scores, dtype=np.float64) >= np.asarray(thresholds, dtype=np.float64)


def measure_rankings(targets: BoolArray, scores: npt.NDArray[Any]) -> dict[str, Measured]:
    """Measure how well the scores rank: means over the classes for which they are defined, and all decisions together.

    Args:
        targets: (N, K).
        scores: (N, K).

    Returns:
        ``mean_average_precision``, ``roc_auc`` (the mean over classes) and ``micro_average_precision``.
    """
    support, num_labels = targets.sum(axis=0), targets.shape[1]
    precisions = [
        find_average_precision(scores[:, label], targets[:, label]) for label in np.flatnonzero(support).tolist()
    ]
    ranked = np.flatnonzero((support > 0) & (support < len(targets))).tolist()
    areas = [find_roc_auc(scores[:, label], targets[:, label]) for label in ranked]
    return {
        "mean_average_precision": average_defined(precisions, num_labels, "without references", NO_LABEL),
        "roc_auc": average_defined(areas, num_labels, "in no image or in all", "every class is in no image or in all"),
        "micro_average_precision": measure_pooled(targets, scores),
    }


def measure_pooled(targets: BoolArray, scores: npt.NDArray[Any]) -> Measured:
    """Measure the average precision of all decisions together, one for each image and class."""
    if not targets.any():
        return Measured(None, NO_LABEL)
    return Measured(find_average_precision(scores.ravel(), targets.ravel()))


def average_defined(values: list[float], num_labels: int, why: str, otherwise: str) -> Measured:
    """Mean over the classes that have a value, with a remark on those that have none."""
    if not values:
        return Measured(None, otherwise)
    missing = num_labels - len(values)
    return Measured(float(np.mean(values)), f"left out, {why}: {missing} of {num_labels} classes" if missing else None)
