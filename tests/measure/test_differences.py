"""Intervals and tests of differences: published examples, other libraries, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from hf_imgcls.measure.statistics.differences import (
    adjust_by_holm,
    estimate_difference,
    estimate_paired_difference,
    estimate_stratified_difference,
    run_fisher_test,
    run_mcnemar_test,
)


def test_newcombe_published_examples():
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    x, n, y, m = np.array(
        [(56, 70, 48, 80), (9, 10, 3, 10), (6, 7, 2, 7), (5, 56, 0, 29), (0, 10, 0, 20), (10, 10, 0, 10)]
    ).T
    difference, low, high = estimate_difference(x, n, y, m)
    np.testing.assert_allclose(difference, x / n - y / m)
    np.testing.assert_allclose(low, [0.0524, 0.1705, 0.0582, -0.0381, -0.1611, 0.6075], atol=5e-5)
    np.testing.assert_allclose(high, [0.3339, 0.8090, 0.8062, 0.1926, 0.2775, 1.0], atol=5e-5)


def test_paired_difference_is_mirrored_and_narrower_than_an_unpaired_one():
    counts = np.random.default_rng(0).integers(0, 60, (4, 50)) + np.array([[1], [0], [0], [0]])
    both, first, second, neither = counts
    difference, low, high = estimate_paired_difference(both, first, second, neither)
    mirrored = estimate_paired_difference(both, second, first, neither)
    for ours, theirs in ((difference, -mirrored[0]), (low, -mirrored[2]), (high, -mirrored[1])):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(difference, (second - first) / counts.sum(axis=0))
    assert ((low <= difference) & (difference <= high)).all()
    assert low.min() >= -1
    assert high.max() <= 1
    paired = estimate_paired_difference(80, 4, 6, 10)
    alone = estimate_difference(86, 100, 84, 100)
    assert paired[2] - paired[1] < 0.7 * (alone[2] - alone[1])


def test_paired_interval_step_by_step():
    # As https://rdrr.io/rforge/biostatUZH/src/R/confIntPairedProportion.R computes the example of Altman et al. (2000).
    both, first, second, neither = 14, 5, 0, 22
    n = both + first + second + neither
    (l1, u1), (l2, u2) = (binomtest(x, n).proportion_ci(method="wilson") for x in (both + first, both + second))
    p1, p2 = (both + first) / n, (both + second) / n
    phi = (both * neither - first * second - n / 2) / math.sqrt(19 * 22 * 14 * 27)
    low = (p1 - p2) - math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = (p1 - p2) + math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    _, *ends = estimate_paired_difference(both, first, second, neither)
    assert ends == pytest.approx([-high, -low], abs=1e-9)


@pytest.mark.parametrize("kind", ["independent", "paired", "stratified"])
def test_intervals_cover_what_they_promise(kind):
    generator, draws = np.random.default_rng(1), 1000
    if kind == "independent":
        truth = 0.85 - 0.92
        _, low, high = estimate_difference(
            generator.binomial(120, 0.85, draws), 120, generator.binomial(900, 0.92, draws), 900
        )
    elif kind == "paired":
        truth = 0.08 - 0.05
        _, low, high = estimate_paired_difference(*generator.multinomial(300, [0.77, 0.05, 0.08, 0.10], draws).T)
    else:
        truth, hard = -0.1, np.array([0.9, 0.7, 0.5])
        sizes, other_sizes = np.array([20, 40, 60]), np.array([90, 60, 30])
        _, low, high = estimate_stratified_difference(
            generator.binomial(sizes, hard + truth, (draws, 3)), sizes,
            generator.binomial(other_sizes, hard, (draws, 3)), other_sizes,
        )  # fmt: skip
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.02)


def test_stratified_difference_of_one_stratum_and_of_none():
    difference, low, high = estimate_stratified_difference([30], [50], [45], [60])
    assert difference == pytest.approx(30 / 50 - 45 / 60)
    # Sato's variance as SAS documents it: (d * P + Q) / w^2.
    weight = 50 * 60 / 110
    p = (50**2 * 45 - 60**2 * 30 + 50 * 60 * 10 / 2) / 110**2
    q = (30 * 15 + 45 * 20) / (2 * 110)
    reach = 1.959963984540054 * math.sqrt(difference * p + q) / weight
    assert [low, high] == pytest.approx([difference - reach, difference + reach], abs=1e-9)
    # Strata that one side lacks say nothing.
    same = estimate_stratified_difference([30, 3, 0], [50, 9, 0], [45, 0, 2], [60, 0, 7])
    np.testing.assert_allclose(same[0], difference)
    assert np.isnan(estimate_stratified_difference([3, 0], [9, 0], [0, 2], [0, 7])[0])


@pytest.mark.parametrize(("right", "other_right"), [([0, 0], [0, 0]), ([9, 4], [7, 30]), ([0, 0], [7, 30])])
def test_sides_that_are_all_right_or_all_wrong_promise_nothing(right, other_right):
    assert np.isnan(estimate_stratified_difference(right, [9, 4], other_right, [7, 30])).all()


def test_fisher_test_is_twice_scipys_smaller_tail():
    generator = np.random.default_rng(2)
    n, m = generator.integers(1, 200, (2, 60))
    x, y = generator.integers(0, n + 1), generator.integers(0, m + 1)
    tables = [[[a, b - a], [c, d - c]] for a, b, c, d in zip(x, n, y, m, strict=True)]
    tails = [[fisher_exact(table, alternative)[1] for alternative in ("less", "greater")] for table in tables]
    np.testing.assert_allclose(run_fisher_test(x, n, y, m), np.minimum(1, 2 * np.min(tails, axis=1)), rtol=1e-9)


def test_mcnemar_test():
    first, second = np.array([(1, 7), (0, 0), (12, 12), (5, 40), (40, 5), (30, 30), (24, 0)]).T
    p, is_exact = run_mcnemar_test(first, second)
    assert is_exact.tolist() == [True, True, True, False, False, False, True]
    for row in np.flatnonzero(is_exact & (first + second > 0)):
        assert p[row] == pytest.approx(binomtest(first[row], first[row] + second[row]).pvalue)
    assert p[0] == pytest.approx(0.0703, abs=5e-5)  # Fagerland et al. (2013), table 1
    assert p[1] == p[2] == 1.0
    assert p[3] == p[4]
    # Mid-p: half the probability of what was seen is taken from each tail.
    seen = binomtest(5, 45).pvalue
    assert p[3] == pytest.approx(seen - 1221759 / 2**45)
    assert p[5] == pytest.approx(1 - 0.5 * 118264581564861424 / 2**60)


def test_holm():
    # Of four: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before.
    np.testing.assert_allclose(adjust_by_holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert adjust_by_holm([]).tolist() == []
