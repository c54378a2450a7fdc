"""Files of the main process for machines that do not see its folder: checkpoints and the saved model.

Only the main process has a run's folder. Where another machine has no storage in common with it, the files that each
process reads are sent there, into a temporary folder that is gone when the process ends.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from hf_imgcls.process import count_machines, keep_until_end

_CHUNK_BYTES = 1 << 26
_READ = (".json", ".safetensors", ".pt", ".pth")  # a model, its processor, and what a checkpoint has beside them

PathT = TypeVar("PathT", bound=str | Path)


def mirror_folder(folder: PathT) -> PathT:
    """Return where this process reads what the main process has in ``folder``; called by all processes.

    Args:
        folder: On the main process; a model's id on the Hub, or a folder that is not there, is returned as it is.

    Returns:
        ``folder`` where this machine sees it too, else a temporary copy of its files, with the same last name.
    """
    if count_machines() == 1 or PartialState().num_processes == 1:
        return folder
    state, path = PartialState(), Path(folder)
    mark = path / f".seen-{uuid.uuid4().hex}"
    plan: list[Any] = [None, []]
    if state.is_main_process and path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in _READ and not file.name.startswith(".")]
        mark.touch()
        plan = [mark.name, [(file.name, file.stat().st_size) for file in files]]
    broadcast_object_list(plan)
    name, sizes = plan
    if name is None:
        return folder
    sees = gather_object([(path / name).exists()])
    state.wait_for_everyone()
    if state.is_main_process:
        mark.unlink(missing_ok=True)
    if all(sees):
        return folder
    first = state.process_index - state.local_process_index  # of this machine
    copies = not sees[first] and state.is_local_main_process
    target = Path(tempfile.mkdtemp(prefix="hf_imgcls_")) / path.name if copies else None
    if target is not None:
        keep_until_end(target.parent)
        target.mkdir()
    for file, size in sizes:
        _send(path / file, target / file if target is not None else None, size, state.is_main_process)
    places = gather_object([None if target is None else str(target)])
    return folder if sees[first] else type(folder)(places[first])


def _send(source: Path, target: Path | None, size: int, is_main: bool) -> None:
    """Send a file from the main process; all take part, those with a target write it."""
    reader = source.open("rb") if is_main else None
    writer = target.open("wb") if target is not None else None
    try:
        for _ in range(max(-(-size // _CHUNK_BYTES), 1)):
            chunk: list[Any] = [reader.read(_CHUNK_BYTES) if reader is not None else None]
            broadcast_object_list(chunk)
            if writer is not None:
                writer.write(chunk[0])
    finally:
        for file in (reader, writer):
            if file is not None:
                file.close()
