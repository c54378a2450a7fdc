"""Every number of a report, computed once more from the saved table by others' code."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math

import numpy as np
import pytest
from made_tables import CASES, make_case, make_logits, make_table, read_columns
from places import REPOSITORY
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

from hf_imgcls.catalogue import EVALUATION, REPORT, list_metrics
from hf_imgcls.errors import DataError
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.tables import PredictionTable
from hf_imgcls.records import Estimate, ReportRecord

DRAWS = 60
CLOSE = {"rel": 0, "abs": 1e-9}


def summarise_saved(table, tmp_path, **options):
    """The record of a table that was on disk, and the file's columns as pyarrow reads them."""
    table.save(tmp_path / "table.parquet")
    options.setdefault("draws", DRAWS)
    return summarise(PredictionTable.load(tmp_path / "table.parquet"), **options), read_columns(
        tmp_path / "table.parquet"
    )


def expected_ece(correct, confidence, edges):
    total, lower = 0.0, -1.0
    for upper in edges:
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
        lower = upper
    return total


def expected_metrics(columns):
    """Name -> value by scikit-learn and the definitions; what is not defined is left out."""
    label, prediction, scores = columns["label"], columns["prediction"], columns["probabilities"]
    num_labels, n = scores.shape[1], len(label)
    confidence = np.array([row[0] for row in columns["top_probabilities"]])
    correct, present = label == prediction, np.unique(label)
    rank = columns["reference_rank"]
    values = {
        "accuracy": sk.accuracy_score(label, prediction),
        "log_loss": columns["log_loss"].mean(),
        "balanced_accuracy": sk.recall_score(label, prediction, labels=present, average="macro"),
        "ece": expected_ece(correct, confidence, np.linspace(0, 1, 16)[1:]),
        "adaptive_ece": expected_ece(correct, confidence, np.quantile(confidence, np.linspace(0, 1, 16)[1:])),
    }
    for average in ("macro", "weighted"):
        three = sk.precision_recall_fscore_support(label, prediction, average=average, zero_division=0)[:3]
        values |= {f"{average}_{name}": value for name, value in zip(("precision", "recall", "f1"), three, strict=True)}
    values |= {f"top{k}_accuracy": np.mean(rank < k) for k in (3, 5) if num_labels > k}
    if num_labels <= 1000:
        values["brier"] = np.mean(((scores - np.eye(num_labels)[label]) ** 2).sum(axis=1))
        if len(present) > 1:
            one_hot = label[:, None] == present
            values["roc_auc"] = sk.roc_auc_score(one_hot, scores[:, present], average="macro")
            values["average_precision"] = sk.average_precision_score(one_hot, scores[:, present], average="macro")
    assert n == len(correct)
    return values


@pytest.mark.parametrize("case", CASES)
def test_every_metric_and_class_from_the_file(case, tmp_path):
    record, columns = summarise_saved(make_case(case), tmp_path)
    label, prediction, scores = columns["label"], columns["prediction"], columns["probabilities"]
    num_labels = scores.shape[1]
    assert set(record.metrics) == set(list_metrics(EVALUATION, REPORT, multi_label=False))
    values = {name: item.value for name, item in record.metrics.items() if item.value is not None}
    assert values == pytest.approx(expected_metrics(columns), **CLOSE)
    assert all(item.remark for item in record.metrics.values() if item.value is None)

    support, taken = np.bincount(label, minlength=num_labels), np.bincount(prediction, minlength=num_labels)
    three = sk.precision_recall_fscore_support(label, prediction, labels=range(num_labels), zero_division=0)
    for index, name in enumerate(record.labels):
        numbers = record.per_class[name]
        for which, key in enumerate(("precision", "recall", "f1")):
            defined = (taken, support, support + taken)[which][index] > 0
            item = numbers[key]
            assert (item.value is not None) == defined
            assert item.remark or defined
            if defined:
                assert item.value == pytest.approx(three[which][index], **CLOSE)
        assert (numbers["precision"].n, numbers["recall"].n) == (taken[index], support[index])
        assert numbers["f1"].n == np.sum((label == index) | (prediction == index))
        item = numbers["average_precision"]
        if num_labels <= 1000 and support[index] and len(np.unique(label)) > 1:
            assert item.value == pytest.approx(sk.average_precision_score(label == index, scores[:, index]), **CLOSE)
            assert item.low <= item.value <= item.high
        else:
            assert (item.value, item.method) == (None, "none")
            assert item.remark

    for item in [*record.metrics.values(), *(item for group in record.per_class.values() for item in group.values())]:
        if item.value is not None:
            assert item.n > 0
            if item.low is None:
                assert (item.high, item.method) == (None, "none")
                assert item.remark.startswith("no interval: too few")
                continue
            assert 0 <= item.low <= item.value <= item.high
            assert item.method in ("wilson", "logit", "bootstrap", "saddlepoint", "gamma")


@pytest.mark.parametrize("case", ["random", "absent classes", "all right"])
def test_wilson_intervals_from_the_file(case, tmp_path):
    record, columns = summarise_saved(make_case(case), tmp_path, level=0.9)
    label, prediction = columns["label"], columns["prediction"]

    def check(item, successes, n):
        expected = binomtest(int(successes), int(n)).proportion_ci(0.9, "wilson")
        assert item.method == "wilson"
        assert (item.low, item.high, item.n) == pytest.approx((expected.low, expected.high, n), **CLOSE)

    assert record.confidence_level == 0.9
    check(record.metrics["accuracy"], np.sum(label == prediction), len(label))
    check(record.metrics["weighted_recall"], np.sum(label == prediction), len(label))
    check(record.metrics["top3_accuracy"], np.sum(columns["reference_rank"] < 3), len(label))
    for index, name in enumerate(record.labels):
        right = np.sum((label == index) & (prediction == index))
        if (label == index).any():
            check(record.per_class[name]["recall"], right, np.sum(label == index))
        if (prediction == index).any():
            check(record.per_class[name]["precision"], right, np.sum(prediction == index))
        union = np.sum((label == index) | (prediction == index))
        if union:
            ends = binomtest(int(right), int(union)).proportion_ci(0.9, "wilson")
            expected = [2 * end / (1 + end) for end in (ends.low, ends.high)]
            item = record.per_class[name]["f1"]
            assert [item.low, item.high] == pytest.approx(expected, **CLOSE)
    if case == "all right":  # a bootstrap would say [1, 1]
        shares = [record.metrics[name] for name in ("balanced_accuracy", "macro_f1", "roc_auc", "average_precision")]
        assert {item.value for item in shares} == {1.0}
        assert all(item.low < 0.93 for item in shares), "lower than that of 60 images of one class"
        assert record.metrics["log_loss"].high > 0.1


def test_with_many_images_intervals_are_those_of_the_bootstrap(tmp_path):
    """All ends lie where resampling puts them when every class has hundreds of images and many mistakes."""
    generator = np.random.default_rng(11)
    labels = generator.integers(0, 4, 2000)
    logits = generator.normal(scale=1.5, size=(2000, 4))
    logits[np.arange(2000), labels] += 2.0
    record, columns = summarise_saved(make_table(logits, labels), tmp_path)
    label, prediction, drawn = columns["label"], columns["prediction"], []
    for _ in range(400):
        rows = generator.integers(0, 2000, 2000)
        values = {"log_loss": columns["log_loss"][rows].mean()}
        values["brier"] = np.mean(((columns["probabilities"] - np.eye(4)[label])[rows] ** 2).sum(axis=1))
        values["roc_auc"] = sk.roc_auc_score(label[rows], columns["probabilities"][rows], multi_class="ovr")
        for average in ("macro", "weighted"):
            three = sk.precision_recall_fscore_support(label[rows], prediction[rows], average=average, zero_division=0)
            values |= {f"{average}_{key}": x for key, x in zip(("precision", "recall", "f1"), three, strict=False)}
        values["balanced_accuracy"] = sk.balanced_accuracy_score(label[rows], prediction[rows])
        drawn.append(values)
    for name in drawn[0]:
        low, high = np.quantile([values[name] for values in drawn], [0.025, 0.975])
        item = record.metrics[name]
        assert (item.low, item.high) == pytest.approx((low, high), rel=0, abs=0.15 * (high - low)), name


def test_the_same_seed_gives_the_same_record():
    table = make_case("random")
    first, again, other = (summarise(table, seed=seed, draws=DRAWS).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first["metrics"]["ece"]["low"] != other["metrics"]["ece"]["low"]
    assert first["metrics"]["accuracy"] == other["metrics"]["accuracy"]


def test_a_record_is_json_and_reads_back(tmp_path):
    for case in CASES:
        record = summarise(make_case(case), draws=DRAWS)
        json.dumps(record.to_json(), allow_nan=False)
    record.save(tmp_path / "report.json")
    again = ReportRecord.load(tmp_path / "report.json")
    assert again.metrics == record.metrics
    assert isinstance(again.metrics["accuracy"], Estimate)
    assert (again.model, again.data, again.split, again.num_examples) == ("a model", "some data", "test", 60)


def test_reliability_from_the_file(tmp_path):
    record, columns = summarise_saved(make_case("random"), tmp_path)
    confidence = np.array([row[0] for row in columns["top_probabilities"]])
    correct = columns["label"] == columns["prediction"]
    edges = np.linspace(0, 1, 16)
    rows = record.calibration["bins"]
    assert len(rows) == 15
    for lower, upper, row in zip(edges[:-1], edges[1:], rows, strict=True):
        inside = (confidence > lower) & (confidence <= upper)
        assert (row["low"], row["high"], row["n"]) == pytest.approx((lower, upper, inside.sum()))
        if inside.any():
            interval = binomtest(int(correct[inside].sum()), int(inside.sum())).proportion_ci(method="wilson")
            expected = (confidence[inside].mean(), correct[inside].mean(), interval.low, interval.high)
        found = tuple(row[name] for name in ("confidence", "accuracy", "accuracy_low", "accuracy_high"))
        assert found == (pytest.approx(expected, **CLOSE) if inside.any() else (None,) * 4)


@pytest.mark.parametrize("case", ["random", "ties", "saturated", "one example"])
def test_risk_coverage_from_the_file(case, tmp_path):
    record, columns = summarise_saved(make_case(case), tmp_path)
    confidence = np.array([row[0] for row in columns["top_probabilities"]])
    correct = columns["label"] == columns["prediction"]
    n, curve = len(correct), record.risk_coverage
    # By the definition: for each example, the answers that are at least as confident.
    risks = [1 - correct[confidence >= threshold].mean() for threshold in confidence]
    assert curve["aurc"] == pytest.approx(np.mean(risks), **CLOSE)
    assert len(curve["coverage"]) <= 200
    assert curve["coverage"][-1] == 1.0
    assert curve["accuracy"][-1] == pytest.approx(correct.mean(), **CLOSE)
    assert curve["coverage"] == sorted(set(curve["coverage"]))
    for coverage, accuracy, threshold in zip(curve["coverage"], curve["accuracy"], curve["threshold"], strict=True):
        answered = confidence >= threshold
        assert (coverage, accuracy) == pytest.approx((answered.mean(), correct[answered].mean()), **CLOSE)
    assert list(curve["threshold_for"]) == ["0.9", "0.95", "0.99"]
    for target, item in curve["threshold_for"].items():
        reached = [c for c in np.unique(confidence) if correct[confidence >= c].mean() >= float(target)]
        assert (item is None) == (not reached)
        if item is not None:
            answered = confidence >= min(reached)
            interval = binomtest(int(correct[answered].sum()), int(answered.sum())).proportion_ci(method="wilson")
            assert item.pop("chosen_on") == "test"
            assert item == pytest.approx(
                {
                    "threshold": min(reached),
                    "coverage": answered.sum() / n,
                    "accuracy": correct[answered].mean(),
                    "accuracy_low": interval.low,
                    "accuracy_high": interval.high,
                    "n": answered.sum(),
                },
                **CLOSE,
            )


@pytest.mark.parametrize("case", ["random", "hundred classes", "all right"])
def test_confused_pairs_from_the_file(case, tmp_path):
    record, columns = summarise_saved(make_case(case), tmp_path)
    label, prediction = columns["label"], columns["prediction"]
    matrix = sk.confusion_matrix(label, prediction, labels=range(CASES[case][1]))
    confidence = np.array([row[0] for row in columns["top_probabilities"]])
    mistakes = matrix * (1 - np.eye(len(matrix), dtype=int))
    pairs = record.confused_pairs
    assert len(pairs) == min(np.count_nonzero(mistakes), 100)
    assert [pair["count"] for pair in pairs] == sorted(mistakes[mistakes > 0].tolist(), reverse=True)[:100]
    for pair in pairs:
        row, column = pair["label_id"], pair["prediction_id"]
        assert (pair["label"], pair["prediction"]) == (f"class {row}", f"class {column}")
        assert pair["count"] == mistakes[row, column]
        assert pair["share_of_label"] == pytest.approx(matrix[row, column] / matrix[row].sum(), **CLOSE)
        members = np.flatnonzero((label == row) & (prediction == column))
        best = members[np.argsort(-confidence[members], kind="stable")][:5]
        assert pair["sample_indices"] == columns["sample_index"][best].tolist()


def test_classes_of_one_name_stay_apart():
    logits, labels = make_logits("random")
    names = ["crane", "crane", *(f"class {index}" for index in range(2, 12))]
    record = summarise(make_table(logits, labels, labels=names), draws=DRAWS)
    assert list(record.per_class)[:3] == ["crane (0)", "crane (1)", "class 2"]
    assert len(record.per_class) == 12
    assert {"crane (0)", "crane (1)"} <= {pair["label"] for pair in record.confused_pairs}


def test_the_benchmark_does_what_it_says(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    benchmark = importlib.import_module("report")
    for split in ("test", "validation"):
        benchmark.write_table(tmp_path / f"{split}.parquet", split, num_examples=150, num_labels=20)
    assert len(PredictionTable.load(tmp_path / "test.parquet")) == 150
    benchmark.report_table(tmp_path / "test.parquet", tmp_path / "validation.parquet")
    text = capsys.readouterr().out
    assert "accuracy 0." in text
    assert float(text.rsplit(" ", 1)[1]) > 1.0  # these answers are too sure of themselves


# ------------------------------------------------------------------------------------------------ validation


def test_a_temperature_is_fitted_on_validation_and_tried_on_the_measured_split(tmp_path):
    validation = make_case("random", split="validation", seed=1)
    record, columns = summarise_saved(make_case("random"), tmp_path, validation=validation)
    found = record.calibration["temperature"]
    scores, label = columns["probabilities"], columns["label"]
    assert (found["fitted_on"], found["n"]) == ("validation", 500)

    def loss(table_scores, labels, temperature):
        scaled = softmax(np.log(table_scores) / temperature, axis=1)
        return sk.log_loss(labels, scaled, labels=range(12))

    value, step = found["value"], 1e-3
    fitted = validation.probabilities, validation.label
    assert loss(*fitted, value) < min(loss(*fitted, value - step), loss(*fitted, value + step))
    scaled = softmax(np.log(scores) / value, axis=1)
    correct = scores.argmax(axis=1) == label
    edges = np.linspace(0, 1, 16)[1:]
    assert found["log_loss_before"] == pytest.approx(columns["log_loss"].mean(), **CLOSE)
    assert found["log_loss_after"] == pytest.approx(loss(scores, label, value), abs=1e-6)
    assert found["ece_before"] == record.metrics["ece"].value
    assert found["ece_after"] == pytest.approx(expected_ece(correct, scaled.max(axis=1), edges), abs=1e-6)
    assert found["ece_after"] < found["ece_before"]
    assert found["on_validation"]["log_loss_after"] == pytest.approx(loss(*fitted, value), abs=1e-6)
    # The measured split has no say in it.
    other = summarise(make_case("random", seed=5), draws=DRAWS, validation=validation)
    assert other.calibration["temperature"]["value"] == value


def test_thresholds_are_chosen_on_validation():
    validation = make_case("random", split="validation", seed=1)
    table = make_case("random")
    own, chosen = (
        summarise(table, draws=DRAWS, validation=split).risk_coverage["threshold_for"]["0.9"]
        for split in (None, validation)
    )
    assert (own["chosen_on"], chosen["chosen_on"]) == ("test", "validation")
    assert own["threshold"] != chosen["threshold"]
    assert validation.correct[validation.confidence >= chosen["threshold"]].mean() >= 0.9
    answered = table.confidence >= chosen["threshold"]
    assert chosen["accuracy"] == pytest.approx(table.correct[answered].mean())
    assert chosen["coverage"] == pytest.approx(answered.mean())


def test_nothing_is_chosen_on_the_measured_split():
    table = make_case("random")
    validation = make_case("random", split="validation", seed=1)

    def remark(measured, chosen_on):
        calibration = summarise(measured, draws=DRAWS, validation=chosen_on).calibration
        assert calibration["temperature"] is None
        return calibration["temperature_remark"]

    assert "no prediction table" in remark(table, None)
    assert "the one that is measured" in remark(table, table)
    same = {name: dataclasses.replace(split, source={"fingerprint": "ab"}) for name, split in
            (("test", table), ("validation", validation))}  # fmt: skip
    assert "the same examples" in remark(same["test"], same["validation"])
    assert "another model" in remark(table, dataclasses.replace(validation, source={"model": "another"}))
    warm = dataclasses.replace(validation, source={**validation.source, "temperature": 2.0})
    assert "another temperature" in remark(table, warm)
    right = make_case("all right", split="validation")
    assert "sharper is always better" in remark(make_case("all right"), right)
    many = make_case("many classes", split="validation", seed=1)
    assert "20 best scores" in remark(make_case("many classes"), many)
    with pytest.raises(DataError, match="not those of the test table"):
        summarise(table, validation=right)


def test_notes_say_what_limits_the_numbers():
    assert "which flatters them" in summarise(make_case("two classes"), draws=DRAWS).notes[-1]
    many = summarise(make_case("many classes"), draws=DRAWS)
    assert any("20 best scores" in note for note in many.notes)
    table = make_case("random")
    table.source["temperature"] = 1.75
    assert "temperature of 1.75 is folded" in summarise(table, draws=DRAWS).notes[0]
    assert math.isclose(summarise(table, draws=DRAWS).metrics["ece"].value, summarise(table).metrics["ece"].value)
