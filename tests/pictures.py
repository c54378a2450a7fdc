"""Pictures, datasets of them and processors for the tests of decoding, transforms and the cache."""

import io
from types import SimpleNamespace

import numpy as np
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.transforms import attach_transforms

SIZE = {"height": 32, "width": 32}


def get_class(name):
    """The torchvision-backed class of either transformers line."""
    return getattr(transformers, f"{name}Fast" if transformers.__version__.startswith("4.") else name)


def build_vit_processor(**options):
    return get_class("ViTImageProcessor")(**{"size": SIZE, "resample": 2, **options})


def photo(height, width, seed=0):
    """A smooth random picture: noise would make scaled decoding look worse than it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, format="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def build_split(files, first_index=100):
    columns = {
        "image": [{"bytes": data, "path": None} for data in files],
        "label": [i % 3 for i in range(len(files))],
        "sample_index": range(first_index, first_index + len(files)),
    }
    features = {
        "image": ImageFeature(decode=False),
        "label": ClassLabel(num_classes=3),
        "sample_index": Value("int64"),
    }
    return Dataset.from_dict(columns, features=Features(features))


def attach(files, processor=None, seed=0, **options):
    split = build_split(files)
    dataset = SimpleNamespace(
        splits={"train": split, "validation": split}, is_multi_label=False, labels=["0", "1", "2"], record=None
    )
    arguments = DataArguments(**{"cache_decoded_images": "false", **options})
    return attach_transforms(dataset, processor or build_vit_processor(), arguments, seed)
