"""Images that can be told apart by their value, and datasets of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from PIL import Image


def encode_png(value: int) -> bytes:
    """A 4x4 image whose pixels all are ``value``, so that images can be told apart."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value % 256).save(buffer, "PNG")
    return buffer.getvalue()


def decode_value(image: Mapping[str, Any]) -> int:
    """The value that ``encode_png`` was given."""
    return int(np.asarray(Image.open(io.BytesIO(image["bytes"])))[0, 0])


def make_dataset(
    labels: Sequence[Any], names: Sequence[str] | None = None, image_column: str = "image", label_column: str = "label"
) -> datasets.Dataset:
    """A dataset whose n-th image has the value n; with ``names`` the label is a ``ClassLabel``."""
    features = datasets.Features({image_column: datasets.Image()})
    if names is not None:
        features[label_column] = datasets.ClassLabel(names=list(names))
    elif labels and isinstance(next((label for label in labels if label is not None), ""), str):
        features[label_column] = datasets.Value("string")
    else:
        features[label_column] = datasets.Dataset.from_dict({"x": list(labels)}).features["x"]
    rows = {
        image_column: [{"bytes": encode_png(index), "path": None} for index in range(len(labels))],
        label_column: list(labels),
    }
    return datasets.Dataset.from_dict(rows, features=features)
