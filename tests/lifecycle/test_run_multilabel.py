"""Two digits in one picture: from a file of lists to a folder whose scores and thresholds a consumer uses."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, f1_score

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

CLASSES = ("0", "1", "4", "6", "7")
FLAGS = (
    "--model_type", "convnext", "--model_config",
    "{depths: [1, 1], hidden_sizes: [32, 64], num_stages: 2, patch_size: 2, layer_scale_init_value: 1.0}",
    "--image_size", "16", "--horizontal_flip_probability", "0", "--random_crop_scale", "1", "1", "--random_crop_ratio",
    "1", "1", "--learning_rate", "4e-3", "--lr_scheduler_type", "cosine", "--warmup_ratio", "0.1", "--use_cpu",
    "--disable_tqdm", "true",
)  # fmt: skip


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pictures of none, one or two digits side by side, and a file that lists what each shows."""
    folder = tmp_path_factory.mktemp("pairs")
    digits, generator = load_digits(), np.random.default_rng(0)
    known = np.flatnonzero(np.isin(digits.target, [int(name) for name in CLASSES]))
    lines = []
    for row in range(1000):
        canvas = np.zeros((16, 16))
        chosen = generator.choice(known, generator.choice([0, 1, 2], p=[0.1, 0.2, 0.7]))
        for slot, index in enumerate(chosen):
            canvas[4:12, 8 * slot : 8 * slot + 8] = digits.images[index]
        Image.fromarray((canvas * 15.9).astype(np.uint8)).save(folder / f"{row}.png")
        labels = sorted({str(digits.target[index]) for index in chosen})
        lines.append(json.dumps({"file_name": f"{row}.png", "digits": labels, "number": len(chosen)}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def trained(pairs, repository):
    """The folder of a run that has learnt, and what it printed."""
    from faults.processes import Run

    folder = pairs / "run"
    run = Run(
        "--train_file", pairs / "pairs.jsonl", "--label_column_name", "digits", *FLAGS, "--num_train_epochs", "12",
        "--calibrate", "--slice_columns", "number", "--goals", "mean_average_precision>=0.6", "micro_f1>=0.999",
        folder=folder,
    )  # fmt: skip
    assert run.wait(400) == 3, run.output
    return folder, run.output


@pytest.mark.slow
def test_a_run_learns_reports_and_says_what_it_found(trained):
    folder, output = trained
    assert "Several labels per image (column 'digits'): 5 classes" in output
    config, data, results = (read(folder / name) for name in ("config.json", "data.json", "test_results.json"))
    assert config["problem_type"] == data["problem_type"] == "multi_label_classification"
    assert config["calibration_temperature"] != 1
    assert len(config["label_thresholds"]) == 5
    assert all(0 < value < 1 for value in config["label_thresholds"])
    assert any(value != 0.5 for value in config["label_thresholds"])
    assert config["architectures"] == ["ConvNextForImageClassification"]
    assert set(config["id2label"].values()) == set(CLASSES)
    assert results["test_mean_average_precision"] > 0.9
    assert results["test_micro_f1"] > 0.85
    assert not (folder / "confusion_matrix.json").exists()
    state = read(folder / "trainer_state.json")
    best = max(entry["eval_mean_average_precision"] for entry in state["log_history"] if "eval_loss" in entry)
    assert state["best_metric"] == pytest.approx(best)
    assert read(folder / "parity.json")["top1_agreement"] == 1.0
    assert read(folder / "parity.json")["max_probability_difference"] < 1e-5
    report = read(folder / "report" / "report.json")
    for name in ("mean_average_precision", "micro_f1", "hamming_loss", "log_loss"):
        assert report["metrics"][name]["value"] == pytest.approx(results[f"test_{name}"], rel=1e-9)
    assert [goal["status"] for goal in report["goals"]] == ["met", "not met"]
    assert {entry["column"] for entry in report["slices"]} >= {"number", "brightness"}
    assert report["gallery"]["worst_mistakes"][0]["image"]
    assert "Missed and false-positive labels" in (folder / "report" / "report.html").read_text()


@pytest.mark.slow
def test_thresholds_are_those_of_the_validation_split_after_the_temperature(trained):
    from hf_imgcls.measure.statistics.thresholds import tune_thresholds
    from hf_imgcls.measure.tables import Table

    folder, _ = trained
    validation = Table.load(folder / "predictions_validation.parquet")
    expected = tune_thresholds(validation.scores, validation.targets).thresholds
    assert np.allclose(read(folder / "config.json")["label_thresholds"], expected, atol=1e-6)
    results = read(folder / "all_results.json")
    assert results["eval_hamming_loss"] == pytest.approx((validation.answers != validation.targets).mean())
    assert results["eval_log_loss"] == pytest.approx(validation.log_loss.mean(), rel=1e-5)


@pytest.mark.slow
def test_a_consumer_gets_sigmoid_scores_and_the_labels(trained, pairs):
    """Plain transformers on pictures of the test split: the scores of the table, and labels by the thresholds."""
    from hf_imgcls.measure.tables import Table

    folder, _ = trained
    table = Table.load(folder / "predictions_test.parquet")
    code = (
        "import json, sys; from transformers import pipeline\n"
        "classifier = pipeline('image-classification', model=sys.argv[1])\n"
        "config = classifier.model.config\n"
        "answers = classifier(sys.argv[2:], top_k=config.num_labels)\n"
        "assert answers == classifier(sys.argv[2:], top_k=config.num_labels, function_to_apply='sigmoid')\n"
        "assert not any(name.split('.')[0] == 'hf_imgcls' for name in sys.modules)\n"
        "labels = [[a['label'] for a in answer if a['score'] >= config.label_thresholds[config.label2id[a['label']]]]\n"
        "          for answer in answers]\n"
        "print(json.dumps([labels, [{a['label']: a['score'] for a in answer} for answer in answers]]))"
    )
    files = [str(pairs / file) for file in table.files]
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder), *files], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    labels, scores = json.loads(result.stdout.splitlines()[-1])
    served = np.array([[own[name] for name in table.labels] for own in scores])
    assert np.abs(served - table.scores).max() < 1e-5
    answers = np.array([[name in own for name in table.labels] for own in labels])
    results = read(folder / "test_results.json")
    assert average_precision_score(table.targets, served) == pytest.approx(
        results["test_mean_average_precision"], abs=1e-4
    )
    assert f1_score(table.targets, answers, average="micro") == pytest.approx(results["test_micro_f1"], abs=1e-9)


@pytest.mark.slow
def test_served_another_way_is_an_error(trained, run_recipe, pairs, tmp_path):
    """Softmax in place of sigmoid: the folder says so itself, and measuring it stops."""
    import shutil

    folder, _ = trained
    shutil.copytree(folder, tmp_path / "broken", ignore=shutil.ignore_patterns("checkpoint-*", "report"))
    config = read(folder / "config.json")
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config | {"problem_type": None}))
    run = run_recipe(
        "measure", "--model_name_or_path", tmp_path / "broken", "--output_dir", tmp_path / "out", "--use_cpu"
    )
    assert run.exit_code == 2
    assert "gives an image one label" in run.err
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config | {"label_thresholds": [0.5, 2]}))
    run = run_recipe(
        "measure", "--model_name_or_path", tmp_path / "broken", "--output_dir", tmp_path / "out", "--use_cpu"
    )
    assert run.exit_code == 2
    assert "5 numbers from 0 to 1" in run.err


@pytest.mark.slow
def test_the_report_again_the_comparison_and_lora(trained, run_recipe, pairs, tmp_path):
    folder, _ = trained
    run = run_recipe("measure", "--predictions", folder, "--output_dir", tmp_path / "again", "--goals", "micro_f1>=0.5")
    assert run.exit_code == 0, run.err
    again, first = (read(place / "report" / "report.json") for place in (tmp_path / "again", folder))
    assert again["metrics"] == first["metrics"]
    run = run_recipe("measure", "--predictions", folder, "--output_dir", tmp_path / "again", "--goals", "accuracy>=0.5")
    assert run.exit_code == 2
    assert "not defined where an image has several labels" in run.err
    pytest.importorskip("peft")
    run = run_recipe(
        "finetune", "--train_file", pairs / "pairs.jsonl", "--label_column_name", "digits", "--model_name_or_path",
        folder, "--adaptation", "lora", "--loss", "asymmetric", "--label_smoothing_factor", "0.1",
        "--learning_rate", "1e-3",
        "--max_steps", "6", "--save_steps", "3", "--use_cpu", "--disable_tqdm", "true", "--horizontal_flip_probability",
        "0", "--report", "false", "--output_dir", tmp_path / "lora",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    config = read(tmp_path / "lora" / "config.json")
    assert "calibration_temperature" not in config
    assert config["label_thresholds"] != read(folder / "config.json")["label_thresholds"]
    run = run_recipe("measure", "--compare", folder, tmp_path / "lora", "--output_dir", tmp_path / "compared")
    assert run.exit_code == 0, run.err
    compared = read(tmp_path / "compared" / "comparison.json")
    assert compared["decided_by"] == "mean_average_precision"
    assert compared["metrics"]["subset_accuracy"]["test"].startswith("McNemar")
    assert (tmp_path / "compared" / "comparison.png").is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss", "cross_entropy"], ["several labels per image", "bce, focal or asymmetric"]),
        (["--metric_for_best_model", "accuracy"], ["metric_for_best_model is 'accuracy'", "mean_average_precision"]),
        (["--goals", "top5_accuracy>=0.5"], ["not defined where an image has several labels"]),
        (["--explain_samples", "2"], ["explain_samples with several labels"]),
    ],
)
def test_what_makes_no_sense_is_said_before_training(run_recipe, pairs, tmp_path, flags, words):
    run = run_recipe(
        "finetune", "--train_file", pairs / "pairs.jsonl", "--label_column_name", "digits", *FLAGS, *flags,
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code == 2
    for word in words:
        assert word in run.err
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_binary_cross_entropy_trains_single_labels_and_is_served_as_scored(run_recipe, tmp_path):
    from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT

    run = run_recipe(
        "finetune",
        *SMALL_DIGITS,
        *TINY_VIT,
        "--loss",
        "bce",
        "--num_train_epochs",
        "2",
        "--output_dir",
        tmp_path / "bce",
    )
    assert run.exit_code == 0, run.err
    other = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--num_train_epochs", "2", "--output_dir", tmp_path / "ce")
    assert other.exit_code == 0, other.err
    assert read(tmp_path / "bce" / "parity.json")["top1_agreement"] == 1.0
    results = [read(tmp_path / name / "test_results.json") for name in ("bce", "ce")]
    assert results[0]["test_loss"] != results[1]["test_loss"]
    assert read(tmp_path / "bce" / "config.json").get("problem_type") is None
