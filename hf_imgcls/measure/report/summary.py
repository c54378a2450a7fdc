"""From a prediction table to the numbers of a report. No model is needed, and no image."""

from __future__ import annotations

from typing import Any

from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.single import measure_calibration_error
from hf_imgcls.measure.report.estimates import count_known, estimate_classes, estimate_metrics, rank_classes
from hf_imgcls.measure.report.sections import describe_task
from hf_imgcls.measure.statistics.calibration import measure_reliability
from hf_imgcls.measure.statistics.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import ReportRecord


def summarise(
    table: Table,
    *,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
    draws: int = DEFAULT_DRAWS,
    validation: Table | None = None,
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
        The record, with ``metrics``, ``per_class``, ``calibration``, and the sections of
        `hf_imgcls.measure.report.sections`.

    Raises:
        DataError: ``validation`` has other classes.
    """
    _check_same_classes(table, validation)
    reason = _reject_validation(table, validation)
    usable = None if reason else validation
    rankings = rank_classes(table, level)
    sections = describe_task(table, usable, level)
    return ReportRecord(
        split=table.split,
        model=str(table.source.get("model", "")),
        data=str(table.source.get("data", "")),
        labels=table.labels,
        problem_type=table.problem_type,
        num_examples=len(table),
        confidence_level=level,
        metrics=estimate_metrics(table, rankings, seed, level, draws),
        per_class=estimate_classes(table, rankings, seed, level, draws),
        calibration=_calibrate(table, usable, reason, level),
        num_classes=count_known(table),
        **sections | {"notes": _note_temperature(table) + sections["notes"]},
    )


def _check_same_classes(table: Table, validation: Table | None) -> None:
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


def _reject_validation(table: Table, validation: Table | None) -> str:
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


def _note_temperature(table: Table) -> list[str]:
    """Say that a temperature is folded into the model already: one sentence, or none."""
    if (folded := table.source.get("temperature", 1.0)) == 1.0:
        return []
    return [f"The model's scores were calibrated before: a temperature of {folded:.4g} is folded into its head."]


def _calibrate(table: Table, validation: Table | None, reason: str, level: float) -> dict[str, Any]:
    """Compute the reliability diagram, and the temperature that would improve it.

    Returns:
        ``bins``, see `measure_reliability`; ``confidence``, see `hf_imgcls.measure.statistics.confidence`;
        ``temperature``: None, with ``temperature_remark``, or its ``value``, the split and number of examples that it
        was ``fitted_on``, and ``ece`` and ``log_loss`` ``before`` and ``after`` on the split that is measured and,
        under ``on_validation``, where it was fitted.
    """
    task = task_of(table)
    calibration: dict[str, Any] = {
        "bins": measure_reliability(*task.pair_scores(table), level=level),
        "confidence": task.judge_confidence(table, level),
        "temperature": None,
    }
    if validation is not None:
        try:
            value = task.fit_temperature(validation)
        except DataError as error:
            reason = error.found
        else:
            calibration["temperature"] = {
                "value": value,
                "fitted_on": validation.split,
                "n": len(validation),
                "on_validation": _compare_temperature(validation, value),
                **_compare_temperature(table, value),
            }
            return calibration
    return calibration | {"temperature_remark": reason}


def _compare_temperature(table: Table, temperature: float) -> dict[str, float]:
    task = task_of(table)
    correct, before = task.pair_scores(table)
    after, log_loss = task.apply_temperature(table, temperature)
    return {
        "ece_before": float(measure_calibration_error(correct, before).value or 0.0),
        "ece_after": float(measure_calibration_error(correct, after).value or 0.0),
        "log_loss_before": float(table.log_loss.mean()),
        "log_loss_after": float(log_loss.mean()),
    }
