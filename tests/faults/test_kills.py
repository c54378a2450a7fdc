"""kill -9 at any time: a resumed run ends with the weights of one that nothing interrupted."""

from __future__ import annotations

import json
import random
import re

import pytest
from faults.processes import RUN, Run, read_json, weights_hash
from tiny_models import TINY_CONFIGS

from hf_imgcls.digests import find_changes
from hf_imgcls.fit.checkpoints import inspect_checkpoint, list_checkpoints


def assert_all_whole(folder):
    """Whatever has a checkpoint's name is one."""
    for path in list_checkpoints(folder):
        inspection = inspect_checkpoint(path)
        assert inspection.is_whole, f"{path}: {inspection.reasons}"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_in_mid_epoch_and_resumed_is_never_interrupted(workers, whole_run, tmp_path):
    # Not from decoded pixels: the crops are then drawn and cut in the workers.
    flags = (*RUN, "--dataloader_num_workers", workers, "--cache_decoded_images", "false")
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    run = Run(*flags, folder=tmp_path / "cut")
    run.wait_for("checkpoint-10")  # of 24 steps an epoch
    run.kill()
    assert run.wait() == -9
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resumed = Run(*flags, folder=tmp_path / "cut")
    assert resumed.wait() == 0, resumed.output
    assert "Resumed: " in resumed.output
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")
    assert weights_hash(tmp_path / "cut" / "checkpoint-48") == weights_hash(tmp_path / "whole" / "checkpoint-48")


@pytest.mark.slow
def test_auto_killed_while_it_fine_tunes_keeps_what_it_would_have_kept(tmp_path):
    flags = (
        *RUN[: RUN.index("--model_type")], "--model_type", "resnet", "--model_config",
        json.dumps(TINY_CONFIGS["resnet"]), "--adaptation", "auto", "--random_crop_scale", "0.9", "1",
        "--num_train_epochs", "6", "--save_steps", "10", "--eval_steps", "10", "--cache_dir", tmp_path / "cache",
    )  # fmt: skip
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    run = Run(*flags, folder=tmp_path / "cut")
    run.wait_for_step(20)
    run.kill()
    assert run.wait() == -9
    resumed = Run(*flags, folder=tmp_path / "cut")
    assert resumed.wait() == 0, resumed.output
    assert "Resumed: " in resumed.output
    verdicts = [re.search("auto: fine-tuning changed.*", each.output)[0] for each in (whole, resumed)]
    assert verdicts[0] == verdicts[1]
    assert "its model is kept" in verdicts[0]
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")


@pytest.mark.slow
def test_killed_while_saving_leaves_nothing_half_written(whole_run, tmp_path):
    folder = tmp_path / "run"
    killed = 0
    for step in (5, 15, 30, 45):
        run = Run(*RUN, folder=folder)
        try:
            run.wait_for(f".checkpoint-{step}.partial")
        except TimeoutError:
            break  # the folder had been renamed before anybody looked, and the run is done
        run.kill()
        killed += run.wait() == -9
        assert_all_whole(folder)
    assert killed >= 1
    last = Run(*RUN, folder=folder)
    assert last.wait() == 0, last.output
    assert weights_hash(folder) == weights_hash(whole_run)
    assert not list(folder.glob(".checkpoint-*"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_twenty_kills_at_random_times(whole_run, tmp_path):
    draw = random.Random(0)
    kills = runs = 0
    # An image at a time makes evaluation as long as training, so that many kills fall into it.
    flags = (*RUN, "--per_device_eval_batch_size", "1")
    while kills < 20:
        folder = tmp_path / f"run{runs}"
        exit_code = None
        while exit_code != 0:
            run = Run(*flags, folder=folder)
            try:
                exit_code = run.wait(draw.uniform(0.5, 3.5)) if kills < 20 else run.wait()
            except TimeoutError:  # which kills it
                exit_code = -9
            assert exit_code in (0, -9), run.output
            kills += exit_code == -9
            assert_all_whole(folder)
        assert weights_hash(folder) == weights_hash(whole_run)
        runs += 1


RECORDS = ("train_results.json", "eval_results.json", "test_results.json", "all_results.json", "parity.json")


@pytest.mark.parametrize(
    "moment",
    [
        "train_results.json",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("checkpoint-48", "model.safetensors", "eval_results.json", "test_results.json")
        ),
    ],
)
def test_a_kill_after_the_last_step_loses_no_record(moment, whole_run, tmp_path):
    """Between training's end and the run's: what cannot be measured again is there, and what was begun is cleared."""
    folder = tmp_path / "run"
    # A checkpoint in mid-epoch and a kill there: the loss of the first part is not forgotten later.
    first = Run(*RUN, folder=folder)
    first.wait_for("checkpoint-15")
    first.kill()
    second = Run(*RUN, folder=folder)
    second.wait_for(moment)
    second.kill()
    for name in (
        ".write_probe",
        ".test_results.json.abcd1234",
        ".predictions_test.parquet.4711",
        ".README.md.unfinished",
    ):
        (folder / name).write_text("half")
    (folder / "report" / ".unfinished-abcd1234").mkdir(parents=True)
    (folder / ".of_the_users").write_text("kept")

    last = Run(*RUN, folder=folder)
    assert last.wait() == 0, last.output
    assert weights_hash(folder) == weights_hash(whole_run)
    for name in RECORDS:
        before, after = (read_json(place / name) for place in (whole_run, folder))
        assert before.keys() <= after.keys() <= before.keys() | {"train_num_starts"}, name
    train, whole = (read_json(place / "train_results.json") for place in (folder, whole_run))
    assert train["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
    assert train["train_num_starts"] >= 2
    assert train["train_runtime"] > 0
    assert find_changes(folder) == {}
    hidden = {path.name for path in (*folder.glob(".*"), *folder.glob("report/.*"))}
    assert hidden == {".lock", ".of_the_users"}


def test_the_second_of_two_starts_sees_the_finished_run(whole_run, tmp_path):
    """It waits for the folder, and neither trains nor measures what the first one has just done."""
    folder = tmp_path / "run"
    flags = (*RUN, "--max_steps", "24")
    first = Run(*flags, folder=folder)
    first.wait_for("checkpoint-24")
    second = Run(*flags, folder=folder)  # waits up to ten seconds
    assert first.wait() == 0, first.output
    assert second.wait() == 0, second.output
    assert f"The run in {folder} is finished" in second.output
    assert "test split" not in second.output
    assert "is finished" not in first.output
