"""Runs of recipes/finetune.py for benchmarks: each in a process of its own, forked from one that has imported all."""

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
    # Heavy imports once, in the parent.
    import hf_imgcls.fit.trainer
    import hf_imgcls.measure.saved_model  # noqa: F401

    argv = [str(FINETUNE), *map(str, flags), "--output_dir", str(folder)]
    process = multiprocessing.get_context("fork").Process(target=_run, args=(argv, str(log)))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}:\n{log.read_text()[-2000:]}")
    return json.loads(results.read_text())  # type: ignore[no-any-return]


def _run(argv: list[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
