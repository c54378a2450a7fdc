"""The same run again: workers, processes, and the folder that tells how it was made."""

from __future__ import annotations

import shutil

import pytest
import torch
from faults.processes import RUN, Run, read_json, weights_hash
from faults.test_signals import TWO, launch
from lifecycle.command_lines import TINY_VIT
from safetensors.torch import load_file

from hf_imgcls.fit.checkpoints import list_checkpoints


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path):
    hashes = set()
    for workers in (0, 1, 2, 4):
        flags = (*RUN, "--seed", "0", "--num_train_epochs", "1", "--cache_decoded_images", "false")
        run = Run(*flags, "--dataloader_num_workers", workers, folder=tmp_path / str(workers))
        assert run.wait() == 0, run.output
        hashes.add(weights_hash(list_checkpoints(run.folder)[-1]))
    assert len(hashes) == 1


def test_a_run_with_everything_goes_on_as_if_it_had_never_stopped(tmp_path):
    """In mid-epoch: mixed images, repetitions of rare ones, operations on each, averaged weights."""
    flags = (
        *RUN, "--augmentation", "heavy", "--imbalance", "balanced_sampler", "--ema_decay", "0.9", "--num_train_epochs",
        "1", "--save_total_limit", "9", "--load_best_model_at_end", "false",
    )  # fmt: skip
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    shutil.copytree(tmp_path / "whole" / "checkpoint-10", tmp_path / "run" / "checkpoint-10")
    run = Run(*flags, folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    assert "checkpoint-10" in run.output
    assert weights_hash(run.folder) == weights_hash(whole.folder)
    # The averaged weights are the ones that are saved, and not those that are trained.
    last = list_checkpoints(whole.folder)[-1]
    assert weights_hash(last) == weights_hash(whole.folder)
    averaged = load_file(last / "model.safetensors")
    trained = load_file(last / "training_weights.safetensors")
    assert trained.pop("num_averaged") == 24
    assert len(trained) == len(averaged)
    assert not any(torch.equal(averaged["classifier.weight"], weight) for weight in trained.values())


def test_the_folder_tells_how_to_repeat_the_run(whole_run, tmp_path):
    record = read_json(whole_run / "run.json")
    assert record["state"] == "finished"
    assert record["seed"] == 42
    assert {"python", "torch", "transformers", "datasets", "accelerate", "hf_imgcls"} <= record["versions"].keys()
    assert all(len(fingerprint) == 16 for fingerprint in record["data"].values())
    assert record["data"].keys() == {"train", "validation", "test"}
    assert record["hardware"]["cores"] >= 1
    assert record["recipe"]["learning_rate"] == 3e-3
    again = Run("--config", whole_run / "recipe.yaml", folder=tmp_path / "again")
    assert again.wait() == 0, again.output
    assert weights_hash(tmp_path / "again") == weights_hash(whole_run)
    repeated = read_json(tmp_path / "again" / "run.json")
    assert repeated["data"] == record["data"]
    assert repeated["recipe"] | {"output_dir": ""} == record["recipe"] | {"output_dir": ""}


@pytest.mark.slow
@pytest.mark.parametrize("count", [61, 1])
def test_two_processes_measure_what_one_measures(count, tmp_path):
    """Metrics and the loss of the same weights: a run without training steps that move anything."""
    base = Run(*RUN, "--max_steps", "5", folder=tmp_path / "base")
    assert base.wait() == 0, base.output
    flags = (
        "--model_name_or_path", str(tmp_path / "base"), "--dataset_name", "digits", "--image_size", "16",
        "--do_eval", "--do_predict", "false", "--train_val_split", "300", "--max_eval_samples", str(count),
    )  # fmt: skip
    one = Run(*flags, "--use_cpu", folder=tmp_path / "one")
    assert one.wait() == 0, one.output
    two = launch(tmp_path / "two", *flags)
    assert two.wait(180) == 0, two.log.read_text()
    expected, actual = (read_json(tmp_path / name / "eval_results.json") for name in ("one", "two"))
    names = [
        name
        for name, value in expected.items()
        if isinstance(value, (int, float)) and not name.endswith(("runtime", "per_second"))
    ]
    assert {"eval_loss", "eval_accuracy", "eval_macro_f1"} <= set(names)
    for name in names:
        assert actual[name] == pytest.approx(expected[name], rel=1e-6), name
    assert actual["eval_num_examples"] == count


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    # Without dropout, whose masks are another matter.
    flags = (*TWO[:-4], *TINY_VIT, "--max_steps", "20", "--save_steps", "10", "--eval_steps", "10")
    first = launch(tmp_path / "run", *flags, "--per_device_train_batch_size", "8")
    assert first.wait(180) == 0, first.log.read_text()
    folder = tmp_path / "one"
    shutil.copytree(tmp_path / "run" / "checkpoint-10", folder / "checkpoint-10")
    run = Run(*flags, "--use_cpu", "--per_device_train_batch_size", "8", folder=folder)
    assert run.wait() == 0, run.output
    assert "The run had 2 processes and goes on with 1: 2 x 8 images" in run.output
    assert "no longer equal bit for bit" in run.output
    losses = [
        [entry["eval_loss"] for entry in read_json(path / "trainer_state.json")["log_history"] if "eval_loss" in entry]
        for path in (tmp_path / "run", folder)
    ]
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
