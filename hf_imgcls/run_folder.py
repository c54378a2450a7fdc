"""A run's folder and processes: what is checked before anything is loaded.

Only the standard library is imported, so that these errors come at once.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.recall import find_run
from hf_imgcls.arguments.recipe import to_recipe
from hf_imgcls.digests import describe_changes, find_changes
from hf_imgcls.earlier_start import check_earlier_run, clear_leftovers, join_run, read_start
from hf_imgcls.errors import OutputError
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
from hf_imgcls.process import check_terminated, is_main_process
from hf_imgcls.provenance import describe_hardware, find_commit, list_versions, name_process
from hf_imgcls.records import DataRecord, RunRecord

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.records import DataRecord, ModelRecord


logger = logging.getLogger(__name__)

_LOCK_FILE = ".lock"
_BORROWED = ".borrowed"
_JOURNALS = ("-journal", "-wal", "-shm")  # of SQLite
_LOCK_PATIENCE_S = 10
_OWN_FILES = (RUN_FILE, RECIPE_FILE, DATA_FILE, PUSH_FILE, "trainer_state.json", BAD_IMAGES_FILE, MANIFEST_FILE)
_OWN_RESULTS = ("*_results.json", "parity.json", "predictions_*.parquet", "*confusion_matrix.json")  # patterns
# What was found out before a run, and is no part of one.
_PRELIMINARIES = (BATCH_PICTURE, LR_RANGE_PICTURE, TUNE_FILE, TUNE_PICTURE, TUNED_RECIPE)
_OWN_FOLDERS = ("report", "adapter", "examples", "space")


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


def temporary_run_folder(folder: Path) -> Path:
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


def remove_run_folders() -> None:
    """Remove the folders of `temporary_run_folder`."""
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


def held_folders() -> list[Path]:
    """Return the folders that this process holds."""
    return [Path(lock.lock_file).parent for lock in _locks]


def unlock_folders() -> None:
    """Let other processes have the folders that this one holds."""
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
    checkpoint: Path | None,
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
    check_terminated()
    if not is_main_process():
        return
    resumed: list[str] = []
    if checkpoint is None:  # what an earlier start has measured, of other weights
        _clear_results(folder)
    else:
        before = RunRecord.load(folder / RUN_FILE).resumed_from if (folder / RUN_FILE).exists() else []
        resumed = [*before, checkpoint.name]
    RunRecord(
        state="running",
        recipe=to_recipe(args),
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
        hooks=args.hooks,
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


def check_run(model: str | Path | None) -> str:
    """Say what has changed in a run's folder since it finished, before its model or a number of it is used.

    Args:
        model: A run's folder, an exported model in it, or anything else, which has recorded nothing.

    Returns:
        The sentence that was logged, see `hf_imgcls.digests.describe_changes`; ``""`` if nothing has changed.
    """
    if not model or not is_main_process():
        return ""
    folder = find_run(model)
    changes = describe_changes(find_changes(folder))
    if changes:
        logger.warning("Warning: %s was changed. %s", folder, changes)
    return changes


def compare_data(folder: str | Path, record: DataRecord, split: str) -> list[str]:
    """Say how a split differs from the one that a run recorded under the same name.

    Args:
        folder: The run's folder; anything else has recorded nothing.
        record: The data as it is now.
        split: The split that is about to be used.

    Returns:
        One sentence for each difference.
    """
    path = find_run(folder) / DATA_FILE
    if not path.is_file():
        return []
    earlier = DataRecord.load(path)
    then, now = earlier.splits.get(split), record.splits.get(split)
    notes = []
    if earlier.revision != record.revision:
        notes.append(f"The dataset is at revision {record.revision}; the run used {earlier.revision}.")
    if then is not None and now is not None and then.num_examples != now.num_examples:
        notes.append(f"The {split} split has {now.num_examples} examples; the run's had {then.num_examples}.")
    elif then is not None and now is not None and then.class_counts != now.class_counts:
        notes.append(f"The {split} split has other numbers of examples per class than the run's.")
    elif then is not None and now is not None and then.fingerprint and then.fingerprint != now.fingerprint:
        notes.append(f"The {split} split has other images, labels or order than the run's.")
    return notes
