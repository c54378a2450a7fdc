"""Checkpoints that something happened to: passed over with the reason, never used as if nothing had."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from cases import quick_first
from faults.processes import RUN, Run, weights_hash

from hf_imgcls.fit.checkpoints import inspect_checkpoint, list_checkpoints, remove_leftovers, rotate_checkpoints

FILES = (
    "config.json", "manifest.json", "model.safetensors", "optimizer.pt", "preprocessor_config.json", "rng_state.pth",
    "scheduler.pt", "trainer_state.json",
)  # fmt: skip


def cut_run(whole_run, folder, *steps):
    """What a run that was killed leaves: some checkpoints, nothing else."""
    for step in steps:
        shutil.copytree(whole_run / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    shutil.copy(whole_run / "run.json", folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"state": "running"}))
    return folder


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def test_a_checkpoint_holds_what_the_tests_below_damage(whole_run):
    assert sorted(path.name for path in (whole_run / "checkpoint-10").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_noticed_in_every_file(name, whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path, 5)
    assert inspect_checkpoint(folder / "checkpoint-5").is_whole
    flip_byte(folder / "checkpoint-5" / name)
    inspection = inspect_checkpoint(folder / "checkpoint-5")
    assert not inspection.is_whole
    assert name in inspection.reasons


@pytest.mark.parametrize("name", quick_first(FILES, "model.safetensors", "manifest.json"))
def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(name, whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 5, 10)
    flip_byte(folder / "checkpoint-10" / name)
    run = Run(*RUN, folder=folder)
    assert run.wait() == 0, run.output
    assert "checkpoint-10 cannot be used" in run.output
    assert name in run.output
    assert f"Resumed: {folder / 'checkpoint-5'}" in run.output
    assert weights_hash(folder) == weights_hash(whole_run)


def test_without_a_whole_checkpoint_nothing_is_begun_anew_in_silence(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 5, 10)
    (folder / "checkpoint-10" / "optimizer.pt").unlink()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"")
    run = Run(*RUN, folder=folder)
    assert run.wait() == 2
    assert "no checkpoint" in run.output
    assert "checkpoint-10 (it has no optimizer)" in run.output
    assert "model.safetensors has 0 bytes" in run.output
    assert (folder / "checkpoint-10").is_dir()
    # By name it goes on without the optimizer's state, and says so.
    shutil.rmtree(folder / "checkpoint-5")
    named = Run(*RUN, "--resume_from_checkpoint", folder / "checkpoint-10", folder=folder)
    assert named.wait() == 0, named.output
    assert "it has no optimizer: the run will differ" in named.output
    assert weights_hash(folder) != weights_hash(whole_run)


def test_a_damaged_checkpoint_is_not_used_by_name_either(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 5)
    flip_byte(folder / "checkpoint-5" / "model.safetensors")
    run = Run(*RUN, "--resume_from_checkpoint", folder / "checkpoint-5", folder=folder)
    assert run.wait() == 2
    assert "is damaged: model.safetensors does not have its checksum" in run.output


def test_going_back_to_an_older_checkpoint_needs_the_newer_ones_out_of_the_way(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 5, 10)
    flags = (*RUN, "--resume_from_checkpoint", folder / "checkpoint-5")
    refused = Run(*flags, folder=folder)
    assert refused.wait() == 2
    assert "also holds checkpoint-10" in refused.output
    shutil.rmtree(folder / "checkpoint-10")
    run = Run(*flags, folder=folder)
    assert run.wait() == 0, run.output
    assert weights_hash(folder) == weights_hash(whole_run)


def test_a_damaged_best_checkpoint_is_told(whole_run, tmp_path):
    states = {
        int(path.name[11:]): json.loads((path / "trainer_state.json").read_text())
        for path in whole_run.glob("checkpoint-*")
    }
    step, best = next((step, state["best_global_step"]) for step, state in sorted(states.items())
                      if state["best_global_step"] < step)  # fmt: skip
    folder = cut_run(whole_run, tmp_path / "run", best, step)
    flip_byte(folder / f"checkpoint-{best}" / "model.safetensors")
    run = Run(*RUN, folder=folder)
    assert run.wait() == 0, run.output
    assert f"checkpoint-{best} was the best checkpoint so far and cannot be used" in run.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max_train_samples", "383"), "data.train"),
        (("--model_type", "vit", "--model_config", "{hidden_size: 64, num_attention_heads: 2, patch_size: 4}"),
         "model.hidden_size: 32 then, 64 now"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(flags, words, whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 10)
    run = Run(*RUN, *flags, folder=folder)
    assert run.wait() == 2
    assert "belongs to another run" in run.output
    assert words in run.output


def test_another_transformers_line_and_other_labels_are_refused(whole_run):
    import dataclasses

    from hf_imgcls.errors import OutputError
    from hf_imgcls.fit.checkpoints import check_same_run

    inspection = inspect_checkpoint(whole_run / "checkpoint-10")
    run = inspection.record.run
    check_same_run(inspection, run)
    with pytest.raises(OutputError, match=r"transformers: .* then, 99\.1 now"):
        check_same_run(inspection, dataclasses.replace(run, transformers="99.1"))
    with pytest.raises(OutputError, match=r"labels: .* then"):
        check_same_run(inspection, dataclasses.replace(run, labels=run.labels[::-1]))


def test_a_changed_argument_is_told_and_followed(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 45)
    run = Run(*RUN, "--learning_rate", "1e-3", "--logging_steps", "1", folder=folder)
    assert run.wait() == 0, run.output
    assert "learning_rate: 0.003 then, 0.001 now" in run.output
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rates = {entry["step"]: entry["learning_rate"] for entry in history if "learning_rate" in entry}
    rates = {step: rate for step, rate in rates.items() if step > 45}  # before it, each epoch's end
    assert rates.keys() == {46, 47, 48}
    for step, rate in rates.items():  # 5 steps up, 43 down half a cosine; the rate before the step
        assert rate == pytest.approx(1e-3 * (1 + math.cos(math.pi * (step - 1 - 5) / 43)) / 2), step


def test_checkpoints_are_rotated_by_step_not_by_time(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path, 5, 10, 15, 20)
    shutil.copytree(folder / "checkpoint-5", folder / "checkpoint-40")  # damaged ones lie ahead of a resumed run
    for path in sorted(folder.glob("checkpoint-*"), reverse=True):
        path.touch()
    rotate_checkpoints(folder, 3, newest=20, best=5)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-15",
        "checkpoint-20",
        "checkpoint-5",
    ]
    rotate_checkpoints(folder, 1, newest=20, best=5)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-5"]


def test_a_kill_between_two_renames_loses_nothing(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path, 5, 10)
    # The new one is written, the old one out of the way, and the kill comes before the new one has its name.
    (folder / "checkpoint-10").rename(folder / ".checkpoint-10.partial")
    shutil.copytree(folder / ".checkpoint-10.partial", folder / ".checkpoint-10.replaced")
    # Here it came while the new one was being written, and there in the middle of deleting.
    (folder / "checkpoint-5").rename(folder / ".checkpoint-5.replaced")
    (folder / ".checkpoint-5.partial").mkdir()
    shutil.copytree(whole_run / "checkpoint-15", folder / ".checkpoint-15.doomed")
    remove_leftovers(folder)
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-5", "checkpoint-10"]
    assert all(inspect_checkpoint(path).is_whole for path in list_checkpoints(folder))
    assert not list(folder.glob(".checkpoint-*"))


@pytest.mark.slow
def test_checkpoints_rarer_than_evaluations_keep_the_best_one_saved(tmp_path):
    """The best evaluation may fall on a step without a checkpoint."""
    flags = (*RUN, "--eval_steps", "3", "--save_steps", "6", "--save_total_limit", "2", "--num_train_epochs", "3",
             "--load_best_model_at_end", "true")  # fmt: skip
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    state = json.loads((tmp_path / "whole" / "trainer_state.json").read_text())
    folder = tmp_path / "run"
    for step in (18, 42):
        run = Run(*flags, folder=folder)
        run.wait_for_step(step)
        run.kill()
        assert run.wait() == -9
    last = Run(*flags, folder=folder)
    assert last.wait() == 0, last.output
    resumed = json.loads((folder / "trainer_state.json").read_text())
    for name in ("best_global_step", "best_metric"):
        assert resumed[name] == state[name]
    assert weights_hash(folder) == weights_hash(tmp_path / "whole")


def test_beginning_anew_leaves_nothing_of_the_old_run(whole_run, tmp_path):
    folder = cut_run(whole_run, tmp_path / "run", 35, 40)
    run = Run(*RUN, "--resume_from_checkpoint", "false", "--max_steps", "5", folder=folder)
    assert run.wait() == 0, run.output
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-5"]


def test_overwriting_an_unfinished_run_with_itself_goes_on(whole_run, tmp_path):
    """A scheduler repeats the command as it is."""
    flags = (*RUN, "--overwrite_output_dir")
    run = Run(*flags, folder=tmp_path / "run")
    run.wait_for("checkpoint-10")
    run.kill()
    again = Run(*flags, folder=tmp_path / "run")
    assert again.wait() == 0, again.output
    assert "Resumed: " in again.output
    assert weights_hash(tmp_path / "run") == weights_hash(whole_run)
    once_more = Run(*flags, "--max_steps", "5", folder=tmp_path / "run")  # a finished run is replaced
    assert once_more.wait() == 0, once_more.output
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-5"]


def test_no_secret_and_no_pickle_of_arguments_lies_in_a_run(tmp_path):
    run = Run(*RUN, "--hub_token", "hf_verysecretverysecret", "--max_steps", "5", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        assert b"hf_verysecret" not in path.read_bytes(), path
    assert not [path for path in files if path.name == "training_args.bin"]
    assert "hf_verysecret" not in run.output
