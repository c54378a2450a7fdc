"""The card of a model that may give an image several labels says what its numbers mean there, and what is weak."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from measure.made_label_tables import make_label_case
from publish.planted_runs import change_json, make_data, plant_run

from hf_imgcls.catalogue import EVALUATION, METRICS, REPORT, list_metrics
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.publish.card import read_records, render_card
from hf_imgcls.publish.lint import lint_card
from hf_imgcls.records import MULTI_LABEL


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "scenes"
    table = make_label_case("random")
    data = make_data(list(table.labels), problem_type=MULTI_LABEL)
    plant_run(folder, data=data, report=dataclasses.replace(summarise(table, seed=0), data=""))
    change_json(folder / "config.json", problem_type=MULTI_LABEL)
    text = render_card(read_records(folder))
    assert lint_card(text, folder) == []
    return text


def test_each_metric_has_the_meaning_that_it_has_with_several_labels(card):
    rows = dict(re.findall(r"^\| ([\w -]+)(?:: (.*?))? \| [\d.]+ \|", card, re.MULTILINE))
    names = list_metrics(EVALUATION, REPORT, multi_label=True)
    assert len(names) > 15
    for name in names:
        assert rows[METRICS[name].title] == METRICS[name].describe(multi_label=True)
    assert "mean binary cross-entropy of all decisions" in rows["Log loss"]
    assert "true class's probability" not in card
    assert "0 to 2" not in card


def test_limitations_name_the_interval_and_the_weakest_classes(card):
    limitations = card.partition("## Limitations")[2].partition("\n## ")[0]
    assert "subset accuracy is 0." in limitations
    assert "weakest classes, by recall" in limitations


def test_the_overview_and_the_metadata_are_about_several_labels(card):
    overview = re.findall(r"^\| \*\*(.+?)\*\* \|", card, re.MULTILINE)
    assert overview[:3] == ["Mean average precision", "Subset accuracy", "Micro F1"]
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["metrics"] == ["f1", "precision", "recall", "roc_auc"]
    results = metadata["model-index"][0]["results"]
    kinds = {(metric["type"], metric.get("args", {}).get("average")) for item in results for metric in item["metrics"]}
    assert {("f1", "micro"), ("f1", "macro"), ("mean_average_precision", None)} <= kinds
    assert "weighted" not in {average for _, average in kinds}
