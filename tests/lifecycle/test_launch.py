"""Several processes, started by the documented command, are one run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT


@pytest.mark.slow
def test_two_processes_on_a_cpu_train_together(repository, tmp_path):
    flags = [flag for flag in SMALL_DIGITS if flag != "--use_cpu"]  # as a user would: it must not be needed
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(repository / "accelerate_config.yaml"),
        "--num_processes", "2", "--main_process_port", "0", str(repository / "recipes" / "finetune.py"), *flags,
        *TINY_VIT, "--num_processes", "2", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "World size: 2 processes" in result.stderr
    # 256 images in batches of 32: 8 steps alone, 4 together.
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 4
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())["test_num_examples"] == 61
    assert json.loads((tmp_path / "run" / "parity.json").read_text())["top1_agreement"] == 1.0


@pytest.mark.slow
def test_a_recipe_is_repeated_with_other_seeds(repository, tmp_path):
    at = SMALL_DIGITS.index("--max_train_samples")  # the shots choose what is trained on
    flags = (*SMALL_DIGITS[:at], *SMALL_DIGITS[at + 2 :])
    command = [
        sys.executable, str(repository / "recipes" / "repeat.py"), "--repeats", "2", *flags, *TINY_VIT,
        "--shots_per_class", "5", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "few"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 runs; mean" in result.stdout
    summary = json.loads((tmp_path / "few" / "repeats.json").read_text())
    runs = [tmp_path / "few" / f"seed_{seed}" for seed in range(2)]
    scores = [json.loads((run / "test_results.json").read_text())["test_accuracy"] for run in runs]
    assert summary["metrics"]["accuracy"]["values"] == scores
    data = [json.loads((run / "data.json").read_text())["splits"] for run in runs]
    assert data[0]["train"]["fingerprint"] != data[1]["train"]["fingerprint"]
    assert data[0]["test"]["fingerprint"] == data[1]["test"]["fingerprint"]


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    from transformers import TrainingArguments

    from hf_imgcls.errors import LaunchError
    from hf_imgcls.fit.training_arguments import build_training_arguments

    arguments = {"output_dir": "unused", "report_to": "none"}
    assert build_training_arguments(arguments).world_size == 1
    # What happened on a CPU without use_cpu: the launcher started two, and each believed itself alone.
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 1))
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: setattr(self, "_n_gpu", 0))
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="2 processes were launched"):
        build_training_arguments(arguments)


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_a_model_is_not_sharded_on_cpus_in_name_only(name, monkeypatch):
    from hf_imgcls.errors import LaunchError
    from hf_imgcls.fit.training_arguments import build_training_arguments

    arguments = {"output_dir": "unused", "report_to": "none", "use_cpu": True}
    with pytest.raises(LaunchError, match=f"by --{name}, and this run is on the CPU"):
        build_training_arguments({**arguments, name: "full_shard" if name == "fsdp" else "config.json"})
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")  # as accelerate launch says it
    with pytest.raises(LaunchError, match="the launcher's configuration"):
        build_training_arguments(arguments)
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "false")
    assert build_training_arguments(arguments).use_cpu


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_leave_their_core_to_others_while_they_wait(given, expected):
    """Said to the OpenMP library before it is loaded; the user's own word counts."""
    program = (
        "import os, sys; from hf_imgcls.commands.command import run_recipe; "
        "run_recipe(lambda: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT')))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    } | given
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", expected]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is told")
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_memory_that_a_step_frees_is_kept_for_the_next_one(given, kept):
    """100 MiB taken and freed again and again cost no page faults; the user's own word counts."""
    program = """
import resource
from hf_imgcls.commands.command import run_recipe

def step():
    blocks = [b"x" * 2**20 for _ in range(100)]

def main():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

run_recipe(main)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment | given, check=True
    )
    pages = 5 * 100 * 2**20 // os.sysconf("SC_PAGESIZE")
    assert (int(done.stdout) < pages / 10) == kept, done.stdout
