"""Errors a user can cause, and can therefore repair.

Every message has the same three parts: what was found, what was expected, and what to do. The recipes print these
errors without a traceback and exit with status 2; anything else is a bug of ours and keeps its traceback.

Exit codes of a recipe: 0 done; 2 something must be repaired first; 3 done, and a goal was not met; 75 (EX_TEMPFAIL of
sysexits.h) stopped by a signal, and the same command goes on; 1 a bug.
"""

from __future__ import annotations

import errno
import re


class UserError(Exception):
    """Something in the user's input, data or environment stops the work.

    Args:
        found: What was found: the value, file or key at fault.
        expected: What would have been accepted.
        fix: What to do now: a command, a flag or a setting.
    """

    exit_code = 2

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        # A dataloader worker's error is made again in the main process from its text alone.
        super().__init__(f"{found}\n  expected: {expected}\n  to fix:   {fix}" if expected else found)


class ArgumentError(UserError):
    """An unknown, mistyped or contradictory argument."""


class DataError(UserError):
    """A dataset that cannot be trained or measured on as it is."""


class ModelError(UserError):
    """A model that cannot be found, built or adapted as asked."""


class OutputError(UserError):
    """An output folder that must not, or cannot, be written to."""


class LaunchError(UserError):
    """Processes or devices are not the ones that were asked for."""


class NumericsError(UserError):
    """A loss, a gradient or a metric is no finite number any more."""


class MachineError(UserError):
    """Memory, a worker process or another process of the run has gone."""


class ParityError(UserError):
    """The served model does not predict what the scored model predicted."""


class CardError(UserError):
    """A model card that must not be published as it is."""


class PushError(UserError):
    """Something must not be published, or the Hub did not take it."""


class MissingExtraError(UserError):
    """An optional package is not installed."""


class Interrupted(Exception):
    """The run was asked to stop, by a signal, and has saved what it needs to go on.

    Args:
        signal_name: The signal.
        checkpoint: What the run goes on from.
        command: Which command does that.
    """

    exit_code = 75

    def __init__(self, signal_name: str, checkpoint: str, command: str = "the same command") -> None:
        super().__init__(f"{signal_name}: stopped; {command} goes on from {checkpoint}")


def printable(text: str) -> str:
    """Escape the control characters in text that holds names from data, so that they cannot control a terminal.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def join_errors(errors: list[UserError]) -> UserError:
    """Fold errors found in one checking pass into one, so that the user sees all of them at once.

    Args:
        errors: At least one error.

    Returns:
        The error itself when there is one; else an error of the first one's class whose text lists all of them.
    """
    if len(errors) == 1:
        return errors[0]
    return type(errors[0])(f"{len(errors)} problems were found:\n" + "\n".join(f"- {error}" for error in errors))


def find_full_disk(error: BaseException) -> str | None:
    """Say what an exception tells about a disk without room, wherever in its chain of causes that stands.

    A file larger than the process may write, and a quota that is used up, count as well.

    Returns:
        The cause in the system's words; None if the exception is about something else.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return str(seen)
        # Libraries in other languages tell no errno.
        if _FULL.search(str(seen)):
            return str(seen).strip().splitlines()[0]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|\bos error (28|122|27)\b")


def network_error() -> type[BaseException]:
    """What all errors of the HTTP library are, on which the installed Hub client is built: requests, or httpx.

    The library is not ours to name: huggingface_hub has changed it twice.
    """
    from huggingface_hub.errors import HfHubHTTPError

    libraries = ("requests", "httpx", "httpx2")
    return next(base for base in reversed(HfHubHTTPError.__mro__) if base.__module__.split(".")[0] in libraries)
