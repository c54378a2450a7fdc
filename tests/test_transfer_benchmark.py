"""benchmarks/transfer.py: its table, its interval, and one cell of it run for real."""

from __future__ import annotations

import argparse
import importlib

import pytest
import torch
from places import REPOSITORY
from scipy.stats import ttest_1samp
from tiny_models import TINY_CONFIGS
from transformers import ViTConfig, ViTForImageClassification

from hf_imgcls.compat.models import plain_image_processor_class


@pytest.fixture
def transfer(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("transfer")


def test_the_interval_is_students(transfer):
    values = [0.71, 0.74, 0.70, 0.78, 0.73]
    mean, half = transfer.estimate_mean(values)
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))


def test_the_table_compares_the_probe_with_the_head_on_the_same_draws(transfer, tmp_path):
    cells = {
        ("probe", 10): [{"accuracy": 0.6, "seconds": 2.0}, {"accuracy": 0.7, "seconds": 4.0}],
        ("head", 10): [{"accuracy": 0.6, "seconds": 20.0}, {"accuracy": 0.6, "seconds": 80.0}],
        ("full", 100): [{"accuracy": 0.8, "seconds": 9.0}],
    }
    table = transfer.build_table(cells)
    assert table[1].split() == ["probe", "10", "2", "0.6500", "+-", "0.6353", "3.0"]
    assert table[3].split() == ["full", "100", "1", "0.8000", "(one", "seed)", "9.0"]
    assert table[-1] == "head / probe at 10 images per class: 15.0 x the seconds"
    transfer.draw(cells, str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_cell_is_a_run_of_the_recipe(transfer, tmp_path):
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**TINY_CONFIGS["vit"], image_size=32)).save_pretrained(tmp_path / "backbone")
    plain_image_processor_class()(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "backbone")
    options = argparse.Namespace(
        backbone=tmp_path / "backbone", dataset_name="digits", image_size=32, num_test=50, epochs=1, gpu=False
    )
    cell = transfer.run_cell("probe", 5, 0, tmp_path, options)
    assert 0.1 < cell["accuracy"] < 1
    assert cell["seconds"] > 0
