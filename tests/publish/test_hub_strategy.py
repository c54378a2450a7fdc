"""Checkpoints onto a branch while training goes on, and the run's folder at its end."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from publish.conftest import TOKEN

MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}
LOGGED = MODEL | {"trainer_state.json"}


def finetune(pushing, folder, *flags, **options):
    return pushing.run_recipe(
        "finetune", *SMALL_DIGITS, *TINY_VIT, "--max_steps", "6", "--save_steps", "3", "--eval_steps", "3",
        "--output_dir", folder, "--push_to_hub", "--hub_model_id", "me/digits", "--hub_always_push",
        "--license", "apache-2.0", *flags, **options,
    )  # fmt: skip


_PUSHER = """
import json
from pathlib import Path
from hf_imgcls.retries import Patience
from hf_imgcls.publish.during_training import CheckpointPusher
from hf_imgcls.publish.upload import Destination
place = Destination("digits", branch="checkpoints")
pusher = CheckpointPusher(Path({folder!r}), place, {strategy!r}, waits_for_all=True, patience=Patience(2, 0.05, 1))
for checkpoint in {checkpoints!r}:
    pusher(Path(checkpoint))
pusher.finish()
print(json.dumps([pusher.pushed, pusher.problems]))
"""


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("every_save", MODEL),
        ("checkpoint", MODEL | {f"last-checkpoint/{name}" for name in LOGGED}),
        ("all_checkpoints", MODEL | {f"checkpoint-{step}/{name}" for step in (3, 6) for name in LOGGED}),
    ],
)
def test_strategies(pushing, run, strategy, expected):
    shutil.copytree(run / "checkpoint-6", run / "checkpoint-3")
    (run / "checkpoint-3" / "trainer_state.json").write_text("{}")
    (run / "checkpoint-6" / "training_args.bin").write_bytes(b"a pickle")
    checkpoints = [str(run / f"checkpoint-{step}") for step in (3, 6)]
    code = _PUSHER.format(folder=str(run), strategy=strategy, checkpoints=checkpoints)
    assert pushing.run_code(code) == [["checkpoint-3", "checkpoint-6"], []]
    assert set(pushing.repository.tree("checkpoints")) - {".gitattributes"} == expected
    if strategy != "every_save":  # else the same model makes no second commit
        assert pushing.titles("checkpoints")[1:] == [f"Training in progress, checkpoint-{step}" for step in (3, 6)]
    assert pushing.titles() == ["initial commit"]
    assert not list(run.glob(".push-*"))


@pytest.mark.slow
def test_a_run_pushes_its_checkpoints_and_then_itself(pushing, tmp_path):
    result = finetune(pushing, tmp_path / "run", "--hub_strategy", "all_checkpoints", "--hub_tag", "v1")
    assert pushing.titles("checkpoints")[1:] == [f"Training in progress, checkpoint-{step}" for step in (3, 6)]
    last = (tmp_path / "run" / "checkpoint-6" / "model.safetensors").read_bytes()
    assert pushing.hub.read("me/digits", "checkpoint-6/model.safetensors", "checkpoints") == last
    # The run itself, by the allow-list of a finished run, on the branch of its own.
    main = set(pushing.repository.tree())
    assert {"README.md", "recipe.yaml", "model.safetensors", "test_results.json"} <= main
    assert not any(name.startswith(("checkpoint", "last", "training_args", ".push")) for name in main)
    assert pushing.titles() == ["initial commit", "Upload image classifier"]
    assert pushing.repository.tags["v1"] == pushing.repository.branches["main"]
    assert pushing.repository.token == TOKEN
    names = {name.rpartition("/")[2] for tree in pushing.repository.commits.values() for name in tree}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert "was not pushed" not in result.stderr
    assert "served = scored       61 of 61 arrays, given as PNG" in result.stdout
    assert "from the Hub" in result.stdout
    assert not list((tmp_path / "run").glob(".push-*"))


@pytest.mark.slow
def test_pushes_that_fail_leave_a_finished_run(pushing, tmp_path):
    run = tmp_path / "run"
    fault = pushing.hub.faults.plant("POST", "/commit/", status=403, message="planted", times=-1)
    result = finetune(pushing, run, check=False)
    assert result.returncode == 2
    assert result.stderr.count("A checkpoint was not pushed: checkpoint-") == 2
    assert "error: the Hub refused to commit to me/digits (HTTP 403)" in result.stderr
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    fault.times = 0
    again = finetune(pushing, run)
    assert f"To push it: hf-imgcls push {run}" in again.stderr
    pushing.run_recipe("push", run, "--verify", "false")  # where to, the recipe knows
    assert pushing.titles() == ["initial commit", "Upload image classifier"]


def test_what_could_not_be_pushed_is_told_before_the_training(pushing, tmp_path):
    result = finetune(pushing, tmp_path / "run", "--hub_model_id", "somebody/digits", check=False)
    assert result.returncode == 2
    assert "somebody/digits belongs to somebody" in result.stderr
    result = finetune(pushing, tmp_path / "run", check=False, HF_TOKEN="")
    assert result.returncode == 2
    assert "hf auth login" in result.stderr
    assert "Data:" not in result.stderr
    assert not pushing.hub.repositories


def test_a_checkpoint_is_passed_over_while_one_is_on_its_way(trained_run, tmp_path):
    """The pusher alone, with a push that takes its time."""
    from hf_imgcls.publish.during_training import CheckpointPusher
    from hf_imgcls.publish.upload import Destination

    release = threading.Event()

    class Slow(CheckpointPusher):
        def _push(self, name, snapshot):
            assert {path.name for path in snapshot.iterdir()} == LOGGED
            release.wait(30)

    checkpoint = trained_run / "checkpoint-6"
    for waits, expected in ((False, 1), (True, 2)):
        release.clear()
        folder = tmp_path / str(waits)
        folder.mkdir()
        pusher = Slow(folder, Destination("me/digits"), "every_save", waits_for_all=waits)
        start = time.monotonic()
        pusher(checkpoint)
        pusher(checkpoint)
        assert time.monotonic() - start < 5
        release.set()
        pusher.finish()
        assert len(pusher.pushed) == expected, pusher.problems
        assert not list(folder.iterdir())
