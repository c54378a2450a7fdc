"""Augmentations that turn one class into another are found and switched off; others are left alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from pictures import build_vit_processor, encode
from PIL import Image, ImageDraw

from hf_imgcls.arguments.augmentation import Augmentation
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.contact_sheet import draw_batch
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.safety import check_augmentation
from hf_imgcls.data.transforms import attach_transforms

PER_CLASS = 30
SIZE = 32


def draw_arrow(random, label):
    """An arrow to the left, right, up or down on a plain background, somewhere near the middle."""
    image = Image.new("RGB", (SIZE, SIZE), tuple(random.integers(0, 80, 3).tolist()))
    draw = ImageDraw.Draw(image)
    x, y = (8 + random.integers(-3, 4, 2)).tolist()
    draw.rectangle((x, y + 6, x + 16, y + 10), "white")
    draw.polygon([(x, y), (x, y + 16), (x - 6, y + 8)], "white")
    return image.rotate({"left": 0, "right": 180, "up": 270, "down": 90}[label])


def draw_disc(random, label):
    """A disc of one colour; the class is the colour."""
    image = Image.new("RGB", (SIZE, SIZE), "grey")
    x, y = (6 + random.integers(-4, 5, 2)).tolist()
    ImageDraw.Draw(image).ellipse((x, y, x + 20, y + 20), label)
    return image


def draw_bars(random, label):
    """Bars up or across, which a mirror does not change."""
    image = Image.new("RGB", (SIZE, SIZE), tuple(random.integers(0, 80, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for start in range(int(random.integers(0, 8)), SIZE, 8):
        draw.rectangle((start, 0, start + 3, SIZE) if label == "up" else (0, start, SIZE, start + 3), "white")
    return image


def build(draw, labels):
    random = np.random.default_rng(0)
    files = [encode(draw(random, label), "PNG") for label in labels for _ in range(PER_CLASS)]
    columns = {
        "image": [{"bytes": data, "path": None} for data in files],
        "label": np.repeat(np.arange(len(labels)), PER_CLASS),
        "sample_index": range(len(files)),
    }
    features = Features(image=ImageFeature(decode=False), label=ClassLabel(names=labels), sample_index=Value("int64"))
    split = Dataset.from_dict(columns, features=features)
    record = SimpleNamespace(notes=[])
    return SimpleNamespace(splits={"train": split}, labels=labels, is_multi_label=False, record=record)


def check(dataset, data_args=None, **asked):
    asked = Augmentation(**{"horizontal_flip_probability": 0.0, **asked})
    safe = check_augmentation(dataset, build_vit_processor(), data_args or DataArguments(), asked)
    return [name for name in asked.__dict__ if getattr(asked, name) != getattr(safe, name)], dataset.record.notes


def test_a_mirrored_arrow_points_the_other_way():
    arrows = build(draw_arrow, ["left", "right", "up", "down"])
    off, notes = check(arrows, horizontal_flip_probability=0.5)
    assert off == ["horizontal_flip_probability"]
    assert len(notes) == 1
    assert "mirroring is off" in notes[0]
    assert "of 'left' then look like 'right'" in notes[0] or "of 'right' then look like 'left'" in notes[0]
    off, notes = check(build(draw_arrow, ["left", "right", "up", "down"]), vertical_flip_probability=0.5)
    assert off == ["vertical_flip_probability"]
    assert "'up'" in notes[0]
    assert "'down'" in notes[0]


def test_a_mirror_that_changes_no_class_stays():
    off, notes = check(build(draw_arrow, ["up", "down"]), horizontal_flip_probability=0.5)
    assert off == notes == []
    off, _ = check(build(draw_bars, ["up", "across"]), horizontal_flip_probability=0.5, vertical_flip_probability=0.5)
    assert off == []


def test_rotations():
    assert check(build(draw_arrow, ["left", "right", "up", "down"]), rotation_degrees=90.0)[0] == ["rotation_degrees"]
    assert check(build(draw_arrow, ["left", "right", "up", "down"]), rotation_degrees=10.0)[0] == []
    bars = build(draw_bars, ["up", "across"])
    assert check(bars, auto_augment="trivialaugment", rotation_degrees=90.0)[0] == ["rotation_degrees"]


def test_colours():
    discs = build(draw_disc, ["red", "lime", "blue"])
    off, notes = check(discs, color_jitter=(0.2, 0.2, 0.2, 1 / 3), horizontal_flip_probability=0.5)
    assert off == ["color_jitter"]
    assert "hue" in notes[0]
    assert check(build(draw_disc, ["red", "lime", "blue"]), color_jitter=(0.4, 0.0, 0.4, 0.02))[0] == []


def test_a_six_upside_down_is_a_nine():
    digits = load_image_dataset(DataArguments(dataset_name="digits"))
    before = len(digits.record.notes)
    assert check(digits, rotation_degrees=180.0)[0] == ["rotation_degrees"]
    assert "'6' then look like '9'" in digits.record.notes[before]
    assert check(digits, rotation_degrees=15.0)[0] == []


def test_what_is_not_checked_stays():
    arrows = build(draw_arrow, ["left", "right"])
    assert check(arrows, DataArguments(augmentation_safety=False), horizontal_flip_probability=0.5)[0] == []
    arrows.is_multi_label = True
    assert check(arrows, horizontal_flip_probability=0.5)[0] == []


@pytest.mark.parametrize("mixing", [{}, {"mixup_alpha": 1.0}])
def test_a_batch_is_drawn_and_no_random_number_used_up(tmp_path, mixing):
    dataset = build(draw_arrow, ["left", "right", "up", "down"])
    dataset.labels[3] = "an arrow that points downwards"
    plan = attach_transforms(dataset, build_vit_processor(), DataArguments(**mixing), seed=0)
    state = torch.get_rng_state()
    draw_batch(plan, dataset.labels, tmp_path / "batch.png")
    assert torch.equal(torch.get_rng_state(), state)
    sheet = np.asarray(Image.open(tmp_path / "batch.png"))
    assert sheet.shape[1] > 1000
    # Every tile has a picture, and dark letters below it.
    for row in range(4):
        for column in range(8):
            top, left = 8 + row * 166, 8 + column * 136
            assert sheet[top : top + 128, left : left + 128].std() > 5
            assert sheet[top + 130 : top + 158, left : left + 128].min() < 100
