"""What goes wrong between a client and the Hub, planted request by request."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hub import Refusal

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

    def answer(self, method: str, path: str) -> None:
        self._is_lost = False
        fault = self.hub.faults.take(method, path)
        if fault is None:
            super().answer(method, path)
            return
        if fault.status is not None:
            raise Refusal(fault.status, "", fault.message, fault.headers)
        if fault.hold is not None:
            fault.hold.wait(60)
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
        if not self._is_lost:
            super().send(status, content, headers)

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            assert self._is_lost, urlsplit(self.path).path
