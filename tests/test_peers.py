"""What processes of one run tell each other at its end, through a store."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from hf_imgcls import peers as ring
from hf_imgcls.peers import Peers


class Wire:
    """A connection that may fall silent: bytes go no further, and nobody is told."""

    def __init__(self, port: int) -> None:
        self.is_cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target, self._sockets = port, [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._target))
                self._sockets += ends
                for source, sink in (ends, ends[::-1]):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(4096):
                if not self.is_cut.is_set():
                    sink.sendall(content)

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire():
    """The way to a store, which this process keeps."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=1))
    wire = Wire(store.port)
    yield wire
    wire.close()


@pytest.fixture
def join(monkeypatch, wire):
    """Make a process of two."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(wire.port))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(ring, "_PERIOD_S", 0.05)
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
    monkeypatch.setattr(ring, "_SILENCE_S", 0.3)
    first, second = join(0), join(1)
    monkeypatch.setattr(second, "_beat", lambda: None)  # after the first beat, or none: then it is waited for
    second._connected.wait(10)
    second._store.add(f"{ring._BEAT}/1", 1)
    wait_for_ending(first)
    said = first.explain()
    assert said.startswith("the run ended because process 1 of 2 gave no sign of life for ")
    assert said.endswith(" s: it was killed or hangs")


def test_a_store_that_vanishes_ends_the_run_on_another_machine(join, wire, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(ring, "_SILENCE_S", 0.5)
    peers, ended = join(1), []
    monkeypatch.setattr(peers, "_end", lambda: ended.append(peers.ending))
    assert peers._connected.wait(10)
    wire.is_cut.set()
    wait_for_ending(peers)
    assert peers.ending.text.startswith("the launcher of the main process has not answered for ")
    assert peers.exit_code == 1
    finishing = threading.Thread(target=peers.finish, daemon=True)
    finishing.start()
    finishing.join(10)
    assert not finishing.is_alive()
    assert ended == [peers.ending]


def test_a_launcher_that_is_stopped_on_this_machine_ends_nothing_but_holds_up_no_error(join, wire, monkeypatch):
    monkeypatch.setattr(ring, "_SILENCE_S", 0.2)
    peers = join(0)
    assert peers._connected.wait(10)
    wire.is_cut.set()
    time.sleep(0.6)
    assert peers.ending is None
    monkeypatch.setattr(ring, "_CONNECTION_S", 0.1)
    assert peers.report(2, "no data") == "no data"
