"""What two models' answers on the same images are compared by, where an image may have several labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.catalogue import EVALUATION, METRICS, list_metrics
from hf_imgcls.measure.metrics.multi_label import BoolArray, average_decisions
from hf_imgcls.measure.tables import MultiLabelTable

PairCounts = tuple[IntArray, IntArray, IntArray, IntArray]


@dataclass
class LabelAnswers:
    """One model's answers on N examples.

    Attributes:
        targets: (N, K) bool, by the class ids that both models share.
        answers: (N, K) bool.
        scores: (N, K) float32.
        log_loss: (N,) float64.
    """

    targets: BoolArray
    answers: BoolArray
    scores: npt.NDArray[np.float32]
    log_loss: FloatArray

    def __len__(self) -> int:
        return len(self.log_loss)

    @cached_property
    def right(self) -> BoolArray:
        """(N,) whether exactly the labels are answered."""
        return np.asarray((self.targets == self.answers).all(axis=1))

    def exchange(self, other: LabelAnswers, chosen: BoolArray) -> LabelAnswers:
        """These answers, those of the chosen examples taken from the other model."""
        return LabelAnswers(
            self.targets,
            np.where(chosen[:, None], other.answers, self.answers),
            np.where(chosen[:, None], other.scores, self.scores),
            np.where(chosen, other.log_loss, self.log_loss),
        )

    def count_pairs(self, other: LabelAnswers) -> PairCounts:
        """Of the images of each class: those that both found it in, only this model, only the other, and neither."""
        found, other_found = (self.targets & theirs.answers for theirs in (self, other))
        both, only, other_only = found & other_found, found & ~other_found, other_found & ~found
        counts = [part.sum(axis=0) for part in (both, only, other_only)]
        return counts[0], counts[1], counts[2], self.targets.sum(axis=0) - counts[0] - counts[1] - counts[2]

    @cached_property
    def ranking(self) -> tuple[IntArray, IntArray]:
        """(N, K) each: examples by falling score of each class, and the last place of equal scores from there on."""
        order = np.argsort(-self.scores, axis=0, kind="stable")
        ranked = np.take_along_axis(self.scores, order, axis=0)
        is_last = np.ones(ranked.shape, dtype=bool)
        is_last[:-1] = ranked[1:] != ranked[:-1]
        place = np.where(is_last, np.arange(len(ranked))[:, None], len(ranked))
        return order, np.minimum.accumulate(place[::-1], axis=0)[::-1]


def join_label_tables(
    a: MultiLabelTable, b: MultiLabelTable, rows_a: IntArray, rows_b: IntArray, labels: list[str], ids: IntArray
) -> tuple[LabelAnswers, LabelAnswers]:
    """The rows that both tables have, with the class ids of ``labels``.

    Args:
        a: The first table, whose classes come first in ``labels``.
        b: The second table.
        rows_a: Its rows.
        rows_b: The same examples in b.
        labels: Class names of both.
        ids: Class id of b -> id in ``labels``.
    """

    def take(table: MultiLabelTable, rows: IntArray, columns: IntArray) -> LabelAnswers:
        wide: list[npt.NDArray[Any]] = []
        for values in (table.targets, table.answers, table.scores):
            wide.append(np.zeros((len(rows), len(labels)), dtype=values.dtype))
            wide[-1][:, columns] = values[rows]
        return LabelAnswers(wide[0], wide[1], wide[2], table.log_loss[rows])

    return take(a, rows_a, np.arange(len(a.labels))), take(b, rows_b, ids)


def _weigh_subset_accuracy(answers: LabelAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ answers.right) / counts.sum(axis=1))


def _weigh_hamming_loss(answers: LabelAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ (answers.targets != answers.answers).mean(axis=1)) / counts.sum(axis=1))


def _weigh_log_loss(answers: LabelAnswers, counts: FloatArray) -> FloatArray:
    return np.asarray((counts @ answers.log_loss) / counts.sum(axis=1))


def _weigh_average(name: str, answers: LabelAnswers, counts: FloatArray) -> FloatArray:
    parts = (answers.targets, answers.answers, answers.targets & answers.answers)
    return average_decisions(*(counts @ part.astype(np.float64) for part in parts))[name]


def _weigh_average_precision(answers: LabelAnswers, counts: FloatArray) -> FloatArray:
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


_AVERAGES = [name for name in list_metrics(EVALUATION, multi_label=True) if METRICS[name].average is not None]
LABEL_METRICS: dict[str, Callable[[LabelAnswers, FloatArray], FloatArray]] = {
    "mean_average_precision": _weigh_average_precision,
    "subset_accuracy": _weigh_subset_accuracy,
    **{name: functools.partial(_weigh_average, name) for name in _AVERAGES},
    "hamming_loss": _weigh_hamming_loss,
    "log_loss": _weigh_log_loss,
}
