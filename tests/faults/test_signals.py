"""SIGTERM and SIGINT: the step is finished, the run saved, and the same command goes on as if nothing had been."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cases import quick_first
from faults.processes import FINETUNE, REPOSITORY, RUN, Run, read_json, weights_hash
from fit.test_trainer import digits, make_trainer  # noqa: F401 (a fixture)

from hf_imgcls.errors import Interrupted
from hf_imgcls.fit.checkpoints import inspect_checkpoint, list_checkpoints

RESUMABLE = 75


@pytest.mark.parametrize(
    ("number", "workers"),
    quick_first(
        [(number, workers) for number in (signal.SIGTERM, signal.SIGINT) for workers in (0, 2)],
        (signal.SIGTERM, 0),
        (signal.SIGINT, 2),
    ),
)
def test_a_signal_ends_the_step_and_the_run_goes_on(number, workers, whole_run, tmp_path):
    flags = (*RUN, "--dataloader_num_workers", workers)
    run = Run(*flags, folder=tmp_path / "run")
    run.wait_for("checkpoint-10")
    run.kill(number)
    start = time.monotonic()
    assert run.wait() == RESUMABLE, run.output
    assert time.monotonic() - start < 25
    assert number.name in run.output
    assert "the same command goes on" in run.output
    assert "Traceback" not in run.output
    saved = list_checkpoints(tmp_path / "run")[-1]
    assert saved.name in run.output
    assert inspect_checkpoint(saved).is_whole
    assert read_json(tmp_path / "run" / "run.json")["state"] == "interrupted"
    resumed = Run(*flags, folder=tmp_path / "run")
    assert resumed.wait() == 0, resumed.output
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["state"], record["resumed_from"]) == ("finished", [saved.name])
    assert weights_hash(tmp_path / "run") == weights_hash(whole_run)


@pytest.mark.slow
def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(tmp_path):
    # An evaluation takes seconds, a step milliseconds: the signal cannot but fall into an evaluation.
    flags = (
        *RUN, "--logging_steps", "1", "--max_eval_samples", "600", "--max_train_samples", "128",
        "--per_device_eval_batch_size", "1", "--eval_strategy", "epoch", "--save_strategy", "epoch",
        "--train_val_split", "600",
    )  # fmt: skip
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    folder = tmp_path / "run"
    # The epoch's last step is logged, then comes its evaluation; the second start does that first.
    for sign in (r"'epoch': '?1(\.0)?'?\}", "Resumed: "):
        run = Run(*flags, folder=folder)
        wait_for(lambda run=run, sign=sign: re.search(sign, run.output))
        run.kill(signal.SIGTERM)
        assert run.wait() == RESUMABLE, run.output
        stop = inspect_checkpoint(list_checkpoints(folder)[-1]).record
        assert (stop.step, stop.is_evaluation_due, stop.is_save_due) == (8, True, True)
    last = Run(*flags, folder=folder)
    assert last.wait() == 0, last.output
    assert weights_hash(folder) == weights_hash(tmp_path / "whole")
    history, expected = (
        [(entry["step"], entry["eval_accuracy"]) for entry in read_json(path / "trainer_state.json")["log_history"]
         if "eval_accuracy" in entry]
        for path in (folder, tmp_path / "whole")
    )  # fmt: skip
    assert history == expected
    assert len(history) == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_to_every_process_of_the_job_leaves_the_workers_to_their_trainer(workers, whole_run, tmp_path):
    """What schedulers do; in the first epoch of a start, and in one that goes on in mid-epoch."""
    flags = (*RUN, "--dataloader_num_workers", workers, "--eval_strategy", "no", "--load_best_model_at_end", "false")
    flags = (*flags, "--num_train_epochs", "60", "--save_steps", "100", "--save_total_limit", "50")
    for first in (100, 300):
        run = Run(*flags, folder=tmp_path / "run")
        run.wait_for(f"checkpoint-{first}")
        os.killpg(run.process.pid, signal.SIGTERM)
        start = time.monotonic()
        assert run.wait() == RESUMABLE, run.output
        assert time.monotonic() - start < 25
        assert "dataloader worker" not in run.output
        newest = list_checkpoints(tmp_path / "run")[-1]
        assert inspect_checkpoint(newest).is_whole
        assert inspect_checkpoint(newest).record.step % 100, "it was stopped between two regular checkpoints"


def test_a_stopped_run_can_go_on_although_only_models_are_saved(tmp_path):
    flags = (*RUN, "--save_only_model", "true")
    run = Run(*flags, folder=tmp_path / "run")
    run.wait_for("checkpoint-10")
    run.kill(signal.SIGTERM)
    assert run.wait() == RESUMABLE, run.output
    resumed = Run(*flags, folder=tmp_path / "run")
    assert resumed.wait() == 0, resumed.output


def test_a_signal_while_the_best_weights_are_loaded_is_not_lost(digits, tmp_path, monkeypatch):  # noqa: F811
    trainer = make_trainer(
        digits, tmp_path, max_steps=2, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="accuracy", greater_is_better=True,
    )  # fmt: skip
    load = trainer._load_best_model

    def load_slowly():
        os.kill(os.getpid(), signal.SIGTERM)
        load()

    monkeypatch.setattr(trainer, "_load_best_model", load_slowly)
    with pytest.raises(Interrupted, match="goes on from checkpoint-2"):
        trainer.train()


def test_a_signal_after_the_last_step_leaves_nothing_to_train(whole_run, tmp_path):
    # Stopped in the middle of an epoch by max_steps; the run is then killed while the test split is measured.
    flags = (*RUN, "--max_steps", "30", "--num_train_epochs", "3")
    folder = tmp_path / "run"
    whole = Run(*flags, folder=tmp_path / "whole")
    assert whole.wait() == 0, whole.output
    run = Run(*flags, folder=folder)
    run.wait_for("model.safetensors")
    run.kill()
    run.wait()
    again = Run(*flags, folder=folder)
    assert again.wait() == 0, again.output
    assert read_json(folder / "trainer_state.json")["global_step"] == 30
    assert weights_hash(folder) == weights_hash(tmp_path / "whole")
    assert read_json(folder / "test_results.json")["test_num_examples"] == 61


def test_early_stopping_goes_on_counting(tmp_path):
    # Nothing is ever better by 1: the first evaluation is the best, the fourth one stops the run.
    flags = (*RUN, "--early_stopping_patience", "3", "--early_stopping_threshold", "1.0")
    run = Run(*flags, folder=tmp_path / "run")
    run.wait_for("checkpoint-10")
    run.kill(signal.SIGTERM)
    assert run.wait() == RESUMABLE, run.output
    resumed = Run(*flags, folder=tmp_path / "run")
    assert resumed.wait() == 0, resumed.output
    assert read_json(tmp_path / "run" / "trainer_state.json")["global_step"] == 20


def test_a_finished_run_is_not_trained_again(whole_run, tmp_path):
    flags = (*RUN, "--max_steps", "5")
    assert Run(*flags, folder=tmp_path / "run").wait() == 0
    before = weights_hash(tmp_path / "run")
    again = Run(*flags, folder=tmp_path / "run")
    assert again.wait() == 0
    assert "is finished" in again.output
    assert weights_hash(tmp_path / "run") == before
    other = Run(*flags, "--learning_rate", "1e-4", folder=tmp_path / "run")
    assert other.wait() == 2
    assert "learning_rate: 0.003 then, 0.0001 now" in other.output


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(tmp_path):
    first = Run(*RUN, "--num_train_epochs", "200", folder=tmp_path / "run")
    first.wait_for("checkpoint-5")
    second = Run(*RUN, "--num_train_epochs", "200", folder=tmp_path / "run")
    assert second.wait() == 2
    assert "is being written to by another run (process" in second.output
    assert str(first.process.pid) in second.output
    first.kill()  # and the lock goes with it
    for path in list_checkpoints(tmp_path / "run")[:-1]:
        shutil.rmtree(path)
    third = Run(*RUN, "--num_train_epochs", "200", "--save_total_limit", "2", folder=tmp_path / "run")
    step = inspect_checkpoint(list_checkpoints(tmp_path / "run")[-1]).record.step
    third.wait_for(f"checkpoint-{step + 10}")
    third.kill(signal.SIGTERM)
    assert third.wait() == RESUMABLE, third.output


def launch(folder, *flags, processes=2):
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(REPOSITORY / "accelerate_config.yaml"),
        "--num_processes", str(processes), "--main_process_port", "0", str(FINETUNE), *map(str, flags),
        "--output_dir", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = folder.with_name(f"{folder.name}.{time.monotonic_ns()}.log")
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    process.log = log
    return process


def ranks_of(folder):
    """Process ids of the recipe's processes, by what their command line says."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdigit() else []
        except OSError:
            continue
        if str(folder).encode() in words and str(FINETUNE).encode() in words[:3]:
            found.append(int(entry))
    return sorted(found)


def wait_for(condition, timeout=120):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes in /proc")
TWO = [flag for flag in RUN if flag != "--use_cpu"]


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("target", ["launcher", "rank 0", "rank 1"])
def test_sigterm_to_two_processes_stops_both_at_one_step(target, tmp_path):
    flags = (*TWO, "--per_device_train_batch_size", "8", "--num_train_epochs", "12", "--save_steps", "24",
             "--eval_steps", "24")  # fmt: skip
    if target == "launcher":
        whole = launch(tmp_path / "whole", *flags)
        assert whole.wait(240) == 0, whole.log.read_text()
    folder = tmp_path / "run"
    process = launch(folder, *flags)
    wait_for(lambda: list(folder.glob("checkpoint-24")))
    ranks = ranks_of(folder)
    assert len(ranks) == 2
    os.kill(process.pid if target == "launcher" else ranks[int(target[-1])], signal.SIGTERM)
    start = time.monotonic()
    wait_for(lambda: not ranks_of(folder), 25)
    assert time.monotonic() - start < 25
    process.wait(60)
    output = process.log.read_text()
    assert "the same command goes on" in output
    saved = list_checkpoints(folder)[-1]
    assert inspect_checkpoint(saved).is_whole
    assert saved.name in output
    if target != "launcher":
        assert f"exitcode  : {RESUMABLE}" in output  # of the first rank to leave, in the launcher's report
        return
    assert inspect_checkpoint(saved).record.step % 24, "it was stopped between two regular checkpoints"
    resumed = launch(folder, *flags)
    assert resumed.wait(240) == 0, resumed.log.read_text()
    assert weights_hash(folder) == weights_hash(tmp_path / "whole")


@needs_proc
@pytest.mark.slow
def test_sigterm_to_the_launcher_of_one_process_reaches_it(tmp_path):
    folder = tmp_path / "run"
    flags = (*RUN, "--num_train_epochs", "400", "--save_steps", "50", "--eval_steps", "50")
    command = [sys.executable, "-m", "accelerate.commands.launch", str(FINETUNE), *flags, "--output_dir", str(folder)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: list(folder.glob("checkpoint-50")))
    process.terminate()
    process.wait(30)
    wait_for(lambda: not ranks_of(folder), 25)
    assert "the same command goes on" in (tmp_path / "log").read_text()
    assert inspect_checkpoint(list_checkpoints(folder)[-1]).is_whole
