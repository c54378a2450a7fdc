"""A user's own transform, loss and callbacks in a run."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from tiny_models import TINY_CONFIGS
from torch import nn
from transformers import TrainerCallback

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.build import build_trainer
from hf_imgcls.fit.hooks import Hooks, try_loss
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.same_run import describe_run, list_differences
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

DATA = DataArguments(dataset_name="digits", image_size=32, max_train_samples=64, max_eval_samples=32)
FIT = FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"])


def arguments(folder, fit=FIT, data=DATA, explicit=(), **training):
    training = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-2,
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "label_names": ["labels"],
        "remove_unused_columns": False, **training,
    }  # fmt: skip
    return Arguments(data, fit, MeasureArguments(), PublishArguments(), training, explicit=set(explicit))


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DATA)


def build(digits, args, hooks):
    torch.manual_seed(0)
    model, processor = build_model(args.fit, args.data, digits.labels)
    batches = attach_transforms(digits, processor, args.data, seed=0, train_transform=hooks.train_transform)
    metric = partial(ClassificationAccumulator, len(digits.labels))
    training_args = build_training_arguments(args.training)
    return build_trainer(model, processor, batches, metric, hooks.record(args), training_args, hooks=hooks)


def mean_cross_entropy(logits, labels, num_examples):
    return nn.functional.cross_entropy(logits, labels, reduction="sum") / num_examples


def halve(pixel_values):
    return pixel_values // 2


@pytest.mark.parametrize("augmentation", ["none", "medium"])
def test_a_transform_gets_uint8_batches_after_the_policy_and_evaluation_never_sees_it(digits, augmentation):
    data = dataclasses.replace(DATA, augmentation=augmentation)
    _, processor = build_model(FIT, data, digits.labels)
    plain, own = (
        attach_transforms(digits, processor, data, seed=3, train_transform=hook) for hook in (None, halve)
    )  # fmt: skip
    expected = plain.train_device_transform(plain.train[list(range(8))])["pixel_values"]
    batch = own.train[list(range(8))]
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].shape == (8, 3, 32, 32)
    found = own.train_device_transform(batch)["pixel_values"]
    levels = (expected * 0.5 + 0.5) * 255
    # Without a hook small images are resampled on the device, and never rounded to whole levels there.
    torch.testing.assert_close((found * 0.5 + 0.5) * 255, (levels.round() // 2).float(), atol=1.01, rtol=0)
    validation = [plan.eval_device_transform(plan.validation[:8])["pixel_values"] for plan in (plain, own)]
    torch.testing.assert_close(*validation, atol=0, rtol=0)


def test_random_numbers_of_a_transform_depend_on_seed_epoch_and_batch_alone(digits):
    _, processor = build_model(FIT, DATA, digits.labels)
    noise = lambda pixels: torch.randint(0, 256, pixels.shape, dtype=torch.uint8)  # noqa: E731
    batches = attach_transforms(digits, processor, DATA, seed=3, train_transform=noise)
    rows, others = list(range(8)), list(range(8, 16))
    first = batches.train[rows]["pixel_values"].clone()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    torch.testing.assert_close(batches.train[rows]["pixel_values"], first, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state), "training's own random state must not notice"
    assert not torch.equal(batches.train[others]["pixel_values"], first)
    batches.set_epoch(1)
    assert not torch.equal(batches.train[rows]["pixel_values"], first)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda pixels: pixels.float() / 255, "returned torch.float32"),
        (lambda pixels: pixels[:, :, ::2], "returned torch.uint8 (2, 3, 16, 32)"),
        (lambda pixels: pixels.sideways(), "failed on a trial batch with AttributeError"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused_before_training(digits, transform, said):
    _, processor = build_model(FIT, DATA, digits.labels)
    with pytest.raises(ArgumentError, match="train_transform") as caught:
        attach_transforms(digits, processor, DATA, seed=0, train_transform=transform)
    assert said in str(caught.value)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_says_the_same_trains_the_same_weights(digits, tmp_path, accumulation):
    weights = []
    for hooks in (Hooks(), Hooks(loss=mean_cross_entropy)):
        trainer = build(digits, arguments(tmp_path, gradient_accumulation_steps=accumulation), hooks)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


def test_a_loss_gets_soft_labels_where_images_are_mixed(digits, tmp_path):
    seen = []

    def loss(logits, labels, num_examples):
        seen.append(labels)
        return mean_cross_entropy(logits, labels, num_examples)

    data = dataclasses.replace(DATA, mixup_alpha=1.0)
    build(digits, arguments(tmp_path, data=data), Hooks(loss=loss)).train()
    assert len(seen) == 3, "a trial and two steps"
    for labels in seen:
        assert labels.shape[1] == 10
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))


def test_callbacks_are_called_and_may_end_training(digits, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    trainer = build(digits, arguments(tmp_path), Hooks(callbacks=[Stop]))
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda logits, labels, count: logits.sum(1), "a tensor of shape (2,)"),
        (lambda logits, labels, count: 0.5, "returned 0.5"),
        (lambda logits, labels, count: logits.detach().sum(), "a tensor of shape ()"),
        (lambda logits, labels: logits.sum(), "failed on a trial batch with TypeError"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused_before_training(loss, said):
    with pytest.raises(ArgumentError, match="hook loss") as caught:
        try_loss(loss, 10, multi_label=False, mixes=False)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("hooks", "changed", "said"),
    [
        (Hooks(loss=mean_cross_entropy), {"fit": {"loss": "focal"}}, "loss focal"),
        (Hooks(loss=mean_cross_entropy), {"fit": {"imbalance": "weights"}}, "imbalance weights"),
        (Hooks(loss=mean_cross_entropy), {"fit": {"teacher_model": "x"}}, "teacher_model"),
        (Hooks(loss=mean_cross_entropy), {"training": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor"),
        (Hooks(train_transform=halve), {"fit": {"adaptation": "probe"}}, "adaptation probe"),
        (Hooks(callbacks=[TrainerCallback]), {"fit": {"adaptation": "probe"}}, "adaptation probe"),
        (Hooks(callbacks=[print]), {}, "TrainerCallback"),
        (Hooks(loss="cross_entropy"), {}, "'cross_entropy'"),
        (Hooks(processor=object()), {}, "processor without a model"),
    ],
)
def test_what_a_hook_cannot_be_combined_with_is_refused(tmp_path, hooks, changed, said):
    fit = dataclasses.replace(FIT, **changed.get("fit", {}))
    with pytest.raises(ArgumentError, match="hook") as caught:
        hooks.record(arguments(tmp_path, fit, **changed.get("training", {})))
    assert said in str(caught.value)


def test_records_of_a_run_name_its_hooks(digits, tmp_path):
    hooks = Hooks(train_transform=halve, loss=mean_cross_entropy, callbacks=[TrainerCallback()], metrics=["mcc"])
    args = hooks.record(arguments(tmp_path))
    assert args.hooks == {
        "train_transform": f"{__name__}.halve", "loss": f"{__name__}.mean_cross_entropy",
        "callbacks": "transformers.trainer_callback.TrainerCallback",
    }  # fmt: skip
    save_recipe(args, tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert f"#   loss: {__name__}.mean_cross_entropy" in text
    assert "Repeat it with" not in text
    trainer = build(digits, args, hooks)
    with_hooks = describe_run(trainer.model, trainer.args, None, args).recipe
    without = describe_run(trainer.model, trainer.args, None, dataclasses.replace(args, hooks={})).recipe
    assert [text.split(":")[0] for text in list_differences("", with_hooks, without)] == ["hooks"]
