"""NaN and infinity: the run stops within a step, says where, and keeps what was saved before."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from faults.processes import RUN, Run
from fit.test_trainer import digits, make_trainer  # noqa: F401 (a fixture)
from PIL import Image

from hf_imgcls.errors import NumericsError
from hf_imgcls.fit.checkpoints import inspect_checkpoint, list_checkpoints
from hf_imgcls.fit.finite import FiniteWatch


def poison(trainer, sample_index, value):
    """Give one sample's pixels a value that is no number, on the device."""
    inner = trainer.plan.train_device_transform

    def transform(batch):
        out = inner(batch)
        out["pixel_values"][batch["sample_index"] == sample_index] = value
        return out

    trainer.plan.train_device_transform = transform


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_sample_without_a_finite_loss_is_named(value, family, digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path, family, max_steps=4, save_strategy="steps", save_steps=1, logging_steps=1)
    seen = []
    inner = trainer.plan.train_device_transform
    trainer.plan.train_device_transform = lambda batch: (seen.append(batch["sample_index"].tolist()), inner(batch))[1]
    trainer.train()
    bad_step, bad = 3, seen[2][5]
    assert all(bad not in batch for batch in seen[:2])

    again = make_trainer(
        digits, tmp_path / "again", family, max_steps=4, save_strategy="steps", save_steps=1, logging_steps=1
    )
    poison(again, bad, value)
    with pytest.raises(NumericsError) as stop:
        again.train()
    assert f"step {bad_step}: the loss of sample_index" in str(stop.value)
    assert str(bad) in str(stop.value)
    if family == "vit":  # BatchNorm mixes the samples of a batch: all of them lose their loss
        assert f"sample_index {bad} is" in str(stop.value)
    assert again.state.global_step <= bad_step
    checkpoints = list_checkpoints(tmp_path / "again")
    assert [path.name for path in checkpoints] == ["checkpoint-1", "checkpoint-2"]
    assert "last checkpoint, from before: checkpoint-2" in str(stop.value)
    assert all(inspect_checkpoint(path).is_whole for path in checkpoints)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in again.state.log_history if "loss" in entry)


def test_an_infinite_gradient_with_a_finite_loss_stops_too(digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path, max_steps=4)
    parameter = next(iter(trainer.model.parameters()))
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NumericsError, match=r"step 1: the gradient norm of sample_index .* is (nan|inf)"):
        trainer.train()


def test_a_diverging_run_stops_with_a_message_and_not_with_a_result(tmp_path):
    run = Run(*RUN, "--learning_rate", "1e35", "--max_grad_norm", "0", folder=tmp_path / "run")
    assert run.wait() == 2
    assert "error: step " in run.output
    assert "sample_index" in run.output
    assert "Traceback" not in run.output
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_evaluation_that_meets_no_numbers_stops(digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path)
    with torch.no_grad():
        next(iter(trainer.model.parameters())).fill_(float("nan"))
    with pytest.raises(NumericsError, match="NaN or infinite logits"):
        trainer.evaluate()


def test_a_nan_image_is_named_before_or_at_its_step(tmp_path):
    """A float TIFF may hold NaN; without the scan it is met in a batch."""
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(24):
            values = np.random.default_rng(index).random((16, 16), dtype=np.float32) * (0.3 if label == "a" else 0.9)
            if (label, index) == ("b", 7):
                values[3, 3] = np.nan
            buffer = io.BytesIO()
            Image.fromarray(values).save(buffer, format="TIFF")
            (tmp_path / "data" / label / f"{index:02}.tiff").write_bytes(buffer.getvalue())
    flags = (
        "--train_dir", tmp_path / "data", "--train_val_split", "0", "--test_split", "0", "--do_eval", "false",
        "--do_predict", "false", "--image_size", "16", "--cache_decoded_images", "false", *RUN[-4:],
        "--per_device_train_batch_size", "8", "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1",
        "--save_steps", "1", "--logging_steps", "1",
        # Else the image may be met when mirroring is checked.
        "--horizontal_flip_probability", "0",
    )  # fmt: skip
    scanned = Run(*flags, folder=tmp_path / "scanned")
    assert scanned.wait() == 2
    assert "07.tiff" in scanned.output
    assert "NaN" in scanned.output
    assert not list_checkpoints(tmp_path / "scanned")
    run = Run(*flags, "--scan_images", "false", folder=tmp_path / "run")
    assert run.wait() == 2
    assert "07.tiff" in run.output
    assert "sample_index 31" in run.output
    assert "after step " in run.output
    assert "Traceback" not in run.output


def test_nan_in_the_last_step_is_not_too_late_for_a_gpu(digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path, max_steps=2, save_strategy="no")
    trainer._watch._lag = 1  # as on a GPU
    inner, seen = trainer.plan.train_device_transform, []

    def poison_last(batch):
        out = inner(batch)
        seen.append(1)
        if len(seen) == 2:
            out["pixel_values"][0] = float("nan")
        return out

    trainer.plan.train_device_transform = poison_last
    with pytest.raises(NumericsError, match="step 2: the loss"):
        trainer.train()


def test_a_norm_that_overflows_stops_although_clipping_makes_it_zero(digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path, max_steps=4)
    next(iter(trainer.model.parameters())).register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    with pytest.raises(NumericsError, match=r"step 1: the gradient norm of sample_index .* is inf"):
        trainer.train()


def test_the_watch_asks_a_gpu_one_step_late_and_when_told_at_once():
    watch = FiniteWatch(torch.device("cpu"), gradients=False)
    watch._lag = 1  # as on a GPU
    for step, loss in enumerate((1.0, float("nan"), 1.0), start=1):
        watch.begin_step(step)
        watch.add(torch.tensor([1.0, loss]), torch.tensor([step * 10, step * 10 + 1]))
        watch.end_step(None)
        assert watch.is_finite() is (step < 3)
        if step == 2:
            assert watch.is_finite(wait=True) is False
    assert watch.describe() == (2, ["the loss of sample_index 21 is nan"])
