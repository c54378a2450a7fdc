"""Prediction tables out of thin air, with the oddities that real ones have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator
from hf_imgcls.measure.metrics.top_scores import TopScores
from hf_imgcls.measure.tables import PredictionTable
from hf_imgcls.measure.task import SINGLE

CASES = {
    "random": (500, 12),
    "absent classes": (80, 7),
    "never predicted": (80, 6),
    "one class": (30, 8),
    "ties": (300, 9),
    "saturated": (100, 10),
    "two classes": (101, 2),
    "one example": (1, 6),
    "all right": (60, 5),
    "hundred classes": (350, 100),
    "many classes": (60, 1001),
}


def make_logits(case: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float64 logits and (N,) labels of a named case."""
    generator = np.random.default_rng([seed, sorted(CASES).index(case)])
    num_examples, num_labels = CASES[case]
    logits = generator.normal(scale=3.0, size=(num_examples, num_labels))
    labels = generator.integers(0, num_labels, num_examples)
    logits[np.arange(num_examples), labels] += 4.0
    if case == "absent classes":  # 2 and 3 have no references; 3 is never predicted either
        labels[(labels == 2) | (labels == 3)] = 0
        logits[:, 3] = -50.0
    if case == "never predicted":
        logits[:, 1] = -50.0
    if case == "one class":
        labels[:] = 4
    if case == "ties":
        logits = np.round(logits / 3.0)
    if case == "saturated":
        logits *= 200.0
    if case == "all right":
        logits[np.arange(num_examples), labels] = 20.0
    return logits, labels


def make_table(logits: np.ndarray, references: np.ndarray, split: str = "test", **options: Any) -> PredictionTable:
    """A table of these answers, as scoring makes it: batch by batch, in any order."""
    num_labels = logits.shape[1]
    accumulator = ClassificationAccumulator(num_labels, top=TopScores(num_labels))
    order = np.random.default_rng(0).permutation(len(references))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        accumulator.update(logits[rows], references[rows], 3 * rows + 1)
    options.setdefault("labels", [f"class {index}" for index in range(num_labels)])
    table = SINGLE.collect_table(accumulator, split=split, **options)
    assert isinstance(table, PredictionTable)
    return table


def make_case(case: str, split: str = "test", seed: int = 0) -> PredictionTable:
    """The table of a named case."""
    return make_table(*make_logits(case, seed), split=split, source={"model": "a model", "data": "some data"})


def read_columns(path: Path) -> dict[str, Any]:
    """A saved table, read by pyarrow alone: its columns as arrays, and ``labels``; ``probabilities`` by class id."""
    table = pq.read_table(path)
    labels = json.loads(table.schema.metadata[b"hf_imgcls.predictions"])["labels"]
    columns = {name: table[name].to_pylist() for name in table.column_names}
    arrays = {name: np.array(values) for name, values in columns.items() if name != "file"}
    probabilities = np.zeros((len(table), len(labels)))
    for row, (classes, scores) in enumerate(zip(columns["top_classes"], columns["top_probabilities"], strict=True)):
        probabilities[row, classes] = scores
    return {**arrays, "labels": labels, "probabilities": probabilities}
