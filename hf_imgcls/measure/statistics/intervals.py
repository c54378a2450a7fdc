"""Confidence intervals: of shares, of rankings, of calibration errors, and a seeded bootstrap.

All intervals are two-sided, and their level is that of one number alone: of many intervals, some miss.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray

DEFAULT_LEVEL = 0.95
DEFAULT_DRAWS = 2000

Statistic = Callable[[FloatArray], FloatArray]
_CHUNK_BYTES = 2**25


def wilson(successes: npt.ArrayLike, n: npt.ArrayLike, level: float = DEFAULT_LEVEL) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval of a share, element by element.

    Args:
        successes: How many of the ``n`` examples; any shape.
        n: Examples, of a shape that broadcasts with ``successes``. Of no example nothing is known: (0, 1).
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper ends, in [0, 1].

    Source:
        Newcombe (1998), "Two-sided confidence intervals for the single proportion: comparison of seven methods",
        Statistics in Medicine 17, 857-872, method 3; the same as scipy's ``proportion_ci(method="wilson")``.
    """
    x, size = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = x + z * z / 2
    half = z * np.sqrt(x * (size - x) / np.maximum(size, 1) + z * z / 4)
    total = size + z * z
    low = np.where(x <= 0, 0.0, np.maximum((centre - half) / total, 0.0))
    high = np.where(x >= size, 1.0, np.minimum((centre + half) / total, 1.0))
    return low, high


def clopper_pearson(
    successes: npt.ArrayLike, n: npt.ArrayLike, level: float = DEFAULT_LEVEL
) -> tuple[FloatArray, FloatArray]:
    """Exact interval of a share, element by element: it holds the truth at least as often as ``level`` says.

    Args:
        successes: How many of the ``n`` examples; any shape.
        n: Examples, of a shape that broadcasts with ``successes``.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper ends, in [0, 1].

    Source:
        Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26, 404-413; the same as scipy's ``proportion_ci(method="exact")``.
    """
    from scipy.special import betaincinv

    x, size = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64))
    tail, left = (1 - level) / 2, size - x
    low = np.where(x > 0, betaincinv(np.maximum(x, 1e-9), left + 1, tail), 0.0)
    high = np.where(left > 0, betaincinv(x + 1, np.maximum(left, 1e-9), 1 - tail), 1.0)
    return low, high


def draw_statistics(statistic: Statistic, n: int, *, seed: int, draws: int = DEFAULT_DRAWS) -> FloatArray:
    """Compute a statistic on samples drawn from the examples with replacement.

    Args:
        statistic: Takes how often each example was drawn, (d, N) float64, rows of sum N, and returns (d,) or (d, M).
        n: N, the number of examples.
        seed: Of the draws; the same seed gives the same draws for every statistic of N examples.
        draws: D, the number of samples.

    Returns:
        (D,) or (D, M).
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_BYTES // (8 * n))
    parts = []
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = generator.integers(0, n, (size, n))
        drawn += n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        parts.append(statistic(counts))
    return np.concatenate(parts)


def take_percentiles(values: FloatArray, level: float = DEFAULT_LEVEL) -> tuple[FloatArray, FloatArray]:
    """The ends between which the middle ``level`` of the values lies.

    Args:
        values: (D,) or (D, M); NaN stands for a draw in which the statistic is not defined, and is passed over.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper ends, of shape () or (M,).
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    take = np.nanquantile if np.isnan(values).any() else np.quantile
    low, high = take(values, ends, axis=0)
    return low, high


def enclose_absolute_sum(gaps: FloatArray, drawn_gaps: FloatArray, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """Interval of a sum of absolute values, such as a calibration error: two one-sided tests turned round.

    Noise never cancels in such a sum: measured on a sample it is too large on average, in a bootstrap sample even more
    so, and percentiles would miss a small true value nearly always. So true sums are tried, each with the noise that
    the bootstrap shows, and those are kept under which what was measured is neither among the largest nor among the
    smallest (1 - level) / 2. How large the excess is depends on how a true sum is spread over the terms:

    - for the lower end every term is drawn towards 0 by the same multiple of its standard error, so that terms that
      may be mere noise vanish first: they are the ones that add to the excess;
    - for the upper end the true sum is spread in proportion to the standard errors, where the excess is smallest.

    In simulations 95 % intervals held the truth in 93-97 % of samples where several terms stand out of the noise, and
    in 95-99 % where few or none do: the upper end is never below the measured sum, which is itself too large there,
    so that only the lower end can miss.

    Args:
        gaps: (B,) what was measured, with signs.
        drawn_gaps: (D, B) the same in bootstrap samples.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper end; the measured sum lies between them.
    """
    noise, tail = np.ascontiguousarray((drawn_gaps - gaps).T), (1 - level) / 2  # (B, D): sums of long rows are fast
    sizes, signs, errors = np.abs(gaps), np.where(gaps < 0, -1.0, 1.0), noise.std(axis=1)
    measured = float(sizes.sum())
    if not errors.any():
        return measured, measured
    spread = signs * errors / errors.sum()

    def draw_sums(truth: FloatArray) -> FloatArray:
        return cast(FloatArray, np.abs(truth[:, None] + noise).sum(axis=0))

    def shrink(multiple: float) -> FloatArray:
        return signs * np.maximum(sizes - multiple * errors, 0.0)

    def is_too_small(multiple: float) -> bool:
        return bool(np.mean(draw_sums(shrink(multiple)) >= measured) < tail)

    def is_too_large(total: float) -> bool:
        return bool(np.mean(draw_sums(total * spread) <= measured) < tail)

    all_gone = float(np.max(sizes[errors > 0] / errors[errors > 0]))
    low = float(np.abs(shrink(_bisect(is_too_small, 0.0, all_gone))).sum()) if is_too_small(all_gone) else 0.0
    # A sum of absolute values is not smaller than that of the values in any direction.
    beyond = measured - float(np.quantile(signs @ noise, tail))
    high = measured if is_too_large(measured) else _bisect(is_too_large, measured, max(measured, beyond))
    return min(low, measured), high


def enclose_calibration_error(
    outcomes: npt.NDArray[np.bool_],
    scores: FloatArray,
    bins: IntArray,
    drawn_gaps: FloatArray,
    level: float = DEFAULT_LEVEL,
) -> tuple[float, float]:
    """Interval of a calibration error, also where all outcomes of a bin are the same.

    Bootstrap samples never show an outcome that was not seen. So the interval is the hull of two: with the noise of the
    bootstrap, and with that of outcomes whose share is half an outcome away from none or all of them. The upper end is
    not below the gap between the mean score and either end of the exact interval of the share of outcomes.

    Args:
        outcomes: (N,) whether what the score is about is so.
        scores: (N,) in [0, 1].
        bins: (N,) int64, the bin of each.
        drawn_gaps: (D, B) the gap of each bin in bootstrap samples.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper end; the measured error lies between them.
    """
    n, num_bins = len(outcomes), drawn_gaps.shape[1]
    size, happened, total, squares = (
        np.bincount(bins, weights=weights, minlength=num_bins)
        for weights in (np.ones(n), outcomes.astype(np.float64), scores, scores**2)
    )
    gaps = (happened - total) / n
    share = (happened + 0.5) / (size + 1)
    variance = size * share * (1 - share) + np.maximum(squares - total**2 / np.maximum(size, 1), 0.0)
    noise = np.random.default_rng(0).standard_normal(drawn_gaps.shape) * np.sqrt(variance) / n
    ends = [enclose_absolute_sum(gaps, drawn, level) for drawn in (drawn_gaps, gaps + noise)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    least, most = clopper_pearson(happened.sum(), n, level)
    mean = float(scores.mean())
    return low, min(max(high, mean - float(least), float(most) - mean), 1.0)


def follow_quantiles(gaps: FloatArray, counts: FloatArray) -> FloatArray:
    """Add what each example does to the gaps of bins between quantiles by moving the edges of the bins.

    Where an edge moves, decisions go from one bin to the next, each with the gap that there is near the edge. If gaps
    change sign from bin to bin, the sum of their sizes varies more than with fixed bins. Among equal scores an edge
    stays where it is.

    Args:
        gaps: (B, N) what each example adds to the gap of each bin, as if bins were fixed.
        counts: (B, N) how many of its decisions are in each bin.

    Returns:
        (B, N), with the sums over all examples unchanged.

    Source:
        The influence function of a quantile: van der Vaart (1998), "Asymptotic Statistics", chapter 21.
    """
    num_bins, n = gaps.shape
    num_decisions = counts.sum()
    below = counts.cumsum(axis=0)[:-1]
    reached = below.sum(axis=1)
    mean_gaps = gaps.sum(axis=1) * num_decisions / np.maximum(counts.sum(axis=1), 1)
    is_free = np.abs(reached - num_decisions * np.arange(1, num_bins) / num_bins) <= 1
    near = np.where(is_free, (mean_gaps[:-1] + mean_gaps[1:]) / 2, 0.0)
    moved = near[:, None] * (below - reached[:, None] / n) / num_decisions
    nothing = np.zeros((1, n))
    return cast(FloatArray, gaps - np.vstack([moved, nothing]) + np.vstack([nothing, moved]))


def _bisect(is_refused: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where a test begins to refuse, between a number that it accepts and one that it refuses, to 1/4096 of the way."""
    for _ in range(12):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_refused(middle) else (middle, outside)
    return outside


def move_by_influence(value: float, influence: FloatArray) -> FloatArray:
    """A ranking's value in other samples, to first order: the step is taken on the scale of log-odds.

    There the distribution is nearly symmetric; on the scale from 0 to 1 it leans away from the nearer end, and
    intervals would miss a lower truth twice as often as a higher one.

    Args:
        value: In [0, 1], measured.
        influence: By how much the value would change, of any shape.

    Returns:
        In [0, 1], of the same shape.

    Source: Pepe (2003), "The Statistical Evaluation of Medical Tests for Classification and Prediction", chapter 5.
    """
    from scipy.special import expit, logit

    if not 0.0 < value < 1.0:
        return np.clip(value + influence, 0.0, 1.0)
    return cast(FloatArray, expit(logit(value) + influence / (value * (1.0 - value))))


def enclose_ranking(
    value: float, influence: FloatArray, num_positives: int, level: float = DEFAULT_LEVEL
) -> tuple[float, float]:
    """Interval of one class's average precision, at the cost of one ranking and without random numbers.

    The variance is the sum of the squared influences (infinitesimal jackknife); on the scale of log-odds the interval
    is symmetric. How far it reaches is a quantile of Student's t, because of few positives the variance is a guess too.
    In simulations with 3 to 120 positives 95 % intervals held the truth in 93-99 % of samples, those of a bootstrap in
    81-97 %; of a class whose average precision is above 0.99 both hold it less often.

    Args:
        value: Average precision, in [0, 1].
        influence: (N,) derivative of it by the weight of each example.
        num_positives: Examples of the class, at least one.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper end; both are ``value`` where no example has any influence.

    Source:
        Boyd, Eng and Page (2013), "Area under the precision-recall curve: point estimates and confidence intervals",
        ECML PKDD, https://doi.org/10.1007/978-3-642-40994-3_29 (the logit interval); Efron (1981), see
        `hf_imgcls.measure.metrics.ranking.rank_class` (the variance).
    """
    from scipy.special import stdtrit

    reach = stdtrit(num_positives, 0.5 + level / 2) * np.sqrt(influence @ influence)
    low, high = move_by_influence(value, np.array([-reach, reach]))
    return float(low), float(high)
