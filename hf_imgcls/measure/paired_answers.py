"""Two models' answers on the same images, and what they are compared by: each metric of weighted examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import AVERAGE, EVALUATION, METRICS, list_metrics
from hf_imgcls.measure.metrics.multi_label import BoolArray, average_decisions
from hf_imgcls.measure.metrics.single import average_counts
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable, Table

PairCounts = tuple[IntArray, IntArray, IntArray, IntArray]
# Takes answers and (d, N) weights of the examples, gives (d,) values.
Measure = Callable[[Any, FloatArray], FloatArray]


@dataclass
class PairedAnswers:
    """One model's answers on N examples; class ids are those of both models together.

    Attributes:
        measures: Metric -> how it is computed.
        log_loss: (N,) float64.
    """

    measures: ClassVar[Mapping[str, Measure]]

    log_loss: FloatArray

    @classmethod
    def take(cls, table: Any, rows: IntArray, ids: IntArray, num_labels: int) -> Self:
        """Take some rows of a table.

        Args:
            table: The predictions.
            rows: Which, in this order.
            ids: Class id of the table -> id of both models together.
            num_labels: Classes of both models together.
        """
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many numbers a ranking of all classes goes through."""
        return len(self.log_loss)

    @property
    def right(self) -> BoolArray:
        """(N,) whether the answer is right."""
        raise NotImplementedError

    def exchange(self, other: Self, chosen: BoolArray) -> Self:
        """Return these answers, those of the chosen examples taken from the other model."""
        raise NotImplementedError

    def count_pairs(self, other: Self) -> PairCounts:
        """Count of each class the examples that both have right, only this model, only the other, and neither."""
        raise NotImplementedError

    def find_other_references(self, other: Self) -> IntArray:
        """Return the rows whose reference is not the other model's."""
        raise NotImplementedError

    def name_reference(self, row: int, labels: list[str]) -> str:
        """Return the reference of a row in words."""
        raise NotImplementedError


def _weighted_right(answers: PairedAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ answers.right) / counts.sum(axis=1))


def _weighted_log_loss(answers: PairedAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ answers.log_loss) / counts.sum(axis=1))


# ------------------------------------------------------------------------------------------------ one label


@dataclass
class SingleLabelAnswers(PairedAnswers):
    """Answers where an image has one label.

    Attributes:
        label: (N,) int64.
        prediction: (N,) int64.
        num_labels: Classes of both models together.
    """

    label: IntArray
    prediction: IntArray
    num_labels: int

    @classmethod
    def take(cls, table: PredictionTable, rows: IntArray, ids: IntArray, num_labels: int) -> Self:
        return cls(table.log_loss[rows], ids[table.label[rows]], ids[table.prediction[rows]], num_labels)

    @property
    def right(self) -> BoolArray:
        return np.asarray(self.prediction == self.label)

    def exchange(self, other: Self, chosen: BoolArray) -> Self:
        log_loss = np.where(chosen, other.log_loss, self.log_loss)
        return type(self)(log_loss, self.label, np.where(chosen, other.prediction, self.prediction), self.num_labels)

    def count_pairs(self, other: Self) -> PairCounts:
        ours, theirs = self.right, other.right

        def count(chosen: BoolArray) -> IntArray:
            return np.bincount(self.label[chosen], minlength=self.num_labels)

        return count(ours & theirs), count(ours & ~theirs), count(theirs & ~ours), count(~ours & ~theirs)

    def find_other_references(self, other: Self) -> IntArray:
        return np.flatnonzero(self.label != other.label)

    def name_reference(self, row: int, labels: list[str]) -> str:
        return labels[self.label[row]]


def _weighted_average(name: str, answers: SingleLabelAnswers, counts: FloatArray) -> FloatArray:
    right = answers.right
    values = np.empty(len(counts))
    for row, weights in enumerate(counts):
        support, predicted, correct = (
            np.bincount(ids, weights=own, minlength=answers.num_labels)
            for ids, own in (
                (answers.label, weights),
                (answers.prediction, weights),
                (answers.label[right], weights[right]),
            )
        )
        values[row] = average_counts(support, predicted, correct)[name]
    return values


SingleLabelAnswers.measures = {
    "accuracy": _weighted_right,
    **{
        name: functools.partial(_weighted_average, name)
        for name in list_metrics(EVALUATION, multi_label=False)
        if METRICS[name].kind == AVERAGE
    },
    "log_loss": _weighted_log_loss,
}


# ------------------------------------------------------------------------------------------------ several labels


@dataclass
class MultiLabelAnswers(PairedAnswers):
    """Answers where an image may have several labels.

    Attributes:
        targets: (N, K) bool.
        answers: (N, K) bool.
        scores: (N, K) float32.
    """

    targets: BoolArray
    answers: BoolArray
    scores: npt.NDArray[np.float32]

    @classmethod
    def take(cls, table: MultiLabelTable, rows: IntArray, ids: IntArray, num_labels: int) -> Self:
        wide: list[npt.NDArray[Any]] = []
        for values in (table.targets, table.answers, table.scores):
            wide.append(np.zeros((len(rows), num_labels), dtype=values.dtype))
            wide[-1][:, ids] = values[rows]
        return cls(table.log_loss[rows], *wide)

    @property
    def size(self) -> int:
        return self.scores.size

    @cached_property
    def right(self) -> BoolArray:
        return np.asarray((self.targets == self.answers).all(axis=1))

    def exchange(self, other: Self, chosen: BoolArray) -> Self:
        return type(self)(
            np.where(chosen, other.log_loss, self.log_loss),
            self.targets,
            np.where(chosen[:, None], other.answers, self.answers),
            np.where(chosen[:, None], other.scores, self.scores),
        )

    def count_pairs(self, other: Self) -> PairCounts:
        found, other_found = (self.targets & theirs.answers for theirs in (self, other))
        both, only, other_only = found & other_found, found & ~other_found, other_found & ~found
        counts = [part.sum(axis=0) for part in (both, only, other_only)]
        return counts[0], counts[1], counts[2], self.targets.sum(axis=0) - counts[0] - counts[1] - counts[2]

    def find_other_references(self, other: Self) -> IntArray:
        return np.flatnonzero((self.targets != other.targets).any(axis=1))

    def name_reference(self, row: int, labels: list[str]) -> str:
        return ", ".join(labels[k] for k in np.flatnonzero(self.targets[row]))

    @cached_property
    def ranking(self) -> tuple[IntArray, IntArray]:
        """(N, K) each: examples by falling score of each class, and the last place of equal scores from there on."""
        order = np.argsort(-self.scores, axis=0, kind="stable")
        ranked = np.take_along_axis(self.scores, order, axis=0)
        is_last = np.ones(ranked.shape, dtype=bool)
        is_last[:-1] = ranked[1:] != ranked[:-1]
        place = np.where(is_last, np.arange(len(ranked))[:, None], len(ranked))
        return order, np.minimum.accumulate(place[::-1], axis=0)[::-1]


def _weighted_hamming_loss(answers: MultiLabelAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ (answers.targets != answers.answers).mean(axis=1)) / counts.sum(axis=1))


def _weighted_decisions(name: str, answers: MultiLabelAnswers, counts: FloatArray) -> FloatArray:
    parts = (answers.targets, answers.answers, answers.targets & answers.answers)
    return average_decisions(*(counts @ part.astype(np.float64) for part in parts))[name]


def _weighted_average_precision(answers: MultiLabelAnswers, counts: FloatArray) -> FloatArray:
    """Mean average precision of weighted examples, over the classes that have any."""
    order, last = answers.ranking
    positive = np.take_along_axis(answers.targets, order, axis=0)
    values = np.empty(len(counts))
    for row, weights in enumerate(counts):
        ranked = weights[order]
        gained = ranked * positive
        found, seen = np.cumsum(gained, axis=0), np.cumsum(ranked, axis=0)
        precision = np.take_along_axis(found / np.maximum(seen, 1e-300), last, axis=0)
        total = found[-1]
        known = total > 0
        values[row] = ((gained * precision).sum(axis=0)[known] / total[known]).mean() if known.any() else np.nan
    return values


MultiLabelAnswers.measures = {
    "mean_average_precision": _weighted_average_precision,
    "subset_accuracy": _weighted_right,
    **{
        name: functools.partial(_weighted_decisions, name)
        for name in list_metrics(EVALUATION, multi_label=True)
        if METRICS[name].average is not None
    },
    "hamming_loss": _weighted_hamming_loss,
    "log_loss": _weighted_log_loss,
}
ANSWERS: Mapping[str, type[PairedAnswers]] = {
    PredictionTable.problem_type: SingleLabelAnswers,
    MultiLabelTable.problem_type: MultiLabelAnswers,
}


def list_compared(table: Table) -> tuple[str, ...]:
    """Names of the metrics that models are compared by on such tables."""
    return tuple(ANSWERS[table.problem_type].measures)
