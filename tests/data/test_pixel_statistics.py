"""Mean and deviation of the training images: exact, the same in each process, and in the processor that is saved."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as Pillow

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.data import pixel_statistics
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.pixel_statistics import measure_pixels, resolve_pixel_statistics
from hf_imgcls.errors import DataError
from hf_imgcls.fit.model import build_model


@pytest.fixture
def images(tmp_path):
    """A split of random images of one size, with their pixels: uint8 ``(N, 12, 10, 3)``."""
    pixels = np.random.default_rng(0).integers(0, 200, (7, 12, 10, 3), dtype=np.uint8)
    paths = []
    for number, image in enumerate(pixels):
        paths.append(str(tmp_path / f"{number}.png"))
        Pillow.fromarray(image).save(paths[-1])
    split = Dataset.from_dict({"image": paths}, features=Features({"image": Image(decode=False)}))
    return split, pixels


def test_the_statistics_are_those_of_all_pixels_in_any_order(images, tmp_path):
    split, pixels = images
    mean, std = measure_pixels(split, DataArguments(cache_dir=str(tmp_path / "a")))
    scaled = pixels.reshape(-1, 3) / 255
    assert mean == pytest.approx(scaled.mean(axis=0), abs=1e-6)
    assert std == pytest.approx(scaled.std(axis=0), abs=1e-6)
    turned = split.select(range(len(split))[::-1])
    assert measure_pixels(turned, DataArguments(cache_dir=str(tmp_path / "b"))) == (mean, std)


def test_they_are_kept_and_a_damaged_file_is_measured_again(images, tmp_path, monkeypatch):
    args = DataArguments(cache_dir=str(tmp_path / "cache"))
    first = measure_pixels(images[0], args)
    (path,) = (tmp_path / "cache").rglob("pixels-*.json")
    with monkeypatch.context() as patch:
        patch.setattr(pixel_statistics, "EncodedImage", None)
        assert measure_pixels(images[0], args) == first
    path.write_text("{")
    assert measure_pixels(images[0], args) == first


def test_only_the_training_split_counts_and_the_processor_is_saved_with_it(tmp_path):
    args = DataArguments(dataset_name="digits", image_size=16, image_mean="dataset", image_std="dataset")
    dataset = load_image_dataset(args)
    resolved = resolve_pixel_statistics(args, dataset)
    mean, std = measure_pixels(dataset.splits["train"], args)
    assert (
        (resolved.image_mean, resolved.image_std)
        == (mean, std)
        == (dataset.record.pixel_mean, dataset.record.pixel_std)
    )
    assert mean != measure_pixels(dataset.splits["test"], args)[0]
    assert args.image_mean == "dataset", "the recipe keeps the word"
    fit = FitArguments(model_type="resnet", model_config={"embedding_size": 8, "hidden_sizes": [8], "depths": [1]})
    build_model(fit, resolved, dataset.labels)[1].save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["image_mean"], saved["image_std"]) == (mean, std)
    given = replace(args, image_mean=None, image_std=None)
    assert resolve_pixel_statistics(given, dataset) is given
    alone = resolve_pixel_statistics(replace(args, image_std=None), dataset)
    assert (alone.image_mean, alone.image_std) == (mean, None)


def test_images_of_one_colour_and_a_missing_split_are_refused(tmp_path):
    args = DataArguments(dataset_name="digits", image_std="dataset", cache_dir=str(tmp_path / "cache"))
    dataset = load_image_dataset(args)
    with pytest.raises(DataError, match="no training split"):
        resolve_pixel_statistics(args, replace(dataset, splits={"test": dataset.splits["test"]}))
    Pillow.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    red = Dataset.from_dict({"image": [str(tmp_path / "red.png")]}, features=Features({"image": Image(decode=False)}))
    with pytest.raises(DataError, match="same value in every pixel"):
        resolve_pixel_statistics(args, replace(dataset, splits={"train": red}))
