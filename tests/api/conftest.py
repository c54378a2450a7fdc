"""A run that others look at, made by the public functions."""

from __future__ import annotations

import pytest

import hf_imgcls as ic

TINY = {
    "model_type": "vit", "image_size": 16,
    "model_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
                     "patch_size": 4},
    "use_cpu": True, "disable_tqdm": True, "report": False, "learning_rate": 3e-3, "num_train_epochs": 1,
    "horizontal_flip_probability": 0,
}  # fmt: skip
SMALL = {"max_train_samples": 256, "max_eval_samples": 61, "max_test_samples": 61}


@pytest.fixture(scope="session")
def digits():
    return ic.load_data("digits", **SMALL)


@pytest.fixture(scope="session")
def run(digits, tmp_path_factory):
    return ic.train(digits, output_dir=tmp_path_factory.mktemp("api") / "run", **TINY)
