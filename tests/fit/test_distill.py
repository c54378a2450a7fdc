"""Distillation: the formula, classes by name, the teacher's own preprocessing, and a loss that is divided once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from fit.test_trainer import make_trainer
from measure.trained_models import find_trained_model, load_digits
from PIL import Image
from torch.nn import functional as F

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.compat.models import load_image_processor, plain_image_processor_class
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.fit.distill import build_distiller

DATA = DataArguments(dataset_name="digits", image_size=32, max_train_samples=64, max_eval_samples=32)


def distiller_for(folder, labels=None, processor=None, **options):
    fit = FitArguments(teacher_model=str(folder), **options)
    processor = processor or load_image_processor(str(folder))
    return build_distiller(fit, DATA, labels or load_digits().labels, processor)


def test_no_teacher_no_distiller():
    assert build_distiller(FitArguments(), DATA, ["a"], None) is None


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (3.0, 0.25)])
def test_the_formula(temperature, weight):
    distiller = distiller_for(
        find_trained_model("vit"), distillation_temperature=temperature, distillation_weight=weight
    )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, 32, 32, generator=generator).clamp(-1, 1)
    logits = torch.randn(4, 10, generator=generator)
    losses = torch.rand(4, generator=generator)
    with torch.no_grad():
        taught = distiller.teacher(pixel_values=pixels).logits
    distiller.look(pixels)
    p, q = F.softmax(taught / temperature, -1), F.softmax(logits / temperature, -1)
    expected = (1 - weight) * losses + weight * temperature**2 * (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(distiller.mix(losses, logits), expected, atol=1e-4, rtol=1e-4)


def test_the_teacher_sees_what_its_own_processor_would_show_it():
    """The student has another size and another normalisation than its teacher."""
    folder = find_trained_model("convnext")
    classifier = load_classifier(folder)
    teacher, own = classifier.model, classifier.processor
    student = plain_image_processor_class()(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.9, 0.8, 0.7], do_convert_rgb=True
    )
    image = Image.fromarray(torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy())
    distiller = distiller_for(folder, processor=student, distillation_temperature=1.0)
    pixels = student(images=[image], return_tensors="pt")["pixel_values"]
    distiller.look(pixels)
    with torch.no_grad():
        expected = teacher(pixel_values=own(images=[image], return_tensors="pt")["pixel_values"]).logits
    losses = distiller.mix(torch.zeros(1), expected)
    assert losses.item() == pytest.approx(0.0, abs=1e-5)
    # At twice the size it is scaled down again, to nearly the same.
    distiller.look(F.interpolate(pixels, (64, 64), mode="nearest"))
    assert distiller.mix(torch.zeros(1), expected).item() < 0.05


def test_classes_go_by_name(tmp_path):
    folder = shutil.copytree(find_trained_model("vit"), tmp_path / "teacher")
    labels = load_digits().labels
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(1))
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    same, permuted = distiller_for(folder), distiller_for(folder, [labels[index] for index in order])
    for distiller in (same, permuted):
        distiller.look(pixels)
    torch.testing.assert_close(
        permuted.mix(torch.zeros(2), logits[:, order]), same.mix(torch.zeros(2), logits), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ModelError, match="does not know 1 of 10 classes: ten"):
        distiller_for(folder, [*labels[:9], "ten"])
    # A teacher that knows more than the student.
    distiller_for(folder, labels[:5]).look(pixels)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["3"] = config["id2label"]["2"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="two classes are called"):
        distiller_for(folder, [labels[2], labels[1]])
    with pytest.raises(ModelError, match="has no safetensors weights"):
        distiller_for(tmp_path, processor=load_image_processor(str(folder)))


def weights_after(digits, folder, **options):
    trainer = make_trainer(digits, folder, optim="sgd", max_steps=3, **options)
    trainer.train()
    return torch.cat([tensor.flatten() for tensor in trainer.model.state_dict().values()])


def test_accumulation_changes_nothing_and_the_teacher_something(tmp_path):
    digits = load_image_dataset(DATA)
    fit = {"teacher_model": str(find_trained_model("convnext"))}
    whole = weights_after(digits, tmp_path, fit=fit)
    parts = weights_after(digits, tmp_path, fit=fit, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert (weights_after(digits, tmp_path) - whole).abs().max() > 1e-4
    hotter = weights_after(digits, tmp_path, fit={**fit, "distillation_temperature": 8.0})
    assert (hotter - whole).abs().max() > 1e-5


def test_evaluation_is_on_labels_alone(tmp_path):
    digits = load_image_dataset(DATA)
    plain = make_trainer(digits, tmp_path).evaluate()
    taught = make_trainer(digits, tmp_path, fit={"teacher_model": str(find_trained_model("convnext"))}).evaluate()
    assert taught["eval_loss"] == plain["eval_loss"]


def test_settings_of_a_teacher_need_one():
    with pytest.raises(ArgumentError, match="distillation_weight without teacher_model"):
        parse_arguments(["--dataset_name", "digits", "--distillation_weight", "0.3"])
