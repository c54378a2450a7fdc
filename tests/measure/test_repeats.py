"""The mean of several runs and its interval."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_1samp

from hf_imgcls.measure.repeats import describe_repeats, summarise_repeats

RUNS = [
    {"test_accuracy": value, "test_num_examples": 100, "test_roc_auc": auc, "test_method": "x", "other": 1.0}
    for value, auc in ((0.71, None), (0.74, 0.9), (0.69, 0.9), (0.75, 0.9), (0.72, 0.9))
]


def test_the_interval_is_students():
    summary = summarise_repeats(RUNS)
    assert list(summary["metrics"]) == ["accuracy"]  # what every run has, and is a measurement
    found = summary["metrics"]["accuracy"]
    reference = ttest_1samp([0.71, 0.74, 0.69, 0.75, 0.72], 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(0.722)
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high))
    assert found["values"] == [0.71, 0.74, 0.69, 0.75, 0.72]
    assert "accuracy               0.7220 (0.6924 to 0.7516)" in describe_repeats(summary)[1]


def test_one_run_has_no_interval():
    summary = summarise_repeats(RUNS[:1])
    assert summary["metrics"]["accuracy"]["low"] is None
    assert "(" not in describe_repeats(summary)[1]
