"""Leaving a run on purpose: SIGTERM and SIGINT end the step, on every process at the same one.

A scheduler that takes a machine back sends SIGTERM and kills what is left 25 to 30 seconds later. The first signal
therefore only raises a flag. At the end of each step the processes tell each other about their flags; when one is up,
all of them save the same step and leave with `hf_imgcls.errors.Interrupted`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WORKER_GRACE_S = 30


class StopSignals:
    """Context in which SIGTERM and SIGINT raise a flag instead of ending the process.

    A second SIGINT, a second or more after the first, interrupts at once, for a person who cannot wait. Outside the
    main thread, where Python allows no handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the first signal, or None."""
        self._time = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._time = signal.Signals(number).name, time.monotonic()
            # Not through logging or print: the signal may have come in the middle of either.
            os.write(2, f"\n{self.received}: finishing the step, then saving\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._time > 1:
            raise KeyboardInterrupt


class Agreement:
    """One bit per question on which all processes agree, at the price of a message of a few bytes.

    The messages go between the CPUs (gloo), so that no GPU is waited for.

    Args:
        timeout: How long a process waits for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._group = None
        if PartialState().num_processes > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is up on any process. To be called by all processes at the same place."""
        if self._group is None:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX, group=self._group)
        return tuple(bool(flag) for flag in raised.tolist())


class WorkerGuard:
    """``worker_init_fn`` for dataloader workers that a signal to all processes of a job must not take away.

    Schedulers and terminals signal every process. A worker that died of it would end its trainer in the middle of the
    step, or of saving it. So SIGINT is left to the trainer, and SIGTERM too while the workers are ``needed``; for half
    a minute at most, by when a trainer has left.
    """

    def __init__(self) -> None:
        self._needed = torch.zeros(1, dtype=torch.uint8).share_memory_()

    @property
    def needed(self) -> bool:
        """Whether the trainer cannot do without its workers; seen by those that are alive already."""
        return bool(self._needed.item())

    @needed.setter
    def needed(self, needed: bool) -> None:
        self._needed.fill_(needed)

    def set_up(self, init: Callable[[int], None] | None, worker_id: int) -> None:
        """Set up a worker.

        Args:
            init: The ``worker_init_fn`` that there was before.
            worker_id: Number of the worker.
        """

        def receive(number: int, frame: FrameType | None) -> None:
            if not self.needed:
                os._exit(0)  # the trainer has finished with this worker, and tells it so in this way
            signal.alarm(_WORKER_GRACE_S)

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "alarm"):
            signal.signal(signal.SIGTERM, receive)
        if init is not None:
            init(worker_id)


def decide_on_main(function: Callable[[], Any]) -> Any:
    """Call a function on the main process alone and give its result to all.

    Raises:
        UserError: What the function raised; the other processes leave quietly with the same exit code.
    """
    from accelerate.utils import broadcast_object_list

    from hf_imgcls.errors import UserError

    state = PartialState()
    outcome: list[Any] = [None, None]
    error: UserError | None = None
    if state.is_main_process:
        try:
            outcome[0] = function()
        except UserError as caught:
            error, outcome[1] = caught, caught.exit_code
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        sys.exit(outcome[1])
    return outcome[0]
