"""From which score on an image has a label: one threshold for each class, chosen on the validation split.

A sigmoid of 0.5 is the best place to divide only for a class that is as frequent as it is absent and well calibrated.
The thresholds are chosen after a temperature was folded into the head, which moves scores; they are stored in
config.json under ``label_thresholds``, by class id, where a consumer finds them:

    config = classifier.model.config
    answers = classifier(image, top_k=config.num_labels)
    labels = [a["label"] for a in answers if a["score"] >= config.label_thresholds[config.label2id[a["label"]]]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD, BoolArray

# With fewer examples on either side the best threshold is mostly luck.
MIN_POSITIVES = 10


@dataclass
class ThresholdChoice:
    """Thresholds, and how they were come by.

    Attributes:
        thresholds: (K,) float64 in (0, 1).
        is_tuned: (K,) whether a class has a threshold of its own; the others have 0.5.
        num_positives: (K,) validation examples of each class.
        f1: (K,) F1 on the validation split at the threshold; NaN where the class is in no example and no answer.
    """

    thresholds: FloatArray
    is_tuned: BoolArray
    num_positives: IntArray
    f1: FloatArray


def tune_thresholds(
    scores: npt.NDArray[np.float32], targets: BoolArray, min_positives: int = MIN_POSITIVES
) -> ThresholdChoice:
    """Choose the threshold of each class that has the highest F1.

    Args:
        scores: (N, K) of the validation split.
        targets: (N, K).
        min_positives: Classes with fewer positives, or fewer negatives, keep 0.5.

    Returns:
        The choice. A threshold lies halfway between the two scores that it parts, so that float noise moves no answer;
        of several that are equally good it is the nearest to 0.5.
    """
    num_labels = targets.shape[1]
    positives = targets.sum(axis=0)
    thresholds = np.full(num_labels, DEFAULT_THRESHOLD)
    is_tuned = (positives >= min_positives) & (len(targets) - positives >= min_positives)
    for label in np.flatnonzero(is_tuned):
        thresholds[label] = _maximise_f1(scores[:, label].astype(np.float64), targets[:, label])
    answers = scores >= thresholds
    correct = (answers & targets).sum(axis=0)
    occurring = positives + answers.sum(axis=0)
    f1 = np.where(occurring > 0, 2 * correct / np.maximum(occurring, 1), np.nan)
    return ThresholdChoice(thresholds, is_tuned, positives, f1)


def _maximise_f1(scores: FloatArray, is_positive: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    answered = last + 1.0
    f1 = 2 * np.cumsum(is_positive[order])[last] / (answered + is_positive.sum())
    # Halfway to the next lower score; below the lowest, halfway to 0.
    places = (ranked[last] + np.append(ranked[last][1:], 0.0)) / 2
    best = places[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])
