"""Whether a model is over- or under-confident: a test, since chance alone moves scores and right answers apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray
from hf_imgcls.measure.statistics.mistakes import find_lower_tail

NOT_DISTINGUISHABLE = "not distinguishable"


def judge_confidence(correct: npt.NDArray[np.bool_], confidence: FloatArray, level: float) -> dict[str, Any]:
    """Test whether the first answers are right as often as their scores say.

    Under the hypothesis that each score is a probability, the number of right answers is a sum of independent trials;
    p is twice the smaller probability of one as small, or as large, as the observed. Of perfectly calibrated models at
    most 1 - level are called over- or under-confident.

    Args:
        correct: (N,) whether the first answer is right.
        confidence: (N,) its score.
        level: 1 minus the level of the test.

    Returns:
        ``gap``: mean score minus share of right answers; ``p``; ``level`` of the test; ``test``: its name;
        ``verdict``: ``"over"``, ``"under"`` or ``"not distinguishable"``.

    Source:
        Calibration in the large: Spiegelhalter (1986), "Probabilistic prediction in patient management and clinical
        trials", Statistics in Medicine 5, 421-433; here with the tail probability in place of a normal one.
    """
    right = float(correct.sum())
    wrong = float(len(correct)) - right
    p = 2 * min(find_lower_tail(confidence, right), find_lower_tail(1 - confidence, wrong))
    return _decide(float(confidence.mean() - correct.mean()), p, level, "sum of independent trials")


def judge_label_confidence(targets: npt.NDArray[np.bool_], scores: FloatArray, level: float) -> dict[str, Any]:
    """The same where an image may have several labels: whether as many labels are there as the scores say.

    The decisions about one image depend on each other, so images are what varies. Their variance is not taken for less
    than that which the scores themselves imply.

    Args:
        targets: (N, K).
        scores: (N, K).
        level: 1 minus the level of the test.

    Returns:
        As `judge_confidence`; ``gap``: mean score minus share of labels.
    """
    from scipy.special import stdtr

    n = len(scores)
    gaps = (scores - targets).mean(axis=1)
    gap = float(gaps.mean())
    implied = float((scores * (1 - scores)).sum()) / scores.size**2
    error = np.sqrt(max(float(gaps.var(ddof=1)) / n if n > 1 else 0.0, implied))
    p = 2 * float(stdtr(max(n - 1, 1), -abs(gap) / error)) if error > 0 else float(gap == 0)
    return _decide(gap, p, level, "t test over images")


def _decide(gap: float, p: float, level: float, test: str) -> dict[str, Any]:
    verdict = NOT_DISTINGUISHABLE if p > 1 - level or gap == 0 else "over" if gap > 0 else "under"
    return {"gap": gap, "p": min(p, 1.0), "level": round(1 - level, 12), "test": test, "verdict": verdict}
