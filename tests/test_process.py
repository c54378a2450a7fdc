"""What processes of one run tell each other at its end, through a store."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from hf_imgcls import process
from hf_imgcls.process import Peers


@pytest.fixture
def join(monkeypatch):
    """Make a process of two; this one keeps the store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=1))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(process, "_PERIOD_S", 0.05)
    joined = []

    def start(rank: int) -> Peers:
        monkeypatch.setenv("RANK", str(rank))
        peers = Peers()
        # What ends a process that hangs would end this one.
        monkeypatch.setattr(peers, "_end", lambda: None)
        joined.append(peers)
        peers.watch()
        return peers

    yield start
    for peers in joined:
        peers.finish()


def wait_for_ending(peers: Peers) -> None:
    end = time.monotonic() + 30
    while peers.ending is None and time.monotonic() < end:
        time.sleep(0.02)
    assert peers.ending is not None


@pytest.mark.parametrize("own", ["", "\n", "SIGTERM\nsaid twice"])
def test_a_process_that_leaves_in_silence_says_why_another_one_ended_the_run(join, own):
    first, second = join(0), join(1)
    assert second.report(2, "no data: /data\nexpected some") == "no data: /data\nexpected some"
    wait_for_ending(first)
    said = first.report(0, own)
    assert said.startswith("process 1 of 2 ended the run: no data: /data\nexpected some")
    assert ("(here: SIGTERM)" in said) == bool(own.strip())
    assert (first.exit_code, second.report(0, "")) == (2, "")


def test_a_process_that_hangs_is_named(join, monkeypatch):
    monkeypatch.setattr(process, "_SILENCE_S", 0.3)
    first, second = join(0), join(1)
    monkeypatch.setattr(second, "_beat", lambda: None)  # after the first beat, or none: then it is waited for
    second._connected.wait(10)
    second._store.add(f"{process._BEAT}/1", 1)
    wait_for_ending(first)
    said = first.explain()
    assert said.startswith("the run ended because process 1 of 2 gave no sign of life for ")
    assert said.endswith(" s: it was killed or hangs")
