"""The metrics as `evaluate.Metric` classes, for scripts that are written against `evaluate`.

They live in the package, so nothing is downloaded, and they write no cache or lock file. The numbers are those of
`hf_imgcls.measure.metrics.single`, in float64. An undefined metric is ``None``, and ``<name>_reason`` says why.

    metrics = evaluate.combine([Accuracy(), TopKAccuracy(k=5), RocAuc()])
    metrics.compute(references=labels, predictions=top1, prediction_scores=softmax)

An evaluator knows predicted classes only, so it takes those metrics that need no scores:

    evaluator = evaluate.evaluator("image-classification")
    evaluator.compute(pipe, data, metric=Accuracy(), label_mapping=pipe.model.config.label2id)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.compat.models import restore_evaluator
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.single import (
    NUM_CALIBRATION_BINS,
    Measured,
    count_confusions,
    measure_balanced_accuracy,
    measure_calibration_error,
    measure_precision_recall_f1,
    measure_roc_auc,
    measure_top_k,
    rank_references,
)

restore_evaluator()

_LABEL_FEATURES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
_SCORE_FEATURES = {
    "prediction_scores": datasets.Sequence(datasets.Value("float64")),
    "references": datasets.Value("int64"),
}
_INPUTS = """
Args:
    predictions: (N,) predicted class ids; the label metrics (accuracy, precision, recall, F1, confusion matrix).
    references: (N,) true class ids.
    prediction_scores: (N, K) softmax scores, rows sum to 1; the score metrics (top-k, log loss, ROC-AUC, ECE).
"""


class InMemoryMetric(evaluate.Metric):
    """A metric that keeps what it is given in memory and touches no file.

    Args:
        settings: Passed on to `evaluate.Metric`.

    Attributes:
        inputs: What `_compute` takes, in words.
    """

    inputs = _INPUTS

    def __init__(self, **settings: Any) -> None:
        # Files would be shared, and locked, by every process of this user.
        super().__init__(keep_in_memory=True, **settings)

    def _build_data_dir(self) -> str:
        # evaluate creates this folder in the user's home even when nothing is ever written to it.
        return str(self._data_dir_root)

    def _finalize(self) -> None:
        if self.writer is None:  # evaluate would fail with an AttributeError
            raise DataError("nothing was added to the metric", "at least one example", "call add_batch before compute")
        super()._finalize()

    def _describe(self, features: dict[str, Any]) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description=self.inputs,
            features=datasets.Features(features),
        )


class _LabelMetric(InMemoryMetric):
    """A metric of predicted and true class ids."""

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(_LABEL_FEATURES)

    def _compute(
        self,
        *,
        predictions: Sequence[int],
        references: Sequence[int],
        prediction_scores: Any = None,  # evaluate.combine hands every argument to every metric
    ) -> dict[str, Any]:
        predicted, labels = _as_ids(predictions), _as_ids(references)
        num_labels = int(max(predicted.max(), labels.max())) + 1
        return self.measure_labels(labels, predicted, num_labels)

    def measure_labels(self, references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Any]:
        """Measure (N,) references and predictions in [0, num_labels)."""
        raise NotImplementedError


class _ScoreMetric(InMemoryMetric):
    """A metric of the scores of every class and true class ids."""

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(_SCORE_FEATURES)

    def _compute(
        self, *, prediction_scores: Sequence[Sequence[float]], references: Sequence[int], predictions: Any = None
    ) -> dict[str, Any]:
        labels = _as_ids(references)
        scores = np.asarray(prediction_scores, dtype=np.float64)
        # float32 softmax over 21,000 classes is within 1e-4 of 1.
        if scores.ndim != 2 or (scores < 0).any() or not np.allclose(scores.sum(axis=1), 1.0, rtol=0, atol=1e-3):
            raise DataError(
                f"prediction_scores of shape {scores.shape} that are not probabilities",
                "(N, K) scores, none negative, each row summing to 1",
                "pass softmax(logits)",
            )
        if labels.max() >= scores.shape[1]:
            raise DataError(
                f"reference {labels.max()} with scores for {scores.shape[1]} classes",
                f"references from 0 to {scores.shape[1] - 1}",
                "pass one score per class",
            )
        return self.measure_scores(labels, scores)

    def measure_scores(self, references: IntArray, scores: FloatArray) -> dict[str, Any]:
        """Measure (N,) references against (N, K) softmax scores."""
        raise NotImplementedError


def _as_ids(values: Sequence[int]) -> IntArray:
    ids = np.asarray(values, dtype=np.int64)
    if ids.size == 0:
        raise DataError("no examples to measure", "at least one example", "check the split")
    if ids.min() < 0:
        raise DataError(f"class id {ids.min()}", "class ids from 0", "measure on examples whose label is known")
    return ids


def report_measured(**measured: Measured) -> dict[str, Any]:
    values: dict[str, Any] = {name: item.value for name, item in measured.items()}
    return values | {f"{name}_reason": item.remark for name, item in measured.items() if item.value is None}


class Accuracy(_LabelMetric):
    """Share of examples whose predicted class is the true one: ``accuracy``."""

    def measure_labels(self, references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Any]:
        return {"accuracy": float((references == predictions).mean())}


class PrecisionRecallF1(_LabelMetric):
    """Macro and weighted precision, recall and F1, as scikit-learn defines them with ``zero_division=0``."""

    def measure_labels(self, references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Any]:
        return report_measured(**measure_precision_recall_f1(references, predictions, num_labels))


class BalancedAccuracy(_LabelMetric):
    """Mean recall over the classes that occur among the references: ``balanced_accuracy``."""

    def measure_labels(self, references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Any]:
        return report_measured(balanced_accuracy=measure_balanced_accuracy(references, predictions, num_labels))


class ConfusionMatrix(_LabelMetric):
    """``confusion_matrix``: (K, K) counts, rows are references and columns are predictions.

    Args:
        num_labels: K; by default the largest class id that occurs, plus one.
    """

    def __init__(self, num_labels: int | None = None, **settings: Any) -> None:
        self.num_labels = num_labels
        super().__init__(**settings)

    def measure_labels(self, references: IntArray, predictions: IntArray, num_labels: int) -> dict[str, Any]:
        size = self.num_labels or num_labels
        if num_labels > size:
            raise DataError(f"class id {num_labels - 1}", f"class ids below num_labels={size}", "raise num_labels")
        return {"confusion_matrix": count_confusions(references, predictions, size)}


class TopKAccuracy(_ScoreMetric):
    """Share of examples whose true class is among the k best scores: ``top5_accuracy`` for k = 5.

    Args:
        k: How many answers count.
    """

    def __init__(self, k: int = 5, **settings: Any) -> None:
        self.k = k
        super().__init__(**settings)

    def measure_scores(self, references: IntArray, scores: FloatArray) -> dict[str, Any]:
        measured = measure_top_k(rank_references(scores, references), scores.shape[1], self.k)
        return report_measured(**{f"top{self.k}_accuracy": measured})


class LogLoss(_ScoreMetric):
    """Mean of minus the logarithm of the true class's probability: ``log_loss``.

    Probabilities are clipped to the smallest step of float64, as scikit-learn does, so that one impossible class does
    not make the mean infinite. Computed from logits (`ClassificationAccumulator`) no clipping is needed.
    """

    def measure_scores(self, references: IntArray, scores: FloatArray) -> dict[str, Any]:
        step = np.finfo(np.float64).eps
        own = scores[np.arange(len(references)), references]
        return {"log_loss": float(-np.log(np.clip(own, step, 1 - step)).mean())}


class RocAuc(_ScoreMetric):
    """Macro one-vs-rest area under the ROC curve over the classes that occur among the references: ``roc_auc``."""

    def measure_scores(self, references: IntArray, scores: FloatArray) -> dict[str, Any]:
        return report_measured(roc_auc=measure_roc_auc(references, scores))


class ExpectedCalibrationError(_ScoreMetric):
    """Gap between confidence and accuracy of the top-1 class over equal-width bins, a share in [0, 1]: ``ece``.

    Args:
        num_bins: Number of bins over (0, 1].
    """

    def __init__(self, num_bins: int = NUM_CALIBRATION_BINS, **settings: Any) -> None:
        self.num_bins = num_bins
        super().__init__(**settings)

    def measure_scores(self, references: IntArray, scores: FloatArray) -> dict[str, Any]:
        correct = scores.argmax(axis=1) == references
        return report_measured(ece=measure_calibration_error(correct, scores.max(axis=1), self.num_bins))
