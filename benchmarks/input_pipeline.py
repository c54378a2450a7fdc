"""Images per second from encoded files to float32 batches: this package, transformers' example script, timm.

    python benchmarks/input_pipeline.py [--output benchmarks/input_pipeline.txt]

All contenders read the same bytes, do the same transform (random resized crop of 8-100 % and flip, or the resize of
ViT's processor; bilinear) and end with the same thing, normalised float32 batches of 64. Their repetitions take turns,
and a ratio is the median over the rounds of the ratio within a round, because machines are noisy. For the same reason
"one core" (no workers, one thread) counts seconds of processor time; "2 workers" counts seconds of the clock.

The photographs are crops of scikit-learn's two sample photographs, enlarged and with a little noise, as JPEGs of
quality 88; the small ones are PNGs.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import PIL
import timm
import torch
import torchvision
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_loader
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.data.augment import draw_crops_and_flips
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.transforms import attach_transforms

BATCH_SIZE = 64
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def make_files(width: int, height: int, count: int, format: str) -> list[bytes]:
    """Encode random crops of two real photographs at one size."""
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        photograph = photographs[i % 2]
        crop_width = min(photograph.width, photograph.height * width / height) * random.uniform(0.6, 1.0)
        crop_height = crop_width * height / width
        left = random.uniform(0, photograph.width - crop_width)
        top = random.uniform(0, photograph.height - crop_height)
        box = (left, top, left + crop_width, top + crop_height)
        pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
        noisy = (pixels + random.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, format, **({"quality": 88} if format == "JPEG" else {}))
        files.append(file.getvalue())
    return files


def build_dataset(files: list[bytes], decode: bool) -> Dataset:
    columns = {
        "image": [{"bytes": data, "path": None} for data in files],
        "label": [0] * len(files),
        "sample_index": range(len(files)),
    }
    features = {
        "image": ImageFeature(decode=decode),
        "label": ClassLabel(num_classes=2),
        "sample_index": Value("int64"),
    }
    return Dataset.from_dict(columns, features=Features(features))


def build_processor(size: int) -> object:
    name = "ViTImageProcessorFast" if transformers.__version__.startswith("4.") else "ViTImageProcessor"
    return getattr(transformers, name)(size={"height": size, "width": size}, resample=2)


def run_script(files: list[bytes], size: int, train: bool, workers: int) -> Callable[[], Iterator[torch.Tensor]]:
    """The way of transformers' run_image_classification.py: torchvision per image, floats stacked by the collator."""
    from torchvision.transforms import (
        Compose,
        Normalize,
        RandomHorizontalFlip,
        RandomResizedCrop,
        Resize,
        ToTensor,
    )

    first = [RandomResizedCrop(size, SCALE, RATIO), RandomHorizontalFlip()] if train else [Resize((size, size))]
    transform = Compose([*first, ToTensor(), Normalize(MEAN, STD)])
    dataset = build_dataset(files, decode=True)
    dataset.set_transform(
        lambda rows: {
            "pixel_values": [transform(image.convert("RGB")) for image in rows["image"]],
            "labels": rows["label"],
        }
    )
    loader = DataLoader(
        dataset,
        BATCH_SIZE,
        shuffle=train,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=lambda rows: {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        },
    )
    return lambda: (batch["pixel_values"] for batch in loader)


class TimmDataset(torch.utils.data.Dataset):
    """What timm's own datasets do with a file, for files in memory."""

    transform = None

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB")), 0


def run_timm(files: list[bytes], size: int, train: bool, workers: int) -> Callable[[], Iterator[torch.Tensor]]:
    """The create_loader of timm with its default prefetcher: uint8 until the batch is normalised."""
    loader = create_loader(
        TimmDataset(files),
        (3, size, size),
        BATCH_SIZE,
        is_training=train,
        scale=SCALE,
        ratio=RATIO,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        crop_pct=1.0,
        crop_mode="squash",
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    return lambda: (batch for batch, _ in loader)


def run_ours(
    files: list[bytes], size: int, train: bool, workers: int, decoder: str = "pillow"
) -> Callable[[], Iterator[torch.Tensor]]:
    """Our own way: a Dataset with batch transforms, the collator, and the device transform on the CPU."""
    arguments = DataArguments(
        random_crop_scale=list(SCALE), random_crop_ratio=list(RATIO), decoder=decoder, cache_dir=tempfile.mkdtemp()
    )
    name = "train" if train else "validation"
    dataset = SimpleNamespace(
        splits={name: build_dataset(files, decode=False)}, is_multi_label=False, labels=["a", "b"], record=None
    )
    plan = attach_transforms(dataset, build_processor(size), arguments, seed=0)
    loader = DataLoader(
        plan.splits[name],
        BATCH_SIZE,
        shuffle=train,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate_batch,
    )
    finish = plan.train_device_transform if train else plan.eval_device_transform
    return lambda: (finish(batch)["pixel_values"] for batch in loader)


def run_bare_decode(files: list[bytes]) -> Callable[[], Iterator[torch.Tensor]]:
    """Nothing but Pillow's decoding: what the pixels cost before anything is done with them."""

    def decode() -> Iterator[torch.Tensor]:
        for data in files:
            Image.open(io.BytesIO(data)).load()
        yield torch.empty(len(files), 3)

    return decode


def compare(
    contenders: dict[str, Callable[[], Iterator[torch.Tensor]]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Images per second of every contender in every round, the contenders taking turns."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for round in range(rounds + 1):
        for name, run in contenders.items():
            start = clock()
            count = sum(len(batch) for batch in run())
            if round > 0:  # the first round starts workers and warms caches
                rates[name].append(count / (clock() - start))
    return rates


def measure_differences(files: list[bytes], size: int) -> list[str]:
    """Grey levels between our uint8 batches and the reference: a full decode, the same crop, one resize."""
    lines = []
    processor = build_processor(size)
    sizes = np.array([EncodedImage(data).size[::-1] for data in files], dtype=np.int64)
    for decoder in ("pillow", "simplejpeg"):
        arguments = DataArguments(
            random_crop_scale=list(SCALE), random_crop_ratio=list(RATIO), decoder=decoder, cache_decoded_images="false"
        )
        split = build_dataset(files, decode=False)
        plan = attach_transforms(
            SimpleNamespace(
                splits={"train": split, "validation": split}, is_multi_label=False, labels=["a", "b"], record=None
            ),
            processor,
            arguments,
            seed=0,
        )
        boxes, flips = draw_crops_and_flips(
            0, 0, np.arange(len(files)), sizes, scale=SCALE, ratio=RATIO, flip_probability=0.5
        )
        train, evaluation = plan.train[:]["pixel_values"], plan.validation[:]["pixel_values"]
        differences = []
        for data, ours, box, flip in zip(files, train, boxes.tolist(), flips, strict=True):
            full = v2.functional.pil_to_tensor(Image.open(io.BytesIO(data)))
            expected = v2.functional.resized_crop(full, *box, [size, size], antialias=True)
            expected = expected.flip(-1) if flip else expected
            differences.append((ours.int() - expected.int()).abs().float())
        images = [Image.open(io.BytesIO(data)) for data in files]
        expected = processor(images=images, return_tensors="pt")["pixel_values"]
        result = plan.eval_device_transform({"pixel_values": evaluation})["pixel_values"]
        levels = torch.stack(differences)
        lines.append(
            f"  {decoder:10s} train: mean {levels.mean():.2f}, 99.9 % below "
            f"{np.quantile(levels.numpy(), 0.999):.0f}, max {levels.max():.0f} levels of 255;   "
            f"eval: max {(result - expected).abs().max():.1g}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", help="also write the table to this file")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, transformers {transformers.__version__}, timm {timm.__version__}, "
        f"Pillow {PIL.__version__}",
        f"images/s, median of {arguments.rounds} interleaved rounds; in brackets: times the script, times timm",
        "",
    ]
    cases = [
        ("500 x 375 JPEG to 224", 500, 375, 224, "JPEG", 192),
        ("1600 x 1200 JPEG to 224", 1600, 1200, 224, "JPEG", 64),
        ("32 x 32 PNG to 32", 32, 32, 32, "PNG", 2048),
        ("32 x 32 PNG to 224", 32, 32, 224, "PNG", 256),
    ]
    for title, width, height, size, format, count in cases:
        files = make_files(width, height, count, format)
        for workers in (0, 2):
            for train in (True, False):
                contenders = {
                    "script": run_script(files, size, train, workers),
                    "timm": run_timm(files, size, train, workers),
                    "hf_imgcls": run_ours(files, size, train, workers),
                }
                if format == "JPEG":
                    contenders["simplejpeg"] = run_ours(files, size, train, workers, "simplejpeg")
                if workers == 0:
                    contenders["(bare decode)"] = run_bare_decode(files)
                clock = time.process_time if workers == 0 else time.perf_counter
                rates = compare(contenders, arguments.rounds, clock)
                cells = []
                for name, values in rates.items():
                    cell = f"{name} {statistics.median(values):,.0f}"
                    if name in ("hf_imgcls", "simplejpeg"):
                        ratios = [
                            statistics.median(a / b for a, b in zip(values, rates[peer], strict=True))
                            for peer in ("script", "timm")
                        ]
                        cell += f" [{ratios[0]:.2f}, {ratios[1]:.2f}]"
                    cells.append(cell)
                where = "one core" if workers == 0 else "2 workers"
                lines.append(f"{title:24s} {where:9s} {'train' if train else 'eval':5s}  " + "   ".join(cells))
                print(lines[-1], flush=True)
        if format == "JPEG":
            differences = measure_differences(files[:32], size)
            print(*differences, sep="\n", flush=True)
            lines += differences
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
