"""What every command does around its work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_imgcls.errors import Interrupted, LaunchError, printable
from hf_imgcls.process import check_launch

CLEAR = "\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 犬 🐕\tand\nlines", "plain é 犬 🐕\tand\nlines"),
        (f"cat{CLEAR}", "cat\\x1b[2J"),
        ("title\x1b]0;x\x07", "title\\x1b]0;x\\x07"),
        ("over\rwritten", "over\\rwritten"),
        ("c1 \x9b2J", "c1 \\x9b2J"),
        ("right \u202eto left", "right \\u202eto left"),
    ],
)
def test_names_cannot_control_a_terminal(text, shown):
    assert printable(text) == shown


def test_log_messages_and_errors_are_escaped():
    program = """
import logging
from types import SimpleNamespace
from hf_imgcls.errors import DataError
from hf_imgcls.commands.command import run_recipe
from hf_imgcls.process import set_up_logging

def main():
    set_up_logging(SimpleNamespace(training={}, notes=["note \\x1b[2J"]))
    logging.getLogger("hf_imgcls.data").info("class %s", "dog\\x1b[2J")
    raise DataError("file \\x1b[2J", "a name", "rename it")

run_recipe(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    for word in ("note", "dog", "file"):
        assert f"{word} \\x1b[2J" in done.stderr or f"{word}\\x1b[2J" in done.stderr


@pytest.mark.parametrize(
    ("environment", "num_processes", "outcome"),
    [
        ({"MASTER_ADDR": "node1", "ACCELERATE_MIXED_PRECISION": "no"}, None, "warning"),  # accelerate --cpu, or SLURM
        ({"MASTER_ADDR": "node1", "ACCELERATE_MIXED_PRECISION": "no"}, 1, ""),
        ({"MASTER_ADDR": "node1", "ACCELERATE_MIXED_PRECISION": "no"}, 2, "error"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, None, ""),
        ({"MASTER_ADDR": "node1"}, None, ""),
        ({"MASTER_ADDR": "node1", "ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "1"}, None, ""),
    ],
)
def test_one_process_where_several_may_have_been_meant(environment, num_processes, outcome, monkeypatch, capsys):
    for name in ("MASTER_ADDR", "ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if outcome == "error":
        with pytest.raises(LaunchError, match="1 process runs, --num_processes asks for 2"):
            check_launch(num_processes)
    else:
        assert check_launch(num_processes) == 1
    said = capsys.readouterr().err
    assert ("MASTER_ADDR is set and a single process was started" in said) == (outcome == "warning")


def test_a_signal_that_a_library_catches_ends_the_run_all_the_same(tmp_path):
    program = """
import contextlib, os, signal, sys
from pathlib import Path
from hf_imgcls.run_folder import begin_run
from hf_imgcls.commands.command import run_recipe

def main():
    with contextlib.suppress(BaseException):  # as datasets does while it hashes a transform
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    begin_run(Path(sys.argv[1]), None, None, None, None)

run_recipe(main)
"""
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120)
    assert run.returncode == Interrupted.exit_code, run.stderr
    assert "SIGTERM: stopped" in run.stderr
    assert not list(tmp_path.iterdir())
