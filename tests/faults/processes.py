"""Recipes in processes of their own, which can be killed: forked from one that has imported everything already."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

from lifecycle.command_lines import TINY_VIT

REPOSITORY = Path(__file__).parents[2]
FINETUNE = REPOSITORY / "recipes" / "finetune.py"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["hf_imgcls.fit.trainer", "hf_imgcls.data.load", "hf_imgcls.data.scan", "hf_imgcls.measure.judge",
     "transformers.models.vit.modeling_vit", "transformers.pipelines", "sklearn.datasets"]
)  # fmt: skip

# Two epochs of 24 steps with random crops, flips and dropout; a checkpoint and an evaluation every 5 steps.
RUN = (
    "--dataset_name", "digits", "--image_size", "16", "--max_train_samples", "384", "--max_eval_samples", "61",
    "--max_test_samples", "61", "--per_device_train_batch_size", "16", "--num_train_epochs", "2", "--save_steps", "5",
    "--eval_steps", "5", "--save_total_limit", "3", "--disable_tqdm", "true", "--use_cpu", "--learning_rate", "3e-3",
    "--report", "false",
    *TINY_VIT[:3], TINY_VIT[3].replace("}", ", hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}"),
)  # fmt: skip


class Run:
    """A recipe that runs.

    Args:
        flags: Its command line.
        folder: ``--output_dir``; what it prints goes to a file beside it.
        limits: Resource limits to set in the process, as ``resource.setrlimit`` takes them; an address space is
            what it may take beyond what it has when it starts.
        recipe: What runs.
    """

    def __init__(
        self, *flags: object, folder: Path, limits: tuple[tuple[int, int], ...] = (), recipe: Path = FINETUNE
    ) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.{time.monotonic_ns()}.log")
        argv = [str(recipe), *map(str, flags), "--output_dir", str(folder)]
        # TrainingArguments leave traces of earlier tests in the environment, and a recipe takes these for a launcher.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
        self.process = _context.Process(target=_run, args=(argv, str(self.log), limits, environment))
        self.process.start()

    def wait(self, timeout: float = 300) -> int:
        """Exit code; negative for a signal."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{self.output}")
        return self.process.exitcode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL is waited for."""
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.join(30)

    def wait_for(self, pattern: str, timeout: float = 300) -> Path:
        """Wait until a path inside the folder exists, looking all the time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for path in self.folder.glob(pattern):
                return path
            if not self.process.is_alive():
                break
        raise TimeoutError(f"no {pattern} came into being:\n{self.output}")

    def wait_for_step(self, step: int, timeout: float = 300) -> None:
        """Wait until there is a checkpoint of this step or a later one: on a busy machine it may have been rotated."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.is_alive():
            if any(int(path.name.rpartition("-")[2]) >= step for path in self.folder.glob("checkpoint-*")):
                return
        raise TimeoutError(f"no checkpoint of step {step} came into being:\n{self.output}")

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _run(argv: list[str], log: str, limits: tuple[tuple[int, int], ...], environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.setpgid(0, 0)  # a job of its own, as a scheduler would start it
    os.environ.clear()
    os.environ.update(environment)
    # What a process that was started from a command line has; dataloader workers depend on it.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    for kind, value in limits:
        import resource

        if kind == resource.RLIMIT_AS:
            value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(kind, (value, value))
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


def weights_hash(folder: Path) -> str:
    """SHA-256 of a folder's model."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
