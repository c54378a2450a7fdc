"""The metrics of several labels per image as `evaluate.Metric` classes; see `hf_imgcls.measure.metrics.modules`.

metrics = evaluate.combine([MeanAveragePrecision(), MultiLabelDecisions()])
metrics.compute(references=multi_hot, predictions=answers, prediction_scores=sigmoid)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.modules import InMemoryMetric, report_measured
from hf_imgcls.measure.metrics.multi_label import BoolArray, measure_decisions, measure_rankings

_MULTI_HOT = datasets.Sequence(datasets.Value("int64"))
_INPUTS = """
Args:
    references: (N, K) of 0 and 1, the labels.
    predictions: (N, K) of 0 and 1, the answers; `MultiLabelDecisions`.
    prediction_scores: (N, K) scores, sigmoid or any other; `MeanAveragePrecision`.
"""


class _MultiLabelMetric(InMemoryMetric):
    inputs = _INPUTS


class MeanAveragePrecision(_MultiLabelMetric):
    """Average precision, mean over classes and of all decisions together, and ROC-AUC.

    ``mean_average_precision``, ``micro_average_precision`` and ``roc_auc``; the means leave out classes without
    references (ROC-AUC also those in every image).
    """

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.Sequence(datasets.Value("float64"))
        return self._describe({"prediction_scores": scores, "references": _MULTI_HOT})

    def _compute(
        self,
        *,
        prediction_scores: Sequence[Sequence[float]],
        references: Sequence[Sequence[int]],
        predictions: Any = None,  # evaluate.combine hands every argument to every metric
    ) -> dict[str, Any]:
        targets = _as_multi_hot(references, "references")
        scores = np.asarray(prediction_scores, dtype=np.float64)
        _check_same_shape(scores, targets, "prediction_scores")
        return report_measured(**measure_rankings(targets, scores))


class MultiLabelDecisions(_MultiLabelMetric):
    """Subset accuracy, Hamming loss, and micro, macro and weighted precision, recall and F1."""

    def _info(self) -> evaluate.MetricInfo:
        return self._describe({"predictions": _MULTI_HOT, "references": _MULTI_HOT})

    def _compute(
        self,
        *,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        prediction_scores: Any = None,
    ) -> dict[str, Any]:
        targets, answers = _as_multi_hot(references, "references"), _as_multi_hot(predictions, "predictions")
        _check_same_shape(answers, targets, "predictions")
        return report_measured(**measure_decisions(targets, answers))


def _as_multi_hot(values: Sequence[Sequence[int]], what: str) -> BoolArray:
    lengths = {len(row) for row in values}
    array = np.asarray(values) if len(lengths) == 1 else np.zeros(0)
    if array.ndim != 2 or not array.size or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"{what} that are no vectors of 0 and 1 of one length", "(N, K) of 0 and 1, N >= 1", "make them multi-hot"
        )
    return array.astype(bool)


def _check_same_shape(values: npt.NDArray[Any], targets: BoolArray, what: str) -> None:
    if values.shape != targets.shape:
        raise DataError(
            f"{what} of shape {values.shape} for references of shape {targets.shape}",
            "equal shapes",
            "pass one per class",
        )
