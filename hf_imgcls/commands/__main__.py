"""``hf-imgcls VERB ...``, and ``python -m hf_imgcls.commands VERB ...``."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from importlib import import_module

from hf_imgcls.arguments.recall import scan_flags
from hf_imgcls.errors import ArgumentError

PROGRAM = "hf-imgcls"
# Each is a module beside this one, with a ``main`` that reads the command line.
VERBS = {
    "finetune": "fine-tune a classifier, judge it, write its card",
    "measure": "score a saved model; compare two; report again",
    "export": "write a model for other runtimes, measured against the original",
    "push": "push a finished run to the Hub",
    "pretrain": "pretrain a backbone on images without labels",
    "repeat": "fine-tune with several seeds, and take the mean",
    "card": "write a run's model card again",
}
_LAUNCHED = ("finetune", "measure", "pretrain")  # may be told --num_processes


def main() -> None:
    """Run the verb that the command line begins with; what it does not know, it answers with the nearest one."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(_describe())
        return
    if verb == "--version":
        from hf_imgcls import __version__

        print(f"hf_imgcls {__version__}")
        return
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        fix = f"did you mean {PROGRAM} {close[0]}?" if close else f"{PROGRAM} --help tells what each does"
        error = ArgumentError(f"{verb!r} is not a verb", f"one of {', '.join(VERBS)}", fix)
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    number = _read_num_processes(rest) if verb in _LAUNCHED else 1
    if number > 1 and not _is_launched():
        sys.exit(_launch(number, [verb, *rest]))
    sys.argv = [f"{PROGRAM} {verb}", *rest]

    from hf_imgcls.commands.command import run_recipe

    run_recipe(import_module(f"hf_imgcls.commands.{verb}").main)


def _describe() -> str:
    lines = [f"  {verb:<10}{text}" for verb, text in VERBS.items()]
    return "\n".join([f"usage: {PROGRAM} VERB ...", "", *lines, "", f"{PROGRAM} VERB --help tells what a verb takes."])


def _read_num_processes(argv: list[str]) -> int:
    """``--num_processes`` of a command line; 1 where it is not there or is no number, which is told later."""
    number = scan_flags(argv).get("num_processes", "")
    return int(number) if number.isdigit() else 1


def _is_launched() -> bool:
    """Return whether a launcher of several processes has started this one: accelerate's, torchrun or MPI.

    ACCELERATE_MIXED_PRECISION says nothing: TrainingArguments sets it too, for whatever a notebook starts afterwards.
    """
    names = ("WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    return any(name in os.environ for name in names)


def _launch(number: int, words: list[str]) -> int:
    """Start as many processes of a command on this machine; return their exit code.

    ``accelerate launch`` is told what accelerate_config.yaml says. Without GPUs it starts processes on the CPU.
    """
    launcher = [
        "--multi_gpu", "--num_processes", str(number), "--num_machines", "1", "--machine_rank", "0", "--gpu_ids", "all",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--rdzv_backend", "static", "--main_process_port", "0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "-m", "hf_imgcls.commands", *words]
    return subprocess.call(command)


if __name__ == "__main__":
    main()
