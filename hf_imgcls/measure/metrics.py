"""The numbers of a classifier, from logits and labels that arrive batch by batch.

Everything is float64 numpy on the CPU and equals scikit-learn to 1e-12 (tests/measure/test_metrics.py). Per example only
four numbers are kept (label, top-1 class, its probability, loss), never the (N, K) logits, unless ROC-AUC is asked for.

What cannot be defined is ``None`` with a reason, never NaN and never a silent 0:

- *macro* averages run over the classes that occur among the references **or** the predictions, which is scikit-learn's
  default; a class in neither has no precision and no recall to average;
- a class that occurs but was never predicted has precision 0 there (``zero_division=0``), and the remark says so;
- *balanced accuracy* is the mean recall over the classes that occur among the references;
- *ROC-AUC* is the plain mean, over the classes that occur among the references, of the binary one-vs-rest AUC of the
  class's softmax score. With every class present this is
  ``roc_auc_score(y, softmax, multi_class="ovr", average="macro")``.

This module needs numpy only; torch tensors are read through their own methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.errors import DataError, ModelError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NUM_CALIBRATION_BINS = 15
METRIC_NAMES = (
    "accuracy",
    "top5_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "balanced_accuracy",
    "log_loss",
    "roc_auc",
    "ece",
)


class Measured(NamedTuple):
    """A metric's value and what has to be said about it.

    Attributes:
        value: The number, or ``None`` where it is not defined.
        remark: Why there is no number; or, beside a number, what it leaves out.
    """

    value: float | None
    remark: str | None = None


def log_softmax(logits: FloatArray) -> FloatArray:
    """Logarithm of the softmax over the last axis, (B, K) float64, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return cast(FloatArray, shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


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
    support = np.bincount(references, minlength=num_labels)
    predicted = np.bincount(predictions, minlength=num_labels)
    correct = np.bincount(references[references == predictions], minlength=num_labels)
    occurs = (support + predicted) > 0
    # A zero denominator means that the numerator is zero too: dividing by one gives the 0 of zero_division=0.
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)

    parts = []
    if absent := int((~occurs).sum()):
        parts.append(f"left out, in neither references nor predictions: {absent} of {num_labels} classes")
    if unpredicted := int(((predicted == 0) & occurs).sum()):
        parts.append(f"never predicted, counted with precision 0: {unpredicted} of {num_labels} classes")
    if unreferenced := int(((support == 0) & occurs).sum()):
        parts.append(f"predicted but without references, counted with recall 0: {unreferenced} of {num_labels} classes")
    remark = "; ".join(parts) or None

    per_class = {"precision": precision, "recall": recall, "f1": f1}
    macro = {f"macro_{name}": Measured(float(values[occurs].mean()), remark) for name, values in per_class.items()}
    weights = support / support.sum()
    return macro | {f"weighted_{name}": Measured(float(values @ weights)) for name, values in per_class.items()}


def measure_balanced_accuracy(references: IntArray, predictions: IntArray, num_labels: int) -> Measured:
    """Mean recall over the classes that occur among the references."""
    support = np.bincount(references, minlength=num_labels)
    correct = np.bincount(references[references == predictions], minlength=num_labels)
    occurs = support > 0
    missing = num_labels - int(occurs.sum())
    remark = f"left out, without references: {missing} of {num_labels} classes" if missing else None
    return Measured(float((correct[occurs] / support[occurs]).mean()), remark)


def measure_top_k(ranks: IntArray, num_labels: int, k: int = 5) -> Measured:
    """Share of examples whose true class is among the ``k`` best scores."""
    if num_labels <= k:
        return Measured(None, f"with {num_labels} classes every answer is among the best {k}")
    return Measured(float((ranks < k).mean()))


def measure_roc_auc(references: IntArray, scores: FloatArray) -> Measured:
    """Macro one-vs-rest area under the ROC curve; ties count one half.

    Args:
        references: (N,) int64 class ids.
        scores: (N, K) softmax scores.

    Returns:
        The mean over the classes that occur among the references. Not defined when fewer than two classes do.

    Source:
        The Mann-Whitney form: Hanley and McNeil (1982), https://doi.org/10.1148/radiology.143.1.7063747
    """
    num_labels = scores.shape[1]
    present = np.unique(references)
    if len(present) < 2:
        return Measured(None, "the references hold one class only: there is nothing to tell it from")
    areas = []
    for label in present:
        every, own = np.sort(scores[:, label]), np.sort(scores[references == label, label])
        # For each example of the class: how many of the others score lower, and how many the same.
        lower = np.searchsorted(every, own, "left") - np.searchsorted(own, own, "left")
        lower_or_same = np.searchsorted(every, own, "right") - np.searchsorted(own, own, "right")
        areas.append((lower.sum() + lower_or_same.sum()) / (2.0 * len(own) * (len(every) - len(own))))
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
    inner_edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidences, side="left")
    gaps = np.bincount(bins, weights=correct.astype(np.float64) - confidences, minlength=num_bins)
    return Measured(float(np.abs(gaps).sum() / len(confidences)))


@dataclass
class ExampleTable:
    """What is kept of each example; row i of every array belongs to the same example.

    Attributes:
        sample_index: (N,) int64, position in the source split; -1 where it was not given.
        label: (N,) int64, the reference.
        prediction: (N,) int64, the class with the highest logit, the lowest id among equals.
        probability: (N,) float64, softmax score of ``prediction``.
        log_loss: (N,) float64, minus the log-probability of ``label``.
        reference_rank: (N,) int64, rank of ``label`` among the scores, 0 is the best.
        scores: (N, K) float64 softmax scores, or ``None`` when they are not kept.
    """

    sample_index: IntArray
    label: IntArray
    prediction: IntArray
    probability: FloatArray
    log_loss: FloatArray
    reference_rank: IntArray
    scores: FloatArray | None

    def __len__(self) -> int:
        return len(self.label)


def _to_numpy(array: Any) -> npt.NDArray[Any]:
    """Tensor on any device, or anything array-like, to numpy; bfloat16 (unknown to numpy) becomes float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if array.is_floating_point():
            array = array.double()
        return cast("npt.NDArray[Any]", array.numpy())
    return np.asarray(array)


class ClassificationAccumulator:
    """Collects a split batch by batch, on one process or merged from many, and computes every metric.

    Args:
        num_labels: K, the number of classes.
        keep_scores: Also keep the (N, K) softmax scores, 8 bytes each on the CPU; ``roc_auc`` needs them.

    Attributes:
        reasons: After `compute`: metric name -> why its value is ``None``.
        remarks: After `compute`: metric name -> what its value leaves out.
    """

    def __init__(self, num_labels: int, keep_scores: bool = False) -> None:
        self.num_labels = num_labels
        self.keep_scores = keep_scores
        self.reset()

    def reset(self) -> None:
        """Forget every example."""
        self._chunks: list[ExampleTable] = []
        self.reasons: dict[str, str] = {}
        self.remarks: dict[str, str] = {}

    @property
    def num_examples(self) -> int:
        """Number of examples so far."""
        return sum(len(chunk) for chunk in self._chunks)

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch.

        Args:
            logits: (B, K) floating point tensor or array, on any device.
            labels: (B,) integers in [0, K).
            sample_index: (B,) integers, unique within the split; ``None`` where it is not known.

        Raises:
            DataError: A label lies outside [0, K).
            ModelError: A logit is NaN or infinite, or there are not K of them.
        """
        scores = _to_numpy(logits).astype(np.float64, copy=False)
        label = _to_numpy(labels).astype(np.int64).reshape(-1)
        if sample_index is None:
            index = np.full(len(label), -1, dtype=np.int64)
        else:
            index = _to_numpy(sample_index).astype(np.int64).reshape(-1)
        self._check_batch(scores, label, index)
        log_probabilities = log_softmax(scores)
        prediction = scores.argmax(axis=1).astype(np.int64)
        rows = np.arange(len(label))
        self._chunks.append(
            ExampleTable(
                sample_index=index,
                label=label,
                prediction=prediction,
                probability=np.exp(log_probabilities[rows, prediction]),
                log_loss=-log_probabilities[rows, label],
                reference_rank=rank_references(scores, label),
                scores=np.exp(log_probabilities) if self.keep_scores else None,
            )
        )

    def _check_batch(self, scores: FloatArray, label: IntArray, index: IntArray) -> None:
        if scores.shape != (len(label), self.num_labels) or len(index) != len(label):
            raise ModelError(
                f"logits of shape {scores.shape} for {len(label)} labels and {len(index)} sample indices",
                f"logits of shape ({len(label)}, {self.num_labels}): one per class",
                "check that the model's head has one output per class of the dataset",
            )
        outside = (label < 0) | (label >= self.num_labels)
        if outside.any():
            raise DataError(
                f"label {label[outside][0]} (sample_index {index[outside][0]})",
                f"labels from 0 to {self.num_labels - 1}",
                "measure on a split whose labels are known and belong to the model's classes",
            )
        broken = ~np.isfinite(scores).all(axis=1)
        if broken.any():
            raise ModelError(
                f"{int(broken.sum())} examples with NaN or infinite logits (sample_index {index[broken][:5].tolist()})",
                "finite logits",
                "look for NaN in the weights (a diverged run), or evaluate in a wider dtype than float16",
            )

    def merge(self, other: ClassificationAccumulator) -> None:
        """Add the examples of another accumulator, for example another process's."""
        if (other.num_labels, other.keep_scores) != (self.num_labels, self.keep_scores):
            raise ValueError("only accumulators with equal num_labels and keep_scores can be merged")
        self._chunks.extend(other._chunks)

    def collect_examples(self) -> ExampleTable:
        """One row per example, ordered by sample_index (by arrival where there is none).

        Raises:
            DataError: There are no examples.
            RuntimeError: An example was counted twice.
        """
        if self.num_examples == 0:
            raise DataError("no examples to measure", "at least one example", "check the split and max_*_samples")
        index = np.concatenate([chunk.sample_index for chunk in self._chunks])
        known = index[index >= 0]
        if len(np.unique(known)) != len(known):
            raise RuntimeError("an example was counted twice: its sample_index arrived more than once")
        order = np.argsort(index, kind="stable")
        scores = np.concatenate([chunk.scores for chunk in self._chunks])[order] if self.keep_scores else None
        return ExampleTable(
            sample_index=index[order],
            label=np.concatenate([chunk.label for chunk in self._chunks])[order],
            prediction=np.concatenate([chunk.prediction for chunk in self._chunks])[order],
            probability=np.concatenate([chunk.probability for chunk in self._chunks])[order],
            log_loss=np.concatenate([chunk.log_loss for chunk in self._chunks])[order],
            reference_rank=np.concatenate([chunk.reference_rank for chunk in self._chunks])[order],
            scores=scores,
        )

    @property
    def confusion_matrix(self) -> IntArray:
        """(K, K) int64, rows are references and columns are predictions."""
        examples = self.collect_examples()
        return count_confusions(examples.label, examples.prediction, self.num_labels)

    def compute(self, prefix: str = "") -> dict[str, float | None]:
        """Every metric of `METRIC_NAMES`, and ``num_examples``.

        Args:
            prefix: Put before each name, for example ``"test_"``.

        Returns:
            Name -> value; ``None`` where not defined, with the reason in ``reasons`` under the name without prefix.

        Raises:
            DataError: There are no examples.
        """
        examples = self.collect_examples()
        correct = examples.label == examples.prediction
        counts = (examples.label, examples.prediction, self.num_labels)
        measured = {
            "accuracy": Measured(float(correct.mean())),
            "top5_accuracy": measure_top_k(examples.reference_rank, self.num_labels),
            **measure_precision_recall_f1(*counts),
            "balanced_accuracy": measure_balanced_accuracy(*counts),
            "log_loss": Measured(float(examples.log_loss.mean())),
            "roc_auc": Measured(None, "the softmax scores were not kept")
            if examples.scores is None
            else measure_roc_auc(examples.label, examples.scores),
            "ece": measure_calibration_error(correct, examples.probability),
        }
        self.reasons = {name: item.remark or "" for name, item in measured.items() if item.value is None}
        self.remarks = {name: item.remark for name, item in measured.items() if item.value is not None and item.remark}
        values: dict[str, float | None] = {prefix + name: measured[name].value for name in METRIC_NAMES}
        return values | {f"{prefix}num_examples": self.num_examples}


class TrainerMetrics:
    """``compute_metrics`` for `transformers.Trainer` with ``batch_eval_metrics=True``: never more than a batch of logits.

    Metrics that are not defined are left out of the result, since Trainer's callbacks take numbers only.

    Args:
        num_labels: K, the number of classes.
        keep_scores: Also compute ``roc_auc``, for 8 * N * K bytes on the CPU.
    """

    def __init__(self, num_labels: int, keep_scores: bool = False) -> None:
        self.accumulator = ClassificationAccumulator(num_labels, keep_scores)

    def reset(self) -> None:
        """Forget the batches of an evaluation that did not come to its end."""
        self.accumulator.reset()

    def __call__(self, evaluation: Any, compute_result: bool = True) -> dict[str, float]:
        """Add one batch; on the last one also compute.

        Args:
            evaluation: `transformers.EvalPrediction` with logits (B, K), alone or first in a tuple, and labels (B,).
            compute_result: Whether this is the last batch.

        Returns:
            Name -> value after the last batch, else nothing.
        """
        logits = evaluation.predictions
        self.accumulator.update(logits[0] if isinstance(logits, (tuple, list)) else logits, evaluation.label_ids)
        if not compute_result:
            return {}
        values = self.accumulator.compute()
        self.accumulator.reset()
        return {name: value for name, value in values.items() if value is not None}


def trainer_metrics(num_labels: int, keep_scores: bool = False) -> TrainerMetrics:
    """See `TrainerMetrics`."""
    return TrainerMetrics(num_labels, keep_scores)
