"""From a command line to a folder that a consumer loads."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from PIL import Image
from sklearn.datasets import load_digits


def weights_hash(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def digit_folders(tmp_path):
    """Class folders of real digits, as PNG files; returns the training root."""
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        folder = tmp_path / "photos" / ("train" if index < 160 else "val") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photos"


def test_a_run_leaves_what_the_design_promises(run_recipe, tmp_path):
    pytest.importorskip("tensorboard")
    run = run_recipe(
        "finetune", *SMALL_DIGITS, *TINY_VIT, "--num_train_epochs", "2", "--output_dir", tmp_path / "run",
        "--report_to", "tensorboard", "--logging_dir", tmp_path / "logs",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))
    folder = tmp_path / "run"
    for name in (
        "config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml", "data.json", "all_results.json",
        "train_results.json", "eval_results.json", "test_results.json", "parity.json", "trainer_state.json",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert not (folder / "training_args.bin").exists()
    assert read(folder, "config.json")["id2label"] == {str(digit): str(digit) for digit in range(10)}

    results = read(folder, "test_results.json")
    assert results["test_num_examples"] == 61
    assert {"test_accuracy", "test_macro_f1", "test_loss", "test_roc_auc", "test_ece"} <= results.keys()
    everything = read(folder, "all_results.json")
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= everything.keys()
    assert read(folder, "parity.json")["top1_agreement"] == 1.0
    assert "served = scored" in run.out
    assert "World size: 1 process" in run.err

    data = read(folder, "data.json")
    assert data["source"] == "digits"
    assert {name: split["num_examples"] for name, split in data["splits"].items()} == {
        "train": 256, "validation": 61, "test": 61,
    }  # fmt: skip
    assert sum(data["splits"]["train"]["class_counts"].values()) == 256


def test_plain_pipeline_answers_what_was_scored_without_anything_of_ours(run_recipe, tmp_path):
    run = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "4", "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    Image.fromarray((load_digits().images[0] * 15.9).astype(np.uint8)).save(tmp_path / "digit.png")
    code = (
        "import sys; from transformers import pipeline\n"
        "answer = pipeline('image-classification', model=sys.argv[1])(sys.argv[2], top_k=10)\n"
        "assert not any(name.split('.')[0] == 'hf_imgcls' for name in sys.modules)\n"
        "print(sorted(item['label'] for item in answer))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "digit.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str([str(digit) for digit in range(10)])


def test_the_recipe_repeats_the_run(run_recipe, tmp_path):
    first = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "6", "--output_dir", tmp_path / "a")
    again = run_recipe("finetune", "--config", tmp_path / "a" / "recipe.yaml", "--output_dir", tmp_path / "b")
    other = run_recipe(
        "finetune", "--config", tmp_path / "a" / "recipe.yaml", "--output_dir", tmp_path / "c", "--seed", "7"
    )
    assert (first.exit_code, again.exit_code, other.exit_code) == (0, 0, 0)
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b") != weights_hash(tmp_path / "c")
    recipes = [yaml.safe_load((tmp_path / name / "recipe.yaml").read_text()) for name in "ab"]
    assert recipes[0] | {"output_dir": ""} == recipes[1] | {"output_dir": ""}


def test_an_interrupted_run_goes_on_where_it_was(run_recipe, tmp_path):
    flags = (*SMALL_DIGITS, *TINY_VIT, "--num_train_epochs", "2", "--save_steps", "3", "--save_total_limit", "9")
    whole = run_recipe("finetune", *flags, "--output_dir", tmp_path / "whole")
    assert whole.exit_code == 0, whole.err
    # What a run that was cut off in mid-epoch leaves: its older checkpoints.
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = run_recipe("finetune", *flags, "--output_dir", tmp_path / "cut")
    assert resumed.exit_code == 0, resumed.err
    assert read(tmp_path / "cut", "trainer_state.json")["global_step"] == 16
    last = "checkpoint-15"
    assert weights_hash(tmp_path / "cut" / last) == weights_hash(tmp_path / "whole" / last)


def test_a_finished_run_is_left_alone_unless_told_otherwise(run_recipe, tmp_path):
    flags = (*SMALL_DIGITS, *TINY_VIT, "--max_steps", "2", "--output_dir", str(tmp_path / "run"))
    assert run_recipe("finetune", *flags).exit_code == 0
    before = (tmp_path / "run" / "all_results.json").read_text()
    again = run_recipe("finetune", *flags)
    assert again.exit_code == 0
    assert "is finished" in again.err
    refused = run_recipe("finetune", *flags, "--learning_rate", "1e-4")
    assert refused.exit_code == 2
    assert "holds a finished run" in refused.err
    assert "--overwrite_output_dir" in refused.err
    assert (tmp_path / "run" / "all_results.json").read_text() == before
    other = (*flags, "--overwrite_output_dir", "--max_steps", "3", "--do_predict", "false")
    assert run_recipe("finetune", *other).exit_code == 0
    assert read(tmp_path / "run", "trainer_state.json")["global_step"] == 3
    # Nothing is left that tells of the replaced weights.
    assert (tmp_path / "run" / "eval_results.json").exists()
    for name in ("test_results.json", "predictions_test.parquet", "confusion_matrix.json", "parity.json"):
        assert not (tmp_path / "run" / name).exists(), name


def test_lora_leaves_a_merged_model_and_the_adapter(run_recipe, tmp_path):
    pytest.importorskip("peft")
    base = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "2", "--output_dir", tmp_path / "base")
    assert base.exit_code == 0, base.err
    run = run_recipe(
        "finetune", *SMALL_DIGITS, "--model_name_or_path", tmp_path / "base", "--adaptation", "lora",
        "--num_train_epochs", "1", "--output_dir", tmp_path / "lora",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert (tmp_path / "lora" / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "lora" / "model.safetensors").is_file()
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    assert read(tmp_path / "lora", "parity.json")["top1_agreement"] == 1.0
    assert weights_hash(tmp_path / "lora") != weights_hash(tmp_path / "base")


def test_the_official_scripts_command_line_on_folders(run_recipe, digit_folders, tmp_path):
    base = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "2", "--output_dir", tmp_path / "base")
    assert base.exit_code == 0, base.err
    run = run_recipe(
        "finetune", "--train_dir", digit_folders / "train", "--validation_dir", digit_folders / "val",
        "--model_name_or_path", tmp_path / "base", "--output_dir", tmp_path / "out", "--remove_unused_columns", "False",
        "--do_train", "--do_eval", "--num_train_epochs", "1", "--save_strategy", "epoch", "--use_cpu",
        "--load_best_model_at_end", "True", "--evaluation_strategy", "epoch", "--save_total_limit", "3",
        "--seed", "1337", "--ignore_mismatched_sizes", "--logging_strategy", "steps", "--logging_steps", "10",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert read(tmp_path / "out", "eval_results.json")["eval_accuracy"] >= 0
    # A validation folder chooses the best epoch; it is no test, and without one nothing is claimed.
    assert not (tmp_path / "out" / "test_results.json").exists()
    assert "test: not measured" in run.out


def test_only_evaluating_trains_nothing(run_recipe, tmp_path):
    base = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "2", "--output_dir", tmp_path / "base")
    assert base.exit_code == 0, base.err
    run = run_recipe(
        "finetune", *SMALL_DIGITS, "--model_name_or_path", tmp_path / "base", "--do_eval",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    assert not (tmp_path / "out" / "model.safetensors").exists()
    expected = read(tmp_path / "base", "test_results.json")
    actual = read(tmp_path / "out", "test_results.json")
    assert actual["test_accuracy"] == expected["test_accuracy"]
    assert actual["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset_name", "digits", "--learning_rat", "1"], ["--learning_rat", "learning_rate"]),
        (["--dataset_name", "no_such_dataset_anywhere", *TINY_VIT], ["no_such_dataset_anywhere"]),
        (["--dataset_name", "digits", *TINY_VIT, "--label_column_name", "species"], ["species", "label"]),
        (["--dataset_name", "digits", *TINY_VIT, "--train_val_split", "0"], ["no validation split", "--do_eval false"]),
        (["--dataset_name", "digits", "--model_type", "vitt"], ["vitt", "did you mean"]),
        (["--dataset_name", "digits", "--model_type", "vit", "--image_size", "100"], ["100", "patch size 16"]),
        (["--dataset_name", "digits", "--num_processes", "2"], ["1 process runs", "--num_processes 2"]),
        (["--dataset_name", "digits", "--model_name_or_path", "no/such-model"], ["no/such-model"]),
        (["--dataset_name", "digits", *TINY_VIT, "--max_steps", "0"], ["max_steps is 0"]),
        (["--dataset_name", "digits", *TINY_VIT, "--do_train", "false", "--do_eval"], ["a trained model"]),
        (["--dataset_name", "digits", *TINY_VIT, "--dataloader_prefetch_factor", "2"], ["prefetch_factor"]),
        (["--dataset_name", "digits", *TINY_VIT, "--accelerator_config", "{foo: 1}"], ["foo", "refuses"]),
    ],
)
def test_bad_input_is_one_clear_error_before_training(run_recipe, tmp_path, flags, words):
    run = run_recipe("finetune", "--output_dir", tmp_path / "run", *flags)
    assert run.exit_code == 2
    assert "error:" in run.err
    assert "Traceback" not in run.err
    for word in words:
        assert word in run.err
    assert not list((tmp_path / "run").glob("*")), "nothing is left behind"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--report_to", "tensorbord"], ["tensorbord", "tensorboard"]),
        (["--lr_scheduler_kwargs", "{foo: 1}"], ["cosine", "foo"]),
        (["--optim_args", "foo"], ["--optim_args foo"]),
        (["--dataloader_drop_last", "--max_train_samples", "8"], ["8 training images", "no batch of 32"]),
    ],
)
def test_what_only_the_trainer_knows_is_one_clear_error_too(run_recipe, tmp_path, flags, words):
    run = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--output_dir", tmp_path / "run", *flags)
    assert run.exit_code == 2
    assert "Traceback" not in run.err
    for word in words:
        assert word in run.err
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_handful_of_images_trains_and_is_selected_by_what_they_can_give(run_recipe, tmp_path):
    for name, role in itertools.product("ab", ("train", "validation")):
        (tmp_path / role / name).mkdir(parents=True)
        for number in range(3 if role == "train" else 2):
            Image.new("RGB", (16, 16), (40 * number, 9, 9)).save(tmp_path / role / name / f"{number}.png")
    flags = (
        "--train_dir", tmp_path / "train", "--validation_dir", tmp_path / "validation", "--image_size", "16", *TINY_VIT,
        "--max_steps", "1", "--do_predict", "false", "--use_cpu", "--disable_tqdm", "true",
    )  # fmt: skip
    refused = run_recipe(
        "finetune", *flags, "--metric_for_best_model", "top5_accuracy", "--output_dir", tmp_path / "no"
    )
    assert refused.exit_code == 2
    assert "there are 2 classes" in refused.err
    run = run_recipe("finetune", *flags, "--metric_for_best_model", "roc_auc", "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    assert 0 <= read(tmp_path / "run", "eval_results.json")["eval_roc_auc"] <= 1


@pytest.mark.slow
def test_names_from_data_are_escaped_on_the_terminal_and_in_the_table_of_bad_images(run_recipe, tmp_path):
    names = ("\x1b[31mred", "=HYPERLINK(1)")
    for name, number in itertools.product(names, range(12)):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 9, 9)).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / names[1] / "bad.png").write_bytes(b"no image")
    run = run_recipe(
        "finetune", "--train_dir", tmp_path / "photos", "--image_size", "16", *TINY_VIT, "--max_steps", "1",
        "--use_cpu", "--disable_tqdm", "true", "--on_bad_image", "skip", "--goals", "worst_class_recall>=0.9",
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert run.exit_code in (0, 3), run.err
    assert "\x1b[31m" not in run.out + run.err
    rows = list(csv.reader((tmp_path / "run" / "bad_images.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert rows[1][2] == "'=HYPERLINK(1)"


def test_a_folder_that_is_not_ours_is_not_written_to(run_recipe, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("...")
    run = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--output_dir", tmp_path / "thesis")
    assert run.exit_code == 2
    assert "chapter1.tex" in run.err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_a_full_disk_is_noticed_before_training(run_recipe, tmp_path, monkeypatch):
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    run = run_recipe("finetune", *SMALL_DIGITS, *TINY_VIT, "--output_dir", tmp_path / "run")
    assert run.exit_code == 2
    assert "GB are free" in run.err


def test_a_stream_trains_and_resumes_where_it_stopped(run_recipe, tmp_path):
    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.data.load import load_image_dataset

    source = load_image_dataset(DataArguments(dataset_name="digits", test_split=0.2, train_val_split=0.2))
    for role in ("train", "validation", "test"):
        rows = source.splits[role].select_columns(["image", "label"])
        for part in range(4):
            rows.shard(4, part).to_parquet(tmp_path / "data" / f"{role}-0000{part}-of-00004.parquet", batch_size=40)
    flags = (
        *SMALL_DIGITS[2:], *TINY_VIT, "--dataset_name", tmp_path / "data", "--streaming", "true", "--max_steps", "12",
        "--save_steps", "4", "--eval_steps", "4", "--shuffle_buffer_size", "64", "--save_total_limit", "9",
        "--dataloader_num_workers", "2",
    )  # fmt: skip
    whole = run_recipe("finetune", *flags, "--output_dir", tmp_path / "whole")
    assert whole.exit_code == 0, whole.err
    assert read(tmp_path / "whole", "test_results.json")["test_num_examples"] == 61
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    resumed = run_recipe("finetune", *flags, "--output_dir", tmp_path / "cut")
    assert resumed.exit_code == 0, resumed.err
    last = "checkpoint-12"
    assert weights_hash(tmp_path / "cut" / last) == weights_hash(tmp_path / "whole" / last)
