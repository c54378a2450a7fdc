"""Pretraining on images alone: views, losses, the teacher, and that the backbone is taken by fine-tuning."""

from __future__ import annotations

import math

import pytest
import torch
from faults.processes import REPOSITORY, Run, weights_hash
from fit.test_trainer import DATA
from PIL import Image
from safetensors.torch import load_file
from tiny_models import TINY_CONFIGS
from transformers import AutoModelForImageClassification, TrainerControl, TrainerState

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.data.load import load_image_dataset, load_unlabelled
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.pretrain import MomentumTeacher, SelfSupervisedModel, Views, describe_neighbours, save_backbone

pytest.importorskip("lightly")

PRETRAIN = REPOSITORY / "recipes" / "pretrain.py"
RUN = (
    "--dataset_name", "digits", "--image_size", "16", "--max_train_samples", "128", "--max_eval_samples", "61",
    "--per_device_train_batch_size", "16", "--num_train_epochs", "2", "--disable_tqdm", "true", "--use_cpu",
    "--learning_rate", "3e-3", "--model_type", "convnext", "--model_config",
    "{num_stages: 2, depths: [1, 1], hidden_sizes: [16, 32], layer_scale_init_value: 1.0, patch_size: 2}",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DATA)


def make_model(digits, family="vit", method="simclr", **kwargs):
    torch.manual_seed(0)
    fit = FitArguments(model_type=family, model_config=TINY_CONFIGS[family])
    model, processor = build_model(fit, DATA, digits.labels)
    return SelfSupervisedModel(model, method, **kwargs), processor


def test_a_batch_has_two_views_of_each_image(digits):
    _, processor = make_model(digits)
    batches = attach_transforms(digits, processor, DATA, seed=0)
    views = Views(batches.train)
    assert len(views) == len(batches.train)
    batch = batches.train_device_transform(views.__getitems__([5, 2, 9]).tensors)
    indices = batch["sample_index"].tolist()
    assert indices[:3] == indices[3:]
    assert len(set(indices)) == 3
    first, second = batch["pixel_values"].chunk(2)
    assert not torch.equal(first, second)
    # The first view is what fine-tuning would see.
    torch.testing.assert_close(first, batches.train_device_transform(batches.train[[5, 2, 9]])["pixel_values"])


def test_simclr_is_the_cross_entropy_with_the_partner(digits):
    """Equation 1 of the source, by hand."""
    model, _ = make_model(digits, projection_dim=8, temperature=0.3)
    projected = torch.randn(6, 8)
    unit = projected / projected.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(6):
        partner = (i + 3) % 6
        others = sum(math.exp(float(unit[i] @ unit[k]) / 0.3) for k in range(6) if k != i)
        total -= math.log(math.exp(float(unit[i] @ unit[partner]) / 0.3) / others)
    assert float(model.compare(projected)) == pytest.approx(total / 6, rel=1e-5)


def test_dino_answers_as_the_teacher_does_to_the_other_view(digits):
    """Equations 1 to 3 of the source, by hand; and the centre that follows the teacher's answers."""
    model, _ = make_model(digits, method="dino", projection_dim=4)
    projected = torch.randn(6, 8)
    own, taught = projected.chunk(2, dim=1)
    student = (own / 0.1).log_softmax(1)
    teacher = (taught / 0.04).softmax(1)
    crossed = [-(teacher[:3] * student[3:]).sum(1).mean(), -(teacher[3:] * student[:3]).sum(1).mean()]
    assert float(model.compare(projected)) == pytest.approx(float(sum(crossed)) / 2, rel=1e-5)
    torch.testing.assert_close(model.loss.center.flatten(), 0.1 * taught.mean(0))


def test_the_teacher_follows_and_is_not_trained(digits):
    model, _ = make_model(digits, method="dino", projection_dim=16)
    teacher = list(model.teacher.parameters())
    student = [*model.encoder.parameters(), *model.projection.parameters()]
    assert len(teacher) == len(student) > 10
    assert all(torch.equal(a, b) for a, b in zip(teacher, student, strict=True))
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1.0)
    before = [p.clone() for p in teacher]
    callback = MomentumTeacher(model, 0.9)
    state = TrainerState(global_step=0, max_steps=100)
    callback.on_optimizer_step(None, state, TrainerControl())
    for old, now in zip(before, teacher, strict=True):
        torch.testing.assert_close(now, old + 0.1)
    state.global_step = 100  # the last step: nothing of the student any more
    callback.on_optimizer_step(None, state, TrainerControl())
    for old, now in zip(before, teacher, strict=True):
        torch.testing.assert_close(now, old + 0.1)
    model.compare(model(torch.randn(4, 3, 32, 32)).logits).backward()
    assert all(p.grad is None for p in teacher)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())


@pytest.mark.parametrize("method", ["simclr", "dino"])
@pytest.mark.parametrize("family", ["vit", "convnext", "resnet", "swin"])
def test_what_is_saved_is_the_backbone_without_a_head(family, method, digits, tmp_path):
    model, processor = make_model(digits, family, method)
    expected = model.encoder if method == "simclr" else model.teacher[0]
    expected.eval()
    images = torch.randn(2, 3, 32, 32)
    features = expected(pixel_values=images).logits
    backbone = model.release().eval()
    assert backbone(pixel_values=images).logits.shape == (2, 10)
    save_backbone(backbone, processor, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info["missing_keys"]) == 2
    assert len(saved) == len(loaded.state_dict()) - 2  # 5.x writes some of them by their older names
    own = {name for name in loaded.state_dict() if name not in info["missing_keys"]}
    assert all(torch.equal(loaded.state_dict()[name], backbone.state_dict()[name]) for name in own)
    again = SelfSupervisedModel(loaded, "simclr").encoder.eval()
    torch.testing.assert_close(again(pixel_values=images).logits, features)


def test_a_folder_of_images_is_enough(tmp_path):
    for number in range(6):
        path = tmp_path / "photos" / f"album_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number * 40, 0, 0)).save(path)
    dataset = load_unlabelled(DataArguments(unlabelled_dir=str(tmp_path / "photos"), max_train_samples=5))
    assert list(dataset.splits) == ["train"]
    assert len(dataset.splits["train"]) == 5
    assert dataset.labels == ["unlabelled"]
    with pytest.raises(DataError, match="no folder"):
        load_unlabelled(DataArguments(unlabelled_dir=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        load_unlabelled(DataArguments(unlabelled_dir=str(tmp_path / "empty")))


PRETRAINING_GROUPS = ("data", "pixels", "augmentation", "pretrain", "training")


def read(*flags):
    return parse_arguments(list(flags), groups=PRETRAINING_GROUPS, also=("output_dir", "model_type"))


def test_a_folder_is_a_source(tmp_path):
    assert read("--unlabelled_dir", str(tmp_path)).data.unlabelled_dir == str(tmp_path)
    with pytest.raises(ArgumentError, match="no such folder"):
        read("--unlabelled_dir", str(tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="one source"):
        read("--unlabelled_dir", str(tmp_path), "--dataset_name", "digits")


@pytest.mark.parametrize(
    "flags",
    [
        ["--streaming", "true"], ["--augmentation", "heavy"], ["--mixup_alpha", "0.2"], ["--augmentation_repeats", "2"],
        ["--label_smoothing_factor", "0.1"], ["--lr_scheduler_type", "step"], ["--gradient_checkpointing", "true"],
        ["--auto_find_batch_size", "true"], ["--save_strategy", "best"],
    ],
    ids=lambda flags: flags[0],
)  # fmt: skip
def test_what_has_no_say_in_pretraining_is_an_error(flags):
    with pytest.raises(ArgumentError, match="while pretraining"):
        read("--dataset_name", "digits", *flags)


def test_neighbours_are_told_with_their_interval():
    assert "0.5000 (0.4038 to 0.5962) before, 0.7000 (0.6042 to 0.7811) after" in describe_neighbours(
        (0.5, 100), (0.7, 100)
    )
    assert "No labels" in describe_neighbours(None, None)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_a_run_that_was_stopped_is_the_run_that_was_not(method, tmp_path):
    flags = (*RUN, "--method", method, "--projection_dim", "32", "--save_strategy", "steps", "--save_steps", "4")
    whole = Run(*flags, folder=tmp_path / "whole", recipe=PRETRAIN)
    assert whole.wait() == 0, whole.output
    assert "Nearest neighbours on frozen features" in whole.output
    run = Run(*flags, folder=tmp_path / "cut", recipe=PRETRAIN)
    run.wait_for("checkpoint-4")
    run.kill()
    assert not (run.folder / "model.safetensors").exists()
    resumed = Run(*flags, folder=tmp_path / "cut", recipe=PRETRAIN)
    assert resumed.wait() == 0, resumed.output
    assert "Resumed: " in resumed.output
    assert weights_hash(resumed.folder) == weights_hash(whole.folder)


@pytest.mark.slow
def test_fine_tuning_takes_it(tmp_path):
    """What a folder of images gave."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in load_image_dataset(DATA).splits["train"]:
        (photos / f"{row['sample_index']}.png").write_bytes(row["image"]["bytes"])
    flags = ("--unlabelled_dir", photos, *RUN[2:])
    pretrained = Run(*flags, folder=tmp_path / "pretrained", recipe=PRETRAIN)
    assert pretrained.wait() == 0, pretrained.output
    run = Run(
        "--model_name_or_path", pretrained.folder, "--dataset_name", "digits", "--adaptation", "probe", "--use_cpu",
        "--max_train_samples", "128", "--report", "false", folder=tmp_path / "run",
    )  # fmt: skip
    assert run.wait() == 0, run.output
    assert "New head" in run.output
    assert (run.folder / "test_results.json").exists()
