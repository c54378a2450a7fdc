"""What machines do: full disks, killed workers and processes, too little memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from faults.processes import RUN, Run, read_json, weights_hash
from faults.test_signals import TWO, launch, needs_proc, ranks_of, wait_for
from fit.test_trainer import DATA, digits  # noqa: F401 (a fixture)
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments.fields import FitArguments
from hf_imgcls.errors import LaunchError, OutputError
from hf_imgcls.fit.batch_size import divide_batch, find_batch_size, resolve_batch_size
from hf_imgcls.fit.checkpoints import Inspection, inspect_checkpoint, list_checkpoints
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.same_run import describe_run
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.records import CheckpointRecord
from hf_imgcls.run_folder import check_disk_space


def test_a_disk_that_is_full_while_saving_leaves_older_checkpoints(whole_run, tmp_path):
    folder = tmp_path / "run"
    first = Run(*RUN, folder=folder)
    first.wait_for("checkpoint-10")
    first.kill()
    before = {path.name: weights_hash(path) for path in list_checkpoints(folder)}
    # A limit on the size of a file is met in the same place as the end of a disk: in the middle of a write.
    largest = max(path.stat().st_size for path in (folder / "checkpoint-10").iterdir())
    run = Run(*RUN, folder=folder, limits=((resource.RLIMIT_FSIZE, largest // 2),))
    assert run.wait(60) == 2
    assert "could not be saved: " in run.output
    assert "MB are free there" in run.output
    assert "for a checkpoint" in run.output
    assert "Traceback" not in run.output
    assert {path.name: weights_hash(path) for path in list_checkpoints(folder)} == before
    assert not list(folder.glob(".checkpoint-*"))
    last = Run(*RUN, folder=folder)
    assert last.wait() == 0, last.output
    assert weights_hash(folder) == weights_hash(whole_run)


@needs_proc
def test_a_killed_dataloader_worker_is_an_error_that_says_so(tmp_path):
    run = Run(*RUN, "--dataloader_num_workers", "2", "--num_train_epochs", "300", "--save_steps", "20",
              "--eval_strategy", "no", "--load_best_model_at_end", "false", "--do_eval", "false",
              "--dataloader_persistent_workers", "true", folder=tmp_path / "run")  # fmt: skip
    run.wait_for("checkpoint-20")
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(int(children[-1]), signal.SIGKILL)
    start = time.monotonic()
    assert run.wait(60) == 2, run.output
    assert time.monotonic() - start < 60
    assert "error: a dataloader worker was killed" in run.output
    assert "lower --dataloader_num_workers, then run the same command again: it goes on from checkpoint-" in run.output
    assert "Traceback" not in run.output
    wait_for(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), 30)


@needs_proc
@pytest.mark.slow
def test_a_killed_process_takes_the_other_one_with_it(tmp_path):
    folder = tmp_path / "run"
    process = launch(folder, *TWO, "--num_train_epochs", "100", "--save_steps", "20", "--eval_steps", "20")
    wait_for(lambda: list(folder.glob("checkpoint-20")))
    os.kill(ranks_of(folder)[1], signal.SIGKILL)
    start = time.monotonic()
    assert process.wait(60) != 0
    wait_for(lambda: not ranks_of(folder), 60)
    assert time.monotonic() - start < 60
    output = process.log.read_text()
    assert "Signal 9 (SIGKILL)" in output
    for path in list_checkpoints(folder):
        assert inspect_checkpoint(path).is_whole


@pytest.mark.parametrize(
    ("images", "processes", "at_most", "expected"),
    [(32, 1, 32, (32, 1)), (32, 2, 32, (16, 1)), (32, 2, 8, (8, 2)), (96, 1, 64, (48, 2)), (30, 2, 4, (3, 5)),
     (7, 7, 64, (1, 1))],
)  # fmt: skip
def test_a_steps_images_are_divided_without_a_rest(images, processes, at_most, expected):
    assert divide_batch(images, processes, at_most) == expected
    assert expected[0] * expected[1] * processes == images


def test_images_that_cannot_be_divided_are_an_error():
    with pytest.raises(LaunchError, match="3 processes are to share 32 images"):
        divide_batch(32, 3, 32)


def arguments(folder, **training):
    training = {"output_dir": str(folder), "use_cpu": True, "report_to": "none", **training}
    return build_training_arguments(training)


def earlier(model, args, **changes):
    run = describe_run(model, args)
    for name, value in changes.items():
        setattr(run, name, value)
    return Inspection(args.output_dir, CheckpointRecord(step=3, run=run))


@pytest.fixture
def model(digits):  # noqa: F811
    fit = FitArguments(model_type="resnet", model_config=TINY_CONFIGS["resnet"])
    return build_model(fit, DATA, digits.labels)[0]


def test_a_resumed_run_keeps_the_images_of_a_step(model, tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=16, gradient_accumulation_steps=2)
    resolve_batch_size(args, model, (32, 32), None)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 2)
    # Two processes of 16 x 2 before, one now.
    resolve_batch_size(args, model, (32, 32), earlier(model, args, world_size=2))
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 4)
    # What auto_find_batch_size had found is kept, and not searched again.
    args = arguments(tmp_path, per_device_train_batch_size=32, auto_find_batch_size=True)
    found = earlier(model, args, per_device_train_batch_size=4, gradient_accumulation_steps=8,
                    recipe={"auto_find_batch_size": True})  # fmt: skip
    resolve_batch_size(args, model, (32, 32), found)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 8)
    assert args.auto_find_batch_size is False
    # With more processes than the run had when it found that.
    args = arguments(tmp_path, per_device_train_batch_size=32, auto_find_batch_size=True)
    resolve_batch_size(args, model, (32, 32), earlier(model, args, per_device_train_batch_size=4,
                      gradient_accumulation_steps=4, world_size=2, recipe={"auto_find_batch_size": True}))  # fmt: skip
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 8)
    # What the error about too little memory advises is followed.
    args = arguments(tmp_path, per_device_train_batch_size=16, gradient_accumulation_steps=2)
    resolve_batch_size(args, model, (32, 32), earlier(model, args, per_device_train_batch_size=32,
                      gradient_accumulation_steps=1))  # fmt: skip
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 2)
    # Another number of images a step would lose the place in the data.
    args = arguments(tmp_path, per_device_train_batch_size=64)
    with pytest.raises(OutputError, match="a step is to have 64 images"):
        resolve_batch_size(args, model, (32, 32), found)
    with pytest.raises(OutputError, match="a stream was read by 2 processes"):
        resolve_batch_size(args, model, (32, 32), earlier(model, args, world_size=2), streaming=True)


def test_the_search_for_a_batch_size_leaves_the_model_as_it_was(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    model.eval()
    state = torch.random.get_rng_state()
    args = arguments(tmp_path, per_device_train_batch_size=8)
    assert find_batch_size(model, args, (32, 32)) == 8
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training is False


_OUT_OF_MEMORY_EVERYWHERE = """
import resource
from pathlib import Path

import torch

from hf_imgcls.fit.batch_size import is_out_of_memory

torch.set_num_threads(1)
linear, pixels = torch.nn.Linear(64, 2048), torch.randn(2056, 64)
hidden = linear(pixels)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
reasons = set()
for more in range(0, 2**26, 2**15):  # until the activation's result and what oneDNN itself needs have room
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
    try:
        torch.nn.functional.gelu(hidden)
        break
    except RuntimeError as error:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert is_out_of_memory(error), error
        reasons.add(str(error).splitlines()[0][:20])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert more and reasons, (more, reasons)
print(sorted(reasons))
"""


@needs_proc
def test_memory_that_ends_anywhere_in_an_operation_is_recognised():
    """In torch's allocator and, a few KB later, in oneDNN, which calls it a primitive that it could not create."""
    done = subprocess.run([sys.executable, "-c", _OUT_OF_MEMORY_EVERYWHERE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_too_little_memory_means_more_and_smaller_micro_batches(tmp_path):
    """A real limit: the address space, which torch's allocator runs into."""
    wide = "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 2048, patch_size: 2}"
    flags = (
        *RUN[:-2], "--model_config", wide, "--image_size", "32", "--max_train_samples", "256", "--max_steps", "1",
        "--per_device_train_batch_size", "256", "--eval_strategy", "no", "--load_best_model_at_end", "false",
        "--do_eval", "false", "--do_predict", "false", "--save_steps", "1",
    )  # fmt: skip
    # Forward and backward pass of 256 such images take about 3 GB, of 128 a little over 1.75 GiB: at this limit 64 fit.
    limit = ((resource.RLIMIT_AS, 11 << 27),)
    failed = Run(*flags, folder=tmp_path / "failed", limits=limit)
    assert failed.wait() == 2, failed.output
    assert "out of memory with 256 images at a time" in failed.output
    assert "--per_device_train_batch_size 128 --gradient_accumulation_steps 2" in failed.output
    assert "Traceback" not in failed.output
    run = Run(*flags, "--auto_find_batch_size", folder=tmp_path / "run", limits=limit)
    assert run.wait() == 0, run.output
    record = read_json(tmp_path / "run" / "run.json")
    assert record["per_device_train_batch_size"] < 256
    assert record["per_device_train_batch_size"] * record["gradient_accumulation_steps"] == 256
    # Resumed with more memory, it keeps what it had found.
    read = read_json(tmp_path / "run" / "checkpoint-1" / "manifest.json")["run"]
    assert read["per_device_train_batch_size"] == record["per_device_train_batch_size"]


def test_checkpoints_that_are_there_already_need_no_room(tmp_path, monkeypatch):
    args = arguments(tmp_path, save_total_limit=2)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "optimizer.pt").write_bytes(bytes(6000))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4000))
    check_disk_space(tmp_path, 1000, args)  # 10,000 in all, of which 6,000 lie there
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(OutputError, match="GB are free"):
        check_disk_space(tmp_path, 1000, args)
    check_disk_space(tmp_path, 1000, arguments(tmp_path, save_strategy="no"))


def test_memory_that_holds_not_one_image_is_an_error(model, tmp_path, monkeypatch):
    def forward(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(LaunchError, match="one image of 32 x 32 pixels does not fit"):
        find_batch_size(model, arguments(tmp_path, per_device_train_batch_size=4), (32, 32))
