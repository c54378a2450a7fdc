"""Evaluation equals the processor, training depends on (seed, epoch, sample) alone, and batches are not copied."""

import copy
import io
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import transformers
from pictures import SIZE, attach, build_vit_processor, encode, get_class, photo
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as tv

from hf_imgcls.arguments.augmentation import POLICIES
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.memory import ReusedMemory
from hf_imgcls.classifier.preprocess import Normalizer, Preprocessor
from hf_imgcls.classifier.reading import DEFAULT_READING
from hf_imgcls.data.augment import draw_crops_and_flips, hash_uniforms
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.image_transforms import TrainTransform
from hf_imgcls.errors import ArgumentError, DataError, ModelError


def jpeg(image):
    return encode(image, "JPEG", quality=95)


@pytest.fixture(scope="module")
def files():
    return [jpeg(photo(60 + i, 90 - i, i)) for i in range(10)] + [jpeg(photo(70, 50).convert("L"))] * 2


PROCESSORS = {
    "vit": lambda: build_vit_processor(),
    "vit, bicubic": lambda: build_vit_processor(resample=3, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "vit, not normalised": lambda: build_vit_processor(do_normalize=False),
    "vit, not rescaled": lambda: build_vit_processor(do_rescale=False),
    "convnext, crop_pct": lambda: get_class("ConvNextImageProcessor")(size={"shortest_edge": 33}, resample=3),
    "convnext, warped": lambda: get_class("ConvNextImageProcessor")(size={"shortest_edge": 384}, resample=2),
    "clip, centre crop": lambda: get_class("CLIPImageProcessor")(size={"shortest_edge": 40}, crop_size=SIZE),
    "bit, crop larger than image": lambda: get_class("BitImageProcessor")(size={"shortest_edge": 20}, crop_size=SIZE),
}
# Processors that do more than resize and normalise, or cannot be taken apart.
OTHERS = {
    "mobilevit, channels swapped": lambda: get_class("MobileViTImageProcessor")(size=SIZE, crop_size=SIZE),
    "levit": lambda: get_class("LevitImageProcessor")(size={"shortest_edge": 32}, crop_size=SIZE),
    "efficientnet": lambda: get_class("EfficientNetImageProcessor")(size=SIZE),
}


@pytest.mark.parametrize("name", [*PROCESSORS, *OTHERS])
def test_evaluation_is_the_processor_bit_by_bit(name, files):
    processor = {**PROCESSORS, **OTHERS}[name]()
    plan = attach(files, processor)
    batch = collate_batch(plan.validation.__getitems__([11, 3, 0]))
    images = [Image.open(io.BytesIO(files[i])).convert("RGB") for i in (11, 3, 0)]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    result = plan.eval_device_transform(batch)
    assert torch.equal(result["pixel_values"], expected.to(torch.float32))
    assert result["labels"].tolist() == [2, 0, 0]
    assert result["sample_index"].tolist() == [111, 103, 100]
    assert plan.train_transform.preprocessor.exact == (name in PROCESSORS)
    train = plan.train_device_transform(collate_batch(plan.train.__getitems__([0, 1])))["pixel_values"]
    assert train.shape == (2, *expected.shape[1:])
    assert train.dtype == torch.float32


@pytest.mark.parametrize("name", [*PROCESSORS, "convnext, the margin is even", "convnext, larger"])
def test_evaluation_is_the_processor_for_every_odd_size(name):
    """The lines of transformers round the half pixel of an odd margin by different rules: the installed one's holds."""
    edge = {"convnext, the margin is even": 112, "convnext, larger": 288}.get(name)
    if edge:
        processor = get_class("ConvNextImageProcessor")(size={"shortest_edge": edge}, resample=2)
    else:
        processor = PROCESSORS[name]()
    preprocessor = Preprocessor(processor)
    assert preprocessor.exact
    random = np.random.default_rng(7)
    for height, width in [(37, 37 + more) for more in range(8)] + [(61 + more, 45) for more in range(8)]:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        ours = preprocessor.normalizer(preprocessor.preprocess(np.array(image))[None])
        theirs = processor(images=[image], return_tensors="pt")["pixel_values"]
        assert torch.equal(ours, theirs.to(torch.float32)), (height, width)


def test_training_crops_get_what_else_the_processor_does():
    """MobileViT's processor swaps red and blue; random crops must be swapped too."""
    plan = attach([jpeg(Image.new("RGB", (64, 64), (250, 0, 0)))], OTHERS["mobilevit, channels swapped"]())
    pixels = plan.train_device_transform(collate_batch(plan.train.__getitems__([0])))["pixel_values"]
    assert pixels[0, 2].mean() > 0.9
    assert pixels[0, 0].mean() < 0.1


def test_timm_processor_is_called(files):
    pytest.importorskip("timm")
    config = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": (0.5,) * 3,
        "std": (0.4,) * 3,
    }
    processor = transformers.TimmWrapperImageProcessor(pretrained_cfg=config)
    plan = attach(files, processor)
    result = plan.eval_device_transform(collate_batch(plan.validation.__getitems__([1])))["pixel_values"]
    image = Image.open(io.BytesIO(files[1]))
    assert torch.equal(result, processor(image, return_tensors="pt")["pixel_values"])
    train = plan.train_device_transform(collate_batch(plan.train.__getitems__([1])))["pixel_values"]
    assert -1.26 < train.min() < 0 < train.max() < 1.26  # (0 - 0.5) / 0.4 to (1 - 0.5) / 0.4


def test_a_processor_of_varying_size_is_refused():
    with pytest.raises(ModelError, match="image_size"):
        Preprocessor(get_class("CLIPImageProcessor")(size={"shortest_edge": 32}, do_center_crop=False))


def test_normalizer_leaves_floats_alone_and_follows_the_formula():
    normalizer = Normalizer([0.5, 0.25, 0.0], [0.5, 0.25, 1.0], 1 / 255)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 3.0], [0.0, 1.0]]).reshape(1, 3, 1, 2)
    assert torch.allclose(normalizer(pixels), expected)
    floats = torch.rand(1, 3, 2, 2)
    assert normalizer(floats) is floats


def read_epoch(plan, num_workers, batch_size=5, **options):
    loader = DataLoader(plan.train, batch_size, num_workers=num_workers, collate_fn=collate_batch, **options)
    return torch.cat([batch["pixel_values"] for batch in loader])


@pytest.mark.parametrize("cached", [False, True])
def test_any_number_of_workers_gives_the_same_batches(files, cached, tmp_path):
    if cached:
        files = [encode(photo(20, 24, i), "PNG") for i in range(12)]
    options = {"cache_decoded_images": str(cached).lower(), "cache_dir": str(tmp_path)}
    plan = attach(files, **options)
    assert (plan.train_transform.cache is not None) == cached
    expected = read_epoch(plan, 0)
    for num_workers in (1, 2, 4):
        assert torch.equal(read_epoch(plan, num_workers), expected)
    assert torch.equal(read_epoch(plan, 0, batch_size=4), expected)


def test_augmentation_differs_between_seeds_epochs_and_samples(files):
    plan = attach([files[0]] * 3)
    first = read_epoch(plan, 0)
    assert not torch.equal(first[0], first[1])
    plan.set_epoch(1)
    second = read_epoch(plan, 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, read_epoch(attach([files[0]] * 3, seed=1), 0))
    plan.set_epoch(0)
    assert torch.equal(first, read_epoch(plan, 0))


def test_set_epoch_reaches_living_workers(files):
    plan = attach(files)
    expected = []
    for epoch in (0, 1):
        plan.set_epoch(epoch)
        expected.append(read_epoch(plan, 0))
    copied = copy.deepcopy(plan.train)  # what datasets does when it derives one dataset from another
    loader = DataLoader(copied, 5, num_workers=1, collate_fn=collate_batch, persistent_workers=True)
    for epoch in (0, 1):
        plan.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), expected[epoch])
    # What a spawned worker receives.
    sent = ForkingPickler.loads(ForkingPickler.dumps(plan.train_transform))
    plan.set_epoch(7)
    assert sent.epoch == 7


def test_the_order_and_company_of_a_sample_do_not_matter(files):
    plan = attach(files)
    alone = plan.train.__getitems__([7])[0]["pixel_values"]
    assert torch.equal(alone, plan.train.__getitems__([2, 7, 1])[1]["pixel_values"])
    assert torch.equal(alone, plan.train[7]["pixel_values"])
    assert torch.equal(alone, plan.train[5:8]["pixel_values"][2])


@pytest.mark.parametrize("cached", [False, True])
def test_a_repetition_is_the_same_example_with_other_random_numbers(files, cached, tmp_path):
    if cached:
        files = [encode(photo(20, 24, i), "PNG") for i in range(12)]
    plan = attach(files, cache_decoded_images=str(cached).lower(), cache_dir=str(tmp_path))
    size = len(plan.train)
    once, again = (collate_batch(plan.train.__getitems__([2, 5 + offset])) for offset in (0, 3 * size))
    for key in ("sample_index", "labels"):
        assert torch.equal(once[key], again[key])
    drawn = "crop_box" if cached else "pixel_values"
    assert torch.equal(once[drawn][0], again[drawn][0])
    assert not torch.equal(once[drawn][1], again[drawn][1])
    with pytest.raises(IndexError):
        plan.train[size]


@pytest.mark.parametrize("resample", [2, 3])
def test_training_pixels_are_those_of_a_cropped_full_decode(resample):
    """Same boxes through a plain crop and resize: equal to a rounding, and near where JPEGs are decoded scaled."""
    processor = build_vit_processor(resample=resample)
    images = [photo(48, 40), photo(300, 400).resize((1600, 1200))]
    plan = attach([jpeg(image) for image in images], processor)
    batch = collate_batch(plan.train.__getitems__([0, 1]))
    sizes = np.array([[48, 40], [1200, 1600]])
    options = {"scale": (0.35, 1.0), "ratio": (0.75, 1.3333), "flip_probability": 0.5}
    boxes, flips = draw_crops_and_flips(0, 0, np.array([100, 101]), sizes, **options)
    boxes[1] = np.rint(boxes[1] / 8) * 8  # a crop's edges lie on the grid of the scaled image
    interpolation = {2: tv.InterpolationMode.BILINEAR, 3: tv.InterpolationMode.BICUBIC}[resample]
    for i, limit in ((0, 0.01), (1, 1.5)):
        full = tv.pil_to_tensor(Image.open(io.BytesIO(jpeg(images[i]))))
        expected = tv.resized_crop(full, *boxes[i].tolist(), [32, 32], interpolation=interpolation, antialias=True)
        expected = expected.flip(-1) if flips[i] else expected
        difference = (batch["pixel_values"][i].int() - expected.int()).abs().float()
        assert difference.mean() <= limit
        assert difference.max() <= 16 * limit + 1


def test_crops_follow_their_definition():
    sizes = np.tile([[120, 80]], (4000, 1))
    options = {"scale": (0.2, 0.9), "ratio": (0.5, 2.0), "flip_probability": 0.3}
    boxes, flips = draw_crops_and_flips(3, 0, np.arange(4000), sizes, **options)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 120).all()
    assert (left + width <= 80).all()
    area, ratio = height * width / 9600, width / height
    assert 0.19 < area.min() < 0.22
    assert 0.8 < area.max() < 0.91
    assert 0.48 < ratio.min() < 0.55
    assert abs(flips.mean() - 0.3) < 0.03
    assert abs((top / np.maximum(1, 120 - height)).mean() - 0.5) < 0.03
    # No draw fits: the largest centred crop of an allowed ratio.
    options = {"scale": (1.0, 1.0), "ratio": (0.75, 4 / 3), "flip_probability": 0.0}
    boxes, _ = draw_crops_and_flips(0, 0, np.arange(2), np.array([[10, 100], [100, 10]]), **options)
    assert boxes.tolist() == [[0, 43, 10, 13], [43, 0, 13, 10]]


def test_hash_uniforms_are_uniform_and_independent():
    values = hash_uniforms(0, 0, np.arange(20_000), 4)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    counts = np.histogram(values, bins=20, range=(0, 1))[0] / 4000
    assert np.abs(counts - 1).max() < 0.1
    assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(values[1:, 0], values[:-1, 0])[0, 1]) < 0.03
    others = [hash_uniforms(1, 0, np.arange(20_000), 4), hash_uniforms(0, 1, np.arange(20_000), 4)]
    others.append(hash_uniforms(0, 0, np.arange(20_000), 4, stream=1))
    for other in others:
        assert abs(np.corrcoef(values[:, 0], other[:, 0])[0, 1]) < 0.03
    # The arguments do not stand in for one another.
    assert not np.array_equal(hash_uniforms(0, 1, np.arange(5), 1), hash_uniforms(1, 0, np.arange(5), 1))


def test_collate_returns_the_batch_itself(files):
    plan = attach(files)
    rows = plan.validation.__getitems__([0, 1, 2])
    assert len(rows) == len(list(rows)) == 3
    for whole in (rows, list(rows)):  # as a split hands it over, and cut into rows
        assert collate_batch(whole)["pixel_values"].data_ptr() == rows[0]["pixel_values"].data_ptr()
    for others in (rows[:2], rows[::-1], [rows[0], rows[0], rows[2]], [*rows, *plan.validation.__getitems__([4])]):
        joined = collate_batch(others)
        assert torch.equal(joined["pixel_values"], torch.stack([row["pixel_values"] for row in others]))
        assert joined["sample_index"].tolist() == [int(row["sample_index"]) for row in others]


def test_pixel_arguments_change_pixels(files):
    transparent = encode(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG")
    dropped, white, black = (attach([transparent], alpha_background=name) for name in (None, "white", "black"))
    assert white.validation[0]["pixel_values"].min() == 255
    assert dropped.validation[0]["pixel_values"].max() == 0
    assert black.validation[0]["pixel_values"].max() == 0
    assert black.train[0]["pixel_values"].max() == 0
    with pytest.raises(ArgumentError, match="colour"):
        attach([transparent], alpha_background="nothing")

    default = read_epoch(attach(files), 0)
    for option in (
        {"random_crop_scale": [0.9, 1.0]},
        {"random_crop_ratio": [1.0, 1.0]},
        {"horizontal_flip_probability": 1.0},
    ):
        assert not torch.equal(read_epoch(attach(files, **option), 0), default)
    with pytest.raises(DataError, match="pixels"):
        attach(files, max_image_pixels=100).validation[0]


def test_the_decoder_changes_no_pixel():
    pytest.importorskip("simplejpeg")
    files = [jpeg(photo(200, 300, i)) for i in range(4)]
    pillow, simple = attach(files, decoder="pillow"), attach(files, decoder="simplejpeg")
    assert torch.equal(pillow.validation[:4]["pixel_values"], simple.validation[:4]["pixel_values"])
    assert torch.equal(read_epoch(pillow, 0), read_epoch(simple, 0))


def test_the_decoder_is_the_installed_one(monkeypatch):
    import importlib.util

    from hf_imgcls.classifier import reading

    def choose(name):
        return reading.Reading.from_arguments(DataArguments(decoder=name)).decoder

    installed = importlib.util.find_spec("simplejpeg") is not None
    assert choose("auto") == ("simplejpeg" if installed else "pillow")
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    assert choose("auto") == "pillow"
    assert choose("pillow") == "pillow"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_also_from_a_worker(files, workers):
    plan = attach([*files[:2], files[2][:100]], cache_decoded_images="false")
    loader = DataLoader(plan.validation, batch_size=3, num_workers=workers, collate_fn=collate_batch)
    with pytest.raises(DataError, match="sample_index 102"):  # what `attach` numbers the third file
        list(loader)


def test_memory_in_use_is_not_reused():
    memory = ReusedMemory(most=2)
    first = memory.take((4, 5), torch.float32).fill_(1.0)
    address = first.data_ptr()
    view = first[1:]
    del first
    assert memory.take((4, 5), torch.float32).fill_(2.0).data_ptr() != address
    assert (view == 1.0).all()
    array = view.numpy()
    del view
    assert memory.take((4, 5), torch.float32).fill_(3.0).data_ptr() != address
    assert (array == 1.0).all()
    del array
    # What autograd keeps for the backward pass counts as in use.
    held = memory.take((4, 5), torch.float32).fill_(4.0)
    weight = torch.ones((), requires_grad=True)
    loss = (weight * held).sum()
    kept = held.data_ptr()
    del held
    for _ in range(3):
        assert memory.take((4, 5), torch.float32).fill_(5.0).data_ptr() != kept
    loss.backward()
    assert weight.grad == 80.0
    del loss
    # What nobody holds is taken again.
    addresses = [memory.take((4, 5), torch.float32).data_ptr() for _ in range(3)]
    assert len(set(addresses)) == 1


def test_an_unreadable_image_names_its_sample(files):
    for split in ("train", "validation"):
        plan = attach([files[0], files[1][:500], b"nothing"])
        with pytest.raises(DataError, match=r"(?i)truncated.*sample_index 101"):
            getattr(plan, split).__getitems__([0, 1])
        with pytest.raises(DataError, match=r"not an image.*sample_index 102"):
            getattr(plan, split).__getitems__([0, 2])


def test_rows_without_labels_pass(files):
    transform = TrainTransform(build_vit_processor(), DEFAULT_READING, POLICIES["light"], 0)
    batch = transform({"image": [{"bytes": files[0], "path": None}], "sample_index": [0]})
    assert set(batch) == {"pixel_values", "sample_index"}
