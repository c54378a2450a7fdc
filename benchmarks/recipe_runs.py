"""Runs of recipes/finetune.py for benchmarks: each in a process of its own, forked from one that has only imported."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FINETUNE = Path(__file__).parents[1] / "recipes" / "finetune.py"

# A server that imports, so that no run has to; a process that has computed must not be forked.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["hf_imgcls.fit.trainer", "hf_imgcls.measure.judge"])


def finetune(flags: Sequence[object], folder: Path) -> dict[str, Any]:
    """Run the recipe, or read what it left when it ran before.

    Args:
        flags: Its command line.
        folder: ``--output_dir``; what it prints goes to a file beside it.

    Returns:
        ``all_results.json``.

    Raises:
        RuntimeError: It failed; the message ends in what it printed.
    """
    results = folder / "all_results.json"
    log = folder.with_name(f"{folder.name}.log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(FINETUNE), *map(str, flags), "--output_dir", str(folder)]
    process = _context.Process(target=_run, args=(argv, str(log)))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}:\n{log.read_text()[-2000:]}")
    return json.loads(results.read_text())  # type: ignore[no-any-return]


def _run(argv: list[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # As in a process that a command line started: dataloader workers depend on it.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
