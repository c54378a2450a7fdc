"""Multi-label prediction tables out of thin air, with the oddities that real ones have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hf_imgcls.measure.metrics.accumulate import MultiLabelAccumulator
from hf_imgcls.measure.tables import MultiLabelTable

LABEL_CASES = {
    "random": (400, 8),
    "absent classes": (80, 6),
    "in every image": (60, 4),
    "nothing answered": (50, 3),
    "images without labels": (90, 5),
    "ties": (200, 5),
    "saturated": (100, 6),
    "one example": (1, 4),
    "all right": (60, 5),
}


def make_label_logits(case: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float64 logits and (N, K) bool labels of a named case."""
    generator = np.random.default_rng([seed, sorted(LABEL_CASES).index(case)])
    num_examples, num_labels = LABEL_CASES[case]
    targets = generator.random((num_examples, num_labels)) < np.linspace(0.1, 0.6, num_labels)
    targets[0, 0] = True
    if case == "absent classes":  # 2 and 3 have no references; 3 is never answered either
        targets[:, 2:4] = False
    if case == "in every image":
        targets[:, 1] = True
    if case == "images without labels":
        targets[::3] = False
    logits = generator.normal(size=targets.shape) * 2 + np.where(targets, 1.5, -1.5)
    if case == "absent classes":
        logits[:, 3], logits[:, 2] = -50.0, np.abs(logits[:, 2])
    if case == "nothing answered":
        logits -= 50
    if case == "ties":
        logits = np.round(logits / 2)
    if case == "saturated":
        logits *= 200
    if case == "all right":
        logits = np.where(targets, 20.0, -20.0)
    return logits, targets


def make_label_table(
    logits: np.ndarray, targets: np.ndarray, split: str = "test", thresholds: Any = None, **options: Any
) -> MultiLabelTable:
    """A table of these answers, as scoring makes it: batch by batch, in any order."""
    num_labels = logits.shape[1]
    accumulator = MultiLabelAccumulator(num_labels, thresholds)
    order = np.random.default_rng(0).permutation(len(targets))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        accumulator.update(logits[rows], targets[rows].astype(np.float32), 3 * rows + 1)
    options.setdefault("labels", [f"class {index}" for index in range(num_labels)])
    examples = accumulator.collect_examples()
    return MultiLabelTable.from_examples(examples, split=split, thresholds=accumulator.thresholds, **options)


def make_label_case(case: str, split: str = "test", seed: int = 0, thresholds: Any = None) -> MultiLabelTable:
    """The table of a named case."""
    source = {"model": "a model", "data": "some data"}
    return make_label_table(*make_label_logits(case, seed), split=split, source=source, thresholds=thresholds)


def read_label_columns(path: Path) -> dict[str, Any]:
    """A saved table, read by pyarrow alone: ``targets``, ``scores`` and ``thresholds`` as arrays, ``log_loss``."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"hf_imgcls.predictions"])
    targets = np.zeros((len(table), len(about["labels"])), dtype=int)
    for row, own in enumerate(table["labels"].to_pylist()):
        targets[row, own] = 1
    return {
        **about,
        "targets": targets,
        "scores": np.array(table["probabilities"].to_pylist(), dtype=np.float64),
        "log_loss": table["log_loss"].to_numpy(),
        "thresholds": np.array(about["thresholds"]),
    }
