#!/usr/bin/env python
"""What each --imbalance does for rare classes: Fashion-MNIST made long-tailed, macro-F1 over several seeds.

    python benchmarks/imbalance.py --dataset path/to/fashion_mnist             # the table below
    python benchmarks/imbalance.py --dataset path/to/fashion_mnist --seeds 5 --largest 2000 --epochs 20

The classes keep 1 to 1/100 of --largest images, falling exponentially, as in Cui et al. (2019); which class is rare is
another one for each seed. The test images stay balanced: macro-F1 asks about rare and frequent classes alike. Each
method runs on the same images with the same seeds, so its difference from "none" is paired.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from datasets import DatasetDict, load_dataset
from recipe_runs import finetune

METHODS = ("none", "weights", "effective_number", "balanced_sampler", "focal", "logit_adjust")
MODEL = (
    "{patch_size: 2, num_stages: 2, depths: [1, 1], hidden_sizes: [32, 64], layer_scale_init_value: 1.0, "
    "initializer_range: 0.1}"
)


def make_long_tailed(source: DatasetDict, largest: int, ratio: float, num_test: int, seed: int, folder: Path) -> None:
    """Write a long-tailed training split and a balanced test split as parquet in Hub layout."""
    random = np.random.default_rng(seed)
    labels = np.array(source["train"]["label"])
    classes = random.permutation(np.unique(labels))
    counts = largest * ratio ** (-np.arange(len(classes)) / (len(classes) - 1))
    rows = [
        random.permutation(np.flatnonzero(labels == label))[: round(count)]
        for label, count in zip(classes, counts, strict=True)
    ]
    source["train"].select(random.permutation(np.concatenate(rows))).to_parquet(folder / "train-00000-of-00001.parquet")
    test = source["test"].select(random.permutation(len(source["test"]))[:num_test])
    test.to_parquet(folder / "test-00000-of-00001.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Fashion-MNIST: Hub id, or a folder in Hub layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1000, help="images of the most frequent class")
    parser.add_argument("--ratio", type=float, default=100.0, help="between the most frequent and the rarest class")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--test", type=int, default=4000, help="test images")
    args = parser.parse_args()
    source = load_dataset(args.dataset)
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as work:
        for seed in range(args.seeds):
            data = Path(work, f"data_{seed}")
            data.mkdir()
            make_long_tailed(source, args.largest, args.ratio, args.test, seed, data)
            for method in METHODS:
                folder = Path(work, f"{method}_{seed}")
                flags = (
                    "--dataset_name", data, "--model_type", "convnext", "--model_config", MODEL, "--image_size", 28,
                    "--train_val_split", 0, "--do_eval", "false", "--random_crop_scale", 0.85, 1,
                    "--num_train_epochs", args.epochs, "--learning_rate", 2e-3, "--warmup_ratio", 0.05,
                    "--lr_scheduler_type", "cosine", "--save_strategy", "no", "--report", "false", "--seed", seed,
                    "--disable_tqdm", "true", "--use_cpu", "--imbalance", method, "--per_device_eval_batch_size", 256,
                    "--max_parity_samples", 10,
                )  # fmt: skip
                results = finetune(flags, folder)
                found[method].append((results["test_macro_f1"], results["test_accuracy"]))
                print(f"seed {seed}  {method:<16}  macro-F1 {results['test_macro_f1']:.4f}", flush=True)
    print(
        f"\nFashion-MNIST, {args.largest} to {args.largest / args.ratio:.0f} training images a class, "
        f"{args.test} test images, {args.seeds} seeds, {args.epochs} epochs"
    )
    print(f"{'':<17} macro-F1 (each seed)          mean   minus none, paired   accuracy")
    base = np.array(found["none"])[:, 0]
    for method, rows in found.items():
        values = np.array(rows)
        gain = values[:, 0] - base
        spread = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        each = " ".join(f"{value:.4f}" for value in values[:, 0])
        difference = "" if method == "none" else f"{gain.mean():+.4f} +- {spread:.4f}"
        print(f"{method:<17} {each:<29} {values[:, 0].mean():.4f}   {difference:<20} {values[:, 1].mean():.4f}")
    print("+- is the standard error of the mean over the seeds")


if __name__ == "__main__":
    main()
