"""The processes of one run: if one of them ends, all of them end, and each machine is told why.

A process that waits in a collective operation for one that has gone would wait until the time-out of the process group,
half an hour. So each process tells the store of the launcher every other second that it is alive, and reads there
whether another one has ended the run. Only the standard library is imported until processes are watched.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from hf_imgcls.process import clean_up, count_machines
from hf_imgcls.provenance import count_processes

_PERIOD_S = 2.0
_SILENCE_S = 18.0  # after which a process is taken for gone
_GRACE_S = 5.0  # for the main thread to end by itself, once the run has been ended
_SIGNAL_S = 13.0  # for it to follow a signal, where the launcher has gone
_CONNECTION_S = 10.0
_END, _BEAT, _DONE, _REASON = "end", "beat", "done", "reason"


class Ending(NamedTuple):
    """Why a run ends.

    Attributes:
        rank: The process that ended it.
        exit_code: Of all processes.
        text: What it said; empty where it has ended well, or on another's word.
        host: Its machine.
        is_lost: It has said nothing itself; another process found that it is gone.
    """

    rank: int
    exit_code: int
    text: str
    host: str = ""
    is_lost: bool = False


class Peers:
    """What this process tells the others, and hears from them; in a run of one process nothing.

    Liveness goes round a ring: each process watches the next one that has not finished. The first process to end the
    run leaves its reason in the store.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = int(os.environ.get("RANK", "0")), count_processes()
        self.ending: Ending | None = None
        self._store: Any = None
        self._connected, self._finished = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._leaving = False
        self._next = (self.rank + 1) % self.world_size
        self._beats, self._heard = 0, time.monotonic()
        self._answers = 0  # of the store; a request to a machine that has vanished gets none, and no error either
        self._launcher = os.getppid()

    def watch(self) -> None:
        """Begin to watch the other processes; imports torch where there are any."""
        if self.world_size == 1 or self._thread is not None or "MASTER_ADDR" not in os.environ:
            return
        import torch.distributed  # noqa: F401  on the main thread: two threads that import it may block each other

        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()
        if count_machines() > 1:
            threading.Thread(target=self._watch_store, name="peers' store", daemon=True).start()

    def expect_end(self) -> None:
        """All processes have agreed to stop: from here on nothing is taken for a failure."""
        self._leaving = True

    def report(self, exit_code: int, text: str) -> str:
        """Tell the other processes that this one ends the run.

        Args:
            exit_code: For all processes.
            text: Why.

        Returns:
            What this process is to say: its own text, another one's that came first, or nothing if both are equal.
        """
        if self.world_size == 1:
            return text
        self.watch()
        if self.ending is None and self._connected.wait(_CONNECTION_S):
            own = Ending(self.rank, exit_code, text, socket.gethostname())
            _send(lambda: self._publish(own), _CONNECTION_S)
        ending = self.ending
        if ending is None or ending.rank == self.rank or not ending.text:
            return text
        here = f"\n\n(here: {text.splitlines()[0]})" if text.strip() else ""
        return "" if ending.text == text else f"{self._describe(ending)}{here}"

    def explain(self) -> str:
        """Return why another process has ended the run; empty if none has, after a moment's wait."""
        if self.world_size == 1 or self._thread is None:
            return ""
        end = time.monotonic() + 2 * _PERIOD_S
        while self.ending is None and time.monotonic() < end:
            time.sleep(0.1)
        return self._describe(self.ending) if self.ending is not None and self.ending.rank != self.rank else ""

    @property
    def exit_code(self) -> int:
        """Of the ending that was told; 1 without one."""
        return self.ending.exit_code if self.ending is not None else 1

    def finish(self) -> None:
        """Stop watching, and let the others know that silence of this process means nothing any more."""
        self._finished.set()
        if self._thread is not None:
            if self._store is not None and not self._leaving:
                _send(lambda: self._store.add(f"{_DONE}/{self.rank}", 1), _PERIOD_S)
            self._thread.join(_PERIOD_S)

    def _describe(self, ending: Ending) -> str:
        where = f" on {ending.host}" if ending.host and ending.host != socket.gethostname() else ""
        process = f"process {ending.rank} of {self.world_size}{where}"
        if ending.is_lost:
            return f"the run ended because {process} {ending.text}: it was killed or hangs"
        return f"{process} ended the run: {ending.text}"

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        self._connect()
        while self._store is not None and not self._finished.wait(_PERIOD_S):
            try:
                self._beat()
            except RuntimeError as error:  # torch's DistStoreError and DistNetworkError are
                self._lose(f"the launcher of the main process has gone ({str(error).splitlines()[0]})")
            self._answers += 1
            if os.getppid() != self._launcher:
                self._lose("its launcher has gone")
            if self.ending is not None:
                self._end()
                return

    def _watch_store(self) -> None:
        """End this process where the store has not answered for some time, which the other thread waits for.

        Turns are counted, not seconds: a process that was stopped for a while has not waited.
        """
        answers, turns = 0, 0
        while self.ending is None and not self._finished.wait(_PERIOD_S):
            turns = turns + 1 if self._store is not None and self._answers == answers else 0
            answers = self._answers
            if turns * _PERIOD_S > _SILENCE_S and self.ending is None and not self._leaving:
                text = f"the launcher of the main process has not answered for {turns * _PERIOD_S:.0f} s"
                self.ending = Ending(self.rank, 1, text)
                self._end()

    def _connect(self) -> None:
        """Connect to the launcher's store; without one, to that of the main process, once it is there."""
        from torch.distributed import PrefixStore, TCPStore

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        while not self._finished.is_set():
            with contextlib.suppress(RuntimeError):
                store = TCPStore(host, port, None, False, timedelta(seconds=_CONNECTION_S), wait_for_workers=False)
                self._store = PrefixStore("/".join(("hf_imgcls", *attempt)), store)
                self._connected.set()
                return
            self._finished.wait(_PERIOD_S)

    def _beat(self) -> None:
        self._store.add(f"{_BEAT}/{self.rank}", 1)
        if self._store.add(_END, 0):
            self.ending = self._read_ending()
            return
        while self._next != self.rank and self._store.add(f"{_DONE}/{self._next}", 0):
            self._next = (self._next + 1) % self.world_size
            self._beats = 0
        if self._next == self.rank:
            return
        beats, now = self._store.add(f"{_BEAT}/{self._next}", 0), time.monotonic()
        if beats != self._beats or not beats:  # one that has not begun is waited for, as long as the process group says
            self._beats, self._heard = beats, now
        elif now - self._heard > _SILENCE_S and not self._leaving:
            text = f"gave no sign of life for {now - self._heard:.0f} s"
            self._publish(Ending(self._next, 1, text, is_lost=True))

    def _publish(self, ending: Ending) -> None:
        if self._store.add(_END, 1) == 1:
            self._store.set(_REASON, json.dumps(ending))
            self.ending = ending
        else:
            self.ending = self._read_ending()

    def _read_ending(self) -> Ending:
        return Ending(*json.loads(self._store.get(_REASON)))

    def _lose(self, text: str) -> None:
        """End this process, unless all of them are about to end; a signal may have told the main thread already.

        On one machine it has told all of them, and they take the time that they need.
        """
        if not self._leaving and self.ending is None and count_machines() > 1:
            self._finished.wait(_SIGNAL_S)
            if not self._leaving and not self._finished.is_set():
                self.ending = own = Ending(self.rank, 1, text)
                _send(lambda: self._publish(own), _CONNECTION_S)

    def _end(self) -> None:
        """Let the main thread end, and end the process where it waits for one that will not come."""
        if self.ending is None or self._finished.wait(_GRACE_S) or self._leaving:
            return
        if self.ending.text and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            os.write(2, f"\nerror: {self._describe(self.ending)}\n".encode(errors="backslashreplace"))
        clean_up()
        os._exit(self.ending.exit_code)


def _send(request: Callable[[], object], timeout: float) -> None:
    """Send the store a request, and wait so many seconds at most: a machine that has vanished gives no error."""

    def send() -> None:
        with contextlib.suppress(RuntimeError):
            request()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(timeout)


_peers: list[Peers] = []


def join_peers() -> Peers:
    """Begin anew: what this process is among the others, as its launcher says."""
    _peers[:] = [Peers()]
    return _peers[0]


def get_peers() -> Peers:
    """Return the one that this process has joined."""
    return _peers[0] if _peers else join_peers()
