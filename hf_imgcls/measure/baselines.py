"""What a model is held against on the same images: its largest class as the only answer, and a linear probe.

Accuracy alone does not say whether anything was learned: 0.40 is below what answering with the largest class gets where
that class has 63 % of the images, and 0.78 of a model that was trained for an hour may be what its frozen backbone and
one linear layer give in seconds. Everything here is computed from prediction tables: the model's, and the one of the
probe that `hf_imgcls.measure.probe_baseline` leaves beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_imgcls.arguments.recall import find_run
from hf_imgcls.catalogue import get_primary
from hf_imgcls.errors import DataError
from hf_imgcls.layout import DATA_FILE, RUN_FILE
from hf_imgcls.measure.compare import BETTER, WORSE, compare_tables
from hf_imgcls.measure.learning import is_probe
from hf_imgcls.measure.paired_answers import SingleLabelAnswers
from hf_imgcls.measure.remedies import suggest_remedies
from hf_imgcls.measure.report.drawing import shorten_name
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import Task, task_of
from hf_imgcls.records import LARGEST_CLASS, PROBE, Baseline, Baselines, DataRecord, MetricComparison, RunRecord

PROBE_FILE = "predictions_{split}_probe.parquet"
PROBE_KEY = "num_probe_images"  # in the source of the probe's table
_DRAWS = 500  # of a bootstrap over 50,000 images: under a second
_AVERAGES_OVER_CLASSES = tuple(name for name in SingleLabelAnswers.measures if name.startswith(("balanced", "macro")))


def find_baselines(table: Table, folder: str | Path) -> Baselines | None:
    """Hold a model against what its run has recorded of simpler answers.

    Args:
        table: What the model answered.
        folder: Where the table is written, which is taken for the run's folder unless the model's own is one.

    Returns:
        The largest class, and for a fine-tuned model the probe; one that was not measured says why. None for a model of
        no run.
    """
    run = find_run(str(table.source.get("model", "")))
    run = run if (run / RUN_FILE).is_file() else Path(folder)
    if not (run / RUN_FILE).is_file() or not (run / DATA_FILE).is_file():
        return None
    record, train = RunRecord.load(run / RUN_FILE), DataRecord.load(run / DATA_FILE).splits.get("train")
    metric = choose_metric(record.recipe, task_of(table))
    found = []
    if train is None or not train.class_counts or not train.num_examples:
        found.append(
            Baseline(LARGEST_CLASS, metric=metric, remark="the training images of each class were not counted")
        )
    else:
        found.append(_hold_against_largest(table, train.class_counts, train.num_examples, metric))
    if record.base_model is not None and not is_probe(run):
        found.append(_hold_against_probe(table, run, record, metric))
    shortfall = describe_shortfall(found)
    if shortfall and (remedies := suggest_remedies(found, run, record)):
        shortfall += f" What may help: {'; '.join(remedies)}."
    return Baselines(found, shortfall)


def choose_metric(recipe: Mapping[str, Any], task: Task) -> str:
    """Return the metric that baselines are compared by: accuracy, unless the run was about all classes alike.

    Args:
        recipe: The run's arguments.
        task: What a label is; where an image may have several, mean average precision stands for all metrics.
    """
    primary = get_primary(multi_label=not task.is_exclusive)
    if not task.is_exclusive:
        return primary
    selected = str(recipe.get("metric_for_best_model") or "").removeprefix("eval_")
    if selected in _AVERAGES_OVER_CLASSES:
        return selected
    return "balanced_accuracy" if recipe.get("imbalance", "none") != "none" else primary


def find_unbeaten(baselines: Sequence[Baseline]) -> list[tuple[Baseline, MetricComparison]]:
    """Return the baselines that the model is not certainly better than, each with its comparison."""
    return [(item, item.comparison) for item in baselines if item.comparison and item.comparison.verdict != BETTER]


def describe_shortfall(baselines: Sequence[Baseline]) -> str:
    """Say in one sentence which baselines the model is not better than; ``""`` where it is better than all."""
    unbeaten = find_unbeaten(baselines)
    if not unbeaten:
        return ""
    named = " or ".join(f"{name_answer(item)} ({show_value(item.metric, told.a)})" for item, told in unbeaten)
    metric, told = unbeaten[0][0].metric.replace("_", " "), unbeaten[0][1]
    text = f"Not better than {named}: {metric} is {show_value(unbeaten[0][0].metric, told.b)} on the same images"
    if all(told.verdict != WORSE and told.b > told.a for _, told in unbeaten):
        text += f", and the difference may be chance (p = {max(told.p for _, told in unbeaten):.2g})"
    return f"{text}."


def describe_baseline(baseline: Baseline) -> str:
    """Say what a baseline scores and how the model compares with it, without a full stop."""
    if (told := baseline.comparison) is None:
        return f"not measured: {baseline.remark}"
    difference = told.difference
    ends = "" if difference.low is None else f" ({difference.low:+.4f} to {difference.high:+.4f})"
    return (
        f"{told.a:.4f}   {baseline.metric.replace('_', ' ')} of {name_answer(baseline)}; the model's is "
        f"{told.verdict}, {difference.value:+.4f}{ends}"
    )


def name_answer(baseline: Baseline) -> str:
    """What a baseline does, as the object of a comparison."""
    if baseline.name == PROBE:
        return f"a linear probe of {baseline.num_train:,} images"
    if baseline.answer:
        return f"always answering {shorten_name(baseline.answer, 60)!r}"
    return "giving each class its share of the training images"


def show_value(metric: str, value: float) -> str:
    """Accuracies as percentages with one decimal, other numbers with four."""
    return f"{100 * value:.1f} %" if metric.endswith("accuracy") else f"{value:.4f}"


def _hold_against_largest(table: Table, counts: Mapping[str, int], num_train: int, metric: str) -> Baseline:
    answers = answer_constantly(table, counts, num_train)
    answer = task_of(answers).name_constant(answers)
    comparison = compare_tables(answers, table, metrics=[metric], draws=_DRAWS).metrics[metric]
    return Baseline(LARGEST_CLASS, comparison, metric, answer, num_train)


def _hold_against_probe(table: Table, run: Path, record: RunRecord, metric: str) -> Baseline:
    path = run / PROBE_FILE.format(split=table.split)
    if not path.is_file():
        is_elsewhere = any(run.glob(PROBE_FILE.format(split="*")))
        beside = "this run" if record.world_size == 1 else f"a run of {record.world_size} processes"
        why = "it was measured on another split" if is_elsewhere else f"there was no probe beside {beside}"
        return Baseline(PROBE, metric=metric, remark=why)
    probe = Table.load(path)
    try:
        comparison = compare_tables(probe, table, metrics=[metric], draws=_DRAWS).metrics[metric]
    except DataError:  # another test split than the run's
        return Baseline(PROBE, metric=metric, remark="it was measured on the run's own images, which are others")
    return Baseline(PROBE, comparison, metric, num_train=probe.source.get(PROBE_KEY))


def answer_constantly(table: Table, counts: Mapping[str, int], num_train: int) -> Table:
    """Return what answering without a look at the image gives, on the images of a table.

    Every class's score is its share of the training images, counted with one image more so that none is 0.

    Args:
        table: Gives images and labels.
        counts: Class name -> training images that have it.
        num_train: Training images.
    """
    per_class = np.array([counts.get(name, 0) for name in table.labels], dtype=np.float64) + 1
    about: dict[str, Any] = {
        "split": table.split,
        "labels": table.labels,
        "sample_index": table.sample_index,
        "files": table.files,
        "source": table.source | {"model": "a constant answer"},
    }
    task = task_of(table)
    return task.table(**about | task.answer_constantly(table, per_class, num_train))
