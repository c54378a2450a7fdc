"""Every number of a classifier of several labels per image, from logits that arrive batch by batch.

Beside the (N, K) sigmoid scores in float32, which the average precision needs and a prediction table keeps, nothing is
held of an example but its labels and its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, list_metrics
from hf_imgcls.errors import DataError, ModelError
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, as_array, check_finite, join_indices
from hf_imgcls.measure.metrics.multi_label import (
    DEFAULT_THRESHOLD,
    BoolArray,
    binary_log_losses,
    measure_decisions,
    measure_rankings,
    sigmoid,
)
from hf_imgcls.measure.metrics.ranking import rank_scores
from hf_imgcls.measure.metrics.single import Measured, measure_calibration_error

if TYPE_CHECKING:
    from hf_imgcls.data.dataset import ImageDataset


@dataclass
class MultiLabelExamples:
    """What is kept of each example; row i of every array belongs to the same example.

    Attributes:
        sample_index: (N,) int64, position in the source split; -1 where it was not given.
        targets: (N, K) bool, the labels.
        scores: (N, K) float32, the sigmoid of each logit.
        log_loss: (N,) float64, mean binary cross-entropy over the classes, in nats.
    """

    sample_index: IntArray
    targets: BoolArray
    scores: npt.NDArray[np.float32]
    log_loss: FloatArray

    def __len__(self) -> int:
        return len(self.log_loss)


class MultiLabelAccumulator:
    """Collects a split batch by batch, on one process or merged from many, and computes every metric.

    Args:
        num_labels: K, the number of classes.
        thresholds: By class id: from which score on an image is answered to have the class; 0.5 each by default.

    Attributes:
        reasons: After `compute`: metric name -> why its value is ``None``.
        remarks: After `compute`: metric name -> what its value leaves out.
    """

    def __init__(self, num_labels: int, thresholds: npt.ArrayLike | None = None) -> None:
        self.num_labels = num_labels
        self.thresholds = np.full(num_labels, DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
        self._chunks: list[MultiLabelExamples] = []
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
            labels: (B, K) of 0 and 1.
            sample_index: (B,) integers, unique within the split; ``None`` where it is not known.

        Raises:
            DataError: A label is neither 0 nor 1.
            ModelError: There are not K logits.
            NumericsError: A logit is NaN or infinite.
        """
        values = as_array(logits).astype(np.float64, copy=False)
        targets = as_array(labels)
        index = np.full(len(targets), -1) if sample_index is None else as_array(sample_index).reshape(-1)
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
        losses = binary_log_losses(values, targets).mean(axis=1)
        scores = sigmoid(values).astype(np.float32)
        self._chunks.append(MultiLabelExamples(index.astype(np.int64), targets.astype(bool), scores, losses))

    def merge(self, other: MultiLabelAccumulator) -> None:
        """Add the examples of another accumulator, for example another process's."""
        if other.num_labels != self.num_labels:
            raise ValueError("only accumulators with equal num_labels can be merged")
        self._chunks.extend(other._chunks)

    def collect_examples(self) -> MultiLabelExamples:
        """One row per example, ordered by sample_index (by arrival where there is none).

        Raises:
            DataError: There are no examples.
            RuntimeError: An example was counted twice.
        """
        index, order = join_indices([chunk.sample_index for chunk in self._chunks])
        return MultiLabelExamples(
            index[order],
            np.concatenate([chunk.targets for chunk in self._chunks])[order],
            np.concatenate([chunk.scores for chunk in self._chunks])[order],
            np.concatenate([chunk.log_loss for chunk in self._chunks])[order],
        )

    def compute(self, prefix: str = "") -> dict[str, float | None]:
        """Every metric of an evaluation, and ``num_examples``.

        Args:
            prefix: Put before each name, for example ``"test_"``.

        Returns:
            Name -> value; ``None`` where not defined, with the reason in ``reasons`` under the name without prefix.
        """
        examples = self.collect_examples()
        measured = measure_examples(examples, self.thresholds)
        self.reasons = {name: item.remark or "" for name, item in measured.items() if item.value is None}
        self.remarks = {name: item.remark for name, item in measured.items() if item.value is not None and item.remark}
        values: dict[str, float | None] = {
            prefix + name: measured[name].value for name in list_metrics(EVALUATION, multi_label=True)
        }
        return values | {f"{prefix}num_examples": len(examples)}


def decide(scores: npt.NDArray[Any], thresholds: npt.ArrayLike) -> BoolArray:
    """The answers: the classes whose score reaches their threshold.

    Args:
        scores: (N, K), or (K,) for one image; float32, as ``pipeline()`` gives them.
        thresholds: (K,).
    """
    return np.asarray(scores, dtype=np.float64) >= np.asarray(thresholds, dtype=np.float64)


def measure_examples(examples: MultiLabelExamples, thresholds: npt.ArrayLike) -> dict[str, Measured]:
    """Every metric of an evaluation."""
    targets, scores = examples.targets, examples.scores
    pooled, _ = rank_scores(scores.ravel(), targets.ravel())
    return {
        **measure_rankings(targets, scores)._asdict(),
        "micro_average_precision": Measured(pooled, None if pooled is not None else "no image has a label"),
        **measure_decisions(targets, decide(scores, thresholds)),
        "log_loss": Measured(float(examples.log_loss.mean())),
        "ece": measure_calibration_error(targets.ravel(), scores.ravel().astype(np.float64)),
    }


def choose_accumulator(
    dataset: ImageDataset, selected_by: str | None
) -> Callable[[], ClassificationAccumulator | MultiLabelAccumulator]:
    """What validation is measured with while a model trains.

    Args:
        dataset: Its classes, and whether an image may have several.
        selected_by: The metric that the best model is chosen by; the scores that only ``roc_auc`` needs, 8 * N * K
            bytes, are kept for it alone.

    Returns:
        Makes an empty accumulator.
    """
    if dataset.is_multi_label:
        return partial(MultiLabelAccumulator, len(dataset.labels))
    keep_scores = (selected_by or "").removeprefix("eval_") == "roc_auc"
    return partial(ClassificationAccumulator, len(dataset.labels), keep_scores)
