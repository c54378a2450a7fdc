"""Runs that nothing interrupts, for those that are interrupted to be compared with."""

from __future__ import annotations

import pytest
from faults.processes import RUN, Run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """Folder of a run that was never interrupted, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = Run(*RUN, "--save_total_limit", "99", folder=folder)
    assert run.wait() == 0, run.output
    return folder
