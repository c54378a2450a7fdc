"""The errors of torch and the system in words: what the machine, or a layer, could not do."""

from __future__ import annotations

import errno
import re
import shutil
import time
from multiprocessing import resource_sharer
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

import torch

from hf_imgcls.errors import ArgumentError, MachineError, OutputError, UserError
from hf_imgcls.fit.batch_size import is_out_of_memory
from hf_imgcls.fit.checkpoints import list_checkpoints

if TYPE_CHECKING:
    from transformers import TrainingArguments

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\).*", re.DOTALL)
_SIGNAL_S = 1.0
_LOST_PEER = re.compile(r"Connection closed by peer|Connection reset by peer|Broken pipe|Timed out waiting")


def translate_fault(error: BaseException, args: TrainingArguments) -> UserError | None:
    """Say what happened to the machine, if that is what an error is about.

    Args:
        error: What stopped training.
        args: The run's.

    Returns:
        The error in words, with what to do; None if it is about something else.
    """
    again = f"run the same command again: it goes on from {name_newest(args.output_dir)}"
    text = str(error)
    if _lost_a_batch(error):
        text = _await_worker() or text
    if is_out_of_memory(error):
        size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        half = f"--per_device_train_batch_size {max(size // 2, 1)} --gradient_accumulation_steps {accumulation * 2}"
        return MachineError(
            f"{args.device} is out of memory with {size} images at a time: {text.splitlines()[0] if text else ''}",
            "memory for the model, its gradients and the images' activations",
            f"use {half} (the same images a step), or --auto_find_batch_size, --gradient_checkpointing or --bf16",
        )
    if isinstance(error, ValueError) and text.startswith("Expected more than 1 value per channel"):
        return ArgumentError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}, and BatchNorm got a single value per "
            "channel",
            "2 images or more in each batch",
            "raise --per_device_train_batch_size, or freeze these layers: --adaptation head",
        )
    if (isinstance(error, RuntimeError) and _LOST_WORKER.search(text)) or _lost_a_batch(error):
        return MachineError(
            f"a dataloader worker was killed: {' '.join(text.split())}",
            "workers that live as long as the run; the system kills them when memory runs out, "
            "or when there is too little shared memory (/dev/shm)",
            f"lower --dataloader_num_workers, then {again}",
        )
    lost = isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and _LOST_PEER.search(text)
    )
    if args.world_size > 1 and lost:
        return MachineError(
            f"process {args.process_index} of {args.world_size} lost another one: {_shorten(text)}",
            "all processes alive until the end of the run",
            f"look for the other process's own error, then {again}",
        )
    return None


def _shorten(text: str) -> str:
    """Gloo's words without the file they come from and its advice."""
    return re.sub(r"^\[\S+\.cc:\d+\] ", "", text.splitlines()[0]).partition(". ")[0]


def _lost_a_batch(error: BaseException) -> bool:
    """Whether a worker had announced a batch and was gone before it was fetched from it."""
    if not isinstance(error, (ConnectionError, EOFError)):
        return False
    return any(frame.f_code.co_filename == resource_sharer.__file__ for frame, _ in walk_tb(error.__traceback__))


def _await_worker() -> str:
    """What torch says about a worker that has just died, once the system has told it.

    Its handler of SIGCHLD raises in whatever runs then: here, where it is expected, and not while the run is ended.
    """
    try:
        time.sleep(_SIGNAL_S)
    except RuntimeError as error:
        return str(error)
    return ""


def describe_failed_save(path: Path, error: BaseException, needed: int) -> OutputError:
    """The error for a checkpoint that could not be written.

    Args:
        path: Where it was to lie.
        error: What went wrong.
        needed: Bytes that a checkpoint takes, as far as is known.
    """
    free = shutil.disk_usage(path.parent).free
    reason = " ".join(str(error).split())
    full = getattr(error, "errno", None) in _NO_SPACE or re.search(r"os error (27|28|122)|No space|too large", reason)
    need = f"about {needed / 1e6:,.1f} MB" if needed else "room"
    return OutputError(
        f"{path} could not be saved: {reason} ({free / 1e6:,.1f} MB are free there)",
        f"{need} for a checkpoint" + (", and a limit on the size of files above that" if full else ""),
        "make room (or lower --save_total_limit), then run the same command again: "
        f"older checkpoints are as they were, and it goes on from {name_newest(path.parent)}",
    )


def name_newest(folder: str | Path | None) -> str:
    """What a run in a folder goes on from, for a message."""
    checkpoints = list_checkpoints(Path(folder or "."))
    return checkpoints[-1].name if checkpoints else "the beginning"
