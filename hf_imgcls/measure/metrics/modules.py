"""The metrics of the catalogue as one `evaluate` module, for scripts and for the product's own evaluation.

The module wraps the accumulator that a run is measured with, so that a script gets the numbers that a run reports:

    metrics = evaluate.combine([CatalogueMetrics("accuracy", "macro_f1"), CatalogueMetrics("log_loss", "roc_auc")])
    metrics.compute(references=labels, predictions=top1, prediction_scores=softmax)

An evaluator knows predicted classes only, so it takes the metrics that need no scores:

    evaluator = evaluate.evaluator("image-classification")
    evaluator.compute(pipe, data, metric=CatalogueMetrics("accuracy"), label_mapping=pipe.model.config.label2id)
"""

from __future__ import annotations

import difflib
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import IntArray
from hf_imgcls.catalogue import EVALUATION, METRICS, list_metrics
from hf_imgcls.compat.models import restore_evaluator
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.metrics.accumulate import Accumulator, ClassificationAccumulator, MultiLabelAccumulator, as_array
from hf_imgcls.measure.metrics.examples import ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.multi_label import BoolArray
from hf_imgcls.measure.metrics.single import rank_references

_SMALLEST = np.finfo(np.float64).eps  # scikit-learn clips probabilities to it, so that no loss is infinite
_INPUTS = """
Args:
    references: (N,) true class ids; with several labels per image (N, K) of 0 and 1.
    predictions: (N,) predicted class ids, or (N, K) of 0 and 1; where no metric needs scores.
    prediction_scores: (N, K) softmax scores, whose rows sum to 1, or sigmoid scores; the predictions follow from them.
"""


class CatalogueMetrics(evaluate.Metric):
    """Metrics of `hf_imgcls.catalogue`, computed in float64 and in memory, without a file.

    A metric that is not defined is ``None``, and ``<name>_reason`` says why.

    Args:
        names: Metrics of an evaluation; by default all of them.
        multi_label: Whether an image may have several labels.
        thresholds: (K,) with several labels per image: from which score on a class is answered; 0.5 by default.
        accumulator: Already holds the examples; by default they are added by `add_batch` or `compute`.
        cache_dir: Unused; part of ``evaluate.Metric``'s signature.
    """

    def __init__(
        self,
        *names: str,
        multi_label: bool = False,
        thresholds: npt.ArrayLike | None = None,
        accumulator: Accumulator[Any] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        known = list_metrics(EVALUATION, multi_label=multi_label)
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ArgumentError(f"the metric {name!r}{hint}", f"one of {', '.join(known)}", "choose one of these")
        self.names = names or known
        self.multi_label, self.thresholds, self.accumulator = multi_label, thresholds, accumulator
        self.needs_scores = any(METRICS[name].needs_scores for name in self.names)
        super().__init__(keep_in_memory=True, cache_dir=cache_dir)
        self.info.module_name = "_".join(names) or "catalogue_metrics"
        if accumulator is None:
            restore_evaluator()

    def _build_data_dir(self) -> str:
        # evaluate creates this folder in the user's home even when nothing is ever written to it.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        ids, scores = (datasets.Value(dtype) for dtype in ("int64", "float64"))
        labels = datasets.Sequence(ids) if self.multi_label else ids
        given = {"prediction_scores": datasets.Sequence(scores)} if self.needs_scores else {"predictions": labels}
        return evaluate.MetricInfo(
            description="; ".join(f"{name}: {METRICS[name].title}" for name in self.names),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(given | {"references": labels}),
        )

    def __len__(self) -> int:
        return 0 if self.accumulator is None else self.accumulator.num_examples

    def add(self, *, prediction: Any = None, reference: Any = None, prediction_scores: Any = None) -> None:
        """Add one example."""
        one = {"predictions": prediction, "references": reference, "prediction_scores": prediction_scores}
        self.add_batch(**{name: None if value is None else [value] for name, value in one.items()})

    def add_batch(self, *, predictions: Any = None, references: Any = None, prediction_scores: Any = None) -> None:
        """Add a batch."""
        given = prediction_scores if self.needs_scores else predictions
        if given is None or references is None:
            raise DataError("a batch without " + " and ".join(self.features), "both of them", "pass both")
        read: Any = _read_label_sets if self.multi_label else _read_labels
        num_labels, batch = read(references, given, are_scores=self.needs_scores)
        if self.accumulator is None:
            if self.multi_label:
                self.accumulator = MultiLabelAccumulator(num_labels, self.thresholds)
            else:
                self.accumulator = ClassificationAccumulator(num_labels, keep_scores="roc_auc" in self.names)
        self.accumulator.num_labels = max(self.accumulator.num_labels, num_labels)
        self.accumulator.add(batch)

    def compute(
        self, *, predictions: Any = None, references: Any = None, prediction_scores: Any = None
    ) -> dict[str, Any]:
        """Compute the metrics of what was added and, if given, of this batch; the next batch starts afresh."""
        if references is not None:
            self.add_batch(predictions=predictions, references=references, prediction_scores=prediction_scores)
        if self.accumulator is None:
            raise DataError("nothing was added to the metric", "at least one example", "call add_batch before compute")
        values, reasons = self.accumulator.compute(), self.accumulator.reasons
        self.accumulator = None
        found = {name: values[name] for name in self.names}
        return found | {f"{name}_reason": reasons[name] for name, value in found.items() if value is None}


def _read_labels(references: Any, given: Any, *, are_scores: bool) -> tuple[int, ExampleTable]:
    """Return the number of classes that occur, and the examples of one label each."""
    labels = _as_ids(references)
    rows, unknown = np.arange(len(labels)), np.full(len(labels), -1)
    if not are_scores:
        answers = _as_ids(given)
        _check_shape(answers, labels.shape, "predictions")
        num_labels = int(max(answers.max(), labels.max())) + 1
        return num_labels, ExampleTable(
            unknown, np.zeros(len(labels)), labels, answers, np.ones(len(labels)), (answers != labels).astype(np.int64)
        )
    scores = as_array(given).astype(np.float64)
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
    _check_shape(scores[:, 0], labels.shape, "prediction_scores")
    losses = -np.log(np.clip(scores[rows, labels], _SMALLEST, 1 - _SMALLEST))
    best = scores.argmax(axis=1)
    ranks = rank_references(scores, labels)
    return scores.shape[1], ExampleTable(unknown, losses, labels, best, scores[rows, best], ranks, scores)


def _read_label_sets(references: Any, given: Any, *, are_scores: bool) -> tuple[int, MultiLabelExamples]:
    """Return the number of classes, and the examples of several labels each."""
    targets = _as_multi_hot(references, "references")
    scores: Any = as_array(given).astype(np.float64) if are_scores else _as_multi_hot(given, "predictions")
    _check_shape(scores, targets.shape, "prediction_scores" if are_scores else "predictions")
    likely = np.clip(np.where(targets, scores, 1 - scores), _SMALLEST, 1 - _SMALLEST)
    losses = -np.log(likely).mean(axis=1)
    return targets.shape[1], MultiLabelExamples(np.full(len(targets), -1), losses, targets, scores.astype(np.float64))


def _as_ids(values: Any) -> IntArray:
    ids = as_array(values).astype(np.int64)
    if ids.size == 0:
        raise DataError("no examples to measure", "at least one example", "check the split")
    if ids.min() < 0:
        raise DataError(f"class id {ids.min()}", "class ids from 0", "measure on examples whose label is known")
    return ids


def _as_multi_hot(values: Any, what: str) -> BoolArray:
    array = as_array(values) if len({len(row) for row in values}) == 1 else np.zeros(0)
    if array.ndim != 2 or not array.size or not np.isin(array, (0, 1)).all():
        raise DataError(f"{what} that are not vectors of 0 and 1 of one length", "(N, K) of 0 and 1", "make them so")
    return array.astype(bool)


def _check_shape(values: npt.NDArray[Any], shape: tuple[int, ...], what: str) -> None:
    if values.shape != shape:
        raise DataError(f"{what} of shape {values.shape} for references of shape {shape}", "equal shapes", "pass both")
