"""Intervals against scipy, and by simulation: a 95 % interval holds the truth 95 times in 100."""

from __future__ import annotations

import numpy as np
import pytest
from made_tables import make_logits
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from hf_imgcls.measure.metrics.ranking import rank_class
from hf_imgcls.measure.metrics.single import assign_bins, assign_mass_bins, average_counts, sum_gaps
from hf_imgcls.measure.statistics.intervals import (
    draw_statistics,
    enclose_absolute_sum,
    enclose_ranking,
    follow_quantiles,
    take_percentiles,
    wilson,
)

NUM_SIMULATIONS = 1000


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_scipy(level):
    n = np.array([1, 2, 7, 50, 1000])
    for share in (0.0, 0.3, 0.5, 0.98, 1.0):
        successes = np.round(share * n)
        low, high = wilson(successes, n, level)
        for index, size in enumerate(n):
            expected = stats.binomtest(int(successes[index]), int(size)).proportion_ci(level, "wilson")
            assert (low[index], high[index]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert [float(end) for end in wilson(0, 0)] == [0.0, 1.0]
    assert wilson([[1, 2], [3, 4]], 5)[0].shape == (2, 2)


@pytest.mark.parametrize(("n", "share"), [(60, 0.5), (200, 0.85), (1000, 0.97)])
def test_wilson_covers(n, share):
    successes = np.random.default_rng(0).binomial(n, share, NUM_SIMULATIONS)
    low, high = wilson(successes, n)
    assert np.mean((low <= share) & (share <= high)) == pytest.approx(0.95, abs=0.02)


def test_bootstrap_of_a_mean_covers():
    truth, covered = 2.0, 0
    for seed in range(NUM_SIMULATIONS):
        losses = np.random.default_rng([1, seed]).gamma(2.0, 1.0, 150)
        low, high = take_percentiles(
            draw_statistics(lambda counts, losses=losses: counts @ losses / 150, 150, seed=seed, draws=300), 0.95
        )
        covered += low <= truth <= high
    assert covered / NUM_SIMULATIONS == pytest.approx(0.95, abs=0.02)


def test_bootstrap_of_macro_f1_covers():
    # What is true of this population: 4 classes of unequal size, taken for each other unequally often.
    cells = np.array([[30, 4, 2, 1], [3, 18, 3, 0], [1, 2, 16, 3], [0, 1, 2, 14]]) / 100
    counts = 1e6 * cells
    truth = float(average_counts(counts.sum(axis=1), counts.sum(axis=0), np.diag(counts))["macro_f1"])
    indicator = np.eye(4)
    covered = 0
    for seed in range(NUM_SIMULATIONS):
        drawn = np.random.default_rng([2, seed]).choice(16, 200, p=cells.ravel())
        label, prediction = indicator[drawn // 4], indicator[drawn % 4]

        def statistic(counts, label=label, prediction=prediction):
            return average_counts(counts @ label, counts @ prediction, counts @ (label * prediction))["macro_f1"]

        low, high = take_percentiles(draw_statistics(statistic, 200, seed=seed, draws=300), 0.95)
        covered += low <= truth <= high
    assert covered / NUM_SIMULATIONS == pytest.approx(0.95, abs=0.02)


CENTRES = np.arange(8, 15) / 15 + 1 / 30  # of the bins
EVEN, UNEVEN = np.full(7, 1 / 7), np.array([0.02, 0.02, 0.03, 0.03, 0.05, 0.1, 0.75])


@pytest.mark.parametrize(
    ("n", "shares", "gaps", "lowest", "highest"),
    [
        # Well calibrated, or nearly so: only the lower end can miss.
        (300, EVEN, 0.0, 0.95, 0.99),
        pytest.param(3000, UNEVEN, 0.0, 0.95, 0.99, marks=pytest.mark.slow),
        pytest.param(300, EVEN, 0.03, 0.95, 0.99, marks=pytest.mark.slow),
        pytest.param(300, UNEVEN, [0, 0, 0, 0, 0, 0, 0.05], 0.93, 0.99, marks=pytest.mark.slow),
        (3000, UNEVEN, [0, 0, 0, 0, 0, 0, 0.05], 0.93, 0.99),
        # Badly calibrated: both ends miss.
        (300, EVEN, 0.15, 0.93, 0.97),
        pytest.param(3000, EVEN, 0.08, 0.93, 0.97, marks=pytest.mark.slow),
        (3000, EVEN, [-0.05, 0.05, -0.05, 0.05, -0.05, 0.05, -0.05], 0.93, 0.97),
    ],
)
def test_interval_of_the_calibration_error_covers(n, shares, gaps, lowest, highest):
    """Percentiles would hold the truth of a calibrated model nearly never."""
    generator = np.random.default_rng(3)
    accuracy = np.clip(CENTRES - gaps, 0, 1)
    truth = float(np.abs(shares * (accuracy - CENTRES)).sum())
    # A sample is what falls into the 14 cells (right or wrong, bin), and so is a bootstrap sample.
    values = np.concatenate([1 - CENTRES, -CENTRES]) / n
    cells = generator.multinomial(n, np.concatenate([shares * accuracy, shares * (1 - accuracy)]), NUM_SIMULATIONS)
    covered = covered_by_percentiles = 0
    for counts in cells:
        measured = (counts * values).reshape(2, 7).sum(axis=0)
        drawn = (generator.multinomial(n, counts / n, 400) * values).reshape(400, 2, 7).sum(axis=1)
        low, high = enclose_absolute_sum(measured, drawn)
        assert low <= np.abs(measured).sum() <= high
        covered += low <= truth <= high
        low, high = take_percentiles(np.abs(drawn).sum(axis=1))
        covered_by_percentiles += low <= truth <= high
    assert lowest <= covered / NUM_SIMULATIONS <= highest
    if truth == 0:
        assert covered_by_percentiles == 0


def test_the_bootstrap_hands_over_the_gaps_of_the_calibration_error():
    """From examples to an interval: what the simulations of cells leave out."""
    generator = np.random.default_rng(3)
    confidence = generator.choice(CENTRES, 300)
    correct = generator.random(300) < confidence - 0.15
    bins = assign_bins(confidence, 15)
    gaps = sum_gaps(correct, confidence, bins, 15)
    indicator = (bins[:, None] == np.arange(15)) * ((correct - confidence) / 300)[:, None]
    drawn = draw_statistics(lambda counts: counts @ indicator, 300, seed=0)
    low, high = enclose_absolute_sum(gaps, drawn)
    assert low <= 0.15 <= high
    assert high - low < 0.15


def test_an_absolute_sum_of_nothing():
    assert enclose_absolute_sum(np.zeros(3), np.zeros((10, 3))) == (0.0, 0.0)


def test_draws_are_seeded_and_do_not_depend_on_memory(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)

    def draw(seed):
        return draw_statistics(lambda counts: counts @ values, 50, seed=seed, draws=40)

    whole = draw(1)
    np.testing.assert_array_equal(whole, draw(1))
    assert not np.array_equal(whole, draw(2))
    monkeypatch.setattr("hf_imgcls.measure.statistics.intervals._CHUNK_BYTES", 8 * 50 * 7)
    np.testing.assert_allclose(draw(1), whole, rtol=1e-12)
    # Each draw is a sample of the examples, and a statistic may have several columns.
    counts = draw_statistics(lambda counts: counts, 50, seed=1, draws=40)
    assert counts.shape == (40, 50)
    assert (counts.sum(axis=1) == 50).all()


def test_percentiles_pass_over_what_is_not_defined():
    low, high = take_percentiles(np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0]]), 0.5)
    np.testing.assert_allclose(low, [1.5, 5.5])
    np.testing.assert_allclose(high, [2.5, 6.5])


# ------------------------------------------------------------------------------------------------ rankings


@pytest.mark.parametrize("case", ["random", "ties", "saturated", "two classes", "never predicted"])
def test_a_ranking_is_that_of_scikit_learn(case):
    scores, labels = make_logits(case)
    for index in range(scores.shape[1]):
        positive = labels == index
        ranking = rank_class(scores[:, index].astype(np.float32), positive)
        narrow = scores[:, index].astype(np.float32)
        assert ranking.roc_auc == pytest.approx(roc_auc_score(positive, narrow), abs=1e-12)
        assert ranking.average_precision == pytest.approx(average_precision_score(positive, narrow), abs=1e-12)


def test_influences_are_derivatives():
    scores, labels = make_logits("ties")
    scores, positive = scores[:, 3], labels == 3
    ranking = rank_class(scores, positive)
    step = 1e-4
    for example in range(0, 300, 17):
        weights = np.ones(300)
        weights[example] += step
        change = roc_auc_score(positive, scores, sample_weight=weights) - ranking.roc_auc
        assert ranking.roc_auc_influence[example] == pytest.approx(change / step, abs=1e-5)
        change = average_precision_score(positive, scores, sample_weight=weights) - ranking.average_precision
        assert ranking.average_precision_influence[example] == pytest.approx(change / step, abs=1e-5)
    assert ranking.roc_auc_influence.sum() == pytest.approx(0, abs=1e-9)
    assert ranking.average_precision_influence.sum() == pytest.approx(0, abs=1e-9)


def test_both_shortcuts_agree_with_ranking_every_draw_anew():
    scores, labels = make_logits("two classes")
    scores, positive = scores[:, 1] - scores[:, 0], labels == 1
    generator, areas, precisions = np.random.default_rng(5), [], []
    for _ in range(800):
        rows = generator.integers(0, len(labels), len(labels))
        areas.append(roc_auc_score(positive[rows], scores[rows]))
        precisions.append(average_precision_score(positive[rows], scores[rows]))
    ranking = rank_class(scores, positive)
    influences = np.stack([ranking.roc_auc_influence, ranking.average_precision_influence], axis=1)
    measured = np.array([ranking.roc_auc, ranking.average_precision])
    linear = measured + draw_statistics(lambda counts: counts @ influences, len(labels), seed=0)
    anew = np.stack([areas, precisions], axis=1)
    np.testing.assert_allclose(linear.std(axis=0), anew.std(axis=0), rtol=0.15)
    np.testing.assert_allclose(take_percentiles(linear), take_percentiles(anew), atol=0.02)
    enclosed = enclose_ranking(ranking.average_precision, ranking.average_precision_influence, int(positive.sum()))
    np.testing.assert_allclose(enclosed, take_percentiles(anew[:, 1]), atol=0.015)


def count_bins(bins, weights=1.0):
    return (np.arange(15)[:, None] == bins) * weights


def test_gaps_of_bins_between_quantiles_vary_with_their_edges():
    """Gaps change sign in the middle, and there they vary more than those of bins with fixed edges."""
    generator, n = np.random.default_rng(0), 4000
    scores = generator.uniform(size=n)
    outcomes = generator.random(n) < expit(5 * logit(scores))
    distances = (outcomes - scores) / n
    bins = assign_mass_bins(scores)
    fixed, counts = count_bins(bins, distances), count_bins(bins)
    moving = follow_quantiles(fixed, counts)
    np.testing.assert_allclose(moving.sum(axis=1), fixed.sum(axis=1), atol=1e-12)
    anew = []
    for _ in range(500):
        rows = generator.integers(0, n, n)
        anew.append(sum_gaps(outcomes[rows], scores[rows], assign_mass_bins(scores[rows]), 15))
    spread = np.std(anew, axis=0)
    drawn = {
        name: draw_statistics(lambda counts, gaps=gaps: counts @ gaps.T, n, seed=0, draws=500).std(axis=0)
        for name, gaps in (("fixed", fixed), ("moving", moving))
    }
    np.testing.assert_allclose(drawn["moving"], spread, rtol=0.2)
    assert np.abs(drawn["fixed"] / spread - 1).max() > 0.4, "fixed edges would not do"


def test_edges_among_equal_scores_stay():
    bins = assign_mass_bins(np.repeat([0.2, 0.6, 0.9], [47, 56, 47]))
    gaps = count_bins(bins, np.linspace(-1, 1, 150) / 150)
    np.testing.assert_allclose(follow_quantiles(gaps, count_bins(bins)), gaps, atol=1e-12)


def test_macro_f1_in_the_bootstrap_is_that_of_scikit_learn():
    logits, labels = make_logits("absent classes")
    prediction = logits.argmax(axis=1)
    one_hot = np.eye(7)
    generator = np.random.default_rng(9)
    rows = [generator.integers(0, len(labels), len(labels)) for _ in range(5)]
    counts = np.stack([np.bincount(row, minlength=len(labels)) for row in rows])
    right = one_hot[labels] * one_hot[prediction]
    ours = average_counts(counts @ one_hot[labels], counts @ one_hot[prediction], counts @ right)["macro_f1"]
    expected = [f1_score(labels[row], prediction[row], average="macro", zero_division=0) for row in rows]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
