"""Every number of a classifier, from logits that arrive batch by batch, on one process or on many.

Where an image has one label, six numbers are kept per example, never the (N, K) logits, unless ROC-AUC is asked for;
where it may have several, its labels, its loss and the (N, K) sigmoid scores in float32, which the average precision
needs and a prediction table keeps. The definitions are in `hf_imgcls.measure.metrics.single` and
`hf_imgcls.measure.metrics.multi_label`. numpy only: torch tensors are read through their own methods.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, list_metrics
from hf_imgcls.errors import DataError, ModelError, NumericsError
from hf_imgcls.measure.metrics.examples import Examples, ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.multi_label import (
    DEFAULT_THRESHOLD,
    binary_log_losses,
    decide,
    measure_decisions,
    measure_rankings,
    sigmoid,
)
from hf_imgcls.measure.metrics.single import (
    Measured,
    count_confusions,
    measure_balanced_accuracy,
    measure_calibration_error,
    measure_precision_recall_f1,
    measure_roc_auc,
    measure_top_k,
    rank_references,
    read_measured,
    softmax,
)

if TYPE_CHECKING:
    from hf_imgcls.measure.metrics.top_scores import TopScores


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


def read_index(sample_index: Any, num_examples: int) -> IntArray:
    """Return ``sample_index`` as (N,) int64, -1 each where it was not given."""
    if sample_index is None:
        return np.full(num_examples, -1, dtype=np.int64)
    return as_array(sample_index).astype(np.int64).reshape(-1)


ExamplesT = TypeVar("ExamplesT", bound=Examples)


class Accumulator(Generic[ExamplesT]):
    """Collects a split batch by batch, on one process or merged from many, and computes every metric.

    Args:
        num_labels: K, the number of classes.

    Attributes:
        reasons: After `compute`: metric name -> why its value is ``None``.
        remarks: After `compute`: metric name -> what its value leaves out.
    """

    kind: ClassVar[type[Examples]]

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._chunks: list[ExamplesT] = []
        self.reasons: dict[str, str] = {}
        self.remarks: dict[str, str] = {}

    @property
    def num_examples(self) -> int:
        """Number of examples so far."""
        return sum(map(len, self._chunks))

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch: `add` what `measure_batch` returns."""
        self.add(self.measure_batch(logits, labels, sample_index))

    def add(self, batch: ExamplesT) -> None:
        """Add a batch that was measured."""
        self._chunks.append(batch)

    def measure_batch(self, logits: Any, labels: Any, sample_index: Any = None) -> ExamplesT:
        """Return what there is to know of each example of a batch, without adding it.

        Args:
            logits: (B, K) floating point tensor or array, on any device.
            labels: (B,) integers in [0, K); with several labels per image (B, K) of 0 and 1.
            sample_index: (B,) integers, unique within the split; ``None`` where it is not known.

        Raises:
            DataError: A label lies outside [0, K), or is neither 0 nor 1.
            ModelError: There are not K logits.
            NumericsError: A logit is NaN or infinite.
        """
        raise NotImplementedError

    def measure(self, examples: ExamplesT) -> dict[str, Measured]:
        """Compute every metric of some examples."""
        raise NotImplementedError

    def merge(self, other: Self) -> None:
        """Add the examples of another accumulator, for example another process's."""
        if other.num_labels != self.num_labels:
            raise ValueError("only accumulators with equal num_labels can be merged")
        self._chunks.extend(other._chunks)

    def collect_examples(self) -> ExamplesT:
        """Return one row per example, ordered by sample_index (by arrival where there is none).

        Raises:
            DataError: There are no examples.
            RuntimeError: An example was counted twice.
        """
        return cast("ExamplesT", self.kind.join(self._chunks))

    @property
    def confusion_matrix(self) -> IntArray | None:
        """(K, K) int64, rows are references and columns are predictions; None where an image may have several."""
        return None

    def compute(self, prefix: str = "") -> dict[str, float | None]:
        """Compute every metric, and ``num_examples``.

        Args:
            prefix: Put before each name, for example ``"test_"``.

        Returns:
            Name -> value; ``None`` where not defined, with the reason in ``reasons`` under the name without prefix.

        Raises:
            DataError: There are no examples.
        """
        examples = self.collect_examples()
        values, self.reasons, self.remarks = read_measured(self.measure(examples))
        return {prefix + name: value for name, value in values.items()} | {f"{prefix}num_examples": len(examples)}


class ClassificationAccumulator(Accumulator[ExampleTable]):
    """Collects images with one label each.

    Args:
        num_labels: K, the number of classes.
        keep_scores: Also keep the (N, K) softmax scores, 8 bytes each on the CPU; ``roc_auc`` needs them.
        top: Gets the best scores of each batch. They stay on the process that computed them until they are collected.
    """

    kind = ExampleTable

    def __init__(self, num_labels: int, keep_scores: bool = False, top: TopScores | None = None) -> None:
        super().__init__(num_labels)
        self.keep_scores, self.top = keep_scores, top

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to other processes."""
        return self.__dict__ | {"top": None}

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch, and its best scores."""
        batch = self.measure_batch(logits, labels, sample_index)
        self.add(batch)
        if self.top is not None:
            self.top.update(batch)

    def add(self, batch: ExampleTable) -> None:
        """Add a batch that was measured; its scores are dropped unless they are kept."""
        super().add(batch if self.keep_scores else dataclasses.replace(batch, scores=None))

    def measure_batch(self, logits: Any, labels: Any, sample_index: Any = None) -> ExampleTable:
        """See `Accumulator`; the batch has its scores."""
        scores = as_array(logits).astype(np.float64, copy=False)
        label = as_array(labels).astype(np.int64).reshape(-1)
        index = read_index(sample_index, len(label))
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

    def merge(self, other: Self) -> None:
        """See `Accumulator`."""
        if other.keep_scores != self.keep_scores:
            raise ValueError("only accumulators with equal keep_scores can be merged")
        super().merge(other)

    @property
    def confusion_matrix(self) -> IntArray:
        """(K, K) int64, rows are references and columns are predictions."""
        examples = self.collect_examples()
        return count_confusions(examples.label, examples.prediction, self.num_labels)

    def measure(self, examples: ExampleTable) -> dict[str, Measured]:
        """Compute every metric of an evaluation."""
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
        return {name: measured[name] for name in list_metrics(EVALUATION, multi_label=False)}


class MultiLabelAccumulator(Accumulator[MultiLabelExamples]):
    """Collects images that may have several labels each.

    Args:
        num_labels: K, the number of classes.
        thresholds: By class id: from which score on an image is answered to have the class; 0.5 each by default.
    """

    kind = MultiLabelExamples

    def __init__(self, num_labels: int, thresholds: npt.ArrayLike | None = None) -> None:
        super().__init__(num_labels)
        self.thresholds = np.full(num_labels, DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)

    def measure_batch(self, logits: Any, labels: Any, sample_index: Any = None) -> MultiLabelExamples:
        """See `Accumulator`."""
        values = as_array(logits).astype(np.float64, copy=False)
        targets = as_array(labels)
        index = read_index(sample_index, len(targets))
        if values.shape != targets.shape or values.shape != (len(index), self.num_labels):
            raise ModelError(
                f"logits of shape {values.shape} for labels of shape {targets.shape}, {len(index)} sample indices",
                f"logits and labels of shape ({len(index)}, {self.num_labels}): one of each per class",
                "check that the model's head has one output per class of the dataset",
            )
        if not np.isin(targets, (0, 1)).all():
            raise DataError(
                "labels that are neither 0 nor 1", "a vector of 0 and 1 per image", "measure on hard labels"
            )
        check_finite(values, index)
        return MultiLabelExamples(
            sample_index=index,
            log_loss=binary_log_losses(values, targets).mean(axis=1),
            targets=targets.astype(bool),
            scores=sigmoid(values).astype(np.float32),
        )

    def measure(self, examples: MultiLabelExamples) -> dict[str, Measured]:
        """Compute every metric of an evaluation."""
        targets, scores = examples.targets, examples.scores
        measured = {
            **measure_rankings(targets, scores),
            **measure_decisions(targets, decide(scores, self.thresholds)),
            "log_loss": Measured(float(examples.log_loss.mean())),
            "ece": measure_calibration_error(targets.ravel(), scores.ravel().astype(np.float64)),
        }
        return {name: measured[name] for name in list_metrics(EVALUATION, multi_label=True)}
