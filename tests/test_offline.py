"""Without a network a run says so once, uses what is cached, and names what to do; a path is never asked of the Hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from places import REPOSITORY

from hf_imgcls.offline import go_offline_without_network


@pytest.fixture
def no_network(monkeypatch):
    """A host that is not found, whatever the machine's network."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("names", [(None, "digits"), ("./gone", "a/b/c"), ("tests",)])
def test_what_lies_here_is_not_asked_for(no_network, monkeypatch, names):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: pytest.fail("the network was asked"))
    go_offline_without_network(*names)
    assert "HF_HUB_OFFLINE" not in os.environ


def finetune(tmp_path, *flags):
    command = [
        sys.executable,
        str(REPOSITORY / "recipes" / "finetune.py"),
        *flags,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path / "home")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "found", "fix"),
    [
        (("--dataset_name", "user/none", "--model_name_or_path", "facebook/dinov2-small"),
         "error: the model 'facebook/dinov2-small' is neither a folder here nor in the cache", "--model_type"),
        (("--dataset_name", "user/none", "--model_type", "vit"), "error: the dataset 'user/none' is not a folder here",
         "check the network, HF_HUB_OFFLINE"),
        (("--dataset_name", "./none", "--model_type", "vit"), "error: there is no folder './none'", "check the path"),
        (("--dataset_name", "digits", "--model_name_or_path", "./none"), "error: there is no folder './none'",
         "check the path"),
    ],
)  # fmt: skip
def test_one_clear_error_without_a_network(no_network, tmp_path, flags, found, fix):
    done = finetune(tmp_path, *flags)
    assert done.returncode == 2
    assert found in done.stderr
    assert fix in done.stderr.partition("to fix:")[2]
    assert "Traceback" not in done.stderr
    assert "Retrying" not in done.stderr
    assert done.stderr.count("No connection: the host hub.invalid is not found") == ("./none" not in flags)
