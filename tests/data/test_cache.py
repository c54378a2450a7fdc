"""Small images are decoded once, and batches made of the result equal those made of the files."""

import logging
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from pictures import attach, build_split, build_vit_processor, encode, photo
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data import cache as cache_module
from hf_imgcls.data.augment import crop_and_resize
from hf_imgcls.data.cache import DecodedCache, build_decoded_cache
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.errors import DataError

READING = Reading(max_pixels=10**6)


@pytest.fixture
def files():
    return [encode(photo(20, 24, i), "PNG") for i in range(12)]


def build(files, folder, mode="auto", **options):
    return build_decoded_cache(build_split(files), mode, folder, replace(READING, **options))


def test_cache_holds_the_decoded_pixels(files, tmp_path):
    cache = build(files, tmp_path)
    assert cache.size == (20, 24)
    gathered = cache.gather(np.array([111, 100, 100]))
    for pixels, i in zip(gathered, (11, 0, 0), strict=True):
        assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(photo(20, 24, i)))
    with pytest.raises(KeyError, match="99"):
        cache.gather(np.array([99]))
    again = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(again.gather(np.array([105])), cache.gather(np.array([105])))
    assert isinstance(again.images, np.memmap)


def test_cache_is_built_once_and_keyed_by_what_it_depends_on(files, tmp_path, monkeypatch):
    first = build(files, tmp_path)
    monkeypatch.setattr(cache_module, "decode_image", lambda *args, **options: pytest.fail("decoded again"))
    assert build(files, tmp_path).path == first.path
    monkeypatch.undo()
    assert build(files, tmp_path, alpha_background="black").path != first.path
    assert build(files, tmp_path, intensity_range=(0.0, 4095.0)).path != first.path
    assert build(files[:-1], tmp_path).path != first.path
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy"] * 4  # nothing temporary is left


def test_a_replaced_file_is_noticed(files, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(files[0])
    split = build_split(files)
    split = Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(path)}], "label": [0], "sample_index": [0]}, features=split.features
    )
    first = build_decoded_cache(split, "auto", tmp_path / "cache", READING)
    path.write_bytes(files[1])
    os.utime(path, ns=(1, 1))
    second = build_decoded_cache(split, "auto", tmp_path / "cache", READING)
    assert not np.array_equal(first.images, second.images)


def test_mode_decides(files, tmp_path, caplog):
    assert build(files, tmp_path, "false") is None
    large = [encode(photo(65, 20), "PNG")]
    assert build(large, tmp_path, "auto") is None
    assert build(large, tmp_path, "true").size == (65, 20)
    mixed = [*files, encode(photo(20, 25), "PNG")]
    caplog.set_level(logging.INFO)
    assert build(mixed, tmp_path, "auto") is None
    assert "25 x 20" in caplog.text
    with pytest.raises(DataError, match="25 x 20"):
        build(mixed, tmp_path, "true")


def test_failures_leave_no_file(files, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"truncated.*sample_index 112"):
        build([*files, files[0][:200]], tmp_path)
    # A disk that fills up, for real: the file may not grow beyond 1,000 bytes.
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        assert build(files, tmp_path, "auto") is None
        with pytest.raises(DataError, match="cache_dir"):
            build(files, tmp_path, "true")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("resample", "size"), [(2, 32), (3, 32), (2, 12), (3, 12)])
def test_batches_equal_those_from_files(files, tmp_path, resample, size):
    """Evaluation to the bit; training within two grey levels, for enlarging and shrinking."""
    processor = build_vit_processor(size={"height": size, "width": size}, resample=resample, do_normalize=False)
    cached = attach(files, processor, cache_decoded_images="true", cache_dir=str(tmp_path))
    plain = attach(files, processor)
    indices = [3, 0, 11, 7, 5, 6]
    expected = plain.eval_device_transform(collate_batch(plain.validation.__getitems__(indices)))
    result = cached.eval_device_transform(collate_batch(cached.validation.__getitems__(indices)))
    assert torch.equal(result["pixel_values"], expected["pixel_values"])
    rows = collate_batch(cached.train.__getitems__(indices))
    assert rows["flip"].any()
    assert not rows["flip"].all()
    result = cached.train_device_transform(rows)
    expected = plain.train_device_transform(collate_batch(plain.train.__getitems__(indices)))
    assert set(result) == set(expected)
    levels = (result["pixel_values"] - expected["pixel_values"]).abs() * 255
    assert levels.max() <= 2.0
    assert levels.mean() <= 0.5
    assert torch.equal(result["labels"], expected["labels"])


def test_no_file_is_read_for_a_cached_batch(files, tmp_path):
    plan = attach(files, cache_decoded_images="true", cache_dir=str(tmp_path))
    assert plan.train.column_names == ["label", "sample_index"]
    assert plan.train[0]["pixel_values"].shape == (3, 20, 24)


def test_resampling_is_exact_under_autocast():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    boxes, flips = torch.tensor([[0, 0, 16, 16], [2, 3, 9, 8]]), torch.tensor([False, True])
    arguments = (images, boxes, flips, (16, 16), InterpolationMode.BILINEAR)
    expected = crop_and_resize(*arguments)
    assert torch.allclose(expected[0], images[0].float(), atol=1e-3)  # the whole image at its own size
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crop_and_resize(*arguments), expected)


def test_cache_of_a_subset_finds_its_samples(files, tmp_path):
    split = build_split(files).select([9, 2, 5])
    cache = build_decoded_cache(split, "auto", tmp_path, READING)
    assert np.array_equal(cache.gather(np.array([102]))[0].transpose(1, 2, 0), np.asarray(photo(20, 24, 2)))
    assert isinstance(cache, DecodedCache)
    assert isinstance(Image.fromarray(cache.images[0].transpose(1, 2, 0)), Image.Image)
