"""The catalogue of metrics is the only place that knows them, and what it says is what is measured."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import numpy as np
import pytest

import hf_imgcls
from hf_imgcls.arguments.parse import make_arguments
from hf_imgcls.catalogue import (
    CLASS,
    COMPARISON,
    EVALUATION,
    GOAL,
    HEADLINE,
    METRICS,
    REPORT,
    TRAINING,
    build_table,
    choose_selection,
    get_metric,
    get_primary,
    has_several_labels,
    is_higher_better,
    list_metrics,
    list_shown,
)
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, MultiLabelAccumulator
from hf_imgcls.measure.metrics.own import load_own_metrics

ROOT = Path(hf_imgcls.__file__).parent


def find_tables(path):
    """The metrics that each tuple, list or set of a file names, and each dict that says something about them.

    Formulas give each result its name: a dict of what is computed is none.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        items = getattr(node, "elts", [])
        if isinstance(node, ast.Dict) and not any(isinstance(part, (ast.Call, ast.Name)) for part in ast.walk(node)):
            items = node.keys
        yield {item.value for item in items if isinstance(item, ast.Constant) and item.value in METRICS}


def test_no_list_of_metrics_stands_outside_the_catalogue():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)) for path in files if any(len(names) >= 4 for names in find_tables(path))}
    assert not found, "a fact about a metric belongs into hf_imgcls/catalogue.py"


def test_tables_of_metrics_are_found(tmp_path):
    (tmp_path / "table.py").write_text("A = ('accuracy', 'ece', 'f1')\nB = {'accuracy': 'x', 'ece': ('y', 1)}\n")
    assert list(filter(None, find_tables(tmp_path / "table.py"))) == [
        {"accuracy", "ece", "f1"}, {"accuracy", "ece"}
    ]  # fmt: skip


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_evaluation_measures_what_the_catalogue_says(multi_label):
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, 7))
    if multi_label:
        accumulator = MultiLabelAccumulator(7)
        accumulator.update(logits, random.random((40, 7)) < 0.3)
    else:
        accumulator = ClassificationAccumulator(7, keep_scores=True)
        accumulator.update(logits, random.integers(0, 7, 40))
    values = accumulator.compute()
    assert values.pop("num_examples") == 40
    assert tuple(values) == list_metrics(EVALUATION, multi_label=multi_label)
    for name, value in values.items():
        assert value is not None
        assert 0 <= value <= METRICS[name].most, name
    assert has_several_labels(values) == multi_label


def test_a_better_model_is_on_the_better_side_of_every_metric():
    labels = np.arange(60) % 6
    good, bad = (np.eye(6)[(labels + wrong) % 6] * 12 for wrong in (0, (np.arange(60) % 7 == 0)))
    targets = np.eye(6)[labels]
    accumulators = (ClassificationAccumulator(6, keep_scores=True), labels), (MultiLabelAccumulator(6), targets)
    for accumulator, references in accumulators:
        values = []
        for logits in (good, bad):
            again = copy.deepcopy(accumulator)
            again.update(logits - 6, references)
            values.append(again.compute())
        compared = [name for name in values[0] if name != "num_examples" and values[0][name] != values[1][name]]
        assert len(compared) > 8
        for name in compared:
            assert (values[0][name] > values[1][name]) == is_higher_better(name), name


def test_places_show_metrics_of_their_kind_of_labels():
    for multi_label in (False, True):
        measured = list_metrics(EVALUATION, multi_label=multi_label)
        for place in (HEADLINE, COMPARISON):
            shown = list_shown(place, multi_label=multi_label)
            assert shown
            assert set(shown) <= set(measured)
        assert get_primary(multi_label=multi_label) == list_shown(COMPARISON, multi_label=multi_label)[0]
        assert choose_selection("full", multi_label=multi_label) == get_primary(multi_label=multi_label)
        assert choose_selection("auto", multi_label=multi_label) == "log_loss"
    assert get_primary(multi_label=True) == "mean_average_precision"


def test_every_metric_says_what_it_is():
    titles = [metric.title for metric in METRICS.values()]
    assert len(titles) == len(set(titles))
    for name in list_metrics(TRAINING, EVALUATION, REPORT):
        for task in METRICS[name].tasks:
            text = METRICS[name].describe(multi_label=task)
            assert text
            assert text.endswith("lower is better") != METRICS[name].is_higher_better
    assert set(list_metrics(TRAINING, EVALUATION, REPORT, CLASS, GOAL)) == set(METRICS)


def test_a_metric_that_is_not_in_the_catalogue_has_a_title_and_no_bound():
    metric = get_metric("matthews_correlation")
    assert (metric.title, metric.describe(), metric.most) == ("Matthews correlation", "", float("inf"))
    assert metric.is_higher_better
    assert not is_higher_better("eval_ece")


def test_the_documentation_has_the_catalogue_as_it_is():
    text = (ROOT.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert build_table() in text, "paste what `python -m hf_imgcls.catalogue` prints into docs/metrics.md"
    assert build_table().count("\n") == len(METRICS) + 1


def test_the_documented_module_works(tmp_path):
    text = (ROOT.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    module = re.search(r"```python\n# mcc\.py\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "mcc.py").write_text(module, encoding="utf-8")
    args = make_arguments(dataset_name="digits", metrics=[tmp_path / "mcc.py"])
    (own,) = load_own_metrics(args, ["a", "b", "c"], multi_label=False)
    assert own.keys == ("mcc",)
