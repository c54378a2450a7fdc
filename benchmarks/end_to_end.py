"""A whole training run: recipes/finetune.py against the way of transformers' run_image_classification.py.

    python benchmarks/end_to_end.py --dataset_name path/or/id/of/fashion_mnist [--output benchmarks/end_to_end.txt]

The same small ViT from scratch, the same 12,000 training and 2,000 test images, the same seed, batch size and number of
epochs; everything else is each side's default. The script's way: torchvision's RandomResizedCrop, flip, ToTensor,
Normalize per image, resize and centre crop for evaluation, the model's own loss, TrainingArguments' learning rate. A
third row gives the script's way the learning rate that ours takes by itself. Training on a CPU is bound by the model:
images/s are expected to be equal. Accuracy is on test images that neither side trains on or selects by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.data.load import load_image_dataset

SIZE, BATCH_SIZE, SEED = 28, 32, 42
MODEL = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192, "patch_size": 4,
}  # fmt: skip
NUM_TRAIN, NUM_TEST = 12_000, 2_000


def run_ours(dataset_name: str, epochs: int, folder: Path) -> tuple[float, float]:
    """Accuracy and training images/s of the recipe, in its own process."""
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "finetune.py"
    command = [
        sys.executable, str(recipe), "--dataset_name", dataset_name, "--model_type", "vit",
        "--model_config", json.dumps(MODEL), "--image_size", str(SIZE), "--num_train_epochs", str(epochs),
        "--max_train_samples", str(NUM_TRAIN), "--max_test_samples", str(NUM_TEST), "--use_cpu", "--seed", str(SEED),
        "--per_device_train_batch_size", str(BATCH_SIZE), "--output_dir", str(folder), "--disable_tqdm", "true",
        "--do_train", "--eval_strategy", "no",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = json.loads((folder / "all_results.json").read_text())
    return results["test_accuracy"], results["train_samples_per_second"]


def run_the_scripts_way(
    dataset_name: str, epochs: int, folder: Path, learning_rate: float | None = None
) -> tuple[float, float]:
    """The same with transformers' own parts, put together as the example script does."""
    set_seed(SEED)
    data = load_image_dataset(
        DataArguments(dataset_name=dataset_name, max_train_samples=NUM_TRAIN, max_test_samples=NUM_TEST)
    )
    normalize = Normalize([0.5] * 3, [0.5] * 3)
    transforms = {
        "train": Compose([RandomResizedCrop(SIZE), RandomHorizontalFlip(), ToTensor(), normalize]),
        "test": Compose([Resize(SIZE), CenterCrop(SIZE), ToTensor(), normalize]),
    }

    def attach(split: str) -> object:
        def apply(rows: dict) -> dict:
            images = [transforms[split](decode_image(image)) for image in rows["image"]]
            return {"pixel_values": images, "labels": rows["label"]}

        return data.splits[split].with_transform(apply)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    chosen = {} if learning_rate is None else {"learning_rate": learning_rate}
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=BATCH_SIZE, use_cpu=True,
        seed=SEED, save_strategy="no", report_to="none", remove_unused_columns=False, disable_tqdm=True, **chosen,
    )  # fmt: skip
    model = ViTForImageClassification(ViTConfig(**MODEL, image_size=SIZE, num_labels=len(data.labels)))
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=attach("train"),
        data_collator=collate,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
    )
    speed = trainer.train().metrics["train_samples_per_second"]
    return trainer.evaluate(attach("test"))["eval_accuracy"], speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_name", default="zalando-datasets/fashion_mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = {
            "recipes/finetune.py": run_ours(arguments.dataset_name, arguments.epochs, root / "ours"),
            "the script's way": run_the_scripts_way(arguments.dataset_name, arguments.epochs, root / "script"),
            "the script's way, 1e-3": run_the_scripts_way(
                arguments.dataset_name, arguments.epochs, root / "tuned", 1e-3
            ),
        }
    ours, script, _ = rows.values()
    lines = [
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {NUM_TRAIN} images, {arguments.epochs} epochs, batch {BATCH_SIZE}",
        f"{'':24s} {'test accuracy':>13s} {'images/s':>9s}",
        *(f"{name:24s} {accuracy:13.4f} {speed:9.0f}" for name, (accuracy, speed) in rows.items()),
        f"ours / script: {ours[1] / script[1]:.2f} x images/s",
    ]
    print("\n".join(lines))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
