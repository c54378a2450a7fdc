"""What finished stays what it was: a digest of every file of a finished run, in ``run.json``.

`seal_run` writes the digests when a run ends. Whoever repeats a number of the run calls `find_changes` first, and a
stage that rewrites files of a finished run does so inside `recording`. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hf_imgcls.errors import UserError
from hf_imgcls.layout import (
    ADAPTER_FOLDER,
    BATCH_PICTURE,
    CARD_FILE,
    COMPARISON_FILE,
    EXPORT_FILE,
    HASHES_FILE,
    LR_RANGE_PICTURE,
    PUSH_FILE,
    REPEATS_FILE,
    REPORT_FOLDER,
    RUN_FILE,
    TUNE_PICTURE,
    TUNED_RECIPE,
)
from hf_imgcls.records import FileRecord, RunRecord

# What a run writes at the top of its folder. A log, a note or a script of the user's may lie there too, and change.
_TOP_SUFFIXES = (".json", ".safetensors", ".parquet", ".yaml", ".csv", ".png", ".py", ".bin")
_RUN_FOLDERS = (REPORT_FOLDER, ADAPTER_FOLDER)
# The card holds the author's notes, and `RUN_FILE` the digests; the others are made before a run or after it.
_NOT_RECORDED = (
    CARD_FILE, RUN_FILE, PUSH_FILE, BATCH_PICTURE, LR_RANGE_PICTURE, TUNE_PICTURE, TUNED_RECIPE, REPEATS_FILE,
    COMPARISON_FILE, "comparison.png", HASHES_FILE,
)  # fmt: skip
# Files that change what is loaded, or what is said about it, by being there.
_LOADED = (
    "config.json", "generation_config.json", "*processor_config.json", "adapter_config.json", "adapter_model.*",
    "model*.safetensors", "quantizers.safetensors", "*.safetensors.index.json", "pytorch_model*",
)  # fmt: skip
_TOLD = (
    "recipe.yaml",
    "data.json",
    "parity.json",
    "*_results.json",
    "predictions_*.parquet",
    "data_manifest.parquet",
    "report/report.json",
)

# What to do about a changed folder.
RESTORE = (
    "restore the files from a copy or train again. Results, predictions and report alone are measured again by: "
    "hf-imgcls measure RUN --output_dir RUN"
)


def seal_run(folder: Path, exit_code: int = 0) -> None:
    """Mark a run as finished, with a digest of every file that it has left.

    Args:
        folder: The run's folder; call this on the main process, when everything else is written.
        exit_code: What the run ends with.
    """
    record = RunRecord.load(folder / RUN_FILE)
    # The name of a machine of the user's does not belong into what may be published.
    record = dataclasses.replace(record, state="finished", exit_code=exit_code, process="")
    _save(folder, dataclasses.replace(record, files=_digest_files(folder, list_files(folder))))


def find_changes(folder: str | Path) -> dict[str, str]:
    """Compare a finished run's files with their digests.

    Args:
        folder: A run's folder; one without digests (no run, an unfinished one, or one of an older release) is taken as
            it is.

    Returns:
        File -> what has become of it, for example ``"was changed"``; empty if nothing has changed.

    """
    folder = Path(folder)
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")) if (folder / RUN_FILE).is_file() else {}
        record = _read_sealed(folder)
    except (UserError, OSError, ValueError):
        return {RUN_FILE: "cannot be read"}
    if record is None:
        return {}
    changes = {}
    # As it is written: a later release's record has further fields.
    if record.checksum != compute_checksum(content):
        changes[RUN_FILE] = "was changed"
    for name, expected in sorted(record.files.items()):
        top = name.partition("/")[0]
        if top != name and top not in _RUN_FOLDERS and not (folder / top).exists():
            continue  # an exported model that somebody has deleted: nothing tells of it any more
        if (problem := compare_file(folder / name, expected)) is not None:
            changes[name] = problem if problem.startswith(("is missing", "cannot be read")) else "was changed"
    added = set(list_files(folder)) - record.files.keys()
    for name in sorted(added):
        if _is_read(name):
            changes[name] = "was added"
    return changes


def describe_changes(changes: Mapping[str, str]) -> str:
    """Say in one sentence what `find_changes` has found; ``""`` if it has found nothing."""
    if not changes:
        return ""
    named = ", ".join(f"{name} {what}" for name, what in changes.items())
    return f"Since the run finished, {named}: the recorded numbers may not apply to the files as they are now."


def record_digests(folder: Path, names: Collection[str]) -> None:
    """Bring the digests of files up to date that a stage has just rewritten, added or removed.

    Args:
        folder: A run's folder; without digests nothing is done.
        names: Paths in it, with slashes.
    """
    record = _read_sealed(folder)
    if record is None or not names:
        return
    files = {name: file for name, file in record.files.items() if name not in names}
    present = set(list_files(folder)).intersection(names)
    _save(folder, dataclasses.replace(record, files=files | _digest_files(folder, present)))


@contextmanager
def recording(folder: Path, *, amends: Collection[str] = ()) -> Iterator[None]:
    """Within, files of a finished run may be rewritten: afterwards their digests are those of what was written.

    What had been changed by somebody else stays changed, unless it was written anew.

    Args:
        folder: The folder that is written to; without digests nothing is done.
        amends: Patterns of files that are read, completed and written again: these stay changed.
    """
    record = _read_sealed(folder)
    if record is None:
        yield
        return
    amended = [name for name in list_files(folder) if any(fnmatchcase(name, pattern) for pattern in amends)]
    kept = {name for name, file in _digest_files(folder, amended).items() if file != record.files.get(name)}
    before = _stamp_files(folder)
    try:
        yield
    finally:
        after = _stamp_files(folder)
        record_digests(folder, {name for name in before.keys() | after if before.get(name) != after.get(name)} - kept)


def restate_digests(text: str, published: Mapping[str, bytes | Path]) -> str:
    """Write ``run.json`` for a copy of the folder that holds some of its files, texts among them changed.

    Args:
        text: ``run.json``.
        published: Files of the copy: the bytes where they are not those of the folder.

    Returns:
        ``run.json`` with the digests of these files.
    """
    content = json.loads(text)
    if not content.get("files"):
        return text
    for name in list(content["files"]):
        source = published.get(name)
        if source is None:
            del content["files"][name]
        elif isinstance(source, bytes):
            content["files"][name] = {"size": len(source), "sha256": hashlib.sha256(source).hexdigest()}
    content["checksum"] = compute_checksum(content)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def list_files(folder: Path) -> list[str]:
    """The files of a run that have digests: paths in its folder, with slashes."""
    tops = [path for path in folder.iterdir() if not path.name.startswith(".")]
    names = [path.name for path in tops if path.is_file() and path.suffix in _TOP_SUFFIXES]
    for path in tops:
        if path.is_dir() and (path.name in _RUN_FOLDERS or (path / EXPORT_FILE).is_file()):
            inner = (file for file in path.rglob("*") if file.is_file())
            names += [file.relative_to(folder).as_posix() for file in inner]
    return sorted(
        name for name in names
        if name.rpartition("/")[2] not in _NOT_RECORDED and not any(part.startswith(".") for part in name.split("/"))
    )  # fmt: skip


def digest_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(os.fstat(file.fileno()).st_size, digest)


def compare_file(path: Path, expected: FileRecord) -> str | None:
    """What is wrong with a file, as the end of a sentence; None if it is as expected."""
    if not path.is_file():
        return "is missing"
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"has {size:,} bytes instead of {expected.size:,}"
        return None if digest_file(path).sha256 == expected.sha256 else "does not have its checksum"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def compute_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record as JSON, without its own ``checksum``."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest_files(folder: Path, names: Collection[str]) -> dict[str, FileRecord]:
    return {name: digest_file(folder / name) for name in sorted(names)}


def _stamp_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a file is written, even if its contents are the same afterwards: inode and time."""
    states = {name: (folder / name).stat() for name in list_files(folder)}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in states.items()}


def _read_sealed(folder: Path) -> RunRecord | None:
    """``run.json`` of a finished run with digests; None without one, and for a file of that name of somebody else's."""
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return RunRecord.load(path)  # which says what is wrong with the file
    return RunRecord.load(path) if isinstance(content, dict) and content.get("files") else None


def _save(folder: Path, record: RunRecord) -> None:
    record = dataclasses.replace(record, checksum="")
    dataclasses.replace(record, checksum=compute_checksum(record.to_json())).save(folder / RUN_FILE)


def _is_read(name: str) -> bool:
    """Whether a file would be read that no stage has written: by whoever loads the model, or by the card."""
    told = any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in _TOLD)
    return told or any(fnmatchcase(name.rpartition("/")[2], pattern) for pattern in (*_LOADED, EXPORT_FILE))
