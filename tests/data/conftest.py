"""Image files, folders and parquet datasets, small enough to be made anew for each test."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hub import Hub, serve_hub
from PIL import Image

from hf_imgcls.arguments import DataArguments
from hf_imgcls.data.load import ImageDataset, load_image_dataset


def encode_png(value: int) -> bytes:
    """A 4x4 image whose pixels all are ``value``, so that images can be told apart."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value % 256).save(buffer, "PNG")
    return buffer.getvalue()


def decode_value(image: Mapping[str, Any]) -> int:
    """The value that ``encode_png`` was given."""
    return int(np.asarray(Image.open(io.BytesIO(image["bytes"])))[0, 0])


@pytest.fixture
def make_folders(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of class folders, given images per class; returns it."""

    def make(name: str, counts: Mapping[str, int]) -> Path:
        for label, count in counts.items():
            folder = tmp_path / name / label
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(encode_png(index))
        return tmp_path / name

    return make


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


@pytest.fixture
def make_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write splits as parquet files in Hub layout; returns the folder."""

    def make(splits: Mapping[str, datasets.Dataset], name: str = "parquet", *, files: int = 1, rows: int = 10) -> Path:
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        for split, dataset in splits.items():
            for index in range(files):
                part = dataset.shard(files, index, contiguous=True)
                part.to_parquet(folder / f"{split}-{index:05d}-of-{files:05d}.parquet", batch_size=rows)
        return folder.parent

    return make


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ImageDataset]:
    """Load with a ``datasets`` cache that only this test has."""

    def call(**arguments: Any) -> ImageDataset:
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        return load_image_dataset(DataArguments(cache_dir=str(tmp_path / "cache"), **arguments))

    return call


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub on the loopback interface."""
    with serve_hub(tmp_path / "hub") as running:
        yield running
