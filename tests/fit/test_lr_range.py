"""The learning-rate range test: the curve, what is read off it, and that nothing else is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from faults.processes import RUN, Run
from PIL import Image

from hf_imgcls.fit.lr_range import describe_curve, grow_learning_rate, read_curve
from hf_imgcls.layout import LR_RANGE_PICTURE


def test_the_rate_grows_by_the_same_factor():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    schedule = grow_learning_rate(optimizer, 200)
    rates = []
    for _ in range(200):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(1.0)
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(1e5) / 199, rtol=1e-6)


def test_a_curve_that_falls_at_a_hundredth():
    """Flat, a fall around 1e-3, and an explosion."""
    rates = np.geomspace(1e-5, 1, 200)
    losses = 2.3 - 1.5 / (1 + np.exp(-4 * (np.log10(rates) + 3))) + np.maximum(0, np.log10(rates) + 1) ** 2 * 10
    found = read_curve(losses.tolist(), 200)
    assert found.rates == pytest.approx(rates.tolist())
    assert 3e-4 < found.suggested < 1e-2  # smoothing looks back, and so comes a little late
    assert found.suggested < found.lowest < 0.3
    assert "--learning_rate" in describe_curve(found)
    assert read_curve([1.0, 2.0, 3.0], 200).suggested is None
    assert "no learning rate" in describe_curve(read_curve([1.0, 2.0, 3.0], 200))


def test_the_recipe_finds_a_rate_and_leaves_a_picture(tmp_path):
    run = Run(*RUN, "--find_lr", "--per_device_train_batch_size", "64", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    assert "The loss falls fastest at --learning_rate" in run.output
    suggested = float(run.output.partition("--learning_rate ")[2].split()[0])
    assert 1e-5 < suggested < 0.3
    assert "test split" not in run.output
    assert [path.name for path in run.folder.iterdir() if path.suffix] == [LR_RANGE_PICTURE]
    assert Image.open(run.folder / LR_RANGE_PICTURE).size == (1000, 600)
