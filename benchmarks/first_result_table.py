"""The table and the plot of ``first_result.py``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

Cells = Sequence[Mapping[str, Any]]
Groups = Mapping[tuple[str, str], Mapping[str, Cells]]
NAMES = {
    "script3": "transformers' script, 3 epochs",
    "timm3": "timm's values, 3 epochs",
    "timm10": "timm's values, 10 epochs",
    "timm20": "timm's values, 20 epochs",
    "fastai3": "fastai fine_tune(3)",
    "fastai10": "fastai fine_tune(10)",
    "default": "ours, no flag (auto)",
    "probe": "ours, probe",
    "full": "ours, full at 1e-3, 10 epochs",
}
OURS = ("default", "probe")
PEERS = ("script3", "timm3", "timm10", "timm20", "fastai3", "fastai10")
LEVEL = 0.05


def average(cells: Cells, name: str) -> float:
    return float(np.mean([cell[name] for cell in cells]))


def count_votes(ours: Cells, peer: Cells) -> tuple[int, int]:
    """Test images on which ours is right in more seeds, and those on which the peer is; of the seeds both have."""
    right = [{cell["seed"]: np.array(list(cell["right"]), dtype=int) for cell in cells} for cells in (ours, peer)]
    seeds = sorted(right[0].keys() & right[1].keys())
    difference = sum(right[0][seed] - right[1][seed] for seed in seeds)
    return int(np.sum(difference > 0)), int(np.sum(difference < 0))


def compare(ours: Cells, peer: Cells) -> str:
    """One verdict of the sign test on test images, with its counts."""
    more, fewer = count_votes(ours, peer)
    chance = binomtest(more, more + fewer).pvalue if more + fewer else 1.0
    verdict = "not distinguishable" if chance >= LEVEL else "first" if more > fewer else "behind"
    return f"{verdict} (better on {more}, worse on {fewer} images, p = {chance:.2g})"


def find_best(methods: Mapping[str, Cells], names: Sequence[str]) -> str | None:
    """The method of highest mean accuracy among ``names``, if one was run."""
    run = [name for name in names if methods.get(name)]
    return max(run, key=lambda name: average(methods[name], "accuracy"), default=None)


def build_group(methods: Mapping[str, Cells]) -> list[str]:
    """A line for each method, and what the comparisons say."""
    lines = []
    for method in NAMES:
        if not (cells := methods.get(method)):
            continue
        each = " ".join(f"{cell['accuracy']:.3f}" for cell in cells)
        numbers = [average(cells, name) for name in ("accuracy", "macro_f1", "log_loss", "cpu_s")]
        lines.append("  {:33s}{:7.3f}{:9.3f}{:9.2f}{:7.0f}   {}".format(NAMES[method], *numbers, each))
    best = find_best(methods, PEERS)
    for ours in OURS:
        if best and methods.get(ours):
            more = average(methods[ours], "cpu_s") / average(methods[best], "cpu_s")
            verdict = compare(methods[ours], methods[best])
            lines.append(f"  {NAMES[ours]} against {NAMES[best]}: {verdict}; {more:.2g} x its CPU seconds")
    if methods.get("default") and methods.get("probe"):
        lines.append(f"  {NAMES['default']} against the probe: {compare(methods['default'], methods['probe'])}")
    missing = [NAMES[method] for method in NAMES if not methods.get(method)]
    return lines + ([f"  not run: {'; '.join(missing)}"] if missing else [])


def build_table(groups: Groups) -> str:
    """All groups below one another."""
    import torch
    import transformers

    lines = [
        f"{os.cpu_count()} cores, one thread each, beside other work; torch {torch.__version__}, transformers "
        f"{transformers.__version__}",
        "Means over the seeds; the last column: accuracy of each seed. Sign tests, not corrected for their number.",
        f"{'':35s}{'accuracy':>7s}{'macro-F1':>9s}{'log loss':>9s}{'CPU s':>6s}",
    ]
    for (backbone, name), methods in groups.items():
        first = next(iter(methods.values()))[0]
        heading = f"{name}, {backbone}: {len(first['right']):,} test images, largest class {first['largest_class']:.3f}"
        lines += ["", heading, *build_group(methods)]
    return "\n".join(lines)


def draw(groups: Groups, path: Path) -> None:
    """Accuracy over CPU seconds, a panel for each set and backbone; dashed: the share of the largest class."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(backbone for backbone, _ in groups))
    columns = list(dict.fromkeys(name for _, name in groups))
    figure, grid = pyplot.subplots(
        len(rows),
        len(columns),
        figsize=(2.2 + 2.5 * len(columns), 2.5 * len(rows) + 1),
        squeeze=False,
        layout="constrained",
    )
    marks = dict(zip(NAMES, "vsD^PX*op", strict=True))
    shown = {}
    for row, backbone in enumerate(rows):
        for column, name in enumerate(columns):
            axes = grid[row, column]
            if (backbone, name) not in groups:
                axes.axis("off")
                continue
            for method, cells in groups[backbone, name].items():
                colour = "C0" if method in OURS else "0.4" if method in PEERS else "C1"
                shown[method] = axes.scatter(
                    [average(cells, "cpu_s")], [average(cells, "accuracy")], marker=marks[method], color=colour, s=60
                )
            share = next(iter(groups[backbone, name].values()))[0]["largest_class"]
            axes.axhline(share, color="0.7", linestyle="--")
            axes.set(title=f"{name}, {backbone}", xscale="log", xlim=(8, 400))
            axes.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    figure.supxlabel("CPU seconds of one run")
    figure.supylabel("test accuracy")
    known = [method for method in NAMES if method in shown]
    figure.legend([shown[m] for m in known], [NAMES[m] for m in known], loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
