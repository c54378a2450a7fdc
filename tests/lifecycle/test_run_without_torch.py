"""An exported run without torch and transformers: ONNX Runtime, NumPy and Pillow give what was scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from places import REPOSITORY

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.measure.tables import Table

pytest.importorskip("onnxruntime")

NUM_TEST = 270
LARGEST_DIFFERENCE = 2e-3
SCORE = """
import json, sys
from importlib import metadata
import numpy
from hf_imgcls.classifier.loading import load_classifier

classifier = load_classifier(sys.argv[1], without_torch=True)
numpy.save(sys.argv[2], classifier.scores(sys.argv[3:]))
answer = classifier(sys.argv[3], top_k=1)
installed = sorted(item.metadata["Name"].lower().replace("_", "-") for item in metadata.distributions())
print(json.dumps({"labels": classifier.labels, "answer": answer, "installed": installed}))
"""


@pytest.fixture(scope="module")
def lean_python(tmp_path_factory):
    """A Python that has this package, ONNX Runtime, NumPy and Pillow, and what these three need."""
    folder = tmp_path_factory.mktemp("lean")
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    found = subprocess.run(
        [*install, "onnxruntime", "numpy", "pillow"], capture_output=True, text=True, timeout=900, check=False
    )
    if found.returncode and any(text in found.stderr for text in ("No matching distribution", "ConnectionError")):
        pytest.skip("no package index can be reached")
    assert found.returncode == 0, found.stderr
    # A copy, because building leaves files in the sources.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    shutil.copytree(REPOSITORY / "hf_imgcls", folder / "hf_imgcls", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*install, "--no-deps", str(folder)], check=True, timeout=900)
    return python


@pytest.mark.slow
def test_a_run_is_scored_without_torch(run_recipe, lean_python, tmp_path):
    folder = tmp_path / "run"
    run = run_recipe(
        "finetune", "--dataset_name", "digits", "--image_size", "32", "--use_cpu", "--model_type", "vit",
        "--model_config",
        "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, patch_size: 8}",
        "--augmentation", "none", "--num_train_epochs", "12", "--learning_rate", "3e-3", "--export_formats", "onnx",
        "--per_device_train_batch_size", "32", "--report", "false", "--output_dir", folder,
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    split = load_image_dataset(DataArguments(dataset_name="digits")).splits["test"]
    rows = {row["sample_index"]: row["image"]["bytes"] for row in split}
    table = Table.load(folder / "predictions_test.parquet")
    paths = [tmp_path / f"{index}.png" for index in table.sample_index.tolist()]
    for path in paths:
        path.write_bytes(rows[int(path.stem)])
    command = [lean_python, "-I", "-c", SCORE, str(folder / "onnx"), str(tmp_path / "scores.npy"), *map(str, paths)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    found, scores = json.loads(result.stdout), np.load(tmp_path / "scores.npy")
    assert {"hf-imgcls", "onnxruntime", "numpy", "pillow"} <= set(found["installed"])
    assert not {"torch", "transformers", "datasets", "pyyaml", "onnx"} & set(found["installed"])
    assert found["labels"] == table.labels
    assert scores.shape == (NUM_TEST, 10)

    scored = table.scores_by_class().T
    assert (scored.argmax(axis=1) == table.label).mean() > 0.5  # it tells classes apart
    print(f"largest difference of a score: {np.abs(scores - scored).max():.1e}", file=sys.stderr)
    assert np.abs(scores - scored).max() <= LARGEST_DIFFERENCE
    top = np.sort(scored, axis=1)
    is_clear = top[:, -1] - top[:, -2] > 2 * LARGEST_DIFFERENCE
    assert is_clear.mean() > 0.9
    assert (scores.argmax(axis=1) == scored.argmax(axis=1))[is_clear].all()
    assert found["answer"][0]["label"] == table.labels[scores[0].argmax()]
