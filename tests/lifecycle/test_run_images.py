"""Pictures that pipeline() reads otherwise, from the command line to what a stranger measures on the files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from lifecycle.command_lines import TINY_VIT
from PIL import Image

pytestmark = pytest.mark.slow

FLAGS = (
    *TINY_VIT, "--image_size", "16", "--num_train_epochs", "10", "--learning_rate", "3e-3", "--augmentation", "none",
    "--per_device_train_batch_size", "8", "--test_split", "0.4", "--disable_tqdm", "true", "--use_cpu",
)  # fmt: skip


@pytest.fixture
def icons(tmp_path):
    """Black shapes on nothing: squares and bars, 30 each."""
    for kind, height in enumerate((8, 3)):
        for number in range(30):
            pixels = np.zeros((16, 16, 4), np.uint8)
            x, y = np.random.RandomState(100 * kind + number).randint(2, 6, 2)
            pixels[y : y + height, x : x + 8, 3] = 255
            path = tmp_path / "icons" / ("square", "bar")[kind] / f"{kind}{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "icons"


@pytest.fixture
def scans(tmp_path):
    """12-bit values in 16-bit files: a disc on the left or on the right."""
    for kind, name in enumerate(("left", "right")):
        for number in range(30):
            pixels = np.full((16, 16), 200.0)
            pixels[4:12, (1, 8)[kind] : (7, 15)[kind]] = 1500
            noise = np.random.RandomState(1000 * kind + number).uniform(-60, 60, (16, 16))
            path = tmp_path / "scans" / name / f"{kind}{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels + noise).astype(np.uint16)).save(path)
    return tmp_path / "scans"


def read(folder, name):
    return json.loads((folder / name).read_text())


def measure_as_stranger(run, source):
    """Accuracy of stock pipeline() on the test split's files, by their paths."""
    from transformers import pipeline

    classifier = pipeline("image-classification", model=str(run))
    names = [name.split("/")[-1] for name in pq.read_table(run / "predictions_test.parquet")["file"].to_pylist()]
    files = [next(source.rglob(name)) for name in names]
    assert files
    answers = [answer[0]["label"] for answer in classifier([str(file) for file in files], top_k=1)]
    return np.mean([answer == file.parent.name for answer, file in zip(answers, files, strict=True)])


def test_by_default_a_stranger_measures_what_is_reported(run_recipe, icons, tmp_path):
    run = run_recipe("finetune", *FLAGS, "--train_dir", icons, "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    notes = read(tmp_path / "run", "data.json")["notes"]
    assert any("60 of 60 images become one flat colour when transparency is dropped" in note for note in notes)
    assert "served = scored       100.00% of 24 files" in run.out
    assert read(tmp_path / "run", "parity.json")["read_otherwise"] == {}
    accuracy = read(tmp_path / "run", "test_results.json")["test_accuracy"]
    assert accuracy == measure_as_stranger(tmp_path / "run", icons)


def test_a_background_gives_both_numbers_everywhere(run_recipe, icons, tmp_path):
    folder = tmp_path / "run"
    run = run_recipe("finetune", *FLAGS, "--train_dir", icons, "--output_dir", folder, "--alpha_background", "white")
    assert run.exit_code == 0, run.err
    notes = read(folder, "data.json")["notes"]
    assert any("60 of 60 images are transparent and read over white" in note for note in notes)
    accuracy, parity = read(folder, "test_results.json")["test_accuracy"], read(folder, "parity.json")
    assert accuracy == parity["scored_value"] > 0.9
    assert parity["plain_value"] == measure_as_stranger(folder, icons) < 0.7
    assert "served = scored       24 of 24 converted pictures, pipeline of transformers" in run.out
    both = f"accuracy {parity['plain_value']:.4f} on the files as they are, {accuracy:.4f} as scored (24 of 24 are"
    assert both in run.out
    assert any(both in note for note in read(folder, "report/report.json")["notes"])
    assert both in (folder / "README.md").read_text()
    assert (
        'Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)' in (folder / "README.md").read_text()
    )

    # Elsewhere, without the recipe, the model's own reading counts.
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(folder / name, copy)
    again = run_recipe(
        "measure", "--model_name_or_path", copy, "--test_dir", icons, "--output_dir", tmp_path / "measured", "--use_cpu"
    )
    assert again.exit_code == 0, again.err
    assert read(tmp_path / "measured", "test_results.json")["test_accuracy"] > 0.9
    assert read(tmp_path / "measured", "parity.json")["read_otherwise"] == {"transparent": 60}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_hinted_range_makes_deep_pictures_learnable(run_recipe, scans, tmp_path, is_streamed):
    source = ("--train_dir", scans)
    if is_streamed:
        rows = sorted(scans.rglob("*.png"), key=lambda path: path.name[1:])
        for part, chosen in (("train", rows[:40]), ("test", rows[40:])):
            images = [{"bytes": path.read_bytes(), "path": path.name} for path in chosen]
            labels = [path.parent.name for path in chosen]
            split = Dataset.from_dict({"image": images, "label": labels}).cast_column("image", ImageFeature())
            split.class_encode_column("label").to_parquet(tmp_path / f"data/data/{part}.parquet", batch_size=10)
        source = ("--dataset_name", tmp_path / "data", "--streaming", "true", "--max_steps", "40")
    run = run_recipe(
        "finetune", *FLAGS[:-5], *FLAGS[-3:], *source, "--output_dir", tmp_path / "run",
        "--intensity_range", "135", "1560", *(() if is_streamed else ("--test_split", "0.4")),
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    parity = read(tmp_path / "run", "parity.json")
    assert read(tmp_path / "run", "test_results.json")["test_accuracy"] == parity["scored_value"] > 0.9
    assert parity["plain_value"] < 0.8
    assert parity["read_otherwise"] == {"16-bit": parity["num_examples"]}
    assert read(tmp_path / "run", "config.json")["image_reading"] == {"intensity_range": [135.0, 1560.0]}
    assert "low, high = 135, 1560" in (tmp_path / "run" / "README.md").read_text()
