"""What is said before training: figures of the data, and hints that follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faults.processes import RUN, Run
from tiny_models import TINY_CONFIGS
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.fit.advice import advise, advise_precision, describe_data, describe_plan, read_sizes
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.layout import BATCH_PICTURE
from hf_imgcls.provenance import has_bfloat16

PRETRAINED = FitArguments(model_name_or_path="some/model")
FROM_SCRATCH = FitArguments(model_type="convnext")


@pytest.fixture
def digits():
    return load_image_dataset(DataArguments(dataset_name="digits"))


def with_counts(dataset, counts, validation=1000):
    """The same images, said to be others."""
    record = dataset.record
    train = replace(record.splits["train"], class_counts=dict(zip(dataset.labels, counts, strict=True)))
    splits = {**record.splits, "train": train}
    splits["validation"] = replace(splits["validation"], num_examples=validation, num_available=None)
    return replace(dataset, record=replace(record, splits=splits))


@pytest.fixture(scope="module")
def tiny_vit():
    return ViTForImageClassification(ViTConfig(**TINY_CONFIGS["vit"], image_size=16))


def ask(fit, **training):
    """A command line's arguments."""
    return Arguments(DataArguments(), fit, MeasureArguments(), PublishArguments(), training)


def advise_on(asked, dataset, model, side, **training):
    """What a run of 32 images a step is told."""
    args = build_training_arguments(
        {"output_dir": "unused", "do_train": True, "per_device_train_batch_size": 32, "report_to": "none", **training}
    )
    return advise(asked, describe_plan(asked, dataset, args, model, (side, side), read_sizes(dataset)))


def test_the_figures_of_the_data(digits):
    lines = describe_data(digits, (16, 16), read_sizes(digits))
    assert lines[0] == "Images       1,257 train, 270 validation, 270 test"
    counts = digits.record.splits["train"].class_counts.values()
    assert f"{min(counts)} to {max(counts)} for training" in lines[1]
    assert "10 classes" in lines[1]
    assert "8 x 8 pixels" in lines[2]
    assert "the model sees 16 x 16" in lines[2]
    assert read_sizes(digits).shape == (200, 2)


@pytest.mark.parametrize(
    ("counts", "validation", "fit", "side", "words"),
    [
        ([5000] * 10, 1000, PRETRAINED, 16, []),
        ([5000] * 9 + [500], 1000, PRETRAINED, 16, ["10 times the images"]),
        ([5000] * 9 + [500], 1000, replace(PRETRAINED, imbalance="weights"), 16, []),
        ([5000] * 8 + [9, 3], 1000, PRETRAINED, 16, ["2 classes have fewer than 10", "1,667 times the images"]),
        ([90] * 10, 1000, PRETRAINED, 16, []),
        ([90] * 10, 1000, replace(PRETRAINED, adaptation="head"), 16, []),
        ([90] * 10, 1000, FROM_SCRATCH, 16, ["few to learn from scratch"]),
        ([5000] * 10, 1000, FitArguments(model_type="vit"), 16, ["--model_type resnet"]),
        ([5000] * 10, 100, PRETRAINED, 16, ["differ by 10 points"]),
        ([5000] * 10, 1000, PRETRAINED, 224, []),
        ([5000] * 10, 1000, FROM_SCRATCH, 224, ["784 times as much"]),
    ],
)  # fmt: skip
def test_hints_follow_from_figures(digits, tiny_vit, counts, validation, fit, side, words):
    rate = 3e-3 if fit.adaptation == "head" else 6e-4  # neither low nor high
    asked = ask(fit, max_steps=5000)
    lines = advise_on(asked, with_counts(digits, counts, validation), tiny_vit, side, learning_rate=rate)
    hints = [line for line in lines if line.startswith("Hint ")]
    assert len(hints) == len(words), hints
    for hint, word in zip(hints, words, strict=True):
        assert word in hint


def test_the_models_own_size_is_read_where_another_is_asked_for(digits, tmp_path):
    folder = tmp_path / "base"
    config = ViTConfig(**TINY_CONFIGS["vit"], image_size=32)
    model = ViTForImageClassification(config)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    asked = ask(FitArguments(model_name_or_path=str(folder)), max_steps=5000, learning_rate=2e-4)
    asked.data.image_size = 16
    assert "the model was trained at 32 pixels and gets 16" in "".join(advise_on(asked, digits, model, 16))
    asked.data.image_size = 32
    assert "the model was trained at" not in "".join(advise_on(asked, digits, model, 32))


@pytest.mark.parametrize(
    ("has", "flags", "millions", "word"),
    [
        (True, {}, 28, "--bf16 true a ConvNeXt trained 1.3 times as fast"),
        (True, {}, 0.3, None),
        (True, {"bf16": True}, 28, None),
        (False, {"bf16": True}, 0.3, "is slower"),
        (False, {}, 28, None),
        (None, {"bf16": True}, 28, None),
    ],
)
def test_a_hint_about_bfloat16_on_a_cpu(tmp_path, monkeypatch, has, flags, millions, word):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # TrainingArguments of 4.57 leave theirs to all that follow
    monkeypatch.setattr("hf_imgcls.fit.advice.has_bfloat16", lambda: has)
    args = build_training_arguments({"output_dir": str(tmp_path), "use_cpu": True, **flags})
    hints = advise_precision(args, int(millions * 1e6))
    assert len(hints) == (word is not None)
    assert all(word in hint for hint in hints)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells what its CPU can do")
def test_what_the_cpu_can_do_is_known_on_linux():
    assert has_bfloat16() is ("bf16" in Path("/proc/cpuinfo").read_text())


def test_a_dry_run_passes_through_everything_and_leaves_a_picture(tmp_path):
    run = Run(*RUN, "--dry_run", "--show_batch", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    assert "served = scored       61 of 61 arrays, given as PNG" in run.output
    assert "A step" in run.output
    assert "for 48 steps" in run.output
    assert "test split" not in run.output
    assert sorted(path.name for path in run.folder.iterdir() if path.suffix) == [BATCH_PICTURE]
    # The folder is free for the run itself.
    again = Run(*RUN, "--max_steps", "1", "--do_predict", "false", folder=tmp_path / "run")
    assert again.wait() == 0, again.output
    assert (again.folder / "model.safetensors").exists()


def test_a_dry_run_leaves_nothing_else(tmp_path):
    run = Run(*RUN, "--dry_run", "--do_eval", "false", "--do_train", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    assert not run.folder.exists()
    assert "about" in run.output


@pytest.mark.parametrize(
    ("fit", "training", "words"),
    [
        (PRETRAINED, {"num_train_epochs": 3}, ["120 optimizer steps: 3 epochs of 1,257 images, 32 a step"]),
        (PRETRAINED, {"num_train_epochs": 1}, ["40 steps are few to fine-tune with: --num_train_epochs"]),
        (PRETRAINED, {"max_steps": 30}, ["30 optimizer steps: 1,257 images", "--max_steps "]),
        (FROM_SCRATCH, {"num_train_epochs": 5}, ["200 steps are few from scratch: --num_train_epochs"]),
        (FROM_SCRATCH, {"num_train_epochs": 20}, ["800 optimizer steps"]),
        (replace(PRETRAINED, adaptation="probe"), {}, []),
    ],
)  # fmt: skip
def test_the_steps_of_a_run_are_counted_and_few_are_said_to_be(digits, tiny_vit, fit, training, words):
    lines = advise_on(ask(fit, **training), with_counts(digits, [5000] * 10), tiny_vit, 16, learning_rate=5e-4)
    assert len(lines) == (0 if not words else 2 if "few" in str(words) or "max_steps" in str(words) else 1)
    for word in words:
        assert word in "\n".join(lines)
