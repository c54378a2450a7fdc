"""The rungs of --adaptation from the command line: probe, partial, gradual unfreezing, few shots."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def flags(tmp_path):
    return (*SMALL_DIGITS, *TINY_VIT, "--cache_dir", tmp_path / "cache")


@pytest.fixture
def run_recipe(run_recipe, monkeypatch):
    """As it is, but for what an earlier run in this process leaves: the mark of a launcher, and so more threads."""

    def run(*words):
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        return run_recipe(*words)

    return run


def test_a_probe_leaves_what_every_run_leaves(run_recipe, flags, tmp_path, caplog):
    run = run_recipe("finetune", *flags, "--adaptation", "probe", "--calibrate", "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    assert "adaptation probe neither augments nor takes steps" in caplog.text
    assert read(tmp_path / "run", "parity.json")["top1_agreement"] == 1.0
    everything = read(tmp_path / "run", "all_results.json")
    assert everything["train_features_runtime"] > 0
    assert everything["train_penalty"] > 0
    assert everything["test_accuracy"] > 0.5  # by a backbone that never learnt anything
    card = (tmp_path / "run" / "README.md").read_text()
    assert "The head was fitted by L-BFGS on features" in card
    assert "smoke" not in card

    again = run_recipe("finetune", *flags, "--adaptation", "probe", "--output_dir", tmp_path / "again")
    assert again.exit_code == 0, again.err
    assert "images in an earlier run" in caplog.text
    assert read(tmp_path / "again", "all_results.json")["test_accuracy"] == everything["test_accuracy"]


def test_a_probe_has_the_backbone_of_its_base(run_recipe, flags, tmp_path):
    base = run_recipe("finetune", *flags, "--max_steps", "2", "--output_dir", tmp_path / "base")
    assert base.exit_code == 0, base.err
    named = ["--model_name_or_path" if word == "--model_type" else word for word in map(str, flags)]
    place = named.index("--model_name_or_path")
    named[place : place + 4] = ["--model_name_or_path", str(tmp_path / "base")]
    run = run_recipe("finetune", *named, "--adaptation", "probe", "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "run")]
    changed = {name for name in weights[0] if (weights[0][name] != weights[1][name]).any()}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("adaptation", ["probe", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_probe_of_several_labels(adaptation, run_recipe, flags, tmp_path, caplog):
    digits = load_digits()
    lines = []
    for row in range(0, 300, 2):  # the same small digit twice where both halves show one class
        canvas = np.zeros((16, 16))
        canvas[4:12, :8], canvas[4:12, 8:] = digits.images[row], digits.images[row + 1]
        Image.fromarray((canvas * 15.9).astype(np.uint8)).save(tmp_path / f"{row}.png")
        labels = sorted({str(digits.target[row + half]) for half in (0, 1)} & {"0", "1", "4"})
        lines.append(json.dumps({"file_name": f"{row}.png", "digits": labels}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    run = run_recipe(
        "finetune", *flags[2:], "--train_file", tmp_path / "pairs.jsonl", "--label_column_name", "digits",
        "--adaptation", adaptation, "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert read(tmp_path / "run", "parity.json")["top1_agreement"] == 1.0
    results = read(tmp_path / "run", "all_results.json")
    assert results["eval_mean_average_precision"] > 0.5
    if adaptation == "probe":
        assert results["train_penalty"] > 0
    else:  # the lower one is what was saved
        losses = [results[f"train_{name}_validation_loss"] for name in ("probe", "finetuned")]
        assert results["eval_log_loss"] == pytest.approx(min(losses), abs=1e-5)
        assert ("the probe is kept" in caplog.text) == (losses[0] < losses[1]) == ("train_penalty" in results)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["full", "lora"])
def test_auto_keeps_the_probe_where_fine_tuning_spoils_it(way, run_recipe, flags, tmp_path, caplog):
    if way == "lora":
        pytest.importorskip("peft")
    probe = run_recipe("finetune", *flags, "--adaptation", "probe", "--output_dir", tmp_path / "probe")
    run = run_recipe(
        "finetune", *flags, "--adaptation", "auto", "--auto_finetune", way, "--max_steps", "4", "--learning_rate", "10",
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert (probe.exit_code, run.exit_code) == (0, 0), run.err
    assert "the probe is kept" in caplog.text
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("probe", "run")]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert not (tmp_path / "run" / "adapter").exists()
    assert read(tmp_path / "run", "parity.json")["top1_agreement"] == 1.0
    assert "The head was fitted by L-BFGS on features" in (tmp_path / "run" / "README.md").read_text()


def test_auto_does_not_fine_tune_where_hardly_anything_is_wrong(run_recipe, tmp_path, caplog):
    random = np.random.default_rng(0)
    for role, count in (("train", 10), ("validation", 150), ("test", 5)):
        for shade in (40, 200):
            folder = tmp_path / role / f"shade {shade}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(shade - 20, shade + 20, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    run = run_recipe(
        "finetune", *TINY_VIT, "--image_size", "16", "--train_dir", tmp_path / "train", "--validation_dir",
        tmp_path / "validation", "--test_dir", tmp_path / "test", "--use_cpu", "--report", "false", "--adaptation",
        "auto", "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert "fine-tuning is not tried" in caplog.text
    assert read(tmp_path / "run", "trainer_state.json")["global_step"] == 0
    assert read(tmp_path / "run", "all_results.json")["eval_accuracy"] == 1.0
