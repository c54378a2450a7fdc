"""What --adaptation auto decides by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fit.test_probe import make_run
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments import DataArguments, FitArguments
from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.ladder import ask_neighbours, can_pay, climb, did_pay
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.probe import Features


@pytest.mark.parametrize(("errors", "expected"), [(0, False), (1, False), (5, False), (6, True), (500, True)])
def test_a_gain_needs_room(errors, expected):
    assert can_pay(errors) is expected


@pytest.mark.parametrize("won", range(0, 31, 3))
def test_it_pays_where_the_exact_test_says_so(won):
    pays, words = did_pay(won, 30)
    assert pays == (won > 15 and binomtest(won, 30).pvalue < 0.05)
    assert "share" in words
    assert did_pay(0, 0) == (False, "")


def test_neighbours_vote_as_scikit_learns_do():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 9000)
    values = (random.normal(size=(9000, 4)) + 2 * np.eye(4)[labels]).astype(np.float32)
    train, validation = Features(values[:8500], labels[:8500], 0.0), Features(values[8500:], labels[8500:], 0.0)
    right = ask_neighbours(train, validation, 3, torch.device("cpu"))  # more than one chunk of them
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = reference.fit(train.values, train.labels).predict(validation.values) == validation.labels
    assert (right != expected).mean() < 0.005
    assert right.mean() > 0.7


def test_of_many_images_a_thousand_are_asked_about():
    labels = np.arange(2500) % 2
    part = Features(np.eye(2, dtype=np.float32)[labels], labels, 0.0)
    right = ask_neighbours(part, part, 2, torch.device("cpu"))
    assert 500 < len(right) <= 1000
    assert right.all()


def test_fine_tuning_is_kept_where_it_pays(tmp_path, caplog):
    data = {
        "max_train_samples": 400, "max_eval_samples": 200, "random_crop_scale": [1.0, 1.0],
        "random_crop_ratio": [1.0, 1.0], "horizontal_flip_probability": 0.0,
    }  # fmt: skip
    run = make_run(
        tmp_path, "resnet", fit={"adaptation": "auto", "auto_finetune": "full"}, data=data, num_train_epochs=8,
        per_device_train_batch_size=32, learning_rate=1e-2, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    caplog.set_level("INFO", "hf_imgcls")
    result = climb(run.trainer, run.dataset, run.batches, run.args, None)
    assert "20 nearest neighbours" in caplog.text
    assert ": it is kept" in caplog.text
    assert run.trainer.evaluate()["eval_accuracy"] > 0.85
    assert "train_penalty" not in result.metrics


def test_several_labels_are_refused_before_any_work():
    fit = FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"], adaptation="auto", auto_finetune="full")
    model, _ = build_model(fit, DataArguments(image_size=32), ["a", "b"], multi_label=True)
    with pytest.raises(ArgumentError, match="adaptation auto with several labels") as error:
        adapt_model(model, fit)
    assert "--compare" in error.value.fix
