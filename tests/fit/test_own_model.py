"""A run whose model is an object of the user's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image
from tiny_models import TINY_CONFIGS
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.classifier.head import fold_temperature, head_parameter_names
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.build import build_trainer
from hf_imgcls.fit.hooks import Hooks
from hf_imgcls.fit.own_model import build_own_model
from hf_imgcls.fit.saving import save_run
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator
from hf_imgcls.measure.score import score_folder

DATA = DataArguments(dataset_name="digits", image_size=32, max_train_samples=64, max_eval_samples=32)


class Network(nn.Module):
    """Answers with a plain tensor."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, pixel_values):
        return self.classifier(self.norm(self.stem(pixel_values)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DATA)


def arguments(folder, adaptation="full", **training):
    training = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-2,
        "use_cpu": True, "report_to": "none", "save_strategy": "steps", "save_steps": 1, "disable_tqdm": True,
        "label_names": ["labels"], "remove_unused_columns": False, **training,
    }  # fmt: skip
    fit = FitArguments(model_name_or_path=None, adaptation=adaptation)
    return Arguments(DATA, fit, MeasureArguments(), PublishArguments(), training)


@pytest.mark.parametrize("adaptation", ["full", "head"])
def test_a_module_is_trained_saved_resumed_and_scored_in_its_process(digits, tmp_path, adaptation):
    torch.manual_seed(0)
    module = Network(num_classes=3)  # its head is not the data's
    hooks = Hooks(model=module)
    args = hooks.record(arguments(tmp_path, adaptation))
    model, processor = build_own_model(hooks, DATA, digits.labels)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(before["network.stem.weight"], module.stem.weight)
    assert head_parameter_names(model.config) == {"network.classifier.weight", "network.classifier.bias"}
    batches = attach_transforms(digits, processor, DATA, seed=0)
    metric = partial(ClassificationAccumulator, 10)
    runtime = build_training_arguments(args.training)
    trainer = build_trainer(adapt_model(model, args.fit), processor, batches, metric, args, runtime, hooks=hooks)
    trainer.train()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert ("network.stem.weight" in moved) == (adaptation == "full")
    assert "network.classifier.weight" in moved
    expected = trainer.model.state_dict()["network.classifier.weight"].clone()
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    torch.testing.assert_close(trainer.model.state_dict()["network.classifier.weight"], expected, atol=1e-6, rtol=0)

    save_run(trainer, processor, digits.record, args, tmp_path)
    metrics = trainer.evaluate()
    score = score_folder(tmp_path, digits, DATA, split="validation")
    assert score.metrics["log_loss"] == pytest.approx(metrics["eval_log_loss"], abs=1e-6)
    saved = AutoModelForImageClassification.from_pretrained(tmp_path)
    fold_temperature(saved, 2.0)
    assert torch.equal(saved.network.classifier.weight, trainer.model.network.classifier.weight.cpu() / 2)
    answers = pipeline("image-classification", model=str(tmp_path))(Image.new("RGB", (32, 32)), top_k=10)
    assert {answer["label"] for answer in answers} == set(digits.labels)


def test_another_process_says_that_it_needs_the_module(digits, tmp_path):
    model, _ = build_own_model(Hooks(model=Network()), DATA, digits.labels)
    model.save_pretrained(tmp_path)
    code = (
        "from hf_imgcls.classifier.source import load_trained\n"
        "from hf_imgcls.errors import ModelError\n"
        f"try:\n    load_trained({str(tmp_path)!r}, {{}})\n"
        "except ModelError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "own_module" in said
    assert "to fix:" in said


def test_a_classifier_of_transformers_keeps_its_weights_and_rows_by_name(digits):
    labels = ["3", "1", "a cat"]
    config = AutoConfig.for_model(
        "vit", **TINY_CONFIGS["vit"], image_size=16, id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )  # fmt: skip
    given = AutoModelForImageClassification.from_config(config)
    model, processor = build_own_model(Hooks(model=given), DATA, digits.labels)
    assert type(model) is type(given)
    assert model.config.id2label == dict(enumerate(digits.labels))
    assert given.config.num_labels == 3, "the user's object stays as it is"
    for row, name in enumerate(labels[:2]):
        column = digits.labels.index(name)
        assert torch.equal(model.classifier.weight[column], given.classifier.weight[row])
    assert dict(processor.size) == {"height": 32, "width": 32}


def test_a_module_that_does_not_answer_to_images_is_refused(digits):
    class Odd(nn.Module):
        def forward(self, images, captions):
            return images

    with pytest.raises(ModelError, match="Odd does not answer to pixel_values"):
        build_own_model(Hooks(model=Odd()), DATA, digits.labels)
    with pytest.raises(ModelError, match="answers with shape"):
        build_own_model(Hooks(model=nn.Conv2d(3, 10, 1)), DATA, digits.labels)


@pytest.mark.parametrize("asked", ["export_formats", "push_to_hub"])
def test_what_only_a_model_that_others_can_load_is_good_for_is_refused(tmp_path, asked):
    args = arguments(tmp_path, **({"push_to_hub": True} if asked == "push_to_hub" else {}))
    if asked == "export_formats":
        args = dataclasses.replace(args, publish=PublishArguments(export_formats=["onnx"]))
    with pytest.raises(ArgumentError, match=f"hook model with {asked}"):
        Hooks(model=Network()).record(args)
