"""Shared by all tests."""

from __future__ import annotations

import os

# Set before any Hugging Face library is imported: the suite must not depend on the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A tiny model is slower with two threads than with one, and far slower where another process wants the second core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from pathlib import Path

import pytest
from places import REPOSITORY


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deadline", type=float, help="leave out slow tests that would begin after this Unix time")
    parser.addoption("--end", type=float, help="leave out every test that would begin after this Unix time")


def pytest_runtest_setup(item: pytest.Item) -> None:
    deadline, end = item.config.getoption("--deadline"), item.config.getoption("--end")
    if deadline is not None and time.time() > deadline and item.get_closest_marker("slow"):
        pytest.skip("slow, and the time is up")
    if end is not None and time.time() > end:
        pytest.skip("the time is up")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
