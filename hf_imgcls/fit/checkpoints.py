"""Checkpoints that are whole or not there: written aside, checksummed, renamed; verified before they are used.

A checkpoint is what ``Trainer`` saves, plus `MANIFEST_FILE`: the size and SHA-256 of every file, and what run it
belongs to. The manifest is written last and the folder gets its name after that, so that neither a kill nor a full
disk leaves something that looks like a checkpoint and is none.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_imgcls.digests import compare_file, compute_checksum, digest_file
from hf_imgcls.errors import OutputError, UserError
from hf_imgcls.fit.mirror import mirror_folder
from hf_imgcls.fit.same_run import list_differences
from hf_imgcls.fit.stopping import decide_on_main
from hf_imgcls.model_files import ADAPTER_CONFIG
from hf_imgcls.records import CheckpointRecord, RunIdentity

MANIFEST_FILE = "manifest.json"
# Without these a run can go on, but not as if it had never stopped.
_STATE_PREFIXES = {
    "optimizer": ("optimizer", "global_step", "distrib_optim"),
    "scheduler": ("scheduler", "global_step"),
    "random state": ("rng_state", "random_states"),
}
_TRAINER_STATE = "trainer_state.json"
# Endings of hidden folders: being written, to be replaced by what is written, being deleted.
_PARTIAL, _REPLACED, _DOOMED = ".partial", ".replaced", ".doomed"
logger = logging.getLogger(__name__)


@dataclass
class Inspection:
    """What a checkpoint's folder turned out to hold.

    Attributes:
        path: The folder.
        record: Its manifest; None without a readable one.
        damage: Why it must not be used: sentences without a full stop.
        missing: What a run cannot go on exactly without: of optimizer, scheduler, random state.
    """

    path: Path
    record: CheckpointRecord | None = None
    damage: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether a run goes on from here as if it had never stopped."""
        return self.record is not None and not self.damage and not self.missing

    @property
    def reasons(self) -> str:
        """What is wrong, for a message."""
        reasons = list(self.damage)
        if self.record is None and not self.damage:
            reasons.append(f"it has no {MANIFEST_FILE}")
        if self.missing:
            reasons.append(f"it has no {' and no '.join(self.missing)}")
        return "; ".join(reasons)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step}"


def partial_path(folder: Path, step: int) -> Path:
    """Where a checkpoint lies while it is written; hidden, and never taken for one."""
    return folder / f".checkpoint-{step}{_PARTIAL}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders that are named like checkpoints, by step, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0)


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name."""
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdigit() else None


def remove_leftovers(folder: Path) -> None:
    """Finish what a kill in the middle of saving left behind, or remove it."""
    for replaced in folder.glob(f".checkpoint-*{_REPLACED}"):
        final = folder / replaced.name.removeprefix(".").removesuffix(_REPLACED)
        partial = replaced.with_name(f".{final.name}{_PARTIAL}")
        if not final.exists():  # killed between the two renames: the new one is whole, with its manifest
            (partial if (partial / MANIFEST_FILE).exists() else replaced).rename(final)
    for path in folder.glob(".checkpoint-*"):
        if path.name.endswith((_PARTIAL, _REPLACED, _DOOMED)):
            shutil.rmtree(path, ignore_errors=True)


def seal_checkpoint(folder: Path, record: CheckpointRecord) -> Path:
    """Turn the written folder of a step into a checkpoint.

    Args:
        folder: The run's folder; the files lie in `partial_path`.
        record: Without ``files``.

    Returns:
        The checkpoint.

    Raises:
        OSError: Something could not be written; no checkpoint has come into being.
    """
    partial, final = partial_path(folder, record.step), checkpoint_path(folder, record.step)
    record.files = {}
    for path in _walk(partial):
        record.files[path.relative_to(partial).as_posix()] = digest_file(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    record.checksum = compute_checksum(record.to_json())
    record.save(partial / MANIFEST_FILE)
    for inner in {partial, *(path.parent for path in _walk(partial))}:
        _flush_folder(inner)
    replaced = folder / f".{final.name}{_REPLACED}"
    if final.exists():  # a damaged one, or one that was stopped before its evaluation
        final.rename(replaced)
    partial.rename(final)
    _flush_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def inspect_checkpoint(path: Path) -> Inspection:
    """Read a checkpoint's manifest and compare every file with it.

    Args:
        path: A folder; it need not be a checkpoint of ours.
    """
    result = Inspection(path)
    names = {file.relative_to(path).as_posix() for file in _walk(path)}
    listed = set(names)
    if MANIFEST_FILE in names:
        try:
            content = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
            if content["checksum"] != compute_checksum(content):
                raise UserError("it does not have the checksum that it states")
            result.record = record = CheckpointRecord.load(path / MANIFEST_FILE)
        except (UserError, OSError, TypeError, ValueError, KeyError) as error:
            result.damage.append(f"{MANIFEST_FILE} is damaged: {getattr(error, 'found', error)}")
            return result
        listed = set(record.files)
        if ADAPTER_CONFIG in names - listed:  # transformers would load what it names
            result.damage.append(f"{ADAPTER_CONFIG} was added")
        for name, expected in sorted(record.files.items()):
            problem = compare_file(path / name, expected)
            if problem is None:
                continue
            what = next((what for what, known in _STATE_PREFIXES.items() if name.startswith(known)), None)
            if what is None or (path / name).exists():
                result.damage.append(f"{name} {problem}")
            elif what not in result.missing:
                result.missing.append(what)
    if _TRAINER_STATE not in listed:
        result.damage.append(f"it has no {_TRAINER_STATE}")
    for what, known in _STATE_PREFIXES.items():
        if what not in result.missing and not any(name.startswith(known) for name in listed):
            result.missing.append(what)
    return result


def find_checkpoint(folder: Path, named: str | bool | None, run: RunIdentity) -> Inspection | None:
    """`choose_checkpoint` on the main process, for all; what a kill has left half written is removed first."""

    def find() -> Inspection | None:
        remove_leftovers(folder)
        found = choose_checkpoint(folder, None if named is None else str(named), run)
        if found is not None:
            logger.info("Resumed: %s", found.path)
        return found

    found: Inspection | None = decide_on_main(find)
    return found and dataclasses.replace(found, path=mirror_folder(found.path))


def choose_checkpoint(folder: Path, named: str | None, run: RunIdentity) -> Inspection | None:
    """Find the checkpoint that a run goes on from.

    Args:
        folder: The run's folder.
        named: ``--resume_from_checkpoint``: a folder; ``"false"`` to begin anew, which deletes what lies there; None,
            ``"auto"`` or ``"true"`` for the newest whole one in ``folder``.
        run: The run that is to go on.

    Returns:
        The checkpoint, or None to begin anew.

    Raises:
        OutputError: There are checkpoints and none can be used; the named one cannot be used; or it belongs to
            another run: transformers line, data, labels or model.
    """
    word = str(named).lower()
    if word == "false":
        # What lies there belongs to a run that is given up; later on it would pass for this one's.
        for path in list_checkpoints(folder):
            shutil.rmtree(path)
        return None
    if word not in ("none", "auto", "true"):
        chosen = _take_named(Path(str(named)), folder)
    else:
        found = _take_newest(folder)
        if found is None:
            return None
        chosen = found
    check_same_run(chosen, run)
    return chosen


def _take_named(path: Path, folder: Path) -> Inspection:
    inspection = inspect_checkpoint(path)
    if inspection.damage:
        raise OutputError(
            f"{path} is damaged: {inspection.reasons}",
            "a whole checkpoint",
            "leave out --resume_from_checkpoint to go on from the newest whole one",
        )
    step = (step_of(path) or 0) if path.resolve().parent == folder.resolve() else 0
    newer = [other.name for other in list_checkpoints(folder) if (step_of(other) or 0) > step]
    if newer:
        raise OutputError(
            f"{path} is to be resumed, but {folder} also holds {', '.join(newer)}",
            "no newer checkpoint, which the run would take for its own later on",
            "leave out --resume_from_checkpoint to go on from the newest; or move the newer ones away, or choose "
            "another --output_dir",
        )
    if not inspection.is_whole:
        logger.warning("Resumed from %s as asked, though %s: the run will differ.", path, inspection.reasons)
    return inspection


def _take_newest(folder: Path) -> Inspection | None:
    passed_over: list[Inspection] = []
    for path in reversed(list_checkpoints(folder)):
        inspection = inspect_checkpoint(path)
        if inspection.is_whole:
            for other in passed_over:
                logger.warning("%s cannot be used: %s.", other.path.name, other.reasons)
            return inspection
        passed_over.append(inspection)
    if passed_over:
        raise OutputError(
            f"no checkpoint in {folder} can be used: "
            + "; ".join(f"{other.path.name} ({other.reasons})" for other in passed_over),
            "a whole checkpoint with optimizer, scheduler and random state",
            "name one with --resume_from_checkpoint to go on all the same, or begin anew with "
            "--resume_from_checkpoint false or --overwrite_output_dir",
        )
    return None


def check_same_run(checkpoint: Inspection, run: RunIdentity) -> None:
    """Make sure that a checkpoint's run is the one that goes on; tell of smaller differences.

    Raises:
        OutputError: Another transformers major version, other data, labels or model; each difference is shown.
    """
    if checkpoint.record is None:
        before = _transformers_of(checkpoint.path)
        if before is None or _major(before) == _major(run.transformers):
            return
        differences = [f"transformers: {before} then, {run.transformers} now"]
    else:
        earlier = checkpoint.record.run
        differences = []
        if _major(earlier.transformers) != _major(run.transformers):
            differences.append(f"transformers: {earlier.transformers} then, {run.transformers} now")
        for name in ("labels", "data", "model"):
            differences += list_differences(name, getattr(earlier, name), getattr(run, name))
        # What a person may well change: told, and followed.
        for text in list_differences("", earlier.recipe, run.recipe):
            logger.warning("Since %s an argument has changed: %s.", checkpoint.path.name, text)
    if differences:
        raise OutputError(
            f"{checkpoint.path} belongs to another run:\n  - " + "\n  - ".join(differences),
            "the run that wrote the checkpoint",
            "restore what has changed, or choose another --output_dir for a new run",
        )


def rotate_checkpoints(folder: Path, limit: int | None, newest: int, best: int | None) -> None:
    """Delete checkpoints until ``limit`` are left, by step; never the newest and never the best.

    Args:
        folder: The run's folder.
        limit: ``save_total_limit``; None or 0 keeps all.
        newest: Step of the checkpoint just written. Those of later steps are damaged ones that the run passed over.
        best: Step of the best one so far.
    """
    if not limit or limit < 0:
        return
    steps = [step_of(path) or 0 for path in list_checkpoints(folder)]
    order = [step for step in steps if step > newest] + [step for step in steps if step < newest and step != best]
    for step in order[: max(len(steps) - limit, 0)]:
        path = checkpoint_path(folder, step)
        # Renamed first: a kill in the middle of deleting must not leave half a checkpoint under its name.
        doomed = folder / f".{path.name}{_DOOMED}"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _flush_folder(folder: Path) -> None:
    """Make names durable; not every system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _transformers_of(path: Path) -> str | None:
    """The version in a checkpoint's config.json."""
    try:
        return json.loads((path / "config.json").read_text(encoding="utf-8")).get("transformers_version")
    except (OSError, ValueError):
        return None


def _major(version: str) -> str:
    return version.partition(".")[0]
