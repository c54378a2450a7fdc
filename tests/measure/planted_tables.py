"""Prediction tables whose truth is known, since it was planted."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_imgcls.measure.tables import PredictionTable


def make_table(
    label: Any,
    correct: Any,
    *,
    num_labels: int = 10,
    metadata: dict[str, list[Any]] | None = None,
    **others: Any,
) -> PredictionTable:
    """A table with these labels, where the answers that are not correct are the next class."""
    label, correct = np.asarray(label, dtype=np.int64), np.asarray(correct, dtype=bool)
    prediction = np.where(correct, label, (label + 1) % num_labels)
    columns = {
        "split": "test",
        "labels": [f"class {k}" for k in range(num_labels)],
        "sample_index": np.arange(len(label)),
        "label": label,
        "prediction": prediction,
        "log_loss": np.where(correct, 0.1, 2.0),
        "reference_rank": (~correct).astype(np.int64),
        "top_classes": prediction[:, None],
        "top_probabilities": np.full((len(label), 1), 0.9, dtype=np.float32),
        "files": [None] * len(label),
        "source": {"model": "a model", "fingerprint": "0123456789abcdef"},
    }
    return PredictionTable(**(columns | {"metadata": metadata or {}} | others))
