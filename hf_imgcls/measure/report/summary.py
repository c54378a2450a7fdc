"""From a prediction table to the numbers of a report. No model is needed, and no image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.single import measure_calibration_error
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE
from hf_imgcls.measure.report.estimates import count_known, estimate_classes, estimate_metrics, rank_classes
from hf_imgcls.measure.statistics.calibration import measure_reliability
from hf_imgcls.measure.statistics.confidence import judge_confidence
from hf_imgcls.measure.statistics.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL
from hf_imgcls.measure.statistics.selective import measure_risk_coverage
from hf_imgcls.measure.tables import PredictionTable, unique_names
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import ReportRecord

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import Table

_MAX_PAIRS = 100
_MAX_PAIR_EXAMPLES = 5


def summarise(
    table: PredictionTable,
    *,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
    draws: int = DEFAULT_DRAWS,
    validation: PredictionTable | None = None,
) -> ReportRecord:
    """Compute every number that a prediction table holds.

    Args:
        table: The split that is measured.
        seed: Of the bootstrap; the same table and seed give the same record.
        level: Confidence level of all intervals.
        draws: Bootstrap samples.
        validation: The same model's table of the validation split. Temperature and abstention thresholds are chosen on
            it; without it there is no temperature.

    Returns:
        The record, with ``metrics``, ``per_class``, ``calibration``, ``risk_coverage`` and ``confused_pairs``.

    Raises:
        DataError: ``validation`` has other classes.
    """
    check_same_classes(table, validation)
    reason = reject_validation(table, validation)
    usable = None if reason else validation
    rankings = rank_classes(table, level)
    return ReportRecord(
        split=table.split,
        model=str(table.source.get("model", "")),
        data=str(table.source.get("data", "")),
        labels=table.labels,
        num_examples=len(table),
        confidence_level=level,
        metrics=estimate_metrics(table, rankings, seed, level, draws),
        per_class=estimate_classes(table, rankings, level),
        calibration=_calibrate(table, usable, reason, level),
        risk_coverage=measure_risk_coverage(table, usable, level),
        confused_pairs=list_confused_pairs(table),
        notes=_list_notes(table, usable),
        num_classes=count_known(table),
    )


def list_confused_pairs(table: PredictionTable) -> list[dict[str, Any]]:
    """Pairs of classes by how often the first is taken for the second: up to 100, the most frequent first.

    Returns:
        ``label`` and ``prediction`` by name, ``label_id`` and ``prediction_id``, ``count``, ``share_of_label``, and
        the ``sample_indices`` of up to five examples, the most confident first.
    """
    num_labels, wrong = len(table.labels), np.flatnonzero(~table.correct)
    cell = table.label[wrong] * num_labels + table.prediction[wrong]
    cells, counts = np.unique(cell, return_counts=True)
    support = np.bincount(table.label, minlength=num_labels)
    label, prediction = cells // num_labels, cells % num_labels
    order = np.lexsort((cells, -counts / support[label], -counts))[:_MAX_PAIRS]
    names, confidence = unique_names(table.labels), table.confidence
    pairs = []
    for place in order.tolist():
        members = wrong[cell == cells[place]]
        members = members[np.argsort(-confidence[members], kind="stable")[:_MAX_PAIR_EXAMPLES]]
        pairs.append(
            {
                "label": names[label[place]],
                "prediction": names[prediction[place]],
                "label_id": int(label[place]),
                "prediction_id": int(prediction[place]),
                "count": int(counts[place]),
                "share_of_label": float(counts[place] / support[label[place]]),
                "sample_indices": table.sample_index[members].tolist(),
            }
        )
    return pairs


# ------------------------------------------------------------------------------------------------ calibration


def check_same_classes(table: Table, validation: Table | None) -> None:
    """Refuse a validation table of another model.

    Raises:
        DataError: It has other classes.
    """
    if validation is not None and (validation.labels != table.labels or type(validation) is not type(table)):
        raise DataError(
            f"the {validation.split} table has {len(validation.labels)} classes that are not those of the "
            f"{table.split} table, or in another order",
            "two tables of one model",
            "measure both splits with the same model and data",
        )


def reject_validation(table: Table, validation: Table | None) -> str:
    """Why nothing can be chosen on a validation table; nothing if it can."""
    if validation is None:
        return "there is no prediction table of a validation split"
    if validation.split == table.split:
        return f"the {table.split} split is the one that is measured"
    fingerprint = table.source.get("fingerprint")
    if fingerprint is not None and fingerprint == validation.source.get("fingerprint"):
        return f"the {validation.split} split holds the same examples as the one that is measured"
    for name in ("model", "model_revision", "temperature"):
        if table.source.get(name) != validation.source.get(name):
            return f"the {validation.split} table is of another {name.replace('_', ' ')}"
    return ""


def _calibrate(table: PredictionTable, validation: PredictionTable | None, reason: str, level: float) -> dict[str, Any]:
    """The reliability diagram, and the temperature that would improve it.

    Returns:
        ``bins``, see `measure_reliability`; ``confidence``, see `judge_confidence`; ``temperature``: None, with
        ``temperature_remark``, or its ``value``, the split and number of examples that it was ``fitted_on``, and
        ``ece`` and ``log_loss`` ``before`` and ``after`` on the split that is measured and, under ``on_validation``,
        where it was fitted.
    """
    calibration: dict[str, Any] = {
        "bins": measure_reliability(table.correct, table.confidence, level=level),
        "confidence": judge_confidence(table.correct, table.confidence, level),
    }
    temperature: dict[str, Any] | None = None
    if validation is not None:
        task = task_of(table)
        try:
            value = task.fit_temperature(validation)
            temperature = {
                "value": value,
                "fitted_on": validation.split,
                "n": len(validation),
                "on_validation": _compare_temperature(validation, value),
                **_compare_temperature(table, value),
            }
        except DataError as error:
            temperature, reason = None, error.found
    calibration["temperature"] = temperature
    if temperature is None:
        calibration["temperature_remark"] = reason
    return calibration


def _compare_temperature(table: PredictionTable, temperature: float) -> dict[str, float]:
    confidence, log_loss = task_of(table).apply_temperature(table, temperature)
    return {
        "ece_before": float(measure_calibration_error(table.correct, table.confidence).value or 0.0),
        "ece_after": float(measure_calibration_error(table.correct, confidence).value or 0.0),
        "log_loss_before": float(table.log_loss.mean()),
        "log_loss_after": float(log_loss.mean()),
    }


def note_temperature(table: Table) -> list[str]:
    """Say that a temperature is folded into the model already: one sentence, or none."""
    if (folded := table.source.get("temperature", 1.0)) == 1.0:
        return []
    return [f"The model's scores were calibrated before: a temperature of {folded:.4g} is folded into its head."]


def _list_notes(table: PredictionTable, validation: PredictionTable | None) -> list[str]:
    notes = note_temperature(table)
    if not table.is_complete:
        notes.append(f"Some numbers are missing: {NOT_EVERY_SCORE}.")
    if validation is None:
        notes.append(f"Abstention thresholds were chosen on {table.split} itself, which flatters them.")
    return notes
