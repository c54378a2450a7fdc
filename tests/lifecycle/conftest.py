"""Runs recipes as a user does: from the command line, to files in a folder."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass

import pytest


@dataclass
class Finished:
    """How a recipe ended."""

    exit_code: int
    out: str
    err: str


@pytest.fixture
def run_recipe(repository, monkeypatch, capsys):
    """Run ``recipes/NAME.py`` with a command line, inside this process: imports are paid once."""

    def run(name: str, *flags: str) -> Finished:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        capsys.readouterr()
        exit_code = 0
        try:
            runpy.run_path(str(repository / "recipes" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
        return Finished(exit_code, *capsys.readouterr())

    return run
