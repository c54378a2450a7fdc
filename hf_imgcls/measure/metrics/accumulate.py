"""Every number of a classifier, from logits that arrive batch by batch, on one process or on many.

Per example six numbers are kept, never the (N, K) logits, unless ROC-AUC is asked for. The definitions are in
`hf_imgcls.measure.metrics.single`. numpy only: torch tensors are read through their own methods.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, list_metrics
from hf_imgcls.errors import DataError, ModelError, NumericsError
from hf_imgcls.measure.metrics.single import (
    Measured,
    count_confusions,
    measure_balanced_accuracy,
    measure_calibration_error,
    measure_precision_recall_f1,
    measure_roc_auc,
    measure_top_k,
    rank_references,
    softmax,
)


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


def as_array(array: Any) -> npt.NDArray[Any]:
    """Tensor on any device, or anything array-like, to numpy; bfloat16 (unknown to numpy) becomes float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if array.is_floating_point():
            array = array.double()
        return cast("npt.NDArray[Any]", array.numpy())
    return np.asarray(array)


def check_finite(logits: FloatArray, sample_index: IntArray) -> None:
    """Refuse logits (B, K) that are no numbers.

    Raises:
        NumericsError: A logit is NaN or infinite.
    """
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise NumericsError(
            f"{int(broken.sum())} examples with NaN or infinite logits "
            f"(sample_index {sample_index[broken][:5].tolist()})",
            "finite logits",
            "look for NaN in the weights (a diverged run), or evaluate in a wider dtype than float16",
        )


def join_indices(chunks: list[IntArray]) -> tuple[IntArray, IntArray]:
    """The sample_index (N,) of all batches, and the order (N,) that sorts it: by arrival where there is none.

    Raises:
        DataError: There are no examples.
        RuntimeError: An example was counted twice.
    """
    if not any(map(len, chunks)):
        raise DataError("no examples to measure", "at least one example", "check the split and max_*_samples")
    index = np.concatenate(chunks)
    known = index[index >= 0]
    if len(np.unique(known)) != len(known):
        raise RuntimeError("an example was counted twice: its sample_index arrived more than once")
    return index, np.argsort(index, kind="stable")


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
        """Add a batch: `add` what `measure_batch` says."""
        self.add(self.measure_batch(logits, labels, sample_index))

    def add(self, batch: ExampleTable) -> None:
        """Add a batch that was measured; its scores are let go unless they are kept."""
        self._chunks.append(batch if self.keep_scores else dataclasses.replace(batch, scores=None))

    def measure_batch(self, logits: Any, labels: Any, sample_index: Any = None) -> ExampleTable:
        """What there is to know of each example of a batch, without adding it.

        Args:
            logits: (B, K) floating point tensor or array, on any device.
            labels: (B,) integers in [0, K).
            sample_index: (B,) integers, unique within the split; ``None`` where it is not known.

        Returns:
            The batch, with its scores.

        Raises:
            DataError: A label lies outside [0, K).
            ModelError: There are not K logits.
            NumericsError: A logit is NaN or infinite.
        """
        scores = as_array(logits).astype(np.float64, copy=False)
        label = as_array(labels).astype(np.int64).reshape(-1)
        if sample_index is None:
            index = np.full(len(label), -1, dtype=np.int64)
        else:
            index = as_array(sample_index).astype(np.int64).reshape(-1)
        self._check_batch(scores, label, index)
        probabilities, log_probabilities = softmax(scores)
        prediction = scores.argmax(axis=1).astype(np.int64)
        rows = np.arange(len(label))
        return ExampleTable(
            sample_index=index,
            label=label,
            prediction=prediction,
            probability=probabilities[rows, prediction],
            log_loss=-log_probabilities[rows, label],
            reference_rank=rank_references(scores, label),
            scores=probabilities,
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
        check_finite(scores, index)

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
        index, order = join_indices([chunk.sample_index for chunk in self._chunks])
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
        """Every metric of an evaluation, and ``num_examples``.

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
        values: dict[str, float | None] = {
            prefix + name: measured[name].value for name in list_metrics(EVALUATION, multi_label=False)
        }
        return values | {f"{prefix}num_examples": self.num_examples}


class TrainerMetrics:
    """``compute_metrics`` for `transformers.Trainer` with ``batch_eval_metrics=True``: one batch of logits at a time.

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
