"""How often the intervals of a report hold the truth, by simulation; and how often goals are decided wrongly by chance.

    python benchmarks/coverage.py [--output benchmarks/coverage.txt] [--only TEXT ...]

Each setting is a population of 20,000 predictions whose metrics are known. Tables of n images are drawn from it, with
replacement, and become estimates by the code of the report. Every table has a seed of its own, so that numbers do not
depend on which settings run. What is finished is kept in ``--state``: after an interruption the same command goes on.

Coverage: share of the tables with an interval whose interval holds the population's value. A goal at exactly that value
is met by mistake where the whole interval lies on the better side.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_imgcls.measure.report.estimates import estimate_metrics, rank_classes
from hf_imgcls.measure.report.goals import Goal, judge
from hf_imgcls.measure.tables import MultiLabelTable, PredictionTable, Table
from hf_imgcls.measure.task import MULTI, SINGLE
from hf_imgcls.records import Estimate, ReportRecord

POPULATION, BATCH_SIZE, LEVEL, DRAWS = 20_000, 1_000, 0.95, 300
SINGLE_METRICS = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "weighted_f1", "roc_auc", "average_precision",
    "log_loss", "brier", "ece", "adaptive_ece",
)  # fmt: skip
SEVERAL = (
    "subset_accuracy", "macro_recall", "macro_precision", "macro_f1", "micro_f1", "roc_auc", "mean_average_precision",
    "log_loss", "brier", "ece", "adaptive_ece",
)  # fmt: skip
LOWER_IS_BETTER = ("log_loss", "brier", "ece", "adaptive_ece")
IMBALANCED = np.array([30, 20, 15, 10, 8, 6, 4.5, 3, 2, 1.5]) / 100


class Setting(NamedTuple):
    """One row of the table.

    Attributes:
        name: What it is.
        n: Images in each table.
        build: Makes the population.
        metrics: Whose intervals are looked at.
        counts: Images of each class, where that is fixed.
    """

    name: str
    n: int
    build: Callable[[], Table]
    metrics: tuple[str, ...] = SINGLE_METRICS
    counts: tuple[int, ...] = ()


# ------------------------------------------------------------------------------------------------ populations


def build_single(
    shares: Any, margin: float, *, scale: float = 1.0, wrong_labels: float = 0.0, adapts: bool = True
) -> PredictionTable:
    """Gaussian logits with a margin for the true class.

    Args:
        shares: Of the classes.
        margin: By how much the true class's logit is larger on average; their standard deviation is 1.
        scale: Multiplies all logits: above 1 the model is surer of itself.
        wrong_labels: Share of images with a label that is wrong, however sure the model is.
        adapts: Whether logits know the shares, as those of a trained model do.
    """
    generator, num_labels = np.random.default_rng(0), len(shares)
    labels = generator.choice(num_labels, POPULATION, p=np.asarray(shares) / np.sum(shares))
    logits = generator.normal(size=(POPULATION, num_labels))
    logits[np.arange(POPULATION), labels] += margin
    logits = scale * (logits + np.log(shares) * adapts)
    moved = generator.random(POPULATION) < wrong_labels
    labels = np.where(moved, (labels + generator.integers(1, num_labels, POPULATION)) % num_labels, labels)
    return make_table(logits, labels)


def build_calibrated(spread: float, temperature: float = 1.0) -> PredictionTable:
    """Labels drawn from the model's own scores, which are then divided by a temperature as logits."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=spread, size=(POPULATION, 5))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (scores.cumsum(axis=1) < generator.random((POPULATION, 1))).sum(axis=1).clip(max=4)
    return make_table(logits / temperature, labels)


def build_several(frequencies: Any, margin: float) -> MultiLabelTable:
    """Several labels for each image; they come together, and so do mistakes."""
    from scipy.stats import norm

    generator, num_labels = np.random.default_rng(0), len(frequencies)
    shape = (POPULATION, num_labels)
    scene = 0.7 * generator.normal(size=(POPULATION, 1)) + 0.7 * generator.normal(size=shape)
    targets = scene > norm.isf(frequencies) * np.sqrt(0.98)
    blur = 0.6 * generator.normal(size=(POPULATION, 1))
    logits = generator.normal(size=shape) + blur + np.where(targets, margin, -margin)
    recorder = MULTI.new_recorder(num_labels, None)
    for start in range(0, POPULATION, BATCH_SIZE):
        rows = np.arange(start, start + BATCH_SIZE)
        recorder.update(logits[rows], targets[rows].astype(np.float32), rows)
    names = [f"class {index}" for index in range(num_labels)]
    table: MultiLabelTable = MULTI.collect_table(recorder, split="test", labels=names)
    return table


def make_table(logits: np.ndarray, labels: np.ndarray) -> PredictionTable:
    """The prediction table of these answers, as scoring makes it."""
    recorder = SINGLE.new_recorder(logits.shape[1], None)
    for start in range(0, len(labels), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(labels)))
        recorder.update(logits[rows], labels[rows], rows)
    names = [f"class {index}" for index in range(logits.shape[1])]
    table: PredictionTable = SINGLE.collect_table(recorder, split="test", labels=names)
    return table


EQUAL = {k: np.full(k, 1 / k) for k in (5, 10)}
RARE = {n: np.array([200, 68, n]) / (268 + n) for n in (2, 5, 10)}
FREQUENCIES = np.geomspace(0.5, 0.02, 8)
SETTINGS = [
    *(
        Setting(f"binary 95/5, margin {margin}", 100, lambda margin=margin: build_single([0.95, 0.05], margin))
        for margin in (1.2, 2.5, 4.5)
    ),
    *(
        Setting(f"10 imbalanced, margin {margin}", n, lambda margin=margin: build_single(IMBALANCED, margin))
        for n in (100, 270)
        for margin in (1.5, 3.0, 5.0)
    ),
    *(
        Setting(f"accuracy .99, {kind}", n, lambda options=options: build_single(EQUAL[5], **options))
        for kind, options in (
            ("unsure", {"margin": 4.2}),
            ("sure", {"margin": 4.2, "scale": 3.0}),
            ("1 % wrong labels", {"margin": 9.0, "wrong_labels": 0.01}),
        )
        for n in (30, 100, 270)
    ),
    *(
        Setting(f"10 equal classes, margin {margin}", n, lambda margin=margin: build_single(EQUAL[10], margin))
        for n, margin in ((100, 3.0), (300, 3.0), (300, 1.0))
    ),
    *(
        Setting(f"calibrated, T = {temperature}", n, lambda t=temperature: build_calibrated(3.0, t))
        for temperature in (1.0, 0.5)
        for n in (30, 100, 270)
    ),
    *(
        Setting(
            f"rare class of {rare}, margin {margin}", 268 + rare,
            lambda rare=rare, margin=margin: build_single(RARE[rare], margin, adapts=False),
            counts=(200, 68, rare),
        )
        for rare in (2, 5, 10)
        for margin in (1.5, 4.0)
    ),
    *(
        Setting(f"several labels, margin {margin}", n, lambda m=margin: build_several(FREQUENCIES, m), SEVERAL)
        for margin in (1.0, 2.0, 3.5)
        for n in (100, 270)
    ),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ simulation


def take_rows(table: Table, rows: np.ndarray) -> Table:
    """A table of these rows, in this order and with repetitions."""
    columns = {
        field.name: getattr(table, field.name)[rows]
        for field in dataclasses.fields(table)
        if isinstance(getattr(table, field.name), np.ndarray) and len(getattr(table, field.name)) == len(table)
    }
    return dataclasses.replace(table, **columns | {"sample_index": np.arange(len(rows)), "files": [None] * len(rows)})


def estimate(table: Table, seed: int, draws: int = DRAWS) -> dict[str, Estimate]:
    """Every metric of a table, by the code of the report."""
    return estimate_metrics(table, rank_classes(table, LEVEL), seed, LEVEL, draws)


def draw_rows(setting: Setting, population: Table, seed: int) -> np.ndarray:
    """Rows of one table, from all images or as many as the setting says from each class."""
    generator = np.random.default_rng([seed, setting.n])
    if not setting.counts or not isinstance(population, PredictionTable):
        return generator.integers(0, len(population), setting.n)
    members = [np.flatnonzero(population.label == index) for index in range(len(setting.counts))]
    return np.concatenate([generator.choice(own, count) for own, count in zip(members, setting.counts, strict=True)])


def simulate(setting: Setting, num_tables: int, *, draws: int = DRAWS) -> dict[str, dict[str, float]]:
    """Draw tables from a setting's population and look at their intervals.

    Returns:
        Metric -> ``covers``, ``width`` (mean) and ``met`` (by mistake), of the tables with an interval, and their share
        ``has``.
    """
    population = setting.build()
    truth = estimate(population, seed=0, draws=2)
    seen: dict[str, list[tuple[bool, float, bool]]] = {name: [] for name in setting.metrics}
    for seed in range(num_tables):
        found = estimate(take_rows(population, draw_rows(setting, population, seed)), seed, draws)
        for name in setting.metrics:
            low, high, value = found[name].low, found[name].high, truth[name].value
            if low is not None and high is not None and value is not None:
                is_met = high < value if name in LOWER_IS_BETTER else low > value
                seen[name].append((low <= value <= high, high - low, is_met))
    return {
        name: {
            "has": len(rows) / num_tables,
            **{
                key: float(np.mean([row[index] for row in rows])) if rows else float("nan")
                for index, key in enumerate(("covers", "width", "met"))
            },
        }
        for name, rows in seen.items()
    }


def simulate_worst_class(num_classes: int, n: int, recall: float, num_tables: int) -> dict[str, float]:
    """Share of draws in which the goal that every class reaches its recall is judged not met, or met."""
    generator = np.random.default_rng([num_classes, n])
    goal, counts = Goal("worst_class_recall", ">=", recall), {"not met": 0, "met": 0}
    for right in generator.binomial(n, recall, (num_tables, num_classes)).tolist():
        per_class = {f"class {k}": {"recall": Estimate(x / n, None, None, n, "none")} for k, x in enumerate(right)}
        report = ReportRecord(
            split="test", model="", data="", labels=[], num_examples=n * num_classes, confidence_level=LEVEL,
            metrics={}, per_class=per_class, calibration={}, risk_coverage={},
        )  # fmt: skip
        status = judge(goal, report)["status"]
        if status in counts:
            counts[status] += 1
    return {status: count / num_tables for status, count in counts.items()}


# ------------------------------------------------------------------------------------------------ table


def show_setting(setting: Setting, found: dict[str, dict[str, float]]) -> list[str]:
    """Rows of the table: coverage, mean width, goals that are met by mistake, and tables without an interval."""

    def show(key: str, title: str, form: str) -> str:
        cells = [format(found[name][key], form) if found[name]["has"] else "-" for name in setting.metrics]
        return f"{title:34s}" + "".join(f"{cell:>9s}" for cell in cells)

    rows = [show("covers", f"{setting.name}, n = {setting.n}", ".3f"), show("width", "  width", ".3f")]
    if setting.counts or "imbalanced" in setting.name or "95/5" in setting.name or "several" in setting.name:
        rows.append(show("met", "  goal met by mistake", ".3f"))
    if any(item["has"] < 1 for item in found.values()):
        cells = "".join(f"{1 - found[name]['has']:9.3f}" for name in setting.metrics)
        rows.append(f"{'  no interval':34s}{cells}")
    return rows


def name_columns(metrics: tuple[str, ...]) -> str:
    """The head of the table, in short words."""
    short = {
        "average_precision": "AP", "accuracy": "acc", "precision": "prec", "recall": "rec", "balanced": "bal",
        "adaptive": "ad", "weighted": "wtd", "subset": "sub", "mean_AP": "mAP",
    }  # fmt: skip
    names = list(metrics)
    for long, word in short.items():
        names = [name.replace(long, word) for name in names]
    return f"\n{'':34s}" + "".join(f" {name[:8]:>8s}" for name in names)


def show_worst_class(num_draws: int) -> list[str]:
    """How often a goal on the worst class is decided by chance: never met, and not met in at most 2.5 %."""
    lines = ["", f"worst_class_recall>=R, where every class has the recall R; {num_draws} draws: not met, met"]
    for num_classes, n in ((10, 1), (20, 3), (100, 5), (20, 10)):
        cells = []
        for recall in (0.5, 0.8, 0.9, 0.95, 0.99):
            found = simulate_worst_class(num_classes, n, recall, num_draws)
            cells.append(f"R = {recall}: {found['not met']:.4f} {found['met']:.4f}")
        lines.append(f"{num_classes:3d} classes of {n:2d} images   " + "   ".join(cells))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--state", type=Path, default=Path("coverage_state.json"), help="what is finished")
    parser.add_argument("--num_tables", type=int, default=400)
    parser.add_argument("--only", nargs="+", help="settings whose name has one of these texts")
    arguments = parser.parse_args()
    state = json.loads(arguments.state.read_text()) if arguments.state.is_file() else {}
    lines = [f"{arguments.num_tables} tables each, {LEVEL:.0%} intervals; coverage, and below it the mean width"]
    metrics: tuple[str, ...] = ()
    for setting in SETTINGS:
        if arguments.only and not any(text in setting.name for text in arguments.only):
            continue
        if setting.metrics != metrics:
            metrics = setting.metrics
            lines.append(name_columns(metrics))
        key = f"{setting.name} {setting.n} {arguments.num_tables}"
        if key not in state:
            state[key] = simulate(setting, arguments.num_tables)
            arguments.state.write_text(json.dumps(state))
        rows = show_setting(setting, state[key])
        lines += rows
        print(*rows, sep="\n", flush=True)
    if not arguments.only:
        lines += show_worst_class(5 * arguments.num_tables)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
