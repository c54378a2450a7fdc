"""Run a command: errors become messages and exit codes, signals end it in order."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.errors import Interrupted, MachineError, OutputError, UserError, find_full_disk, printable
from hf_imgcls.peers import join_peers
from hf_imgcls.process import (
    Terminated,
    answer_sigterm,
    at_end,
    drop_handlers,
    end_process_group,
    follow_launcher,
    is_main_process,
    keep_memory,
    remove_temporary,
    share_cores,
)
from hf_imgcls.run_folder import held_folders, remove_run_folders, unlock_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_LITTLE_SPACE_BYTES = 2**20
_DONE = (None, 0, 3)  # exit codes of a command that did all it was asked for; 3: a goal was missed


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe; a user's error is printed without a traceback and ends the process with its exit code.

    A signal ends it with the code of `hf_imgcls.errors.Interrupted`: the same command goes on, from the last
    checkpoint if there is one.
    """
    share_cores()
    keep_memory()
    follow_launcher()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=drop_handlers)
    peers = join_peers()
    at_end(remove_run_folders)
    previous = answer_sigterm()
    try:
        main()
    except UserError as error:
        lost = peers.explain() if isinstance(error, MachineError) else ""
        _say(lost or peers.report(error.exit_code, str(error)))
        sys.exit(peers.exit_code if lost else error.exit_code)
    except Interrupted as stop:
        if is_main_process():
            print(f"\n{stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("\nSIGINT: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        peers.report(Interrupted.exit_code, "SIGINT")
        sys.exit(Interrupted.exit_code)
    except SystemExit as stop:
        # Other processes have no folder that would tell them; one of them that leaves in silence follows another.
        if is_main_process() or isinstance(stop, Terminated):
            code = stop.code if isinstance(stop.code, int) else 0
            peers.report(code, "SIGTERM" if isinstance(stop, Terminated) else "")
        if stop.code in _DONE:  # a process that failed must not wait for others
            end_process_group()
        raise
    except Exception as error:
        if text := peers.explain():
            _say(text)
            sys.exit(peers.exit_code)
        if (reason := find_full_disk(error)) is None:
            peers.report(1, f"{type(error).__name__}: {error}")
            raise
        _say(peers.report(OutputError.exit_code, str(_full_disk_error(reason))))
        sys.exit(OutputError.exit_code)
    finally:
        peers.finish()
        signal.signal(signal.SIGTERM, previous)
        _give_back()


@contextmanager
def give_back() -> Iterator[None]:
    """Context that gives back at its end what was taken in it: locks of folders, borrowed and temporary folders."""
    try:
        yield
    finally:
        _give_back()


def _give_back() -> None:
    remove_temporary()
    remove_run_folders()
    unlock_folders()


def _say(text: str) -> None:
    if text:
        print(printable(f"\nerror: {text}"), file=sys.stderr)


def _full_disk_error(reason: str) -> OutputError:
    """What to say where a disk is full; which one, as far as that can be seen."""
    places = held_folders()
    places += [Path(tempfile.gettempdir()), Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")]
    full = [str(place) for place in places if place.is_dir() and shutil.disk_usage(place).free < _LITTLE_SPACE_BYTES]
    where = f" at {', '.join(dict.fromkeys(full))}" if full else ""
    return OutputError(
        f"there is no room to write{where}: {reason}",
        "space on the disks of the output folder, of TMPDIR and of HF_HOME",
        "free some space or name other folders, then run the same command again",
    )
