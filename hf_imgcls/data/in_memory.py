"""Data that is an object: written once into the cache of `datasets`, so that it can be named."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict

from hf_imgcls.errors import DataError


def keep_on_disk(data: Any) -> Path:
    """Write a dataset into the cache, under a name that follows from its content.

    A recipe, another process and a later command then find it. Removing the folder costs nothing but that.

    Args:
        data: A ``DatasetDict``; or a ``Dataset``, which is taken for the training split.

    Returns:
        The folder, in the form of ``save_to_disk``.

    Raises:
        DataError: It is something else.
    """
    splits = DatasetDict({"train": data}) if isinstance(data, Dataset) else data
    if not isinstance(splits, DatasetDict):
        raise DataError(
            f"the data is of type {type(data).__name__}",
            "a name, a path, a datasets.Dataset or a datasets.DatasetDict",
            "pass one of these",
        )
    content = "\n".join(f"{name} {split._fingerprint}" for name, split in splits.items())
    name = f"in_memory_{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_imgcls" / name
    if not folder.is_dir():
        unfinished = folder.with_name(f".{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        splits.save_to_disk(unfinished)
        unfinished.rename(folder)
    return folder
