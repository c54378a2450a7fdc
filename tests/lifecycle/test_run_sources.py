"""Data as strangers write them, from the command line to the scores: what was read is what was meant."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

SMALL_RESNET = (
    "--model_type", "resnet",
    "--model_config", '{"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}',
    "--image_size", "16", "--learning_rate", "0.02", "--per_device_train_batch_size", "8", "--report_to", "none",
    "--augmentation", "none", "--seed", "0", "--report", "false", "--use_cpu", "--disable_tqdm", "true",
)  # fmt: skip
COLOURS = ((200, 40, 40), (40, 200, 40))


def encode(kind, seed):
    noise = np.random.RandomState(1000 * kind + seed).randint(-35, 36, (16, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray((np.array(COLOURS[kind]) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(path, first, count, feature, label_of):
    """Red cats and green dogs, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = [index % 2 for index in range(count)]
    rows = {
        "image": [encode(kind, first + index) for index, kind in enumerate(kinds)],
        "label": [label_of(kind) for kind in kinds],
    }
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def write_pets(path, first, count, names):
    write(path, first, count, datasets.ClassLabel(names=names), lambda kind: names.index(("cat", "dog")[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_class_lists_in_another_order_are_learned_and_scored_by_name(run_recipe, tmp_path, streaming):
    data = tmp_path / "pets" / "data"
    write_pets(data / "train-00000-of-00002.parquet", 0, 40, ["cat", "dog"])
    write_pets(data / "train-00001-of-00002.parquet", 100, 40, ["dog", "cat"])
    write_pets(data / "test-00000-of-00001.parquet", 500, 30, ["dog", "cat"])
    run = run_recipe(
        "finetune", "--dataset_name", data.parent, "--cache_dir", tmp_path / "cache", "--streaming", streaming,
        *SMALL_RESNET, "--max_steps", "20", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())["test_accuracy"] == 1.0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["id2label"] == {"0": "cat", "1": "dog"}
    notes = " ".join(json.loads((tmp_path / "run" / "data.json").read_text())["notes"])
    assert "train-00001-of-00002.parquet ('dog', 'cat'). Labels were matched by name." in notes


@pytest.mark.slow
def test_one_hot_vectors_train_a_single_label_model(run_recipe, tmp_path):
    feature = datasets.Sequence(datasets.Value("int64"))
    write(tmp_path / "pets" / "data" / "train.parquet", 0, 60, feature, lambda kind: [1 - kind, kind])
    run = run_recipe(
        "finetune", "--dataset_name", tmp_path / "pets", "--cache_dir", tmp_path / "cache",
        *SMALL_RESNET, "--max_steps", "20", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())["test_accuracy"] == 1.0
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["problem_type"] == "single_label_classification"
    counts = [split["class_counts"] for split in record["splits"].values()]
    assert len(counts) == 3
    assert {name: sum(part[name] for part in counts) for name in "01"} == {"0": 30, "1": 30}
