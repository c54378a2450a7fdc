"""What is kept of each example of a split until its metrics are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD, BoolArray, decide


@dataclass(frozen=True)
class Answers:
    """What was answered on a split; row i of every array belongs to the same example.

    Attributes:
        references: (N,) int64 class ids, or (N, K) int64 of 0 and 1 with several labels per image.
        predictions: As ``references``.
        scores: (N, K) float64, or ``None`` when they were not kept.
    """

    references: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    scores: FloatArray | None

    def take(self, rows: npt.NDArray[np.int64]) -> Answers:
        """Return some of the examples, in this order."""
        scores = None if self.scores is None else self.scores[rows]
        return Answers(self.references[rows], self.predictions[rows], scores)


@dataclass
class Examples:
    """What is kept of each example; row i of every array belongs to the same example.

    Attributes:
        sample_index: (N,) int64, position in the source split; -1 where it was not given.
        log_loss: (N,) float64, in nats.
    """

    sample_index: IntArray
    log_loss: FloatArray

    def __len__(self) -> int:
        return len(self.log_loss)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """Return some of the examples, in this order."""
        columns: dict[str, Any] = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        taken: dict[str, Any] = {name: None if values is None else values[rows] for name, values in columns.items()}
        return type(self)(**taken)

    def read_answers(self, thresholds: npt.ArrayLike | None) -> Answers:
        """Return references and predictions; ``thresholds`` decide where an image may have several labels."""
        raise NotImplementedError

    @classmethod
    def join(cls, chunks: Sequence[Self]) -> Self:
        """Join batches into one row per example, ordered by sample_index (by arrival where there is none).

        Raises:
            DataError: There are no examples.
            RuntimeError: An example was counted twice.
        """
        if not any(map(len, chunks)):
            raise DataError("no examples to measure", "at least one example", "check the split and max_*_samples")
        index = np.concatenate([chunk.sample_index for chunk in chunks])
        known = index[index >= 0]
        if len(np.unique(known)) != len(known):
            raise RuntimeError("an example was counted twice: its sample_index arrived more than once")
        order = np.argsort(index, kind="stable")
        columns: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            parts = [getattr(chunk, item.name) for chunk in chunks]
            columns[item.name] = None if parts[0] is None else np.concatenate(parts)[order]
        return cls(**columns)


@dataclass
class ExampleTable(Examples):
    """Examples with one label each.

    Attributes:
        log_loss: Minus the log-probability of ``label``.
        label: (N,) int64, the reference.
        prediction: (N,) int64, the class with the highest logit, the lowest id among equals.
        probability: (N,) float64, softmax score of ``prediction``.
        reference_rank: (N,) int64, rank of ``label`` among the scores, 0 is the best.
        scores: (N, K) float64 softmax scores, or ``None`` when they are not kept.
    """

    label: IntArray
    prediction: IntArray
    probability: FloatArray
    reference_rank: IntArray
    scores: FloatArray | None = None

    def read_answers(self, thresholds: npt.ArrayLike | None) -> Answers:
        """See `Examples`."""
        return Answers(self.label, self.prediction, self.scores)


@dataclass
class MultiLabelExamples(Examples):
    """Examples that may have several labels, or none.

    Attributes:
        log_loss: Mean binary cross-entropy over the classes.
        targets: (N, K) bool, the labels.
        scores: (N, K) float32, the sigmoid of each logit.
    """

    targets: BoolArray
    scores: npt.NDArray[np.float32]

    def read_answers(self, thresholds: npt.ArrayLike | None) -> Answers:
        """See `Examples`."""
        answers = decide(self.scores, DEFAULT_THRESHOLD if thresholds is None else thresholds)
        return Answers(self.targets.astype(np.int64), answers.astype(np.int64), self.scores.astype(np.float64))
