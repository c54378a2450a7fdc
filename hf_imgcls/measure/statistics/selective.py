"""What is gained by answering only when the model is confident, and from which confidence on.

Examples of equal confidence are answered together or not at all, so that no number depends on their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray
from hf_imgcls.measure.statistics.intervals import DEFAULT_LEVEL, wilson

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import PredictionTable

TARGET_ACCURACIES = (0.9, 0.95, 0.99)
_MAX_POINTS = 200


def measure_risk_coverage(
    table: PredictionTable, validation: PredictionTable | None = None, level: float = DEFAULT_LEVEL
) -> dict[str, Any]:
    """Accuracy against the share of examples that are answered, the most confident first.

    Args:
        table: The split that is measured.
        validation: Thresholds are chosen here, if given; otherwise on ``table`` itself, which flatters them.
        level: Of Wilson's intervals.

    Returns:
        ``coverage``, ``accuracy`` and ``threshold``, lists of up to 200 points that end with all examples answered;
        ``aurc``, the mean error rate over the coverages that each example's own confidence gives; and
        ``threshold_for``: accuracy asked for -> None where no threshold reaches it, or the lowest ``threshold`` that
        does, with the ``coverage``, ``accuracy``, ``accuracy_low`` and ``accuracy_high`` of answering at this
        confidence or above on ``table``, ``n`` answered, and the split that it was ``chosen_on``.

    Source:
        AURC: Geifman and El-Yaniv (2017), as restated by Zhou et al. (2024), https://arxiv.org/abs/2410.15361.
    """
    threshold, seen, found = _accumulate(table.confidence, table.correct)
    coverage, accuracy = seen / len(table), found / seen
    size = np.diff(seen, prepend=0.0)
    shown = np.unique(np.searchsorted(coverage, np.linspace(0.0, 1.0, _MAX_POINTS + 1)[1:] - 1e-12))
    return {
        "coverage": coverage[shown].tolist(),
        "accuracy": accuracy[shown].tolist(),
        "threshold": threshold[shown].tolist(),
        "aurc": float(size @ (1.0 - accuracy) / len(table)),
        "threshold_for": {
            f"{target:g}": _apply_threshold(table, validation or table, target, level) for target in TARGET_ACCURACIES
        },
    }


def _accumulate(confidences: FloatArray, correct: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Each confidence there is, falling, with the examples that have at least it, and the right ones of them."""
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return ranked[last], (last + 1).astype(np.float64), np.cumsum(correct[order])[last].astype(np.float64)


def _apply_threshold(
    table: PredictionTable, chosen_on: PredictionTable, target: float, level: float
) -> dict[str, Any] | None:
    threshold, seen, found = _accumulate(chosen_on.confidence, chosen_on.correct)
    reached = np.flatnonzero(found >= target * seen)
    if not len(reached):
        return None
    lowest = float(threshold[reached[-1]])
    answered = table.confidence >= lowest
    n, right = int(answered.sum()), int((answered & table.correct).sum())
    low, high = wilson(right, n, level)
    return {
        "threshold": lowest,
        "coverage": n / len(table),
        "accuracy": right / n if n else None,
        "accuracy_low": float(low) if n else None,
        "accuracy_high": float(high) if n else None,
        "n": n,
        "chosen_on": chosen_on.split,
    }
