"""What a report says of a prediction table beside metrics, classes and calibration: other things for each task.

With one label per image these are the risk-coverage curve and the confused pairs; with several the thresholds, each
class's mistakes and the classes that go together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hf_imgcls.catalogue import THRESHOLDS, list_shown
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD, measure_decisions
from hf_imgcls.measure.metrics.top_scores import NOT_EVERY_SCORE
from hf_imgcls.measure.statistics.intervals import DEFAULT_LEVEL, wilson
from hf_imgcls.measure.statistics.selective import measure_risk_coverage
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable, Table, unique_names

_MAX_PAIRS = 100
_MAX_EXAMPLES = 5


def describe_task(table: Table, validation: Table | None, level: float) -> dict[str, Any]:
    """Compute the sections of a report that only tables of this kind have.

    Args:
        table: The split that is measured.
        validation: The same model's table of the validation split, if something may be chosen on it.
        level: Confidence level of all intervals.

    Returns:
        Attributes of `hf_imgcls.records.ReportRecord`: ``risk_coverage``, ``confused_pairs`` or ``multi_label``, and
        ``notes``.
    """
    return _SECTIONS[table.problem_type](table, validation, level)


def _describe_single(table: PredictionTable, validation: PredictionTable | None, level: float) -> dict[str, Any]:
    notes = [] if table.is_complete else [f"Some numbers are missing: {NOT_EVERY_SCORE}."]
    if validation is None:
        notes.append(f"Abstention thresholds were chosen on {table.split} itself, which flatters them.")
    return {
        "risk_coverage": measure_risk_coverage(table, validation, level),
        "confused_pairs": list_confused_pairs(table),
        "notes": notes,
    }


def _describe_multi(table: MultiLabelTable, validation: MultiLabelTable | None, level: float) -> dict[str, Any]:
    origin = table.source.get("thresholds_from", "given")
    notes = [
        f"A class is answered from its threshold on ({origin}). Precision, recall, F1, Hamming loss and subset "
        "accuracy depend on the thresholds, the other metrics do not."
    ]
    if table.split == "validation" and origin.startswith("label_thresholds"):
        notes.append("Thresholds were tuned on this split itself, which flatters all that depends on them.")
    content = {
        "thresholds": describe_thresholds(table),
        "labels_per_image": float(table.targets.sum(axis=1).mean()),
        "answers_per_image": float(table.answers.sum(axis=1).mean()),
        "num_without_label": int((~table.targets.any(axis=1)).sum()),
        "num_without_answer": int((~table.answers.any(axis=1)).sum()),
        "mistakes": list_label_mistakes(table, level),
        "co_occurrence": list_co_occurrences(table),
    }
    return {"risk_coverage": {}, "multi_label": content, "notes": notes}


_SECTIONS: Mapping[str, Callable[[Any, Any, float], dict[str, Any]]] = {
    PredictionTable.problem_type: _describe_single,
    MultiLabelTable.problem_type: _describe_multi,
}


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
        members = members[np.argsort(-confidence[members], kind="stable")[:_MAX_EXAMPLES]]
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
