"""Whole runs from Python with code of the user's: a module as the model, a transform, a loss and a callback."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import hf_imgcls
from hf_imgcls.errors import ArgumentError


class Network(nn.Module):
    """A few convolutions; answers with a plain tensor."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
        )  # fmt: skip

    def forward(self, pixel_values):
        return self.layers(pixel_values)


class Count(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def cross_entropy(logits, labels, num_examples):
    return nn.functional.cross_entropy(logits, labels, reduction="sum") / num_examples


def darken(pixel_values):
    return pixel_values - pixel_values // 8


@pytest.mark.slow
def test_a_run_of_a_users_own_parts(tmp_path):
    torch.manual_seed(0)
    data = hf_imgcls.load_data("digits", max_train_samples=400)
    count = Count()
    options = {"use_cpu": True, "disable_tqdm": True, "image_size": 16, "report": "false", "learning_rate": 1e-2}
    run = hf_imgcls.train(
        data, Network(), output_dir=tmp_path / "run", train_transform=darken, loss=cross_entropy, callbacks=[count],
        max_steps=120, augmentation="none", calibrate=True, **options,
    )  # fmt: skip
    assert count.steps == 120
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["hooks"] == {
        "train_transform": f"{__name__}.darken", "loss": f"{__name__}.cross_entropy",
        "callbacks": f"{__name__}.Count", "model": f"{__name__}.Network",
    }  # fmt: skip
    assert record["base_model"] is None
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert results["test_accuracy"] > 0.5
    assert json.loads((tmp_path / "run" / "parity.json").read_text())["top1_agreement"] == 1.0
    assert "Code that the recipe does not hold took part" in (tmp_path / "run" / "README.md").read_text()
    assert "loss: " in (tmp_path / "run" / "recipe.yaml").read_text()
    assert run.folder == tmp_path / "run"
    with pytest.raises(ArgumentError, match="hook model with export_formats"):
        hf_imgcls.train(data, Network(), output_dir=tmp_path / "other", export_formats=["onnx"], **options)
