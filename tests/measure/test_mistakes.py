"""Intervals in which a mistake that was not seen has its price."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_tables import make_table
from scipy.special import softmax
from scipy.stats import binom, binomtest

from hf_imgcls.measure.report.goals import judge, parse_goal
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.statistics.confidence import judge_confidence, judge_label_confidence
from hf_imgcls.measure.statistics.intervals import clopper_pearson
from hf_imgcls.measure.statistics.mistakes import (
    Mistakes,
    enclose_mean_loss,
    enclose_mistakes,
    enclose_pooled_share,
    find_lower_tail,
)


def enclose(n, lost, cost, **options):
    return enclose_mistakes(Mistakes(*(np.asarray(part, dtype=float) for part in (n, lost, cost))), 0.95, **options)


@pytest.mark.parametrize(("n", "lost"), [(1, 0), (2, 0), (2, 1), (5, 5), (30, 1), (100, 3), (50, 25), (5000, 100)])
def test_of_one_stratum_it_is_clopper_and_pearson(n, lost):
    exact = binomtest(lost, n).proportion_ci(0.95, "exact")
    assert enclose([n], [lost], [1 / n]) == pytest.approx((exact.low, exact.high), rel=0.03, abs=0.006)
    assert [float(end) for end in clopper_pearson(lost, n)] == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_without_a_mistake_it_is_the_most_that_none_is_likely_for():
    """The largest mean of shares under which no mistake at all has a probability of 2.5 %, found by search."""
    n = np.array([40, 12, 3])
    best = 0.0
    for first, second in itertools.product(np.linspace(0, 0.1, 101), np.linspace(0, 0.3, 101)):
        rest = 0.025 / ((1 - first) ** n[0] * (1 - second) ** n[1])
        if rest <= 1:
            best = max(best, (first + second + 1 - rest ** (1 / n[2])) / 3)
    assert enclose(n, [0, 0, 0], 1 / (3 * n))[1] == pytest.approx(best, rel=0.01)
    # As the rarest of 200, 68 and 2 alone could add, and what ten equal classes are together.
    assert enclose([200, 68, 2], [0, 0, 0], 1 / (3 * np.array([200, 68, 2])))[1] == pytest.approx(0.8419 / 3, rel=0.01)
    assert enclose([10] * 10, [0] * 10, [0.01] * 10)[1] == pytest.approx(1 - 0.025 ** (1 / 100), rel=0.01)


def test_mistakes_that_come_together_widen_the_interval():
    alone = enclose([100, 100], [10, 10], [0.005, 0.005])
    variance = 2 * 0.005**2 * 100 * 0.1 * 0.9
    together = enclose([100, 100], [10, 10], [0.005, 0.005], variance=4 * variance)
    assert together[1] - together[0] == pytest.approx(2 * (alone[1] - alone[0]), rel=0.1)
    assert enclose([100], [10], [0.01], freedom=4)[1] > enclose([100], [10], [0.01])[1]
    assert enclose([100], [0], [0.01], unseen=0.03)[1] == pytest.approx(3 * enclose([100], [0], [0.01])[1], rel=0.05)


def test_decisions_of_one_image_are_not_independent():
    """Of 60 images with 6 decisions each, alike within an image; each alone they would cover in 60 % of samples."""
    generator, share, covered = np.random.default_rng(0), 0.8, 0
    for right in generator.beta(0.8, 0.2, (400, 60)):
        low, high = enclose_pooled_share(generator.binomial(6, right).astype(float), np.full(60, 6.0), 0.95)
        covered += low <= share <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("lost", [0, 3, 40])
def test_with_one_decision_for_each_image_it_is_an_exact_interval(lost):
    right = np.ones(80)
    right[:lost] = 0
    exact = binomtest(80 - lost, 80).proportion_ci(0.95, "exact")
    assert enclose_pooled_share(right, np.ones(80), 0.95) == pytest.approx((exact.low, exact.high), abs=0.01)
    low, high = enclose_pooled_share(right[:1], np.array([8.0]), 0.95)
    assert 0 <= low < high <= 1, "of a single image"


def test_tails_of_sums_of_trials():
    for chance, n, most in ((0.98, 100, 96), (0.5, 7, 2), (0.1, 40, 9), (0.3, 1, 0)):
        assert find_lower_tail(np.full(n, chance), most) == pytest.approx(binom.cdf(most, n, chance), rel=0.03)
    assert find_lower_tail(np.array([1.0, 1.0, 0.5]), 1) == 0.0, "two are certain"
    assert find_lower_tail(np.array([1.0, 1.0, 0.5]), 2) == pytest.approx(0.5)
    assert find_lower_tail(np.ones(3), 3) == 1.0
    assert find_lower_tail(np.array([0.2, 0.7]), 0) == pytest.approx(0.8 * 0.3)


def test_a_mean_loss_without_a_mistake():
    low, high = enclose_mean_loss(np.full(30, 0.0202), 4.0, 0.95)
    assert low == pytest.approx(0.0202)
    assert 0.3 < high < 1.0, "one more mistake of 30 would add 0.13"
    assert enclose_mean_loss(np.zeros(5), 0.0, 0.95) == (0.0, 0.0)
    assert enclose_mean_loss(np.full(5, 1.9), 1.9, 0.95, most=2.0)[1] == 2.0


# ------------------------------------------------------------------------------------------------ verdicts


def decide(text, table):
    return judge(parse_goal(text), summarise(table))["status"]


def make_right(sizes, confidence):
    """A table of right answers with one confidence."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    logits = np.zeros((len(labels), len(sizes)))
    logits[np.arange(len(labels)), labels] = np.log(confidence * (len(sizes) - 1) / (1 - confidence))
    return make_table(logits, labels)


def test_a_rare_class_without_a_mistake_is_not_sure_to_make_none():
    table = make_right([200, 68, 2], 0.97)
    for name in ("balanced_accuracy", "macro_f1", "macro_recall", "macro_precision", "roc_auc", "average_precision"):
        item = summarise(table, draws=50).metrics[name]
        assert item.value == 1.0
        assert 0.55 < item.low < 0.781, (name, "at most as if the rare class's own recall were 0.34")
        assert decide(f"{name}>=0.98", table) == "not distinguishable"
    assert decide("accuracy>=0.98", table) == "met"


def test_calibration_and_loss_where_no_mistake_was_seen():
    table = make_right([10, 10, 10], 0.98)
    assert decide("ece<=0.015", table) == "not distinguishable"
    assert decide("adaptive_ece<=0.015", table) == "not distinguishable"
    assert decide("log_loss<=0.03", table) == "not distinguishable"
    assert decide("brier<=0.01", table) == "not distinguishable"
    # Scores of 0.6 that are right 100 times in 100 are certainly off.
    unsure = make_right([50, 50], 0.6)
    assert decide("ece<=0.2", unsure) == "not met"
    assert decide("log_loss<=1.5", unsure) == "met"


def test_a_class_without_images_leaves_no_interval():
    labels = np.repeat([0, 1], 50)
    logits = np.where(np.arange(3) == labels[:, None], 3.0, 0.0)
    record = summarise(make_table(logits, labels, labels=["cat", "dog", "owl"]))
    for name in ("balanced_accuracy", "macro_recall", "macro_f1", "roc_auc", "average_precision"):
        item = record.metrics[name]
        assert (item.value, item.low, item.high) == (1.0, None, None)
        assert item.remark.startswith("no interval: too few images of 'owl'")
    assert record.metrics["macro_precision"].remark.startswith("no interval: too few predictions of 'owl'")
    # A class that only the model knows is no part of the data.
    known = summarise(make_table(logits, labels, labels=["cat", "dog", "owl"], source={"num_classes": 2}))
    assert known.metrics["balanced_accuracy"].low > 0.9
    # One class of many leaves a little open.
    many = np.repeat(np.arange(30), 5)
    record = summarise(make_table(np.where(np.arange(31) == many[:, None], 9.0, 0.0), many))
    item = record.metrics["balanced_accuracy"]
    assert item.value == 1.0
    assert 30 / 31 - 0.05 < item.low < 30 / 31


@pytest.mark.parametrize("n", [100, 270])
def test_a_calibrated_model_is_seldom_called_over_or_under_confident(n):
    generator, called, called_labels = np.random.default_rng(n), 0, 0
    for _ in range(400):
        scores = softmax(generator.normal(scale=3.0, size=(n, 5)), axis=1).max(axis=1)
        called += judge_confidence(generator.random(n) < scores, scores, 0.95)["verdict"] != "not distinguishable"
        label_scores = 1 / (1 + np.exp(-generator.normal(-1.0, 2.0, (n, 4))))
        targets = generator.random((n, 4)) < label_scores
        called_labels += judge_label_confidence(targets, label_scores, 0.95)["verdict"] != "not distinguishable"
    assert called / 400 <= 0.06
    assert called_labels / 400 <= 0.075


def test_a_model_that_is_off_is_called_so():
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.6, 1.0, 300)
    assert judge_confidence(generator.random(300) < scores - 0.2, scores, 0.95)["verdict"] == "over"
    assert judge_confidence(np.ones(300, dtype=bool), scores, 0.95)["verdict"] == "under"
    targets = generator.random((300, 4)) < 0.5
    verdict = judge_label_confidence(targets, np.full((300, 4), 0.6), 0.95)
    assert verdict["verdict"] == "over"
    assert verdict["gap"] == pytest.approx(0.6 - targets.mean())
