"""Small networks from scratch, without a setting, beside a plain convolutional network in the same CPU seconds.

    python benchmarks/from_scratch.py --fashion_mnist path/or/id [--work folder] [--output benchmarks/from_scratch.txt]

Ours is ``recipes/finetune.py --model_type X --image_size 28`` and nothing else that is about training, a process each.
Its seconds are those of the whole process: imports, reading, validation after every epoch, test, report, the check
against ``pipeline()``. The peer is what tutorials begin with: two convolutions with pooling, a hidden layer with
dropout, Adam at 1e-3, batches of 32, no augmentation, images in memory. Its seconds are those of its training alone.
It goes on for as long as the slowest of ours; beside each of ours stands what it reached after as many seconds, and
its best epoch on the test images, which nobody can choose without looking at them. Both see the same images in the
same size, and use one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.data.load import load_image_dataset

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "finetune.py"
SIZE, BATCH_SIZE, SEED = 28, 32, 42
NUM_EVAL, NUM_TEST = 500, 2_000
MODEL_TYPES = ("convnext", "resnet", "vit")


@dataclass(frozen=True)
class Images:
    """A set: ``dataset_name``, and how many training images of it (``None``: all)."""

    title: str
    dataset_name: str
    num_train: int | None

    def flags(self) -> list[str]:
        """The words that name it to the recipe."""
        limits = (("train", self.num_train), ("eval", NUM_EVAL), ("test", NUM_TEST))
        words = [word for name, limit in limits if limit for word in (f"--max_{name}_samples", str(limit))]
        return ["--dataset_name", self.dataset_name, *words]

    def load(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Images, float32 ``(N, 3, 28, 28)`` in [-1, 1], and class ids, int64 ``(N,)``, of train and test."""
        data = load_image_dataset(
            DataArguments(
                dataset_name=self.dataset_name, max_train_samples=self.num_train, max_eval_samples=NUM_EVAL,
                max_test_samples=NUM_TEST,
            )
        )  # fmt: skip
        loaded = {}
        for split in ("train", "test"):
            rows = data.splits[split][:]
            images = [decode_image(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in rows["image"]]
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
            loaded[split] = (pixels.float() / 127.5 - 1, torch.tensor(rows["label"]))
        return loaded


def run_recipe(images: Images, model_type: str, folder: Path, *flags: str) -> tuple[dict[str, float], float]:
    """Return ``all_results.json`` of the recipe, and the CPU seconds of its process; a finished run is read again."""
    seconds_file = folder.with_name(f"{folder.name}.seconds")
    if not seconds_file.exists():
        command = [
            sys.executable, str(RECIPE), *images.flags(), "--model_type", model_type, "--image_size", str(SIZE),
            "--use_cpu", "--seed", str(SEED), "--disable_tqdm", "true", "--output_dir", str(folder), *flags,
        ]  # fmt: skip
        with open(folder.with_name(f"{folder.name}.log"), "w", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"exit code {os.waitstatus_to_exitcode(status)}: see {log.name}")
        seconds_file.write_text(str(usage.ru_utime + usage.ru_stime))
    return json.loads((folder / "all_results.json").read_text()), float(seconds_file.read_text())


class PlainNetwork(nn.Sequential):
    """Two convolutions with pooling and a hidden layer: 0.4 M parameters at 28 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * (SIZE // 4) ** 2, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, num_classes),
        )  # fmt: skip


def train_plain(images: Images, seconds: float) -> list[tuple[float, float]]:
    """CPU seconds of training, and accuracy on the test images, after each epoch, until the seconds are spent."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data = images.load()
    (train, labels), (test, answers) = data["train"], data["test"]
    model = PlainNetwork(int(labels.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    spent, curve = 0.0, []
    while spent < seconds:
        start = time.process_time()
        model.train()
        for batch in torch.randperm(len(train)).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[batch]), labels[batch]).backward()
            optimizer.step()
        spent += time.process_time() - start
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(part).argmax(1) for part in test.split(250)])
        curve.append((spent, float((found == answers).float().mean())))
    return curve


def compare(images: Images, work: Path, model_types: Sequence[str] = MODEL_TYPES, *flags: str) -> list[str]:
    """A row for each model type: both accuracies after the same seconds."""
    ours = {}
    for model_type in model_types:
        folder = work / f"{images.title.replace(' ', '_')}_{model_type}"
        results, seconds = run_recipe(images, model_type, folder, *flags)
        ours[model_type] = (results["test_accuracy"], results["epoch"], seconds)
    curve = train_plain(images, max(seconds for _, _, seconds in ours.values()))
    best = max(accuracy for _, accuracy in curve)
    lines = []
    for model_type, (accuracy, epochs, seconds) in ours.items():
        passed = [reached for spent, reached in curve if spent <= seconds] or [curve[0][1]]
        lines.append(
            f"{images.title:22s} {model_type:10s} {accuracy:8.4f} {epochs:6.0f} {seconds:8.0f}"
            f" {passed[-1]:9.4f} {len(passed):6d} {best:8.4f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fashion_mnist", default="zalando-datasets/fashion_mnist", help="Hub id or folder")
    parser.add_argument("--sets", type=int, nargs="+", default=[0, 1, 2], help="0 digits, 1 and 2 Fashion-MNIST")
    parser.add_argument("--model_types", nargs="+", default=list(MODEL_TYPES))
    parser.add_argument("--work", help="folder for the runs; finished ones are not run again")
    parser.add_argument("--output", help="also write the table to this file")
    arguments = parser.parse_args()
    sets = (
        Images("digits", "digits", None),
        Images("Fashion-MNIST, 2,000", arguments.fashion_mnist, 2_000),
        Images("Fashion-MNIST, 10,000", arguments.fashion_mnist, 10_000),
    )
    lines = [
        f"torch {torch.__version__}, transformers {transformers.__version__}; {SIZE} px, 1 thread, seed {SEED}; test "
        f"accuracy of {NUM_TEST:,} images (digits: 270); seconds are CPU seconds",
        f"{'':33s} {'ours':>8s} {'epochs':>6s} {'seconds':>8s} {'plain CNN':>9s} {'epochs':>6s} {'its best':>8s}",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(arguments.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        for images in (sets[index] for index in arguments.sets):
            lines += compare(images, work, arguments.model_types)
            print("\n".join(lines), flush=True)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
