"""What this process is among the others, and what it sets up before anything heavy is imported."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.errors import Interrupted, LaunchError, printable
from hf_imgcls.provenance import count_processes

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


def is_main_process() -> bool:
    """Whether this process writes files and prints; known from the launcher before torch is imported."""
    return int(os.environ.get("RANK", "0")) == 0


_temporary: list[Path] = []


def keep_until_end(folder: Path) -> None:
    """Have a folder removed when this process ends, on its own or with another one."""
    _temporary.append(folder)


def remove_temporary() -> None:
    """Remove the folders of `keep_until_end`."""
    while _temporary:
        shutil.rmtree(_temporary.pop(), ignore_errors=True)


_at_end: list[Callable[[], None]] = [remove_temporary]


def at_end(clean: Callable[[], None]) -> None:
    """Have something put in order when this process must end although its main thread cannot."""
    if clean not in _at_end:
        _at_end.append(clean)


def clean_up() -> None:
    """Do what was asked for by `at_end`."""
    for clean in _at_end:
        clean()


def count_machines() -> int:
    """Return the number of machines that processes of this run are on, as far as the launcher tells."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count_processes()))
    return -(-count_processes() // max(local, 1))


_WORLD_SIZES = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}  # as accelerate reads them


def end_process_group() -> None:
    """Leave the process group in order at the end of a run on CPUs; without this, gloo's threads outlive it.

    Not with NCCL, whose communicators end only when all processes of a machine do so at the same time: the others would
    wait while the main process still exports or pushes.
    """
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


class Terminated(SystemExit):
    """SIGTERM came."""


def share_cores() -> None:
    """Let the threads of a computation sleep while they wait for each other, before torch is imported.

    GNU OpenMP lets them spin instead, 300,000 rounds (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html).
    Where another process wants one of the cores, a dataloader worker for example, the thread that works then stands
    behind those that spin: a small ViT trained at 5 images/s so, with 10,000 rounds at 26, and on quiet cores at the
    same speed as before (two cores, torch 2.14).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_memory() -> None:
    """Let the allocator keep what a training step frees, for the next step takes as much again.

    glibc gives it back to the system instead, which zeroes every page anew: 3,900 page faults and about a twentieth of
    the time of a step of a small ConvNeXt (two cores, torch 2.14). Blocks of up to 32 MiB are kept, the most that glibc
    allows on every version, and as much as 1 GiB of them
    (https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html). What the user has set holds.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.getenv("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or set_by_user:
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        mallopt(m_mmap_threshold, 32 * 2**20)
        mallopt(m_trim_threshold, 2**30)


_leaving: list[int] = []  # the signals that were answered with an exception


def answer_sigterm() -> Any:
    """Let SIGTERM raise `Terminated` from here on.

    Returns:
        The handler that was there before.
    """
    _leaving.clear()
    return signal.signal(signal.SIGTERM, _leave)


def check_terminated() -> None:
    """Raise `Terminated` where SIGTERM came and its exception was lost in a library.

    datasets, for example, catches whatever is raised while it hashes a transform.

    Raises:
        SystemExit: SIGTERM came.
    """
    if _leaving:
        raise Terminated(Interrupted.exit_code)


def _leave(number: int, frame: object) -> None:
    _leaving.append(number)
    os.write(2, b"\nSIGTERM: stopped; the same command goes on from the last checkpoint\n")
    raise Terminated(Interrupted.exit_code)


def drop_handlers() -> None:
    """Give a forked child the usual answers to signals: ours are about a run that is not its own.

    A child that is in the middle of a system call would never come to run a handler in Python, and whoever ends it with
    SIGTERM would wait for ever. Dataloader workers set up their own, see `hf_imgcls.fit.stopping.WorkerGuard`.
    """
    for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if str(getattr(signal.getsignal(number), "__module__", "")).split(".")[0] == __name__.split(".")[0]:
            signal.signal(number, usual)


def follow_launcher() -> None:
    """Be told when the launcher has gone: nobody else would stop this process then (Linux only).

    ``accelerate launch`` of one process does not pass a SIGTERM on, it just ends.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_RANK" in os.environ
    if launched and sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def set_up_logging(args: Arguments) -> None:
    """Log to stderr, from the main process; the other processes only log errors.

    Call it before anything is imported that shows progress: ``--disable_tqdm`` then holds for downloads and for what
    datasets does, too.

    Args:
        args: Its ``notes``, what was changed about the user's arguments, are logged at once.
    """
    if args.training.get("disable_tqdm"):
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logger = logging.getLogger("hf_imgcls")
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    for note in args.notes:
        logger.warning(note)


class _PrintableFormatter(logging.Formatter):
    """Names from data, such as those of classes and files, stand in many messages."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def check_launch(num_processes: int | None) -> int:
    """Compare the world that was launched with the one that was asked for.

    ``accelerate launch --cpu --num_processes 2`` silently starts one process, on each machine.

    Args:
        num_processes: ``--num_processes`` of the recipe; ``None`` takes any world, with a warning where several
            processes may have been meant.

    Returns:
        The world size.

    Raises:
        LaunchError: Another number of processes runs.
    """
    world_size = count_processes()
    single = "ACCELERATE_MIXED_PRECISION" in os.environ and not _WORLD_SIZES.intersection(os.environ)
    if num_processes is None and single and "MASTER_ADDR" in os.environ:
        # accelerate's launcher for one process, told of several; or a batch script exports the address in any case.
        print(
            "MASTER_ADDR is set and a single process was started: if several are meant, leave out accelerate's --cpu, "
            "which starts one on each machine, and pass the recipe their number as --num_processes.",
            file=sys.stderr,
        )
    if num_processes is not None and world_size != num_processes:
        raise LaunchError(
            f"{world_size} process{'es run' if world_size > 1 else ' runs'}, --num_processes asks for {num_processes}",
            f"a launcher that starts {num_processes}",
            f"start it with hf-imgcls finetune --num_processes {num_processes} ..., or with accelerate launch "
            f"--multi_gpu --num_processes {num_processes} recipes/finetune.py ...",
        )
    if is_main_process():
        print(f"World size: {world_size} process{'es' if world_size > 1 else ''}", file=sys.stderr)
    return world_size
