"""What goes wrong between a client and the Hub, planted request by request."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hub import Hub, HubHandler, Refusal, serve_hub

if TYPE_CHECKING:
    _Base: Any = BaseHTTPRequestHandler
else:
    _Base = object


@dataclass
class Fault:
    """One planted fault.

    Attributes:
        method: Of the requests that it strikes.
        path: A pattern that their path contains.
        times: How many of them; -1 for all.
        status: Answered instead; None for no answer at all.
        message: With the status.
        headers: With the status.
        is_done: Whether the request is carried out all the same, and only its answer is lost.
        hold: The request waits for this event before it is carried out.
        stall_s: It waits for so many seconds instead.
        is_cut: Half of the answer's content is sent, and then the connection is closed.
        struck: How many it has struck.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    message: str = "planted"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_done: bool = False
    hold: threading.Event | None = None
    stall_s: float = 0.0
    is_cut: bool = False
    struck: int = 0


class Faults:
    """The faults that are planted."""

    def __init__(self) -> None:
        self.planted: list[Fault] = []
        self._lock = threading.Lock()

    def plant(self, method: str, path: str, **options: Any) -> Fault:
        """Add a fault; see `Fault`."""
        fault = Fault(method, path, **options)
        self.planted.append(fault)
        return fault

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that strikes a request."""
        with self._lock:
            for fault in self.planted:
                is_left = fault.times < 0 or fault.struck < fault.times
                if is_left and fault.method == method and re.search(fault.path, path):
                    fault.struck += 1
                    return fault
        return None


class FaultyHandler(_Base):
    """Lets planted faults strike before, or instead of, the answer."""

    _is_lost = False
    _is_cut = False

    def answer(self, method: str, path: str) -> None:
        self._is_lost = self._is_cut = False
        fault = self.hub.faults.take(method, path)
        if fault is None:
            super().answer(method, path)
            return
        if fault.status is not None:
            raise Refusal(fault.status, "", fault.message, fault.headers)
        if fault.hold is not None or fault.stall_s:
            (fault.hold or threading.Event()).wait(fault.stall_s or 60)
            try:
                super().answer(method, path)
            finally:
                self._is_lost = bool(fault.stall_s)  # the client may have left meanwhile
            return
        if fault.is_cut:
            self._is_cut = True
            super().answer(method, path)
            return
        self._is_lost = True
        try:
            if fault.is_done:
                super().answer(method, path)
        finally:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self._is_cut and content:
            super().send(status, content[: len(content) // 2], {**(headers or {}), "Content-Length": str(len(content))})
            self._is_lost = self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif not self._is_lost:
            super().send(status, content, headers)

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            assert self._is_lost, urlsplit(self.path).path


@contextmanager
def serve_faulty_hub(folder: Path) -> Iterator[Any]:
    """Serve a new, empty Hub with an attribute ``faults``."""
    hub = Hub(folder)
    hub.faults = Faults()  # type: ignore[attr-defined]
    with serve_hub(folder, type("FaultyReadHandler", (FaultyHandler, HubHandler), {}), hub) as running:
        yield running
