"""Metrics of several labels per image against scikit-learn, and the thresholds that decide."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from made_label_tables import LABEL_CASES, make_label_logits, make_label_table
from scipy.special import expit
from sklearn import metrics as sk

from hf_imgcls.errors import DataError, ModelError, NumericsError
from hf_imgcls.measure.metrics.accumulate import MultiLabelAccumulator
from hf_imgcls.measure.metrics.single import measure_calibration_error
from hf_imgcls.measure.statistics.thresholds import MIN_POSITIVES, tune_thresholds

EXACT = {"rel": 1e-12, "abs": 1e-12}


def expected_metrics(scores, targets, thresholds):
    """Every metric of scores but the log loss by scikit-learn, over the classes for which it is defined."""
    answers = scores >= thresholds
    has, misses = targets.any(axis=0), ~targets.all(axis=0)
    occurs = np.flatnonzero(has | answers.any(axis=0))
    expected = {
        "mean_average_precision": sk.average_precision_score(targets[:, has], scores[:, has], average="macro"),
        "micro_average_precision": sk.average_precision_score(targets, scores, average="micro"),
        "subset_accuracy": sk.accuracy_score(targets, answers),
        "hamming_loss": sk.hamming_loss(targets, answers),
    }
    if (has & misses).any():
        ranked = has & misses
        expected["roc_auc"] = sk.roc_auc_score(targets[:, ranked], scores[:, ranked], average="macro")
    for average, labels in (("micro", None), ("macro", occurs), ("weighted", occurs)):
        values = sk.precision_recall_fscore_support(targets, answers, labels=labels, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True):
            expected[f"{average}_{name}"] = value
    return expected


@pytest.mark.parametrize("thresholds", [0.5, "own"])
@pytest.mark.parametrize("case", LABEL_CASES)
def test_every_metric_equals_scikit_learn(case, thresholds):
    logits, targets = make_label_logits(case)
    limits = np.full(targets.shape[1], 0.5) if thresholds == 0.5 else np.linspace(0.2, 0.8, targets.shape[1])
    accumulator = MultiLabelAccumulator(targets.shape[1], limits)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(targets)), 3):
        if len(rows):
            accumulator.update(torch.tensor(logits[rows]), torch.tensor(targets[rows], dtype=torch.float32), rows)
    values = accumulator.compute()
    assert values.pop("num_examples") == len(targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = expected_metrics(expit(logits).astype(np.float32).astype(np.float64), targets, limits)
    expected["log_loss"] = np.where(targets, np.logaddexp(0, -logits), np.logaddexp(0, logits)).mean()
    assert {name for name, value in values.items() if value is None} == values.keys() - expected.keys() - {"ece"}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, **EXACT), name
    scores = expit(logits).ravel()
    ece = measure_calibration_error(targets.ravel(), scores.astype(np.float32).astype(np.float64)).value
    assert values["ece"] == pytest.approx(ece, **EXACT)
    for name, value in values.items():
        assert (value is None) == (name in accumulator.reasons)


def test_what_is_left_out_is_said():
    logits, targets = make_label_logits("absent classes")
    accumulator = MultiLabelAccumulator(6)
    accumulator.update(logits, targets)
    accumulator.compute()
    assert accumulator.remarks["mean_average_precision"] == "left out, without references: 2 of 6 classes"
    assert "answered but without references, counted with recall 0: 1 of 6" in accumulator.remarks["macro_f1"]
    nothing = MultiLabelAccumulator(3)
    nothing.update(np.zeros((4, 3)) - 1, np.zeros((4, 3)))
    values = nothing.compute()
    assert values["mean_average_precision"] is values["micro_f1"] is values["roc_auc"] is None
    assert values["subset_accuracy"] == 1.0
    assert nothing.reasons["mean_average_precision"] == "no image has a label"


def test_bad_batches():
    with pytest.raises(ModelError, match="one of each per class"):
        MultiLabelAccumulator(3).update(np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="neither 0 nor 1"):
        MultiLabelAccumulator(3).update(np.zeros((1, 3)), np.array([[0, 0.5, 1]]))
    with pytest.raises(NumericsError, match=r"sample_index \[7\]"):
        MultiLabelAccumulator(2).update(np.array([[np.nan, 0]]), np.zeros((1, 2)), [7])
    twice = MultiLabelAccumulator(2)
    twice.update(np.zeros((2, 2)), np.zeros((2, 2)), [1, 1])
    with pytest.raises(RuntimeError, match="counted twice"):
        twice.compute()
    with pytest.raises(DataError, match="no examples"):
        MultiLabelAccumulator(2).compute()


def test_shares_of_two_processes_are_the_whole():
    logits, targets = make_label_logits("random")
    whole, one, other = (MultiLabelAccumulator(8) for _ in range(3))
    index = np.arange(len(targets))
    whole.update(logits, targets, index)
    one.update(logits[1::2], targets[1::2], index[1::2])
    other.update(logits[::2], targets[::2], index[::2])
    one.merge(other)
    assert one.compute() == whole.compute()


# ------------------------------------------------------------------------------------------------ thresholds


def test_the_threshold_of_the_highest_f1_is_found():
    generator = np.random.default_rng(0)
    targets = generator.random((300, 4)) < [0.05, 0.2, 0.5, 0.9]
    logits = generator.normal(size=targets.shape) + np.where(targets, 1, -1)
    scores = expit(logits).astype(np.float32)
    choice = tune_thresholds(scores, targets)
    assert choice.is_tuned.all()
    for label in range(4):
        tried = [sk.f1_score(targets[:, label], scores[:, label] >= t) for t in np.unique(scores[:, label])]
        assert choice.f1[label] == pytest.approx(max(tried), **EXACT)
        assert choice.f1[label] == pytest.approx(
            sk.f1_score(targets[:, label], scores[:, label].astype(np.float64) >= choice.thresholds[label]), **EXACT
        )
        # Halfway between two scores: float noise moves no answer.
        assert np.abs(scores[:, label] - choice.thresholds[label]).min() > 1e-7


def test_few_examples_leave_0_5():
    generator = np.random.default_rng(1)
    targets = np.zeros((50, 4), dtype=bool)
    targets[: MIN_POSITIVES - 1, 0] = True
    targets[:MIN_POSITIVES, 1] = True
    targets[: 50 - MIN_POSITIVES + 1, 2] = True
    scores = generator.random((50, 4)).astype(np.float32)
    choice = tune_thresholds(scores, targets)
    assert choice.is_tuned.tolist() == [False, True, False, False]
    assert choice.thresholds[[0, 2, 3]].tolist() == [0.5] * 3
    assert choice.num_positives.tolist() == [9, 10, 41, 0]


def test_of_equal_thresholds_the_one_nearest_to_half_is_taken():
    targets = np.arange(40) < 20
    scores = np.where(targets, 0.9, 0.3).astype(np.float32)[:, None]
    assert tune_thresholds(scores, targets[:, None]).thresholds[0] == pytest.approx(0.6)


def test_other_thresholds_change_answers_only():
    table = make_label_table(*make_label_logits("random"))
    other = dataclasses.replace(table, thresholds=np.full(8, 0.9), source={"thresholds_from": "a test"})
    assert other.answers.sum() < table.answers.sum()
    assert np.array_equal(other.scores, table.scores)
    assert other.source["thresholds_from"] == "a test"
    assert (other.correct == (other.answers == other.targets).all(axis=1)).all()


# ------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_metrics():
    import evaluate

    from hf_imgcls.measure.metrics.modules import CatalogueMetrics

    logits, targets = make_label_logits("random")
    scores = expit(logits)
    ranked = CatalogueMetrics("mean_average_precision", "micro_average_precision", "roc_auc", multi_label=True)
    decided = CatalogueMetrics("micro_f1", "subset_accuracy", multi_label=True)
    given = {"references": targets.astype(int).tolist(), "prediction_scores": scores.tolist()}
    values = evaluate.combine([ranked, decided]).compute(predictions=(scores >= 0.5).astype(int).tolist(), **given)
    assert values["mean_average_precision"] == pytest.approx(sk.average_precision_score(targets, scores), **EXACT)
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(targets, scores), **EXACT)
    assert values["micro_f1"] == pytest.approx(sk.f1_score(targets, scores >= 0.5, average="micro"), **EXACT)
    assert values["subset_accuracy"] == pytest.approx(sk.accuracy_score(targets, scores >= 0.5), **EXACT)
    every = CatalogueMetrics(multi_label=True, thresholds=np.full(targets.shape[1], 0.9)).compute(**given)
    assert {name: every[name] for name in ranked.names} == {name: values[name] for name in ranked.names}
    assert every["micro_f1"] == pytest.approx(sk.f1_score(targets, scores >= 0.9, average="micro"), **EXACT)
    assert every["log_loss"] == pytest.approx(
        np.mean([sk.log_loss(own, given) for own, given in zip(targets.T, scores.T, strict=True)]), **EXACT
    )
    undefined = ranked.compute(references=[[0, 0]], prediction_scores=[[0.1, 0.2]])
    assert undefined["mean_average_precision"] is None
    assert undefined["mean_average_precision_reason"] == "no image has a label"
    with pytest.raises(DataError, match="vectors of 0 and 1"):
        decided.compute(references=[[0, 2]], predictions=[[0, 1]])
    with pytest.raises(DataError, match="of shape"):
        decided.compute(references=[[0, 1]], predictions=[[0, 1, 1]])
