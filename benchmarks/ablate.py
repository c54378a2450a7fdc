#!/usr/bin/env python
"""One recipe, and what each technique changes about it: accuracy and minutes, in one table.

    python benchmarks/ablate.py --dataset path/to/fashion_mnist                        # a subset, on a CPU
    python benchmarks/ablate.py --dataset path/to/fashion_mnist --only mixup ema heavy
    python benchmarks/ablate.py --train 60000 --epochs 17 --seeds 3                    # all of it, on a GPU

Every row is the config fashion_mnist_convnext with one thing changed, trained on the same images with the
same seed, and measured on the same test images. A short training on a subset says what helps a short training: strong
augmentation and averages of weights pay in long ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from recipe_runs import FINETUNE, finetune
from scipy.stats import binomtest

CONFIG = FINETUNE.parent / "configs" / "fashion_mnist_convnext.yaml"
# Name -> the flags that change the recipe.
TECHNIQUES: dict[str, tuple[object, ...]] = {
    "as it is": (),
    "none": ("--augmentation", "none", "--random_crop_scale", 1, 1, "--random_crop_ratio", 1, 1),
    "light": ("--augmentation", "light", "--random_crop_scale", 0.35, 1, "--random_crop_ratio", 0.75, 1.3333),
    "medium": ("--augmentation", "medium"),
    "heavy": ("--augmentation", "heavy"),
    "randaugment": ("--auto_augment", "randaugment"),
    "trivialaugment": ("--auto_augment", "trivialaugment"),
    "augmix": ("--auto_augment", "augmix"),
    "erasing": ("--random_erasing_probability", 0.25),
    "mixup": ("--mixup_alpha", 0.2),
    "cutmix": ("--cutmix_alpha", 1.0),
    "repeats": ("--augmentation_repeats", 3),
    "no smoothing": ("--label_smoothing_factor", 0),
    "bce": ("--loss", "bce"),
    "focal": ("--loss", "focal"),
    "ema": ("--ema_decay", 0.998),
    "progressive": ("--progressive_resizing", 0.5),
    "sgd": ("--optim", "sgd", "--optim_args", "momentum=0.9,nesterov=True", "--learning_rate", 0.05),
    "linear schedule": ("--lr_scheduler_type", "linear"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="zalando-datasets/fashion_mnist", help="Hub id, or a folder in Hub layout")
    parser.add_argument("--train", type=int, default=6000, help="training images")
    parser.add_argument("--test", type=int, default=4000, help="test images")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(TECHNIQUES), metavar="TECHNIQUE", help="some of them")
    args = parser.parse_args()
    names = ["as it is", *(name for name in args.only or TECHNIQUES if name != "as it is")]
    base = (
        "--config", CONFIG, "--dataset_name", args.dataset, "--max_train_samples", args.train, "--max_test_samples",
        args.test, "--max_eval_samples", 500, "--num_train_epochs", args.epochs, "--report", "false", "--disable_tqdm",
        "true", "--eval_strategy", "no", "--save_strategy", "no", "--max_parity_samples", 50,
    )  # fmt: skip
    print(f"{'':<17} {'accuracy':>8}   95 % interval    minutes", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            right, minutes = 0, []
            for seed in range(args.seeds):
                start = time.perf_counter()
                flags = (*base, "--seed", seed, *TECHNIQUES[name])
                results = finetune(flags, Path(work, f"{name}_{seed}".replace(" ", "_")))
                minutes.append((time.perf_counter() - start) / 60)
                right += round(results["test_accuracy"] * results["test_num_examples"])
                count = results["test_num_examples"]
            interval = binomtest(right, count * args.seeds).proportion_ci(method="wilson")
            accuracy = right / (count * args.seeds)
            print(
                f"{name:<17} {accuracy:8.4f}   {interval.low:.4f} - {interval.high:.4f}  {np.mean(minutes):7.2f}",
                flush=True,
            )
    print(f"\n{args.train} training and {args.test} test images, {args.epochs:g} epochs, {args.seeds} seeds")


if __name__ == "__main__":
    main()
