"""The formulas of the metrics: from label, prediction and score arrays of a whole split to numbers.

Everything is float64 numpy and equals scikit-learn to 1e-12 (tests/measure/test_metrics.py). What cannot be defined is
``None`` with a reason, never NaN and never a silent 0:

- *macro* averages run over the classes that occur among the references **or** the predictions, which is scikit-learn's
  default; a class in neither has no precision and no recall to average;
- a class that occurs but was never predicted has precision 0 there (``zero_division=0``), and the remark says so;
- *balanced accuracy* is the mean recall over the classes that occur among the references;
- *ROC-AUC* is the plain mean, over the classes that occur among the references, of the binary one-vs-rest AUC of the
  class's softmax score. With every class present this is
  ``roc_auc_score(y, softmax, multi_class="ovr", average="macro")``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.ranking import find_roc_auc

NUM_CALIBRATION_BINS = 15


class Measured(NamedTuple):
    """A metric's value and what has to be said about it.

    Attributes:
        value: The number, or ``None`` where it is not defined.
        remark: Why there is no number; or, beside a number, what it leaves out.
    """

    value: float | None
    remark: str | None = None


def read_measured(measured: dict[str, Measured]) -> tuple[dict[str, float | None], dict[str, str], dict[str, str]]:
    """Return values by name, the reasons of those that are None, and the remarks on the others."""
    values = {name: item.value for name, item in measured.items()}
    reasons = {name: item.remark or "" for name, item in measured.items() if item.value is None}
    remarks = {name: item.remark for name, item in measured.items() if item.value is not None and item.remark}
    return values, reasons, remarks


def softmax(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Softmax scores and their logarithms, over the last axis and without overflow.

    Args:
        logits: (B, K) float64, finite.

    Returns:
        The scores and the log-scores, both (B, K). The latter stay exact where a score has rounded to 0 or 1.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    return exponentials / sums, shifted - np.log(sums)


def rank_references(scores: npt.NDArray[Any], references: IntArray) -> IntArray:
    """Rank of each example's true class among its scores: 0 is the best score.

    Equal scores are ordered as ``sklearn.metrics.top_k_accuracy_score`` orders them: the higher class id first.

    Args:
        scores: (B, K), any monotone score.
        references: (B,) int64 in [0, K).

    Returns:
        (B,) int64 in [0, K).
    """
    own = scores[np.arange(len(references)), references][:, None]
    later = np.arange(scores.shape[1])[None, :] > references[:, None]
    return cast(IntArray, ((scores > own) | ((scores == own) & later)).sum(axis=1))


def count_confusions(references: IntArray, predictions: IntArray, num_labels: int) -> IntArray:
    """Confusion matrix: (K, K) int64, rows are references and columns are predictions."""
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (references, predictions), 1)
    return counts


def count_classes(references: IntArray, predictions: IntArray, num_labels: int) -> tuple[IntArray, IntArray, IntArray]:
    """References, predictions and right predictions of each class: (K,) int64 each."""
    right = references[references == predictions]
    support, predicted, correct = (np.bincount(ids, minlength=num_labels) for ids in (references, predictions, right))
    return support, predicted, correct


def measure_precision_recall_f1(references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Measured]:
    """Macro and weighted precision, recall and F1.

    Args:
        references: (N,) int64 class ids, N >= 1.
        predictions: (N,) int64 class ids.
        num_labels: K.

    Returns:
        ``macro_precision``, ``macro_recall``, ``macro_f1`` (plain means over the classes among references or
        predictions) and the same with ``weighted_`` (means weighted by the number of references).
    """
    support, predicted, correct = count_classes(references, predictions, num_labels)
    occurs = (support + predicted) > 0

    parts = []
    if absent := int((~occurs).sum()):
        parts.append(f"left out, in neither references nor predictions: {absent} of {num_labels} classes")
    if unpredicted := int(((predicted == 0) & occurs).sum()):
        parts.append(f"never predicted, counted with precision 0: {unpredicted} of {num_labels} classes")
    if unreferenced := int(((support == 0) & occurs).sum()):
        parts.append(f"predicted but without references, counted with recall 0: {unreferenced} of {num_labels} classes")
    remark = "; ".join(parts) or None

    values = average_counts(support, predicted, correct)
    return {
        name: Measured(float(value), remark if name.startswith("macro") else None)
        for name, value in values.items()
        if name != "balanced_accuracy"
    }


def average_counts(
    support: npt.NDArray[Any], predicted: npt.NDArray[Any], correct: npt.NDArray[Any]
) -> dict[str, FloatArray]:
    """Averages over classes, of one sample or of many at once.

    Args:
        support: (..., K) references of each class; not all are 0.
        predicted: (..., K) predictions of each class.
        correct: (..., K) examples of each class that were predicted as it.

    Returns:
        ``macro_`` and ``weighted_`` precision, recall and f1, and ``balanced_accuracy``: (...,) float64 each.
    """
    # A zero denominator means that the numerator is zero too: dividing by one gives the 0 of zero_division=0.
    recall = correct / np.maximum(support, 1)
    per_class = {
        "precision": correct / np.maximum(predicted, 1),
        "recall": recall,
        "f1": 2 * correct / np.maximum(support + predicted, 1),
    }
    num_occurring = ((support + predicted) > 0).sum(axis=-1)
    total = support.sum(axis=-1)
    averages = {f"macro_{name}": values.sum(axis=-1) / num_occurring for name, values in per_class.items()}
    averages |= {f"weighted_{name}": (values * support).sum(axis=-1) / total for name, values in per_class.items()}
    return averages | {"balanced_accuracy": recall.sum(axis=-1) / (support > 0).sum(axis=-1)}


def measure_balanced_accuracy(references: IntArray, predictions: IntArray, num_labels: int) -> Measured:
    """Mean recall over the classes that occur among the references."""
    support, predicted, correct = count_classes(references, predictions, num_labels)
    missing = num_labels - int((support > 0).sum())
    remark = f"left out, without references: {missing} of {num_labels} classes" if missing else None
    return Measured(float(average_counts(support, predicted, correct)["balanced_accuracy"]), remark)


def measure_top_k(ranks: IntArray, num_labels: int, k: int = 5) -> Measured:
    """Share of examples whose true class is among the ``k`` best scores."""
    if num_labels <= k:
        return Measured(None, f"with {num_labels} classes every answer is among the best {k}")
    return Measured(float((ranks < k).mean()))


def measure_roc_auc(references: IntArray, scores: npt.NDArray[Any]) -> Measured:
    """Macro one-vs-rest area under the ROC curve; ties count one half.

    Args:
        references: (N,) int64 class ids.
        scores: (N, K) softmax scores.

    Returns:
        The mean over the classes that occur among the references. Not defined when fewer than two classes do.
    """
    num_labels = scores.shape[1]
    present = np.unique(references)
    if len(present) < 2:
        return Measured(None, "the references hold one class only: there is nothing to tell it from")
    areas = [find_roc_auc(scores[:, label], references == label) for label in present]
    missing = num_labels - len(present)
    remark = f"left out, without references: {missing} of {num_labels} classes" if missing else None
    return Measured(float(np.mean(areas)), remark)


def measure_calibration_error(
    correct: npt.NDArray[np.bool_], confidences: FloatArray, num_bins: int = NUM_CALIBRATION_BINS
) -> Measured:
    """Expected calibration error of the top-1 class, as a share in [0, 1].

    Args:
        correct: (N,) whether the top-1 class is right.
        confidences: (N,) its softmax score.
        num_bins: Equal-width bins over (0, 1], each closed on the right.

    Returns:
        ``sum over bins of |bin| / N * |accuracy(bin) - mean confidence(bin)|``.

    Source:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599
    """
    bins = assign_bins(confidences, num_bins)
    return Measured(float(np.abs(sum_gaps(correct, confidences, bins, num_bins)).sum()))


def measure_adaptive_calibration_error(
    correct: npt.NDArray[np.bool_], confidences: FloatArray, num_bins: int = NUM_CALIBRATION_BINS
) -> Measured:
    """The calibration error over bins with equally many examples instead of equally wide ones.

    Equal-width bins put nearly all answers of a confident model into the last one. Equal confidences stay together, so
    bins may differ in size, or be empty.

    Args:
        correct: (N,) whether the top-1 class is right.
        confidences: (N,) its softmax score.
        num_bins: Bins, parted at the quantiles of the confidences and closed on the right.
    """
    bins = assign_mass_bins(confidences, num_bins)
    return Measured(float(np.abs(sum_gaps(correct, confidences, bins, num_bins)).sum()))


def assign_bins(confidences: FloatArray, num_bins: int = NUM_CALIBRATION_BINS) -> IntArray:
    """Number of the equal-width bin over (0, 1], closed on the right, of each confidence: (N,) int64."""
    return np.searchsorted(np.linspace(0.0, 1.0, num_bins + 1)[1:-1], confidences, side="left")


def assign_mass_bins(confidences: FloatArray, num_bins: int = NUM_CALIBRATION_BINS) -> IntArray:
    """Number of the bin between quantiles, closed on the right, of each confidence: (N,) int64."""
    edges = np.quantile(confidences, np.linspace(0.0, 1.0, num_bins + 1)[1:-1])
    return np.searchsorted(edges, confidences, side="left")


def sum_gaps(correct: npt.NDArray[np.bool_], confidences: FloatArray, bins: IntArray, num_bins: int) -> FloatArray:
    """What each bin adds to the calibration error, with its sign: (num_bins,) float64, negative if overconfident."""
    gaps = np.bincount(bins, weights=correct.astype(np.float64) - confidences, minlength=num_bins)
    return cast(FloatArray, gaps / len(confidences))
