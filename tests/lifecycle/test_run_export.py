"""A run that ends with exported models."""

from __future__ import annotations

import json

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT

pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_a_run_ends_with_exports_and_a_new_run_without_the_old_ones(run_recipe, tmp_path):
    flags = (*SMALL_DIGITS, *TINY_VIT, "--num_train_epochs", "1", "--output_dir", tmp_path / "run")
    run = run_recipe("finetune", *flags, "--export_formats", "onnx")
    assert run.exit_code == 0, run.err
    record = json.loads((tmp_path / "run" / "onnx" / "export.json").read_text())
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert record["top1_agreement"] == 1.0
    assert record["accuracy"]["value"] == pytest.approx(results["test_accuracy"])
    assert "61 images of the test split" in run.out
    assert "onnx" in (tmp_path / "run" / "recipe.yaml").read_text()
    again = run_recipe("finetune", *flags, "--seed", "7", "--overwrite_output_dir")
    assert again.exit_code == 0, again.err
    assert not (tmp_path / "run" / "onnx").exists()
