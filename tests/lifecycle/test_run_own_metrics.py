"""A run with a user's own metrics: they choose the best model, and stand in results, report and card."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from own_metrics import MCC, TOP_TWO, write_module
from sklearn import metrics as sk

from hf_imgcls.measure.tables import Table

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def make_flags(folder):
    modules = [write_module(folder, name, text) for name, text in (("mcc", MCC), ("top_two", TOP_TWO))]
    return (
        *SMALL_DIGITS, *TINY_VIT, "--num_train_epochs", "3", "--report", "true", "--metrics", *modules,
        "--metric_for_best_model", "mcc", "--greater_is_better", "true",
    )  # fmt: skip


def test_own_metrics_select_and_are_reported(run_recipe, tmp_path):
    folder = tmp_path / "run"
    finished = run_recipe("finetune", *make_flags(tmp_path), "--output_dir", folder)
    assert finished.exit_code == 0, finished.err

    table, results = Table.load(folder / "predictions_test.parquet"), read(folder / "test_results.json")
    mcc = sk.matthews_corrcoef(table.label, table.prediction)
    top_two = sk.top_k_accuracy_score(table.label, table.probabilities, k=2, labels=range(10))
    assert results["test_mcc"] == pytest.approx(mcc, abs=1e-12)
    assert results["test_top_two"] == pytest.approx(top_two, abs=1e-12)
    assert "  mcc  " in finished.out

    state = read(folder / "trainer_state.json")
    values = [entry["eval_mcc"] for entry in state["log_history"] if "eval_mcc" in entry]
    assert len(values) >= 3
    assert state["best_metric"] == max(values) == read(folder / "eval_results.json")["eval_mcc"]

    estimate = read(folder / "report" / "report.json")["metrics"]["mcc"]
    assert estimate["value"] == results["test_mcc"]
    assert estimate["method"] == "bootstrap"
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert "Mcc" in (folder / "report" / "report.html").read_text(encoding="utf-8")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| Mcc | {mcc:.4f} | {estimate['low']:.4f} to {estimate['high']:.4f} |" in card
    assert str(tmp_path) not in card

    # The run's recipe names them, so that a later command measures them too.
    again = run_recipe("measure", "--model_name_or_path", folder, "--output_dir", tmp_path / "again")
    assert again.exit_code == 0, again.err
    assert read(tmp_path / "again" / "test_results.json")["test_mcc"] == results["test_mcc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MCC.replace("references):", "references, beta):"), "mcc.py fails on 24 made-up examples"),
        (MCC.replace('"mcc"', '"accuracy"'), "returns 'accuracy'"),
    ],
)
def test_a_metric_that_cannot_be_used_ends_the_run_before_training(run_recipe, tmp_path, text, message):
    module = write_module(tmp_path, "mcc", text)
    flags = (*SMALL_DIGITS, *TINY_VIT, "--metrics", module, "--output_dir", tmp_path / "run")
    finished = run_recipe("finetune", *flags)
    assert finished.exit_code == 2
    assert message in finished.err
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not list(tmp_path.glob("run/checkpoint-*"))


@pytest.mark.slow
def test_two_processes_count_each_example_once(tmp_path, repository):
    """61 images on two processes: one number of all of them, the same for both, which the best model goes by."""
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(repository / "accelerate_config.yaml"),
        "--num_processes", "2", "--main_process_port", "0", str(repository / "recipes" / "finetune.py"),
        *(flag for flag in make_flags(tmp_path) if flag != "--use_cpu"), "--num_processes", "2",
        "--output_dir", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for split, prefix in (("test", "test"), ("validation", "eval")):
        table, results = Table.load(folder / f"predictions_{split}.parquet"), read(folder / f"{prefix}_results.json")
        assert len(table) == 61
        expected = sk.matthews_corrcoef(table.label, table.prediction)
        assert results[f"{prefix}_mcc"] == pytest.approx(expected, abs=1e-12)
        top_two = sk.top_k_accuracy_score(table.label, table.probabilities, k=2, labels=range(10))
        assert results[f"{prefix}_top_two"] == pytest.approx(top_two, abs=1e-12)
    assert read(folder / "trainer_state.json")["best_metric"] == read(folder / "eval_results.json")["eval_mcc"]


@pytest.mark.slow
def test_a_metric_that_fails_on_the_main_process_ends_all(tmp_path, repository):
    folder = tmp_path / "run"
    broken = MCC.replace('return {"mcc"', 'assert len(references) < 50, "too many"\n        return {"mcc"')
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(repository / "accelerate_config.yaml"),
        "--num_processes", "2", "--main_process_port", "0", str(repository / "recipes" / "finetune.py"),
        *(flag for flag in (*SMALL_DIGITS, *TINY_VIT) if flag != "--use_cpu"), "--num_processes", "2",
        "--num_train_epochs", "1", "--metrics", write_module(tmp_path, "broken", broken), "--output_dir", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode != 0
    assert "broken.py fails on 61 examples: AssertionError: too many" in result.stderr
