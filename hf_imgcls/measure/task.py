"""What differs between images with one label and images with several: one task each, looked up by the problem type.

Everything else in the package works on either: it asks a table's task, and does not ask which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from hf_imgcls.measure.metrics.accumulate import Accumulator, ClassificationAccumulator, MultiLabelAccumulator
from hf_imgcls.measure.metrics.evaluation import Evaluation
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD, binary_log_losses, sigmoid
from hf_imgcls.measure.metrics.single import Measured, measure_roc_auc
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE, TopScores, count_top
from hf_imgcls.measure.statistics.calibration import (
    apply_temperature,
    fit_sigmoid_temperature,
    fit_temperature,
    read_log_scores,
    read_logits,
)
from hf_imgcls.measure.statistics.confidence import judge_confidence, judge_label_confidence
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable, Table
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    from accelerate import PartialState

    from hf_imgcls.arrays import FloatArray, IntArray
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.measure.metrics.multi_label import BoolArray
    from hf_imgcls.measure.metrics.own import OwnMetric

_MAX_NAMED = 10


class Task(Protocol):
    """What a label is, and what follows from it.

    Attributes:
        problem_type: As a model's config spells it.
        is_exclusive: Whether an image has exactly one label, so that there is a first answer.
        table: The prediction table.
        model_kind: What such a model is called, at the beginning of a sentence.
        calibrated_share: What scores are compared with to see whether they are calibrated.
        recall: The metric that is the mean of the classes' recalls, weighted by their labels.
    """

    problem_type: str
    is_exclusive: bool
    table: type[Table]
    model_kind: str
    calibrated_share: str
    recall: str

    def new_accumulator(self, num_labels: int, keep_scores: bool) -> Accumulator[Any]:
        """Return what validation is measured with while a model trains; with the scores of all classes where asked."""
        ...

    def new_recorder(self, num_labels: int, thresholds: FloatArray | None) -> Accumulator[Any]:
        """Return an accumulator that a prediction table can be made from."""
        ...

    def collect_table(self, recorder: Any, state: PartialState | None = None, **about: Any) -> Any:
        """Return the table, on the main process; every process has to call this.

        Args:
            recorder: From `new_recorder`, with the examples of all processes.
            state: Tells rank and world size; None is one process.
            about: ``split``, ``labels`` and ``source``.
        """
        ...

    def measure_collected(self, table: Any, state: PartialState) -> dict[str, Measured]:
        """Compute, the same on every process, what a recorder cannot; ``table`` is from `collect_table`."""
        ...

    def measure_rows(self, table: Any, rows: IntArray) -> dict[str, Measured]:
        """Compute every metric of some rows of a table."""
        ...

    def answer_constantly(self, table: Any, counts: FloatArray, num_train: int) -> dict[str, Any]:
        """Return the columns of a table that gives each class its share of the training images, whatever the image.

        Args:
            table: Gives the labels.
            counts: (K,) training images of each class, and one more.
            num_train: Training images.
        """
        ...

    def name_constant(self, table: Any) -> str:
        """Return the one answer of such a table; "" where there is none."""
        ...

    def pair_scores(self, table: Any) -> tuple[BoolArray, FloatArray]:
        """Return what is calibrated: (M,) whether it came true, and (M,) float64 the score that it would."""
        ...

    def fit_temperature(self, table: Any) -> float:
        """Find the temperature that calibrates a table's scores best.

        Raises:
            DataError: No temperature fits, or not every score was kept.
        """
        ...

    def apply_temperature(self, table: Any, temperature: float) -> tuple[FloatArray, FloatArray]:
        """Return the scores of `pair_scores`, and the log losses, after logits are divided by a temperature."""
        ...

    def judge_confidence(self, table: Any, level: float) -> dict[str, Any]:
        """Test whether scores are too high or too low, see `hf_imgcls.measure.statistics.confidence`."""
        ...

    def measure_certainty(self, table: Any) -> npt.NDArray[Any]:
        """Return how far each answer is from another one: (N,), the least certain ones have the lowest."""
        ...

    def describe_answer(self, table: Any, row: int, names: list[str]) -> dict[str, Any]:
        """Return reference and answer of a row by name.

        Returns:
            ``label``, ``prediction`` and ``confidence``. With several labels per image ``label`` and ``prediction``
            are names with commas between, or "none"; then follow ``missed`` and ``invented`` (up to ten ``label``,
            ``score`` and ``threshold``) and ``margin``, the distance of the nearest score to its threshold.
        """
        ...


class _SingleLabel:
    """An image has one label: the first answer counts, and scores are a softmax."""

    problem_type = SINGLE_LABEL
    is_exclusive = True
    table: type[Table] = PredictionTable
    model_kind = "An image classifier"
    calibrated_share = "share of right answers"
    recall = "accuracy"

    def new_accumulator(self, num_labels: int, keep_scores: bool) -> ClassificationAccumulator:
        return ClassificationAccumulator(num_labels, keep_scores)

    def new_recorder(self, num_labels: int, thresholds: FloatArray | None) -> ClassificationAccumulator:
        return ClassificationAccumulator(num_labels, top=TopScores(num_labels))

    def collect_table(
        self, recorder: ClassificationAccumulator, state: PartialState | None = None, **about: Any
    ) -> PredictionTable | None:
        assert recorder.top is not None  # it is a recorder
        examples = recorder.collect_examples()
        best = recorder.top.collect(examples.sample_index, state)
        if best is None:
            return None
        return PredictionTable.from_examples(examples, top_classes=best[0], top_probabilities=best[1], **about)

    def measure_collected(self, table: PredictionTable | None, state: PartialState) -> dict[str, Measured]:
        # The scores of all classes are on the main process alone.
        roc_auc = Measured(None) if table is None else self._measure_roc_auc(table, slice(None))
        if state.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            roc_auc = broadcast_object_list([roc_auc])[0]
        return {"roc_auc": roc_auc}

    def measure_rows(self, table: PredictionTable, rows: IntArray) -> dict[str, Measured]:
        measured = ClassificationAccumulator(len(table.labels)).measure(table.examples.take(rows))
        return measured | {"roc_auc": self._measure_roc_auc(table, rows)}

    def _measure_roc_auc(self, table: PredictionTable, rows: IntArray | slice) -> Measured:
        scores = table.scores_by_class()
        return Measured(None, NOT_EVERY_SCORE) if scores is None else measure_roc_auc(table.label[rows], scores.T[rows])

    def answer_constantly(self, table: PredictionTable, counts: FloatArray, num_train: int) -> dict[str, Any]:
        shares = counts / counts.sum()
        order = np.argsort(-shares, kind="stable")
        top, n = order[: count_top(len(order))], len(table)
        return {
            "label": table.label,
            "prediction": np.full(n, order[0]),
            "log_loss": -np.log(shares)[table.label],
            "reference_rank": np.argsort(order)[table.label],
            "top_classes": np.broadcast_to(top, (n, len(top))),
            "top_probabilities": np.broadcast_to(shares[top].astype(np.float32), (n, len(top))),
        }

    def name_constant(self, table: PredictionTable) -> str:
        return table.labels[table.prediction[0]]

    def pair_scores(self, table: PredictionTable) -> tuple[BoolArray, FloatArray]:
        return table.correct, table.confidence

    def fit_temperature(self, table: PredictionTable) -> float:
        return fit_temperature(read_log_scores(table), table.label)

    def apply_temperature(self, table: PredictionTable, temperature: float) -> tuple[FloatArray, FloatArray]:
        return apply_temperature(read_log_scores(table), table.label, temperature)

    def judge_confidence(self, table: PredictionTable, level: float) -> dict[str, Any]:
        return judge_confidence(table.correct, table.confidence, level)

    def measure_certainty(self, table: PredictionTable) -> npt.NDArray[Any]:
        return table.confidence

    def describe_answer(self, table: PredictionTable, row: int, names: list[str]) -> dict[str, Any]:
        return {
            "label": names[table.label[row]],
            "prediction": names[table.prediction[row]],
            "confidence": float(table.top_probabilities[row, 0]),
        }


class _MultiLabel:
    """An image has any number of labels: every class is a decision of its own, and scores are sigmoids."""

    problem_type = MULTI_LABEL
    is_exclusive = False
    table: type[Table] = MultiLabelTable
    model_kind = "A multi-label image classifier"
    calibrated_share = "share of labels"
    recall = "micro_recall"

    def new_accumulator(self, num_labels: int, keep_scores: bool) -> MultiLabelAccumulator:
        return MultiLabelAccumulator(num_labels)

    def new_recorder(self, num_labels: int, thresholds: FloatArray | None) -> MultiLabelAccumulator:
        return MultiLabelAccumulator(num_labels, thresholds)

    def collect_table(
        self, recorder: MultiLabelAccumulator, state: PartialState | None = None, **about: Any
    ) -> MultiLabelTable | None:
        if state is not None and not state.is_main_process:
            return None
        thresholds = np.asarray(recorder.thresholds, dtype=np.float64)
        return MultiLabelTable.from_examples(recorder.collect_examples(), thresholds=thresholds, **about)

    def measure_collected(self, table: MultiLabelTable | None, state: PartialState) -> dict[str, Measured]:
        return {}

    def measure_rows(self, table: MultiLabelTable, rows: IntArray) -> dict[str, Measured]:
        return MultiLabelAccumulator(len(table.labels), table.thresholds).measure(table.examples.take(rows))

    def answer_constantly(self, table: MultiLabelTable, counts: FloatArray, num_train: int) -> dict[str, Any]:
        scores = counts / (num_train + 2)
        return {
            "targets": table.targets,
            "scores": np.broadcast_to(scores.astype(np.float32), table.scores.shape),
            "log_loss": -(np.log(scores) * table.targets + np.log(1 - scores) * ~table.targets).mean(axis=1),
            "thresholds": np.full(len(scores), DEFAULT_THRESHOLD),
        }

    def name_constant(self, table: MultiLabelTable) -> str:
        return ""

    def pair_scores(self, table: MultiLabelTable) -> tuple[BoolArray, FloatArray]:
        return table.targets.ravel(), table.scores.ravel().astype(np.float64)

    def fit_temperature(self, table: MultiLabelTable) -> float:
        return fit_sigmoid_temperature(read_logits(table.scores), table.targets)

    def apply_temperature(self, table: MultiLabelTable, temperature: float) -> tuple[FloatArray, FloatArray]:
        logits = read_logits(table.scores) / temperature
        return sigmoid(logits).ravel(), binary_log_losses(logits, table.targets).ravel()

    def judge_confidence(self, table: MultiLabelTable, level: float) -> dict[str, Any]:
        return judge_label_confidence(table.targets, table.scores.astype(np.float64), level)

    def measure_certainty(self, table: MultiLabelTable) -> npt.NDArray[Any]:
        return np.asarray(np.abs(table.scores - table.thresholds).min(axis=1))

    def describe_answer(self, table: MultiLabelTable, row: int, names: list[str]) -> dict[str, Any]:
        targets, answers, scores = table.targets[row], table.answers[row], table.scores[row]

        def list_scores(chosen: BoolArray, sign: int) -> list[dict[str, Any]]:
            ids = np.flatnonzero(chosen)
            ids = ids[np.argsort(sign * scores[ids], kind="stable")][:_MAX_NAMED]
            return [
                {"label": names[k], "score": float(scores[k]), "threshold": float(table.thresholds[k])}
                for k in ids.tolist()
            ]

        return {
            "label": ", ".join(names[k] for k in np.flatnonzero(targets)) or "none",
            "prediction": ", ".join(names[k] for k in np.flatnonzero(answers)) or "none",
            "missed": list_scores(targets & ~answers, 1),
            "invented": list_scores(answers & ~targets, -1),
            "margin": float(np.abs(scores - table.thresholds).min()),
        }


SINGLE: Task = _SingleLabel()
MULTI: Task = _MultiLabel()
TASKS: Mapping[str, Task] = {task.problem_type: task for task in (SINGLE, MULTI)}


def task_of(source: Table | ImageDataset) -> Task:
    """Return the task of a prediction table or a dataset."""
    return TASKS[source.problem_type]


def choose_accumulator(
    dataset: ImageDataset, selected_by: str | None, own: Sequence[OwnMetric] = ()
) -> Callable[[], Evaluation]:
    """Return a function that makes what validation is measured with while a model trains.

    Args:
        dataset: Its classes, and whether an image may have several.
        selected_by: The metric that the best model is chosen by.
        own: A user's metrics.
    """
    task, num_labels = task_of(dataset), len(dataset.labels)
    # The scores, 8 * N * K bytes, are kept for the metrics that need them.
    keep_scores = (selected_by or "").removeprefix("eval_") == "roc_auc" or any(metric.needs_scores for metric in own)

    def build() -> Evaluation:
        return Evaluation(task.new_accumulator(num_labels, keep_scores), own, multi_label=not task.is_exclusive)

    return build
