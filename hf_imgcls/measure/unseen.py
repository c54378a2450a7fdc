"""What a model scores on those images of a split that neither training nor selection has seen.

A split may share images with another one, or with what trained the base model. They stay in the split's own numbers,
which anyone can compute again; these stand beside them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hf_imgcls.catalogue import get_primary, has_several_labels
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, ExampleTable
from hf_imgcls.measure.metrics.accumulate_multi_label import MultiLabelExamples, measure_examples
from hf_imgcls.measure.metrics.single import Measured, measure_roc_auc
from hf_imgcls.measure.multi_label_table import MultiLabelTable, Table
from hf_imgcls.measure.tables import PredictionTable

if TYPE_CHECKING:
    from hf_imgcls.arrays import IntArray
    from hf_imgcls.data.manifest import Manifest

ExamplesT = TypeVar("ExamplesT", ExampleTable, MultiLabelExamples)


def measure_unseen(table: Table, manifest: Manifest | None) -> dict[str, Any] | None:
    """Measure a split without the images that training or selection has seen.

    Args:
        table: What was predicted.
        manifest: The dataset's; None where not every image was looked at.

    Returns:
        ``num_seen`` and ``num_examples``, the images that were left out and those that were not, and each metric that
        is defined on the latter; None where nothing is left out.
    """
    if manifest is None or table.split not in manifest.splits:
        return None
    is_seen = np.isin(table.sample_index, manifest.find_seen(table.split))
    if not is_seen.any():
        return None
    rows = np.flatnonzero(~is_seen)
    found: dict[str, Any] = {"num_seen": int(is_seen.sum()), "num_examples": len(rows)}
    return found | (_measure_rows(table, rows) if len(rows) else {})


def describe_unseen(unseen: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Say in one sentence what the images that were seen change.

    Args:
        unseen: From `measure_unseen`.
        metrics: Of the whole split: name -> number.
    """
    count = f"{unseen['num_seen']:,} image{'s' if unseen['num_seen'] > 1 else ''}"
    if not unseen["num_examples"]:
        return f"Training or selection has seen all {count}: none is left to judge the model by."
    name = get_primary(multi_label=has_several_labels(metrics))
    values = (unseen.get(name), metrics.get(name))
    numbers = ["not defined" if value is None else f"{value:.4f}" for value in values]
    return (
        f"Without the {count} that training or selection has seen, {name.replace('_', ' ')} is {numbers[0]} "
        f"({unseen['num_examples']:,} images); with them it is {numbers[1]}."
    )


def _measure_rows(table: Table, rows: IntArray) -> dict[str, float]:
    """Every metric that is defined on some rows of a table."""
    if isinstance(table, MultiLabelTable):
        measured = measure_examples(_take(table.examples, rows), table.thresholds)
        return {name: item.value for name, item in measured.items() if item.value is not None}
    accumulator = ClassificationAccumulator(len(table.labels))
    accumulator.add(_take(table.examples, rows))
    metrics = accumulator.compute() | {"roc_auc": _measure_roc_auc(table, rows).value}
    return {name: value for name, value in metrics.items() if value is not None}


def _measure_roc_auc(table: PredictionTable, rows: IntArray) -> Measured:
    scores = table.scores_by_class()
    return Measured(None) if scores is None else measure_roc_auc(table.label[rows], scores.T[rows])


def _take(examples: ExamplesT, rows: IntArray) -> ExamplesT:
    columns: dict[str, Any] = {item.name: getattr(examples, item.name) for item in dataclasses.fields(examples)}
    taken: dict[str, Any] = {name: None if values is None else values[rows] for name, values in columns.items()}
    return dataclasses.replace(examples, **taken)
