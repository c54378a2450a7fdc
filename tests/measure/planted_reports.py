"""Prediction tables, images and reports made up for tests, with names of classes that would like to do harm."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from measure.made_label_tables import make_label_table
from PIL import Image

from hf_imgcls.measure.report.goals import judge, parse_goals
from hf_imgcls.measure.report.slices import build_slices, relate_support_to_recall
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable
from hf_imgcls.records import Estimate, ReportRecord

HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    "</td></table><b>bold</b>",
    "\"quoted\" & 'single' $x_1$ {{ 7 * 7 }}",
    "قطة سوداء كبيرة",
    "שלום עולם",
    "猫",
    "line\nbreak\tand tab",
    "evil \u202eesrever",
    "a very long name that goes on and on, as those of scientific data sets do: Felis silvestris catus (Linnaeus 1758)",
    "\x00\x07 control",
]


def make_labels(num_labels: int) -> list[str]:
    return HOSTILE_NAMES[:num_labels] + [f"class {index:03d}" for index in range(len(HOSTILE_NAMES), num_labels)]


def make_table(num_labels: int = 10, num_examples: int = 600, labels: list[str] | None = None) -> PredictionTable:
    """A model that is mostly right, and mostly takes a class for the next one when it is not."""
    generator = np.random.default_rng(num_labels)
    label = np.arange(num_examples) % num_labels
    rows = np.arange(num_examples)
    logits = generator.normal(size=(num_examples, num_labels))
    logits[rows, label] += 3 + generator.normal(size=num_examples) + 0.5 * np.log(num_labels)
    logits[rows, (label + 1) % num_labels] += 1.5
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1, kind="stable")
    own = scores[rows, label]
    return PredictionTable(
        split="test",
        labels=labels or make_labels(num_labels),
        sample_index=2 * rows,
        label=label,
        prediction=order[:, 0],
        log_loss=-np.log(own),
        reference_rank=(scores > own[:, None]).sum(axis=1),
        top_classes=order,
        top_probabilities=np.take_along_axis(scores, order, axis=1).astype(np.float32),
        files=[f"photos/<i>{row}.png" for row in rows],
        metadata={
            "camera <i>": [("phone & co", "mirror")[row % 2] for row in rows],
            "rare": ["x"] * 3 + ["y"] * (num_examples - 3),
        },
        source={"model": "outputs/<b>model</b>", "data": "folder photos", "fingerprint": "0123456789abcdef"},
    )


def make_record(table: PredictionTable) -> ReportRecord:
    """A report of which every part is there but gallery and explanations."""
    validation = make_table(len(table.labels), len(table) + 1, labels=table.labels)
    validation = dataclasses.replace(validation, split="validation", source={**table.source, "fingerprint": "another"})
    record = summarise(table, validation=validation, draws=50)
    timed = {
        f"{name}{end}_ms": value + shift
        for name, value in (("p50", 31.5), ("p95", 44.25))
        for end, shift in (("", 0.0), ("_low", -1.0), ("_high", 1.0))
    }
    record = dataclasses.replace(
        record,
        slices=build_slices(table, list(table.metadata)),
        imbalance=relate_support_to_recall(table, {name: 10 + index for index, name in enumerate(table.labels)}),
        latency={
            "device_name": "a <processor>",
            "threads": 2,
            "size_mb": 343.25,
            "pipeline": {"timed": "pipeline(image)", "n": 100, **timed},
            "model": {"timed": "model(pixel_values)", "n": 100, **timed, "p95_high_ms": None},
        },
    )
    goals = ["accuracy>=0.2", "worst_class_recall>=0.999", "latency_p95_ms<=44.5"]
    record.goals = [judge(goal, record) for goal in parse_goals(goals)]
    return record


def make_several_labels(num_labels: int, num_examples: int = 400, split: str = "test") -> MultiLabelTable:
    """A multi-label model that is mostly right, about classes of which the last are rare."""
    generator = np.random.default_rng([num_labels, len(split)])
    targets = generator.random((num_examples, num_labels)) < np.geomspace(0.5, 0.05, num_labels)
    logits = 1.7 * generator.normal(size=targets.shape) + np.where(targets, 2.0, -3.0)
    table = make_label_table(
        logits,
        targets,
        split=split,
        labels=make_labels(num_labels),
        thresholds=np.linspace(0.3, 0.6, num_labels),
        source={"model": "outputs/<b>model</b>", "data": "folder photos", "fingerprint": split},
    )
    table.metadata["camera <i>"] = generator.choice(["phone & co", "mirror"], num_examples).tolist()
    table.sample_index = 2 * np.arange(num_examples)  # as `make_images` has it
    table.files = [f"photos/<i>{row}.png" for row in range(num_examples)]
    return table


def make_several_labels_record(table: MultiLabelTable) -> ReportRecord:
    """A multi-label report of which every part is there but gallery, explanations and latency."""
    validation = make_several_labels(len(table.labels), split="validation")
    record = summarise(table, validation=validation, draws=50)
    record.slices = build_slices(table, list(table.metadata))
    record.imbalance = relate_support_to_recall(table, {name: 10 + index for index, name in enumerate(table.labels)})
    record.goals = [judge(goal, record) for goal in parse_goals(["mean_average_precision>=0.3", "micro_f1>=0.99"])]
    return record


def make_bare_record(table: PredictionTable) -> ReportRecord:
    """A report of which nearly nothing could be measured."""
    nothing = Estimate(None, None, None, 0, "none", "the probabilities were not kept")
    return ReportRecord(
        split=table.split,
        model="m",
        data="d",
        labels=table.labels,
        num_examples=len(table),
        confidence_level=0.95,
        metrics={"accuracy": Estimate(2 / 3, 0.2, 0.9, 3, "wilson"), "roc_auc": nothing},
        per_class={table.labels[0]: {"recall": nothing}},
        calibration={},
        risk_coverage={},
    )


def make_images(labels: list[int], names: list[str], size: tuple[int, int] = (12, 8)) -> Dataset:
    """A split of noise; sample_index is twice the row, as in `make_table`."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in labels:
        buffer = io.BytesIO()
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, format="PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    features = Features(
        {"image": ImageFeature(decode=False), "label": ClassLabel(names=names), "sample_index": Value("int64")}
    )
    indices = list(range(0, 2 * len(labels), 2))
    return Dataset.from_dict({"image": rows, "label": labels, "sample_index": indices}, features=features)
