"""Runs whose splits are not apart: it is said before training, beside the numbers, in the records and on the card."""

import json
import logging

import numpy as np
import pytest
from command_lines import TINY_VIT
from PIL import Image

from hf_imgcls.data.manifest import Manifest
from hf_imgcls.publish.files import list_names, select_published

STEPS = (
    "--image_size", "16", "--max_steps", "2", "--per_device_train_batch_size", "8", "--disable_tqdm", "true",
    "--use_cpu", "--learning_rate", "1e-3", "--dataloader_num_workers", "0", "--report", "false",
)  # fmt: skip


def write_images(folder, numbers, format="png"):
    """Two classes of noise; an image is known by its number."""
    for number in numbers:
        place = folder / ("dark", "light")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.RandomState(number).randint(0, 120, (16, 16, 3)) + 120 * (number % 2)
        Image.fromarray(noise.astype(np.uint8)).save(place / f"{number}.{format}")
    return folder


@pytest.mark.slow
def test_shared_images_are_counted_from_the_first_line_to_the_card(run_recipe, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train, test = write_images(tmp_path / "train", range(40)), write_images(tmp_path / "test", range(34, 52), "bmp")
    base = tmp_path / "base"
    line = ("--train_dir", train, "--test_dir", test, "--train_val_split", "8", *TINY_VIT, *STEPS)
    run_recipe("finetune", *line, "--output_dir", base)
    run, data = (json.loads((base / f"{name}.json").read_text()) for name in ("run", "data"))
    manifest = Manifest.load(base / "data_manifest.parquet")
    assert run["data_manifest"] == data["manifest_hash"] == manifest.root_hash
    shared = data["identical_images"]["shared"]
    assert {item["split"] for item in shared} == {"test"}
    assert sum(item["num_images"] for item in shared) == 6
    results = json.loads((base / "test_results.json").read_text())
    unseen = results["test_unseen"]
    assert (unseen["num_seen"], unseen["num_examples"]) == (6, 12)
    assert 0 <= unseen["accuracy"] <= 1
    card = (base / "README.md").read_text()
    sentence = f"Without the 6 images that training or selection has seen, accuracy is {unseen['accuracy']:.4f}"
    limitations = card.split("## Limitations")[1].split("- ")
    assert "of 18 test images" in limitations[1]
    assert sentence in limitations[1]
    names = list_names(base)
    assert "data_manifest.parquet" in names
    assert "data_manifest.parquet" not in select_published(names)

    # The folder has grown: some of what trained the base is in the new test split
    grown = write_images(tmp_path / "grown", range(60))
    line = ("--train_dir", grown, "--train_val_split", "6", "--test_split", "20", "--split_seed", "3", *STEPS)
    caplog.clear()
    run_recipe("finetune", *line, "--model_name_or_path", base, "--output_dir", tmp_path / "next")
    trained = set(manifest.take_split("train")["content_hash"].to_pylist())
    own = Manifest.load(tmp_path / "next" / "data_manifest.parquet")
    count = sum(value in trained for value in own.take_split("test")["content_hash"].to_pylist())
    assert count > 0
    told = f"{count} of 20 test images trained the base model."
    assert caplog.text.index(told) < caplog.text.index("Trainable parameters")
    assert told.rstrip(".") in (tmp_path / "next" / "README.md").read_text().split("## Limitations")[1].split("- ")[1]

    # Measured on images that both runs have seen: the second knows what trained the first
    others = write_images(tmp_path / "others", [*range(8), *range(200, 210)])
    flags = ("--test_dir", others, "--use_cpu", "--output_dir", tmp_path / "measured")
    run_recipe("measure", "--model_name_or_path", tmp_path / "next", *flags)
    results = json.loads((tmp_path / "measured" / "test_results.json").read_text())
    assert results["test_unseen"]["num_seen"] == 8
    assert "of 18 test images trained this model." in caplog.text


@pytest.mark.parametrize("flags", [("--calibrate",), ("--model_soup",), ("--adaptation", "auto"), ("--tune", "2"), ()])
def test_the_same_folder_twice_is_refused_before_anything_is_read(run_recipe, tmp_path, flags):
    train, held_out = write_images(tmp_path / "train", range(8)), write_images(tmp_path / "held_out", range(10, 14))
    (tmp_path / "link").symlink_to(held_out)
    base = ("--output_dir", tmp_path / "run", "--train_dir", train, *TINY_VIT, *STEPS, *flags)
    done = run_recipe("finetune", *base, "--validation_dir", held_out, "--test_dir", tmp_path / "link")
    assert done.exit_code == 2
    assert "validation_dir and test_dir are both" in done.err
    done = run_recipe("finetune", *base, "--test_dir", f"{train}/../train")
    assert done.exit_code == 2
    assert "train_dir and test_dir are both" in done.err


def test_equal_splits_are_refused_before_training(run_recipe, tmp_path):
    train, held_out = write_images(tmp_path / "train", range(8)), write_images(tmp_path / "held_out", range(10, 14))
    copy = write_images(tmp_path / "copy", range(10, 14), "bmp")
    line = (
        "--output_dir",
        tmp_path / "run",
        "--train_dir",
        train,
        *TINY_VIT,
        *STEPS,
        "--cache_dir",
        tmp_path / "cache",
    )
    done = run_recipe("finetune", *line, "--validation_dir", held_out, "--test_dir", copy)
    assert done.exit_code == 2
    assert "test and validation hold the same 4 images" in done.err
    assert not (tmp_path / "run" / "run.json").exists()


def test_calibration_without_a_validation_split_is_refused(run_recipe, tmp_path):
    line = ("--dataset_name", "digits", "--output_dir", tmp_path / "run", *TINY_VIT, *STEPS)
    done = run_recipe("finetune", *line, "--calibrate", "true", "--do_eval", "false")
    assert done.exit_code == 2
    assert "calibrate true with do_eval false" in done.err
