"""The last changes to a saved model: the score that is handed on is that of the model as it lies in its folder."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from trained_models import CONFIGS, digits_arguments, find_trained_model, load_digits

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.model import build_model
from hf_imgcls.measure import final_model
from hf_imgcls.measure.final_model import finish_saved_model, score_validation
from hf_imgcls.measure.results import list_results

RUNTIME = SimpleNamespace(
    per_device_eval_batch_size=16, eval_batch_size=16, dataloader_num_workers=0, world_size=1
)  # fmt: skip


def arguments(data, calibrate):
    return Arguments(
        data, FitArguments(), MeasureArguments(calibrate=calibrate), PublishArguments(), {"do_eval": True}
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures whose red and blue halves are bright or dark, and which of the two are."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = []
    for row in range(120):
        bright = generator.random(2) < 0.5
        pixels = generator.integers(0, 90, (16, 16, 3))
        pixels[:, :, 0] += 150 * bright[0]
        pixels[:, :, 2] += 150 * bright[1]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
        told = bright ^ (generator.random(2) < 0.15)  # some labels are wrong: no model is always right
        labels = [name for name, there in zip(("blue", "red"), told[::-1], strict=True) if there]
        lines.append(json.dumps({"file_name": f"{row}.png", "colors": labels}))
    (folder / "pictures.jsonl").write_text("\n".join(lines))
    return DataArguments(
        train_file=str(folder / "pictures.jsonl"), label_column_name="colors", image_size=32, train_val_split=0.5,
        test_split=0.1,
    )  # fmt: skip


@pytest.fixture
def saved(pictures, tmp_path):
    torch.manual_seed(0)
    dataset = load_image_dataset(pictures)
    fit = FitArguments(model_type="vit", model_config=CONFIGS["vit"])
    model, processor = build_model(fit, pictures, dataset.labels, multi_label=True)
    plan = attach_transforms(dataset, processor, pictures, seed=0)
    batch = plan.eval_device_transform(plan.validation[:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        logits = model(pixel_values=batch["pixel_values"]).logits
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path, dataset


@pytest.mark.parametrize("calibrate", [False, True])
def test_several_labels_are_scored_once_and_the_score_follows_the_thresholds(saved, pictures, calibrate, monkeypatch):
    folder, dataset = saved
    calls, score_folder = [], final_model.score_folder
    monkeypatch.setattr(
        final_model, "score_folder", lambda *args, **options: (calls.append(1), score_folder(*args, **options))[1]
    )
    args = arguments(pictures, calibrate)
    score = finish_saved_model(folder, dataset, args, RUNTIME)
    assert len(calls) == 1 + calibrate, "once, and once more with other weights"
    config = json.loads((folder / "config.json").read_text())
    assert any(value != 0.5 for value in config["label_thresholds"])
    assert ("calibration_temperature" in config) == calibrate

    again = score_validation(folder, dataset, args, RUNTIME)
    for name in again.metrics.keys() - {"runtime", "samples_per_second"}:
        assert score.metrics[name] == again.metrics[name], name
    assert score.metrics.keys() == again.metrics.keys()
    assert (score.reasons, score.remarks) == (again.reasons, again.remarks)
    for field in dataclasses.fields(again.table):
        ours, theirs = getattr(score.table, field.name), getattr(again.table, field.name)
        assert np.array_equal(ours, theirs) if isinstance(theirs, np.ndarray) else ours == theirs, field.name


def test_one_label_is_scored_once_under_the_names_of_trainer(monkeypatch):
    calls, score_folder = [], final_model.score_folder
    monkeypatch.setattr(
        final_model, "score_folder", lambda *args, **options: (calls.append(1), score_folder(*args, **options))[1]
    )
    folder, dataset = find_trained_model("vit"), load_digits()
    score = finish_saved_model(folder, dataset, arguments(digits_arguments(), calibrate=False), RUNTIME)
    assert len(calls) == 1
    results = list_results(score, RUNTIME)
    assert results["eval_loss"] == score.metrics["log_loss"]
    assert results["eval_steps_per_second"] > 0
    assert "eval_num_examples" not in results
