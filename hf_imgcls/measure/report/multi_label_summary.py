"""From a multi-label prediction table to the numbers of a report. No model is needed, and no image.

Left out because they are not defined where an image may have several labels: top-k accuracy, confused pairs and the
risk-coverage curve of the first answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_imgcls.catalogue import THRESHOLDS, list_shown
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD, binary_log_losses, measure_decisions, sigmoid
from hf_imgcls.measure.metrics.single import measure_calibration_error
from hf_imgcls.measure.report.estimates import count_known
from hf_imgcls.measure.report.multi_label_estimates import (
    estimate_label_classes,
    estimate_label_metrics,
    rank_label_sets,
)
from hf_imgcls.measure.report.summary import check_same_classes, note_temperature, reject_validation
from hf_imgcls.measure.statistics.calibration import fit_sigmoid_temperature, measure_reliability, read_logits
from hf_imgcls.measure.statistics.confidence import judge_label_confidence
from hf_imgcls.measure.statistics.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL, wilson
from hf_imgcls.measure.tables import MultiLabelTable, unique_names
from hf_imgcls.records import MULTI_LABEL, ReportRecord

_MAX_PAIRS = 100
_MAX_EXAMPLES = 5


def summarise_label_sets(
    table: MultiLabelTable,
    *,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
    draws: int = DEFAULT_DRAWS,
    validation: MultiLabelTable | None = None,
) -> ReportRecord:
    """Compute every number that a prediction table holds; arguments as for `report.summary.summarise`.

    Args:
        table: The split that is measured.
        seed: Of the bootstrap; the same table and seed give the same record.
        level: Confidence level of all intervals.
        draws: Bootstrap samples.
        validation: The same model's table of the validation split, for the temperature.

    Returns:
        The record, with ``metrics``, ``per_class``, ``calibration`` and ``multi_label``.

    Raises:
        DataError: ``validation`` has other classes.
    """
    check_same_classes(table, validation)
    reason = reject_validation(table, validation)
    rankings = rank_label_sets(table, level)
    notes = note_temperature(table)
    notes.append(
        f"A class is answered from its threshold on ({table.source.get('thresholds_from', 'given')}). Precision, "
        "recall, F1, Hamming loss and subset accuracy depend on the thresholds, the other metrics do not."
    )
    if table.split == "validation" and table.source.get("thresholds_from", "").startswith("label_thresholds"):
        notes.append("Thresholds were tuned on this split itself, which flatters all that depends on them.")
    return ReportRecord(
        split=table.split,
        model=str(table.source.get("model", "")),
        data=str(table.source.get("data", "")),
        labels=table.labels,
        problem_type=MULTI_LABEL,
        num_examples=len(table),
        confidence_level=level,
        metrics=estimate_label_metrics(table, rankings, seed, level, draws),
        per_class=estimate_label_classes(table, rankings, seed, level, draws),
        calibration=_calibrate(table, None if reason else validation, reason, level),
        risk_coverage={},
        multi_label={
            "thresholds": describe_thresholds(table),
            "labels_per_image": float(table.targets.sum(axis=1).mean()),
            "answers_per_image": float(table.answers.sum(axis=1).mean()),
            "num_without_label": int((~table.targets.any(axis=1)).sum()),
            "num_without_answer": int((~table.answers.any(axis=1)).sum()),
            "mistakes": list_label_mistakes(table, level),
            "co_occurrence": list_co_occurrences(table),
        },
        notes=notes,
        num_classes=count_known(table),
    )


def describe_thresholds(table: MultiLabelTable) -> dict[str, Any]:
    """The thresholds, and what the same scores would be worth at 0.5.

    Returns:
        ``from``: where they come from; ``values``: class name -> threshold; ``at_half``: metric -> value with 0.5 for
        every class, None where all of them are 0.5.
    """
    half = None
    if (table.thresholds != DEFAULT_THRESHOLD).any():
        decided = measure_decisions(table.targets, table.scores >= DEFAULT_THRESHOLD)
        half = {name: decided[name].value for name in list_shown(THRESHOLDS, multi_label=True)}
    return {
        "from": table.source.get("thresholds_from", "given"),
        "values": dict(zip(unique_names(table.labels), table.thresholds.tolist(), strict=True)),
        "at_half": half,
    }


def list_label_mistakes(table: MultiLabelTable, level: float = DEFAULT_LEVEL) -> list[dict[str, Any]]:
    """How often each class is missed where it is, and invented where it is not; the most mistakes first.

    Returns:
        For each class that has a mistake or could have one: ``label``, ``label_id``, ``missed``, ``n`` (images that
        have it), ``missed_share`` with ``missed_low`` and ``missed_high`` (Wilson; None without such images), the same
        with ``invented`` and ``other_n`` (images without it), and the ``missed_samples`` and ``invented_samples`` of
        up to five images, the most certain mistakes first.
    """
    support, answered, correct = table.count_classes()
    n = len(table)
    missed, invented, others = support - correct, answered - correct, n - support
    missed_ends, invented_ends = wilson(missed, support, level), wilson(invented, others, level)
    names = unique_names(table.labels)
    entries = []
    for label in np.lexsort((np.arange(len(names)), -(missed + invented))).tolist():
        if not support[label] and not invented[label]:
            continue
        entry: dict[str, Any] = {"label": names[label], "label_id": label}
        for kind, count, size, ends, wrong in (
            ("missed", missed, support, missed_ends, table.targets[:, label] & ~table.answers[:, label]),
            ("invented", invented, others, invented_ends, ~table.targets[:, label] & table.answers[:, label]),
        ):
            has_any = bool(size[label])
            rows = np.flatnonzero(wrong)
            key = table.scores[rows, label] if kind == "missed" else -table.scores[rows, label]
            rows = rows[np.argsort(key, kind="stable")[:_MAX_EXAMPLES]]
            entry |= {
                kind: int(count[label]),
                "n" if kind == "missed" else "other_n": int(size[label]),
                f"{kind}_share": float(count[label] / size[label]) if has_any else None,
                f"{kind}_low": float(ends[0][label]) if has_any else None,
                f"{kind}_high": float(ends[1][label]) if has_any else None,
                f"{kind}_samples": table.sample_index[rows].tolist(),
            }
        entries.append(entry)
    return entries


def list_co_occurrences(table: MultiLabelTable) -> list[dict[str, Any]]:
    """Pairs of classes that go together: in the references, and in mistakes; up to 100, the most mistakes first.

    Returns:
        ``label``, ``other``; ``together``: images that have both; ``n``: images that have the label but not the other;
        ``invented``: those of them that are answered to have the other too; ``swapped``: those of these for which the
        label itself is missed, so that the one was taken for the other.
    """
    targets, answers = table.targets.astype(np.float32), table.answers.astype(np.float32)
    together = targets.T @ targets
    alone = targets.T @ (1 - targets)
    invented = targets.T @ (answers * (1 - targets))
    swapped = (targets * (1 - answers)).T @ (answers * (1 - targets))
    names = unique_names(table.labels)
    first, second = np.nonzero(invented)
    order = np.lexsort((second, first, -swapped[first, second], -invented[first, second]))[:_MAX_PAIRS]
    return [
        {
            "label": names[a],
            "other": names[b],
            "together": int(together[a, b]),
            "n": int(alone[a, b]),
            "invented": int(invented[a, b]),
            "swapped": int(swapped[a, b]),
        }
        for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True)
    ]


def _calibrate(table: MultiLabelTable, validation: MultiLabelTable | None, reason: str, level: float) -> dict[str, Any]:
    """The reliability diagram of all decisions, and the temperature that would improve it; keys as for one label."""
    positive, scores = table.targets.ravel(), table.scores.ravel().astype(np.float64)
    calibration: dict[str, Any] = {
        "bins": measure_reliability(positive, scores, level=level),
        "confidence": judge_label_confidence(table.targets, scores.reshape(table.scores.shape), level),
        "temperature": None,
    }
    if validation is not None:
        try:
            value = fit_sigmoid_temperature(read_logits(validation.scores), validation.targets)
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


def _compare_temperature(table: MultiLabelTable, temperature: float) -> dict[str, float]:
    logits = read_logits(table.scores) / temperature
    positive = table.targets.ravel()
    return {
        "ece_before": float(measure_calibration_error(positive, table.scores.ravel().astype(np.float64)).value or 0.0),
        "ece_after": float(measure_calibration_error(positive, sigmoid(logits).ravel()).value or 0.0),
        "log_loss_before": float(table.log_loss.mean()),
        "log_loss_after": float(binary_log_losses(logits, table.targets).mean()),
    }
