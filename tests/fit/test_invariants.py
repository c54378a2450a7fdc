"""Accumulation and the number of processes change nothing: 1x16 = 2x8 accumulated = 2 processes x 8."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from fit.invariant_run import FAMILIES
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launches(tmp_path_factory, repository):
    """Folder of each way to launch the same ten steps."""
    script = str(repository / "tests" / "fit" / "invariant_run.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one", "accumulated", "two_processes")}
    alone = [str(folders["one"]), "16", "1", str(folders["accumulated"]), "8", "2"]
    for arguments in ([sys.executable, script, *alone], [*torchrun, script, str(folders["two_processes"]), "8", "1"]):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
    return folders


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", ["accumulated", "two_processes"])
def test_weights_are_the_same(launches, family, other):
    one = load_file(launches["one"] / f"{family}.safetensors")
    two = load_file(launches[other] / f"{family}.safetensors")
    assert one.keys() == two.keys()
    assert one
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_metrics_of_61_examples_are_the_same_on_two_processes(launches):
    one, two = (json.loads((launches[name] / "metrics.json").read_text()) for name in ("one", "two_processes"))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    for family in FAMILIES:
        assert "eval_loss" in one[family]
        assert one[family] == pytest.approx(two[family], rel=1e-5, abs=1e-6)
