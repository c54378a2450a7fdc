"""A fine-tuned model beside its baselines: in the log, the results, the report and the card, and measured again."""

from __future__ import annotations

import json

import pytest
import torch
from faults.processes import Run, weights_hash
from lifecycle.command_lines import SMALL_DIGITS
from tiny_models import TINY_CONFIGS
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_imgcls.measure import probe_baseline
from hf_imgcls.measure.baselines import PROBE_FILE


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def base(tmp_path):
    """A small ViT in a folder, and the flags of runs that begin with it."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=4, image_size=16
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "base")
    flags = [*SMALL_DIGITS[:-2], "--cache_dir", str(tmp_path / "cache"), "--adaptation", "full"]  # with a report
    return [*flags, "--model_name_or_path", str(tmp_path / "base")]


def test_a_model_that_is_no_better_than_the_probe_says_so_first(base, run_recipe, tmp_path, caplog):
    folder = tmp_path / "run"
    run = run_recipe("finetune", *base, "--max_steps", "2", "--learning_rate", "1e-6", "--output_dir", folder)
    assert run.exit_code == 0, run.err
    assert "Baseline: a linear probe of 256 images" in caplog.text
    first = run.out[run.out.index("Not better than") :].splitlines()[0]
    assert run.out.index(first) < run.out.index("test split, 61 examples")
    told = read(folder, "test_results.json")["test_baselines"]
    assert told["shortfall"] == first
    assert [item["name"] for item in told["compared"]] == ["largest class", "linear probe"]
    assert all(item["comparison"]["difference"]["n"] == 61 for item in told["compared"])
    assert read(folder, "report/report.json")["baselines"] == told
    page = (folder / "report" / "report.html").read_text()
    assert page.index("Not better than") < page.index("Verdict on the goals")
    assert "Baselines on the same images" in page
    card = (folder / "README.md").read_text()
    assert card.index("Not better than") < card.index("At a glance")

    again = run_recipe("measure", "--model_name_or_path", folder, "--output_dir", tmp_path / "again")
    assert again.exit_code == 0, again.err
    assert first in again.out
    assert read(tmp_path / "again", "test_results.json")["test_baselines"] == told
    compared = run_recipe("measure", "--compare", folder / PROBE_FILE.format(split="test"), folder)
    assert compared.exit_code == 0, compared.err
    assert "linear probe" in compared.out


@pytest.mark.slow
def test_a_run_that_was_killed_comes_to_the_same_baselines(base, tmp_path):
    flags = [*base, "--num_train_epochs", "3", "--save_steps", "5", "--eval_steps", "5", "--report", "false"]
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    run = Run(*flags, folder=tmp_path / "cut")
    run.wait_for("checkpoint-10")
    run.kill()
    assert run.wait() == -9
    resumed = Run(*flags, folder=tmp_path / "cut")
    assert resumed.wait() == 0, resumed.output
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")
    results = [read(tmp_path / name, "test_results.json")["test_baselines"] for name in ("whole", "cut")]
    assert results[0] == results[1]
    assert results[0]["compared"][1]["comparison"] is not None


@pytest.mark.slow
def test_training_does_not_notice_the_probe(base, run_recipe, tmp_path, monkeypatch, caplog):
    flags = [*base, "--max_steps", "6", "--report", "false"]
    assert run_recipe("finetune", *flags, "--output_dir", tmp_path / "with").exit_code == 0
    monkeypatch.setattr(probe_baseline, "MOST_CLASSES", 9)  # of 10
    assert run_recipe("finetune", *flags, "--output_dir", tmp_path / "without").exit_code == 0
    assert "images are few for 10 classes" in caplog.text
    assert not (tmp_path / "without" / PROBE_FILE.format(split="test")).exists()
    assert weights_hash(tmp_path / "with") == weights_hash(tmp_path / "without")


@pytest.mark.slow
def test_auto_is_held_against_the_probe_that_it_began_with(base, run_recipe, tmp_path, caplog):
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_CONFIGS["resnet"])).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    flags = [{"full": "auto", str(tmp_path / "base"): tmp_path / "resnet"}.get(word, word) for word in base]
    flags += ["--image_size", "32", "--augmentation", "none", "--num_train_epochs", "12", "--report", "false"]
    run = run_recipe("finetune", *flags, "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    assert "its model is kept" in caplog.text
    assert "Baseline: " not in caplog.text  # the probe is there already
    results = read(tmp_path / "run", "test_results.json")
    probe = results["test_baselines"]["compared"][1]
    assert (probe["name"], probe["num_train"]) == ("linear probe", 256)
    assert probe["comparison"]["b"] == results["test_accuracy"]
