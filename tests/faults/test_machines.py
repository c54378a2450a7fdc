"""Two machines without storage in common: one run, of which only the main process has the folder; one end for both."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest
from faults.processes import RUN, Run, read_json, weights_hash
from lifecycle.command_lines import TINY_VIT
from PIL import Image
from torch.distributed import TCPStore

pytestmark = pytest.mark.slow
# Without dropout, whose masks belong to a process.
SHORT = (
    *RUN[:-1], TINY_VIT[3], "--max_steps", "48", "--save_steps", "12", "--eval_steps", "12", "--augmentation", "none",
    "--calibrate", "true",
)  # fmt: skip
HALF = ("--per_device_train_batch_size", "8")


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Start a process on each of two machines; this process is the launcher, which keeps the store."""
    stores, runs = [], []

    def start(name: str, *flags: str, on_second: tuple[str, ...] = ()) -> list[Run]:
        stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=1)))
        environment = {
            "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(stores[-1].port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }  # fmt: skip
        with monkeypatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            started = []
            for rank in range(2):
                patch.setenv("RANK", str(rank))
                (tmp_path / f"machine_{rank}").mkdir(exist_ok=True)
                own = (*flags, *(on_second if rank else ()))
                started.append(Run(*own, folder=tmp_path / f"machine_{rank}" / name))
        runs.extend(started)
        return started

    yield start
    for run in runs:
        if run.process.is_alive():
            run.kill()


def wait_both(runs: list[Run], timeout: float = 60) -> list[int]:
    return [run.wait(timeout) for run in runs]


def test_two_machines_train_measure_and_go_on_like_one_process(launch, tmp_path):
    whole = launch("whole", *SHORT, *HALF)
    assert wait_both(whole) == [0, 0], whole[1].output
    assert not whole[1].folder.exists(), "only the main process needs the folder"
    alone = Run(*SHORT, folder=tmp_path / "alone")
    assert alone.wait() == 0, alone.output
    one, two = (read_json(run.folder / "test_results.json") for run in (alone, whole[0]))
    assert {"test_accuracy", "test_log_loss"} <= one.keys()
    for name, value in one.items():
        if isinstance(value, float) and not name.endswith(("runtime", "per_second")):
            assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name

    # Stopped by a signal on the second machine, and gone on with from a folder that it does not see.
    cut = launch("cut", *SHORT, *HALF)
    cut[0].wait_for("checkpoint-12")
    cut[1].kill(signal.SIGTERM)
    assert wait_both(cut) == [75, 75], cut[0].output
    again = launch("cut", *SHORT, *HALF)
    assert wait_both(again) == [0, 0], again[1].output
    assert "Resumed" in again[0].output
    assert weights_hash(again[0].folder) == weights_hash(whole[0].folder)


def test_what_one_process_finds_before_training_ends_the_other(launch, tmp_path):
    folders = [tmp_path / "data", tmp_path / "not_copied"]
    for number in range(8):
        for name in ("cat", "dog"):
            (folders[0] / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folders[0] / name / f"{number}.png")
    folders[1].mkdir()
    own = [("--train_dir", str(folder)) for folder in folders]
    runs = launch("run", *own[0], *SHORT[2:], on_second=own[1])
    assert wait_both(runs, 90) == [2, 2]
    assert "not_copied" in runs[1].output
    assert f"process 1 of 2 ended the run: {folders[1]}" in runs[0].output
    runs = launch("other", *SHORT, on_second=("--learning_rate", "0.5"))
    assert wait_both(runs, 90) == [2, 2]
    assert "recipe.learning_rate: 0.003 in process 0, 0.5 in process 1" in runs[0].output


def test_an_error_of_one_process_in_the_middle_of_training_is_told_to_the_other(launch, tmp_path):
    folders = [tmp_path / "data", tmp_path / "copy"]
    for folder in folders:
        for number in range(32):
            for name in ("cat", "dog"):
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / name / f"{number:02d}.png")
    for number in range(8, 32):  # a copy that was cut short; nobody has looked at all of it
        (folders[1] / "dog" / f"{number:02d}.png").write_bytes(b"\x89PNG cut")
    own = [
        ("--train_dir", str(folder), "--scan_images", "false", "--cache_decoded_images", "false") for folder in folders
    ]
    runs = launch("run", *own[0], *SHORT[2:], "--train_val_split", "0.2", on_second=own[1])
    assert wait_both(runs, 90) == [2, 2]
    assert "after step" in runs[1].output
    assert "process 1 of 2 ended the run: after step" in runs[0].output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_lost_while_training_ends_the_other(launch, number):
    runs = launch("run", *RUN, "--num_train_epochs", "200")
    runs[0].wait_for("checkpoint-*")
    runs[1].kill(number)
    assert runs[0].wait(60) != 0  # after 20 seconds without a sign of life, on a machine that may be slow
    words = "lost another one" if number == signal.SIGKILL else "process 1 of 2 gave no sign of life"
    assert words in runs[0].output
