"""What --adaptation auto decides by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fit.test_probe import make_run
from sklearn.neighbors import KNeighborsClassifier

from hf_imgcls.classifier.features import Features
from hf_imgcls.fit.ladder import is_negligible, judge, train_auto
from hf_imgcls.fit.neighbours import ask_neighbours
from hf_imgcls.fit.probe import explain_no_probe, train_probe

# Without augmentation that a ResNet of some thousand weights would need long to learn from.
PLAIN = {
    "max_train_samples": 400, "max_eval_samples": 200, "random_crop_scale": [1.0, 1.0],
    "random_crop_ratio": [1.0, 1.0], "horizontal_flip_probability": 0.0,
}  # fmt: skip


def make_climb(folder, **training):
    defaults = {
        "num_train_epochs": 8, "learning_rate": 3e-3, "lr_scheduler_type": "cosine", "warmup_steps": 10,
        "save_strategy": "no", "logging_strategy": "no",
    }  # fmt: skip
    return make_run(
        folder, "resnet", fit={"adaptation": "auto", "freeze_batch_norm": True}, data=PLAIN,
        per_device_train_batch_size=32, **{**defaults, **training},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "images", "expected"),
    [(0, 90, False), (0, 298, False), (0, 299, True), (1, 299, False), (3, 1000, True)],
)
def test_nothing_is_fine_tuned_where_hardly_anything_is_wrong(errors, images, expected):
    assert is_negligible(errors, images) is expected


def test_the_lower_log_loss_is_kept_and_its_interval_is_of_pairs():
    random = np.random.default_rng(0)
    probe = random.exponential(2.0, 100)  # images differ much more than the models
    verdict = judge(probe, probe - 0.1 + random.normal(0, 0.2, 100))
    assert verdict.keeps_tuned
    assert verdict.interval[0] < -0.1 < verdict.interval[1] < 0
    assert verdict.difference == pytest.approx(np.mean(verdict.interval))
    assert not judge(probe, probe + random.normal(0.05, 0.01, 100)).keeps_tuned
    assert judge(probe, probe).keeps_tuned  # what was paid for


def test_the_interval_covers():
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        difference = random.gamma(2.0, 0.1, 90) - 0.15  # true mean: 0.05
        low, high = judge(np.zeros(90), difference).interval
        covered += low < 0.05 < high
    assert 0.92 < covered / 400 < 0.98


def test_fine_tuning_is_kept_where_it_is_better(tmp_path, caplog):
    run = make_climb(tmp_path)
    caplog.set_level("INFO", "hf_imgcls")
    result = train_auto(run.trainer, run.dataset, run.batches, run.args, None)
    assert "its model is kept" in caplog.text
    assert run.trainer.evaluate()["eval_accuracy"] > 0.85
    assert "train_penalty" not in result.metrics
    assert result.metrics["train_finetuned_validation_loss"] < result.metrics["train_probe_validation_loss"] - 0.1
    assert result.metrics["train_finetuned_validation_loss"] == pytest.approx(run.trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("training", [{"learning_rate": 1.0}, {"learning_rate": 1e30}])
def test_the_probe_is_kept_where_fine_tuning_is_ruined(training, tmp_path, caplog):
    run = make_climb(tmp_path, num_train_epochs=1, lr_scheduler_type="constant", warmup_steps=0, **training)
    result = train_auto(run.trainer, run.dataset, run.batches, run.args, None)
    assert result.metrics["train_penalty"] > 0
    assert run.trainer.evaluate()["eval_loss"] == pytest.approx(result.metrics["train_probe_validation_loss"], abs=1e-6)
    if training["learning_rate"] > 1:
        assert "fine-tuning failed, and the probe is kept" in caplog.text


def test_checkpoints_are_chosen_by_log_loss_unless_another_metric_is_named(tmp_path):
    evaluated = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    for name, expected, greater in (("auto", "log_loss", False), ("macro_f1", "macro_f1", True)):
        run = make_climb(tmp_path / name, metric_for_best_model=name, greater_is_better=True, **evaluated)
        assert run.trainer.args.metric_for_best_model == expected
        assert run.trainer.args.greater_is_better is greater


def test_fine_tuning_starts_from_the_probe(tmp_path):
    run = make_climb(tmp_path, num_train_epochs=1, learning_rate=1e-4)
    train_probe(run.trainer, run.dataset, run.batches, run.args)
    before = run.trainer.evaluate()["eval_loss"]
    run.trainer.train()
    assert run.trainer.evaluate()["eval_loss"] < before + 0.1


def test_why_there_can_be_no_probe(tmp_path, monkeypatch):
    run = make_run(tmp_path, fit={"adaptation": "full"})
    model = run.trainer.model
    assert explain_no_probe(model, run.args, (32, 32)) is None
    for part, changes, reason in (
        ("data", {"streaming": True}, "streaming true"),
        ("training", {"do_eval": False}, "do_eval false"),
    ):
        old = getattr(run.args, part)
        new = {**old, **changes} if part == "training" else dataclasses.replace(old, **changes)
        assert reason in explain_no_probe(model, dataclasses.replace(run.args, **{part: new}), (32, 32))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes" in explain_no_probe(model, run.args, (32, 32))
    monkeypatch.delenv("WORLD_SIZE")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: _double(forward(**inputs)))
    assert "not what its linear head makes" in explain_no_probe(model, run.args, (32, 32))
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 10))
    assert "consists of" in explain_no_probe(model, run.args, (32, 32))


def _double(output):
    output.logits = 2 * output.logits
    return output


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
