"""How training images are varied: policies, every part by itself, mixing; each is a function of seed, epoch, sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pictures import attach, encode, photo
from PIL import Image
from torch.utils.data import DataLoader

from hf_imgcls.arguments.augmentation import POLICIES, Augmentation, resolve_augmentation
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.collate import collate_batch

# What each argument does by itself, on top of no augmentation at all.
PARTS = {
    "random_crop_scale": [0.3, 0.4],
    "random_crop_ratio": [0.5, 0.6],
    "horizontal_flip_probability": 1.0,
    "vertical_flip_probability": 1.0,
    "rotation_degrees": 30.0,
    "color_jitter": [0.4, 0.0, 0.0, 0.0],
    "auto_augment": "randaugment",
    "gaussian_blur_probability": 1.0,
    "gaussian_noise_std": 0.1,
    "random_erasing_probability": 1.0,
}
SIZE = 24


@pytest.fixture(scope="module")
def files():
    return [encode(photo(SIZE, SIZE, number), "PNG") for number in range(9)]


def read(plan, num_workers=0, batch_size=4):
    """An epoch of batches, finished on the device."""
    loader = DataLoader(plan.train, batch_size, num_workers=num_workers, collate_fn=collate_batch)
    batches = [plan.train_device_transform(batch) for batch in loader]
    return torch.cat([batch["pixel_values"].clone() for batch in batches])


def test_policies_are_their_parts():
    assert resolve_augmentation(DataArguments()) == Augmentation() == POLICIES["light"]
    heavy = resolve_augmentation(DataArguments(augmentation="heavy"))
    assert heavy.auto_augment == "randaugment"
    assert heavy.mixup_alpha > 0
    assert heavy.cutmix_alpha > 0
    changed = resolve_augmentation(
        DataArguments(augmentation="heavy", cutmix_alpha=0.0, random_crop_scale=[0.5, 1.0], auto_augment="none")
    )
    expected = {"cutmix_alpha": 0.0, "random_crop_scale": (0.5, 1.0), "auto_augment": "none"}
    assert changed == dataclasses.replace(heavy, **expected)
    known = set(DataArguments.__dataclass_fields__)
    assert {field.name for field in dataclasses.fields(Augmentation)} <= known


def test_none_is_evaluation(files):
    plan = attach(files, augmentation="none")
    evaluated = plan.eval_device_transform(plan.validation[:9])["pixel_values"]
    # A resize in uint8, which rounds, against the processor's own.
    levels = (read(plan) - evaluated).abs().max() * 127.5
    assert levels <= 2


@pytest.mark.parametrize("cached", ["true", "false"])
@pytest.mark.parametrize("name", PARTS)
def test_every_part_changes_pixels_and_nothing_else(files, name, cached, tmp_path):
    options = {"augmentation": "none", "cache_decoded_images": cached, "cache_dir": str(tmp_path)}
    plain, plan = attach(files, **options), attach(files, **options, **{name: PARTS[name]})
    assert not torch.allclose(read(plan), read(plain), atol=0.05)
    # Evaluation, labels and shapes stay.
    assert torch.equal(plan.validation[:9]["pixel_values"], plain.validation[:9]["pixel_values"])
    batch = plan.train[:9]
    assert batch["labels"].tolist() == [i % 3 for i in range(9)]
    assert read(plan).shape == read(plain).shape


def test_mirrored_and_turned_images_are_those(files):
    plain = read(attach(files, augmentation="none"))
    mirrored = read(attach(files, augmentation="none", horizontal_flip_probability=1.0))
    turned = read(attach(files, augmentation="none", vertical_flip_probability=1.0))
    torch.testing.assert_close(mirrored, plain.flip(-1), atol=0.02, rtol=0)
    torch.testing.assert_close(turned, plain.flip(-2), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "autoaugment", "augmix"])
def test_published_mixes_of_operations(files, name):
    plan = attach(files, augmentation="none", auto_augment=name)
    plan.set_epoch(3)
    changed = (read(plan) - read(attach(files, augmentation="none"))).abs().amax(dim=(1, 2, 3)) > 0.05
    assert changed.sum() >= 3
    if name == "randaugment":
        other = attach(files, augmentation="none", auto_augment=name, randaugment_magnitude=30)
        other.set_epoch(3)
        assert not torch.equal(read(other), read(plan))
        more = attach(files, augmentation="none", auto_augment=name, randaugment_num_ops=6)
        more.set_epoch(3)
        assert not torch.equal(read(more), read(plan))


def test_colours_move_in_all_four_ways(files):
    plain = read(attach(files, augmentation="none"))
    found = []
    for place in range(4):
        jitter = [0.0] * 4
        jitter[place] = 0.5
        found.append(read(attach(files, augmentation="none", color_jitter=jitter)))
    for number, one in enumerate([*found, plain]):
        assert all(not torch.allclose(one, other, atol=0.05) for other in [*found, plain][number + 1 :])


@pytest.mark.parametrize("cached", ["true", "false"])
def test_what_an_image_looks_like_depends_on_seed_epoch_and_sample_alone(files, cached, tmp_path):
    parts = {name: 0.5 if value == 1.0 else value for name, value in PARTS.items()}
    options = {"cache_decoded_images": cached, "cache_dir": str(tmp_path), **parts}
    plan = attach(files, **options)
    first = read(plan)
    state = torch.get_rng_state()
    plan.train[:9]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(read(plan, batch_size=5), first)
    for num_workers in (1, 2):
        assert torch.equal(read(plan, num_workers), first)
    plan.set_epoch(1)
    assert not torch.equal(read(plan), first)
    plan.set_epoch(0)
    assert torch.equal(read(plan), first)
    assert not torch.equal(read(attach(files, seed=1, **options)), first)


def test_empty_corners_and_erased_rectangles_are_zero_for_the_model():
    white = [encode(Image.new("RGB", (SIZE, SIZE), "white"), "PNG")] * 6
    for part in ({"rotation_degrees": 45.0}, {"random_erasing_probability": 1.0}):
        pixels = read(attach(white, augmentation="none", **part))
        assert ((pixels.abs() < 0.01).sum(dim=(1, 2, 3)) > 10).sum() >= 4, part
        assert pixels.max() == 1


# --- mixing ---


def mix(files, seed=0, **options):
    plan = attach(files, augmentation="none", **options)
    torch.manual_seed(seed)
    batch = plan.train[:9]
    return plan, plan.train_device_transform(batch), plan.eval_device_transform(plan.validation[:9])


def test_mixup_blends_images_and_labels_alike(files):
    _, batch, _ = mix(files, mixup_alpha=1.0)
    plain = attach(files, augmentation="none")
    pixels = plain.train_device_transform(plain.train[:9])["pixel_values"]
    labels = batch["labels"]
    assert labels.shape == (9, 3)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(9))
    share = labels[0, 0].item()  # the neighbour shows another class
    assert 0 < share < 1
    torch.testing.assert_close(batch["pixel_values"], share * pixels + (1 - share) * pixels.roll(1, 0))


def test_cutmix_shares_labels_by_area(files):
    for seed in range(20):
        _, batch, _ = mix(files, seed, cutmix_alpha=1.0)
        plain = attach(files, augmentation="none")
        pixels = plain.train_device_transform(plain.train[:9])["pixel_values"]
        own = (batch["pixel_values"] == pixels).all(dim=1).float().mean(dim=(1, 2))
        torch.testing.assert_close(own, batch["labels"][torch.arange(9), torch.arange(9) % 3], atol=0.02, rtol=0)


def test_both_take_turns_and_evaluation_is_never_mixed(files):
    seen = set()
    for seed in range(12):
        plan, batch, evaluated = mix(files, seed, mixup_alpha=0.4, cutmix_alpha=1.0)
        changed = (batch["pixel_values"] - plan.eval_device_transform(plan.validation[:9])["pixel_values"]).abs() > 0.05
        seen.add(bool(changed.any(dim=1).float().mean() > 0.95))
        assert evaluated["labels"].dtype == torch.int64
    assert seen == {True, False}


def test_without_mixing_labels_are_class_ids(files):
    _, batch, _ = mix(files)
    assert batch["labels"].tolist() == [i % 3 for i in range(9)]
    assert np.issubdtype(batch["labels"].numpy().dtype, np.integer)
