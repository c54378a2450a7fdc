"""Client code that loads datasets from the stand-in for the Hub, and datasets in the layouts that the Hub has."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import datasets
from hub import Hub, Repository, run_client
from numbered_images import encode_png, make_dataset

LOADING = """
import dataclasses, json
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.errors import DataError

def load(**arguments):
    try:
        dataset = load_image_dataset(DataArguments(**arguments))
    except DataError as error:
        return {"error": str(error)}
    sizes = {role: len(split) for role, split in dataset.splits.items()}
    return {"sizes": sizes, "labels": dataset.labels, **dataclasses.asdict(dataset.record)}

def read_pairs(name, **arguments):
    dataset = load_image_dataset(DataArguments(dataset_name=name, train_val_split=0, **arguments))
    return sorted([row["sample_index"], dataset.labels[row["label"]]] for row in dataset.splits["test"])
"""


def run_loads(hub: Hub, home: Path, loads: dict[str, dict[str, Any]], **environment: str) -> dict[str, Any]:
    """Load datasets one after another in a client process: name -> what ``load`` returned."""
    code = LOADING + textwrap.dedent(
        f"""
        loads = json.loads({json.dumps(json.dumps(loads))})
        print(json.dumps({{name: load(**arguments) for name, arguments in loads.items()}}, default=int))
        """
    )
    return run_client(code, hub, home, **environment)


def write_parquet(dataset: datasets.Dataset, rows: int = 10) -> bytes:
    """A parquet file with so many rows per row group."""
    buffer = io.BytesIO()
    dataset.to_parquet(buffer, batch_size=rows)
    return buffer.getvalue()


def make_pets(count: int) -> datasets.Dataset:
    """Numbered images of two classes."""
    return make_dataset([index % 2 for index in range(count)], ["cat", "dog"])


def commit_conversion(hub: Hub, repository: Repository, configs: dict[str, dict[str, int]]) -> str:
    """Commit a conversion as the Hub makes it: configuration -> split -> number of images."""
    files = {
        f"{config}/{split}/0000.parquet": write_parquet(make_pets(count))
        for config, splits in configs.items()
        for split, count in splits.items()
    }
    return hub.commit(repository, files, branch="refs/convert/parquet")


def make_zip(counts: dict[str, int], top: str = "", *, metadata: bool = False) -> bytes:
    """An archive of class folders: folder -> number of images; metadata name the classes backwards."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if metadata:
            files = [(f"{label}/{index}.png", label[::-1]) for label, count in counts.items() for index in range(count)]
            rows = "".join(f"{name},{label}\n" for name, label in files)
            archive.writestr(f"{top}metadata.csv", f"file_name,label\n{rows}")
        for label, count in counts.items():
            for index in range(count):
                archive.writestr(f"{top}{label}/{index}.png", encode_png(index))
    return buffer.getvalue()


def make_tar(count: int) -> bytes:
    """A WebDataset shard of images and classes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for index in range(count):
            for suffix, content in (("png", encode_png(index)), ("cls", str(index % 2).encode())):
                member = tarfile.TarInfo(f"{index:04d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
