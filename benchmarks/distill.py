#!/usr/bin/env python
"""A small student with and without a teacher on Fashion-MNIST, the same images and seeds, and the paired verdict.

    python benchmarks/distill.py --dataset path/to/fashion_mnist --teacher outputs/fashion_mnist_convnext

The teacher is a run of the config fashion_mnist_convnext. Each pair is compared by recipes/measure.py
--compare: McNemar's test on the same test images, and the difference of accuracy with its interval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from recipe_runs import finetune

from hf_imgcls.arguments.configs import CONFIGS
from hf_imgcls.measure.compare import compare_tables
from hf_imgcls.measure.tables import Table

CONFIG = CONFIGS / "fashion_mnist_convnext.yaml"
STUDENT = (
    "{patch_size: 2, num_stages: 2, depths: [1, 1], hidden_sizes: [24, 48], layer_scale_init_value: 1.0, "
    "initializer_range: 0.1, drop_path_rate: 0.0}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="zalando-datasets/fashion_mnist", help="Hub id, or a folder in Hub layout")
    parser.add_argument("--teacher", required=True, help="folder or Hub id of a classifier of the same classes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--weight", type=float, default=0.9, help="share of the teacher in the loss")
    args = parser.parse_args()
    base = (
        "--config", CONFIG, "--dataset_name", args.dataset, "--model_config", STUDENT, "--max_train_samples",
        args.train, "--max_eval_samples", 500, "--num_train_epochs", args.epochs, "--report", "false",
        "--disable_tqdm", "true", "--label_smoothing_factor", 0, "--max_parity_samples", 50,
    )  # fmt: skip
    temperature, weight = args.temperature, args.weight
    taught = (
        "--teacher_model",
        args.teacher,
        "--distillation_temperature",
        temperature,
        "--distillation_weight",
        weight,
    )
    differences = []
    print(f"{args.train} images, {args.epochs:g} epochs, temperature {temperature:g}, weight {weight:g}")
    with tempfile.TemporaryDirectory() as work:
        for seed in range(args.seeds):
            folders = [Path(work, f"{name}_{seed}") for name in ("alone", "taught")]
            for folder, flags in zip(folders, ((), taught), strict=True):
                finetune((*base, "--seed", seed, *flags), folder)
            alone, better = (Table.load(folder / "predictions_test.parquet") for folder in folders)
            found = compare_tables(alone, better, metrics=["accuracy"]).metrics["accuracy"]
            differences.append(found.b - found.a)
            print(
                f"seed {seed}: alone {found.a:.4f}, taught {found.b:.4f}, difference {found.difference.value:+.4f} "
                f"({found.difference.low:+.4f} to {found.difference.high:+.4f}), p = {found.p:.2g}: {found.verdict}",
                flush=True,
            )
    error = np.std(differences, ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    print(f"mean difference {np.mean(differences):+.4f} +- {error:.4f} (standard error over the seeds)")


if __name__ == "__main__":
    main()
