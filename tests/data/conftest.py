"""Image files, folders and parquet datasets, small enough to be made anew for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from hub import Hub, serve_hub
from numbered_images import encode_png

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.load import load_image_dataset


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
