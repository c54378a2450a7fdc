"""A run's folder and processes: what is checked before anything is loaded.

Only the standard library is imported, so that these errors come at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.earlier_start import check_earlier_run, clear_leftovers, join_run, read_start
from hf_imgcls.errors import Interrupted, LaunchError, MachineError, OutputError, UserError, find_full_disk, printable
from hf_imgcls.layout import (
    BAD_IMAGES_FILE,
    BATCH_PICTURE,
    DATA_FILE,
    EXPORT_FILE,
    EXPORTS_PICTURE,
    LR_RANGE_PICTURE,
    MANIFEST_FILE,
    PUSH_FILE,
    RECIPE_FILE,
    RUN_FILE,
    TUNE_FILE,
    TUNE_PICTURE,
    TUNED_RECIPE,
)
from hf_imgcls.process import at_end, is_main_process, join_peers, remove_temporary
from hf_imgcls.provenance import describe_hardware, find_commit, list_versions, name_process
from hf_imgcls.records import RunRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainingArguments

    from hf_imgcls.arguments import Arguments
    from hf_imgcls.fit.checkpoints import Inspection
    from hf_imgcls.records import DataRecord, ModelRecord

_LOCK_FILE = ".lock"
_BORROWED = ".borrowed"
_JOURNALS = ("-journal", "-wal", "-shm")  # of SQLite
_LOCK_PATIENCE_S = 10
_LITTLE_SPACE_BYTES = 2**20
_WORLD_SIZES = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}  # as accelerate reads them
_OWN_FILES = (RUN_FILE, RECIPE_FILE, DATA_FILE, PUSH_FILE, "trainer_state.json", BAD_IMAGES_FILE, MANIFEST_FILE)
_OWN_RESULTS = ("*_results.json", "parity.json", "predictions_*.parquet", "*confusion_matrix.json")  # patterns
# What was found out before a run, and is no part of one.
_PRELIMINARIES = (BATCH_PICTURE, LR_RANGE_PICTURE, TUNE_FILE, TUNE_PICTURE, TUNED_RECIPE)
_OWN_FOLDERS = ("report", "adapter", "examples", "space")


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe; a user's error is printed without a traceback and ends the process with its exit code.

    A signal ends it with the code of `hf_imgcls.errors.Interrupted`: the same command goes on, from the last
    checkpoint if there is one.
    """
    _share_cores()
    keep_memory()
    _follow_launcher()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_drop_handlers)
    peers = join_peers()
    at_end(_return_borrowed)
    _leaving.clear()
    previous = signal.signal(signal.SIGTERM, _leave)
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
        if is_main_process() or isinstance(stop, _Terminated):
            code = stop.code if isinstance(stop.code, int) else 0
            peers.report(code, "SIGTERM" if isinstance(stop, _Terminated) else "")
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
        remove_temporary()
        _return_borrowed()
        _unlock()


def _say(text: str) -> None:
    if text:
        print(printable(f"\nerror: {text}"), file=sys.stderr)


class _Terminated(SystemExit):
    """SIGTERM came."""


def _share_cores() -> None:
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


def _leave(number: int, frame: object) -> None:
    _leaving.append(number)
    os.write(2, b"\nSIGTERM: stopped; the same command goes on from the last checkpoint\n")
    raise _Terminated(Interrupted.exit_code)


def _drop_handlers() -> None:
    """Give a forked child the usual answers to signals: ours are about a run that is not its own.

    A child that is in the middle of a system call would never come to run a handler in Python, and whoever ends it with
    SIGTERM would wait for ever. Dataloader workers set up their own, see `hf_imgcls.fit.stopping.WorkerGuard`.
    """
    for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if str(getattr(signal.getsignal(number), "__module__", "")).split(".")[0] == __name__.split(".")[0]:
            signal.signal(number, usual)


def _full_disk_error(reason: str) -> OutputError:
    """What to say where a disk is full; which one, as far as that can be seen."""
    places = [Path(lock.lock_file).parent for lock in _locks]
    places += [Path(tempfile.gettempdir()), Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")]
    full = [str(place) for place in places if place.is_dir() and shutil.disk_usage(place).free < _LITTLE_SPACE_BYTES]
    where = f" at {', '.join(dict.fromkeys(full))}" if full else ""
    return OutputError(
        f"there is no room to write{where}: {reason}",
        "space on the disks of the output folder, of TMPDIR and of HF_HOME",
        "free some space or name other folders, then run the same command again",
    )


def _follow_launcher() -> None:
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
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
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
            f"accelerate launch --config_file accelerate_config.yaml --num_processes {num_processes} recipes/...",
        )
    if is_main_process():
        print(f"World size: {world_size} process{'es' if world_size > 1 else ''}", file=sys.stderr)
    return world_size


def open_output_folder(args: Arguments) -> Path:
    """Create the run's folder, or make sure that an existing one may be written to, and keep others out of it.

    Args:
        args: ``output_dir``, ``overwrite_output_dir`` and ``do_train`` decide.

    Returns:
        The folder; locked until this process ends, whatever ends it.

    Raises:
        OutputError: The folder is a file, cannot be written, belongs to something else, is being written to by another
            run, or holds a finished run with other arguments.
        SystemExit: With the run's own exit code, after saying so: it holds this very run, finished.
    """
    folder = Path(args.training["output_dir"])
    if folder.is_file() and is_main_process():
        raise OutputError(f"output_dir {folder} is a file", "a folder", "choose another --output_dir")
    # What is found out before a run leaves the one that may be there as it is.
    trains = args.training["do_train"] and not (args.fit.tune or args.fit.find_lr or args.publish.dry_run)
    if not is_main_process():
        return folder  # which may be on another machine
    goes_on = trains and check_earlier_run(folder, args)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"output_dir {folder} cannot be written: {error.strerror}", "a folder you may write", "choose another one"
        ) from error
    is_own = any((folder / name).exists() for name in _OWN_FILES) or any(folder.glob("checkpoint-*"))
    # A preliminary that was killed leaves its borrowed folder, or a journal.
    harmless = (".gitignore", _LOCK_FILE, _BORROWED, *_PRELIMINARIES, *(f"{TUNE_FILE}{end}" for end in _JOURNALS))
    others = [path.name for path in folder.iterdir() if path.name not in harmless]
    if others and not is_own and args.training["do_train"] and not args.fit.overwrite_output_dir:
        raise OutputError(
            f"output_dir {folder} exists and is no run of hf_imgcls (it has {others[0]!r})",
            "an empty or new folder",
            "choose another --output_dir, or pass --overwrite_output_dir to write into it all the same",
        )
    started = read_start(folder)
    _lock(folder)
    if trains and read_start(folder) != started:
        join_run(folder, args)
    clear_leftovers(folder)
    if is_own and trains and args.fit.overwrite_output_dir and not goes_on:
        _clear_run(folder)
    return folder


def hold_folder(folder: Path) -> None:
    """Keep other processes of ours out of a folder until this one ends; it is made if needed.

    Raises:
        OutputError: It cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        clear_leftovers(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}", "a folder you may write", "choose another") from error


def borrow_folder(folder: Path) -> Path:
    """A folder inside a run's folder, the same for all processes, that is gone when the recipe ends.

    Args:
        folder: From `open_output_folder`; gone as well if nothing else is in it.
    """
    borrowed = folder / _BORROWED
    if is_main_process():
        shutil.rmtree(borrowed, ignore_errors=True)
        borrowed.mkdir()
        _borrowed.append(borrowed)
    return borrowed


_borrowed: list[Path] = []


def _return_borrowed() -> None:
    while _borrowed:
        borrowed = _borrowed.pop()
        shutil.rmtree(borrowed, ignore_errors=True)
        if [path.name for path in borrowed.parent.iterdir()] == [_LOCK_FILE]:
            (borrowed.parent / _LOCK_FILE).unlink()
            borrowed.parent.rmdir()


def _lock(folder: Path) -> None:
    """Hold the folder for this process: the system lets go of it when the process ends, even by kill -9."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK_FILE)
    try:
        # Dataloader workers hold what they inherited, for some seconds after their trainer was killed.
        lock.acquire(timeout=_LOCK_PATIENCE_S)
    except Timeout as error:
        owner = RunRecord.load(folder / RUN_FILE).process if (folder / RUN_FILE).exists() else ""
        raise OutputError(
            f"output_dir {folder} is being written to by another run" + (f" (process {owner})" if owner else ""),
            "one run per folder",
            "wait for it or stop it, or choose another --output_dir",
        ) from error
    _locks.append(lock)


_locks: list[Any] = []


def _unlock() -> None:
    while _locks:
        lock = _locks.pop()
        path = Path(lock.lock_file)
        if not (path.parent / RUN_FILE).exists():
            path.unlink(missing_ok=True)  # no run has begun that it would have to guard
        lock.release()


def begin_run(
    folder: Path,
    args: Arguments,
    training_args: TrainingArguments,
    record: DataRecord,
    checkpoint: Inspection | None,
    base_model_revision: str | None = None,
    model: ModelRecord | None = None,
) -> None:
    """Write ``run.json``: what runs, on what, with which versions.

    Args:
        folder: The run's folder.
        args: The resolved arguments.
        training_args: Batch sizes and processes as they were settled.
        record: The dataset's record.
        checkpoint: What the run goes on from.
        base_model_revision: Commit of the pretrained model, where it came from the Hub.
        model: What is trained.

    Raises:
        SystemExit: SIGTERM came before, and the exception that it raised was lost in a library.
    """
    if _leaving:  # datasets catches whatever is raised while it hashes a transform, this too
        raise _Terminated(Interrupted.exit_code)
    if not is_main_process():
        return
    resumed: list[str] = []
    if checkpoint is None:  # what an earlier start has measured, of other weights
        _clear_results(folder)
    else:
        before = RunRecord.load(folder / RUN_FILE).resumed_from if (folder / RUN_FILE).exists() else []
        resumed = [*before, checkpoint.path.name]
    RunRecord(
        state="running",
        recipe=args.to_recipe(),
        seed=training_args.seed,
        data={name: split.fingerprint for name, split in record.splits.items()},
        versions=list_versions(),
        code=find_commit(),
        hardware=describe_hardware(),
        world_size=training_args.world_size,
        per_device_train_batch_size=training_args.per_device_train_batch_size,
        gradient_accumulation_steps=training_args.gradient_accumulation_steps,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        resumed_from=resumed,
        process=name_process(),
        base_model=args.fit.model_name_or_path,
        base_model_revision=base_model_revision,
        model=model,
        data_manifest=record.manifest_hash,
        policy=sorted(args.policy),
    ).save(folder / RUN_FILE)


def mark_interrupted(folder: Path) -> None:
    """Say in ``run.json`` that the run was stopped; a finished one is sealed by `hf_imgcls.digests.seal_run`."""
    if not is_main_process():
        return
    record = RunRecord.load(folder / RUN_FILE)
    with contextlib.suppress(OSError):  # a full disk must not hide the signal
        replace(record, state="interrupted", process="").save(folder / RUN_FILE)


def check_disk_space(folder: Path, model_bytes: int, training_args: TrainingArguments) -> None:
    """Make sure the checkpoints will fit, before hours are spent on reaching the first one.

    Args:
        folder: The run's folder.
        model_bytes: Size of the weights.
        training_args: Whether checkpoints are saved, and how many are kept.

    Raises:
        OutputError: Less is free than the weights at the end and the checkpoints need.
    """
    if not is_main_process():
        return
    # A checkpoint holds the weights and two moments of the same size (AdamW); one more while it is written. Those that
    # are there already have their room.
    num_checkpoints = 0 if training_args.save_strategy == "no" else training_args.save_total_limit or 1
    checkpoint_bytes = 3 * model_bytes * (num_checkpoints + 1 if num_checkpoints else 0)
    existing = sum(path.stat().st_size for path in folder.glob("checkpoint-*/**/*") if path.is_file())
    needed = model_bytes + max(checkpoint_bytes - existing, 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{free / 1e9:.1f} GB are free at {folder}",
            f"{needed / 1e9:.1f} GB for the model and {num_checkpoints} checkpoints",
            "free some space, lower --save_total_limit, or choose another --output_dir",
        )


def _clear_run(folder: Path) -> None:
    for checkpoint in (*folder.glob("checkpoint-*/"), *folder.glob(".checkpoint-*/")):
        shutil.rmtree(checkpoint)
    # What is about the weights that will be replaced.
    exports = [path.parent for path in folder.glob(f"*/{EXPORT_FILE}")]
    for path in (*(folder / name for name in _OWN_FOLDERS), *exports):
        shutil.rmtree(path, ignore_errors=True)
    _clear_results(folder)
    for name in (*_OWN_FILES, EXPORTS_PICTURE, BATCH_PICTURE, LR_RANGE_PICTURE):
        (folder / name).unlink(missing_ok=True)


def _clear_results(folder: Path) -> None:
    for pattern in _OWN_RESULTS:
        for path in folder.glob(pattern):
            path.unlink()
