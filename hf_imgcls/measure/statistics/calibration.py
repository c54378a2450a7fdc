"""Whether a confidence of 0.9 is right nine times in ten, and the one number that makes it so: the temperature.

A temperature divides all logits of a model. It is fitted on the validation split and never on the split that is
measured; folded into the head, a plain ``pipeline()`` gives calibrated scores and the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.single import NUM_CALIBRATION_BINS, assign_bins
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE
from hf_imgcls.measure.statistics.intervals import DEFAULT_LEVEL, wilson

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import PredictionTable

_MOST = 100.0  # neither a larger temperature nor a smaller one than its inverse means anything
_MOST_EXAMPLES = 2_000
_ROWS = 256  # at a time, which a processor's caches hold
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def measure_reliability(
    correct: npt.NDArray[np.bool_],
    confidences: FloatArray,
    num_bins: int = NUM_CALIBRATION_BINS,
    level: float = DEFAULT_LEVEL,
) -> list[dict[str, Any]]:
    """The reliability diagram: accuracy against confidence, over bins of equal width.

    Args:
        correct: (N,) whether the top-1 class is right.
        confidences: (N,) its softmax score.
        num_bins: Bins over (0, 1], closed on the right.
        level: Of Wilson's interval of each bin's accuracy.

    Returns:
        For each bin ``low``, ``high``, ``n``, and mean ``confidence``, ``accuracy``, ``accuracy_low`` and
        ``accuracy_high``, which are None in an empty bin. The sum over bins of ``n / N * |accuracy - confidence|`` is
        the ``ece``.
    """
    bins, edges = assign_bins(confidences, num_bins), np.linspace(0.0, 1.0, num_bins + 1)
    n = np.bincount(bins, minlength=num_bins)
    right = np.bincount(bins, weights=correct, minlength=num_bins)
    total = np.bincount(bins, weights=confidences, minlength=num_bins)
    low, high = wilson(right, n, level)
    names = ("confidence", "accuracy", "accuracy_low", "accuracy_high")
    diagram = []
    for index, size in enumerate(n.tolist()):
        numbers = (total[index] / size, right[index] / size, low[index], high[index]) if size else (None,) * 4
        row: dict[str, Any] = {"low": float(edges[index]), "high": float(edges[index + 1]), "n": size}
        for name, number in zip(names, numbers, strict=True):
            row[name] = None if number is None else float(number)
        diagram.append(row)
    return diagram


def measure_brier(table: PredictionTable) -> FloatArray:
    """Brier score of each example: the squared distance between its scores and its one-hot label, in [0, 2].

    Args:
        table: A complete one.

    Returns:
        (N,) float64.
    """
    scores = np.empty(len(table))
    for rows in table.chunks():
        distances = table.top_probabilities[rows].astype(np.float64)
        distances -= table.top_classes[rows] == table.label[rows, None]
        scores[rows] = np.einsum("nk,nk->n", distances, distances)
    return scores


def measure_mistakes(table: PredictionTable) -> dict[str, float]:
    """What a mistake would cost on average: each example as if it were of another class, by the chances of the scores.

    Args:
        table: Up to 2,000 of its examples are looked at.

    Returns:
        ``log_loss`` and ``brier``, of one example.
    """
    rows = np.arange(0, len(table), -(-len(table) // _MOST_EXAMPLES))
    scores = table.top_probabilities[rows].astype(np.float64)
    others = np.where(table.top_classes[rows] == table.label[rows, None], 0.0, scores)
    # Where no other class has a chance, the second answer is the one that would have been right.
    others[:, 1] += np.where(others.any(axis=1), 0.0, 1.0)
    others /= others.sum(axis=1, keepdims=True)
    squares = np.einsum("nk,nk->n", scores, scores)[:, None]
    return {
        "log_loss": float((others * -np.log(np.maximum(scores, _SMALLEST))).sum(axis=1).mean()),
        "brier": float((others * (squares - 2 * scores + 1)).sum(axis=1).mean()),
    }


def measure_label_mistakes(scores: FloatArray, targets: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """What a wrong decision on each class would cost on average, by the chances that the scores give it.

    Args:
        scores: (N, K).
        targets: (N, K).

    Returns:
        ``log_loss`` and ``brier``: (K,), of one decision.
    """
    chance = np.maximum(np.where(targets, 1 - scores, scores), _SMALLEST)
    total = chance.sum(axis=0)
    return {
        "log_loss": (chance * -np.log(chance)).sum(axis=0) / total,
        "brier": (chance * (1 - chance) ** 2).sum(axis=0) / total,
    }


def read_log_scores(table: PredictionTable) -> npt.NDArray[np.float32]:
    """Logits up to a constant per example: (N, K) float32 by class id.

    A score that float32 rounds to 0 counts as the smallest that it knows; that of the label is exact.

    Raises:
        DataError: Not every score was kept.
    """
    if not table.is_complete:
        raise DataError(NOT_EVERY_SCORE, "the scores of all classes", "calibrate a model of fewer classes")
    logs = np.empty((len(table), len(table.labels)), dtype=np.float32)
    for rows in table.chunks():
        part = np.log(np.maximum(table.top_probabilities[rows], _SMALLEST))
        np.put_along_axis(logs[rows], table.top_classes[rows].astype(np.int64), part, axis=1)
    logs[np.arange(len(table)), table.label] = -table.log_loss
    return logs


def fit_temperature(logits: npt.NDArray[Any], labels: IntArray) -> float:
    """Find the temperature with the smallest log loss: that of ``softmax(logits / temperature)``.

    Args:
        logits: (N, K) floating point; a constant may be added to each row, so that logarithms of scores do.
        labels: (N,) class ids.

    Returns:
        The temperature, above 1 for an overconfident model.

    Raises:
        DataError: The log loss has no minimum: the answers are all right, or no better than chance.

    Source:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, section 4.2.
    """

    def slope(log_temperature: float) -> float:
        # The log loss is convex in the inverse temperature, and this is its derivative there.
        inverse, total = np.exp(-log_temperature), 0.0
        for part, label in _read_rows(logits, labels):
            weights = np.exp(inverse * (part - part.max(axis=1, keepdims=True)))
            expected = np.einsum("nk,nk->n", weights, part) / weights.sum(axis=1)
            total += float((expected - part[np.arange(len(part)), label]).sum())
        return total / len(labels)

    return _find_minimum(slope)


def read_logits(scores: npt.NDArray[np.float32]) -> FloatArray:
    """Logits of sigmoid scores: float64 of the same shape. Scores that were rounded to 0 or 1 count as just inside."""
    inside = np.clip(scores, _SMALLEST, np.nextafter(np.float32(1), np.float32(0))).astype(np.float64)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def fit_sigmoid_temperature(logits: FloatArray, targets: npt.NDArray[np.bool_]) -> float:
    """Find the temperature with the smallest binary log loss: that of ``sigmoid(logits / temperature)``.

    One temperature for all classes keeps the order of all scores; answers at a threshold of 0.5 stay the same, and
    other thresholds have to be chosen anew.

    Args:
        logits: (N, K).
        targets: (N, K).

    Returns:
        The temperature, above 1 for an overconfident model.

    Raises:
        DataError: The log loss has no minimum: the answers are all right, or no better than chance.
    """
    from scipy.special import expit

    def slope(log_temperature: float) -> float:
        return float(((expit(np.exp(-log_temperature) * logits) - targets) * logits).mean())

    return _find_minimum(slope)


def _find_minimum(slope: Callable[[float], float]) -> float:
    """The temperature at which a log loss that is convex in its inverse is smallest.

    Args:
        slope: Takes the logarithm of a temperature; the derivative of the log loss by the inverse temperature.
    """
    from scipy.optimize import brentq

    # From 1, where most temperatures are near, by factors of 2 until the minimum is passed.
    is_overconfident = slope(0.0) > 0
    near, far = 0.0, np.log(2.0) if is_overconfident else -np.log(2.0)
    while (slope(far) > 0) == is_overconfident:
        near, far = far, far + (far - near)
        if abs(far) > np.log(_MOST):
            raise _no_temperature(is_overconfident)
    return float(np.exp(brentq(slope, min(near, far), max(near, far), xtol=1e-10)))


def apply_temperature(logits: npt.NDArray[Any], labels: IntArray, temperature: float) -> tuple[FloatArray, FloatArray]:
    """Confidence of the best class and log loss of ``softmax(logits / temperature)``.

    Args:
        logits: (N, K), as for `fit_temperature`.
        labels: (N,) class ids.
        temperature: What to divide by.

    Returns:
        Both (N,) float64.
    """
    confidences, log_losses = [], []
    for part, label in _read_rows(logits, labels):
        scaled = (part - part.max(axis=1, keepdims=True)) / temperature
        log_sum = np.log(np.exp(scaled).sum(axis=1))
        confidences.append(np.exp(-log_sum))
        log_losses.append(log_sum - scaled[np.arange(len(part)), label])
    return np.concatenate(confidences), np.concatenate(log_losses)


def _read_rows(logits: npt.NDArray[Any], labels: IntArray) -> Iterator[tuple[FloatArray, IntArray]]:
    for start in range(0, len(labels), _ROWS):
        yield logits[start : start + _ROWS].astype(np.float64), labels[start : start + _ROWS]


def _no_temperature(is_overconfident: bool) -> DataError:
    reason = "the label is nearly always the best score already, so that sharper is always better"
    if is_overconfident:
        reason = "the scores say nothing about the labels, so that flatter is always better"
    return DataError(
        f"no temperature fits the validation split: {reason}",
        "some wrong answers, and more right ones than by chance",
        "validate on more examples, or leave the scores as they are",
    )
