"""Shared by all tests."""

from __future__ import annotations

import os

# Set before any Hugging Face library is imported: the suite must not depend on the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As in a recipe (hf_imgcls.process): threads that wait do not spin, which would take the core from others.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from pathlib import Path

import pytest
from places import REPOSITORY

# What computes with NumPy alone, or writes text and pictures: it does the same on both transformers lines.
SAME_ON_BOTH_LINES = {
    "arguments": ("publish_arguments", "push_arguments"),
    "classifier": ("decode",),
    "data": ("augmentation", "cache", "safety", "shots", "splits"),
    "measure": (
        "compare", "coverage", "differences", "goals", "intervals", "metrics", "multilabel_metrics",
        "multilabel_report", "page", "plots", "repeats", "slices", "summary", "tables",
    ),
    "publish": ("lint",),
}  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many processes as cores: a test spends about half of its time waiting for a process or a server."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    same = {f"{folder}/test_{name}.py" for folder, names in SAME_ON_BOTH_LINES.items() for name in names}
    missing = [name for name in same if not (REPOSITORY / "tests" / name).exists()]
    assert not missing, f"SAME_ON_BOTH_LINES names {missing}"
    for item in items:
        if item.path.relative_to(REPOSITORY / "tests").as_posix() in same:
            item.add_marker("same_on_both_lines")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
