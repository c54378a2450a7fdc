"""Whole runs on datasets of the Hub whose layouts need care, from the command line to the folder."""

import json
import subprocess
import sys

import pytest
from hub import client_environment
from hub_faults import serve_faulty_hub
from hub_loading import commit_conversion, make_pets, make_zip, write_parquet
from lifecycle.command_lines import TINY_VIT
from places import REPOSITORY

pytestmark = pytest.mark.slow
CASES = {
    "scripted": ["--dataset_revision", "refs/convert/parquet", "--dataset_config_name", "full"],
    "zips": [],
    "texts": ["--streaming", "true", "--shuffle_buffer_size", "20"],
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_on_a_dataset_of_the_hub(tmp_path, name):
    with serve_faulty_hub(tmp_path / "hub") as hub:
        repository = hub.create_repository("dataset", f"org/{name}")
        if name == "scripted":
            hub.commit(repository, {"scripted.py": b"raise SystemExit"})
            sizes = {"full": {"train": 40, "validation": 10, "test": 10}, "mini": {"train": 6, "test": 4}}
            commit_conversion(hub, repository, sizes)
        elif name == "zips":
            pets = {
                "train.zip": {"cat": 20, "dog": 20},
                "validation.zip": {"cat": 5, "dog": 5},
                "test.zip": {"cat": 5, "dog": 5},
            }
            hub.commit(repository, {file: make_zip(counts) for file, counts in pets.items()})
        else:
            texts = make_pets(40).remove_columns("label").add_column("label", ["cat", "dog"] * 20)
            splits = {"train": texts, "validation": texts.select(range(10)), "test": texts.select(range(10, 20))}
            hub.commit(repository, {f"{split}.parquet": write_parquet(part) for split, part in splits.items()})
        hub.faults.plant("GET", "/blobs/", is_cut=True)  # the first file's first answer
        flags = ["--dataset_name", f"org/{name}", *CASES[name], *TINY_VIT, "--image_size", "16", "--max_steps", "3"]
        flags += ["--per_device_train_batch_size", "8", "--use_cpu", "--disable_tqdm", "true", "--report", "false"]
        flags += ["--output_dir", str(tmp_path / "run")]
        result = subprocess.run(
            [sys.executable, str(REPOSITORY / "recipes" / "finetune.py"), *flags],
            env=client_environment(hub, tmp_path / "home", PYTHONPATH=str(REPOSITORY), HF_HUB_DISABLE_XET="1"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr[-6000:]
    assert "classes in column 'label'" in result.stdout + result.stderr
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["labels"] == ["cat", "dog"]
    assert {split: part["num_examples"] for split, part in record["splits"].items()} == {
        "train": 40, "validation": 10, "test": 10,
    }  # fmt: skip
