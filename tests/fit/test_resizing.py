"""Progressive resizing: what size each epoch shows, and who can take it."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from fit.test_trainer import DATA, make_trainer
from tiny_models import TINY_CONFIGS
from transformers import TrainerCallback

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.fit.resizing import plan_sizes


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DATA)


def test_sizes_grow_after_the_middle_and_end_with_the_full_one():
    assert plan_sizes((224, 224), 0.5, 10, 16) == [(112, 112)] * 6 + [(144, 144), (192, 192), (224, 224), (224, 224)]
    assert plan_sizes((28, 28), 0.5, 2) == [(16, 16), (28, 28)]
    assert plan_sizes((30, 45), 1.0, 3) == [(30, 45)] * 3


@pytest.mark.parametrize(
    ("start", "num_epochs", "multiple"), itertools.product((0.1, 0.4, 0.7), (1, 2, 5, 17), (1, 4, 16))
)
def test_sizes_never_shrink(start, num_epochs, multiple):
    sizes = plan_sizes((96, 50), start, num_epochs, multiple)
    assert len(sizes) == num_epochs
    assert sizes == sorted(sizes)
    assert sizes[-1] == (96, 50)
    assert all(side % multiple == 0 for size in sizes if size != (96, 50) for side in size if side not in (96, 50))


class Sizes(TrainerCallback):
    """Notes what the model is given, by training or evaluation."""

    def __init__(self, model):
        self.seen: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model, args, kwargs):
        size = tuple(kwargs["pixel_values"].shape[-2:])
        if not self.seen[model.training] or self.seen[model.training][-1] != size:
            self.seen[model.training].append(size)


@pytest.mark.parametrize(("family", "workers"), [("vit", 0), ("vit", 2), ("beit", 0), ("dinov2", 0), ("resnet", 0)])
def test_training_sees_the_sizes_and_evaluation_the_full_one(family, workers, digits, tmp_path):
    trainer = make_trainer(
        digits, tmp_path, family, fit={"progressive_resizing": 0.5}, max_steps=-1, num_train_epochs=10,
        eval_strategy="epoch", dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0,
    )  # fmt: skip
    sizes = Sizes(trainer.model)
    trainer.train()
    multiple = 8 if "patch_size" in TINY_CONFIGS[family] else 4
    assert sizes.seen[True] == list(dict.fromkeys(plan_sizes((32, 32), 0.5, 10, multiple)))
    assert len(sizes.seen[True]) > 2
    assert sizes.seen[False] == [(32, 32)]


@pytest.mark.parametrize("operations", [{}, {"random_erasing_probability": 0.5}])
def test_crops_have_the_size_wherever_they_are_made(operations, digits, tmp_path):
    """On the device, or by the workers where more is done to an image than cropping."""
    data = dataclasses.replace(DATA, **operations)
    trainer = make_trainer(digits, tmp_path, "convnext", data=data, fit={"progressive_resizing": 0.5}, max_steps=-1)
    transform = trainer.train_dataset.transform
    assert transform.resamples_on_device == (not operations)
    for epoch, size in ((0, 16), (99, 32)):
        transform.set_epoch(epoch)
        batch = trainer.plan.train_device_transform(trainer.train_dataset[[0, 1, 2]])
        assert tuple(batch["pixel_values"].shape) == (3, 3, size, size)


def test_a_model_of_one_size_is_refused(digits, tmp_path):
    with pytest.raises(ModelError, match="SwinForImageClassification does not take images of 16 x 16 pixels"):
        make_trainer(digits, tmp_path, "swin", fit={"progressive_resizing": 0.5}, max_steps=-1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "10"], "a run of epochs"),
        (["--adaptation", "probe"], "an adaptation that takes optimizer steps"),
    ],
)
def test_what_has_no_epochs_is_an_error(flags, message):
    with pytest.raises(ArgumentError, match=message):
        parse_arguments(["--dataset_name", "digits", "--progressive_resizing", "0.5", *flags])
