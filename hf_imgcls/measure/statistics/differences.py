"""Differences of proportions: intervals and tests, for independent and for paired samples, and for many at once.

All functions take arrays of counts and work element by element.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, hypergeom, norm

from hf_imgcls.arrays import FloatArray
from hf_imgcls.measure.statistics.intervals import wilson

Counts = npt.ArrayLike

# From so many discordant pairs on, the mid-p correction is small and keeps the level.
_EXACT_BELOW = 25


def estimate_difference(
    successes: Counts, n: Counts, other_successes: Counts, other_n: Counts, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Difference of two independent proportions, ``successes / n - other_successes / other_n``.

    Args:
        successes: Integers in [0, n].
        n: Integers >= 1.
        other_successes: Integers in [0, other_n].
        other_n: Integers >= 1.
        level: Of the two-sided interval.

    Returns:
        The differences, and the ends of their intervals, in [-1, 1].

    Source:
        Newcombe (1998), "Interval estimation for the difference between independent proportions: comparison of eleven
        methods", Statistics in Medicine 17, 873-890: the score method without continuity correction (method 10).
    """
    share, low, high = _estimate_share(successes, n, level)
    other, other_low, other_high = _estimate_share(other_successes, other_n, level)
    difference = share - other
    return (
        difference,
        difference - np.hypot(share - low, other_high - other),
        difference + np.hypot(high - share, other - other_low),
    )


def estimate_paired_difference(
    both: Counts, only_first: Counts, only_second: Counts, neither: Counts, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Difference of two proportions of the same examples, the second's minus the first's.

    Args:
        both: Examples that both have right; the sum of all four is >= 1.
        only_first: Examples that only the first has right.
        only_second: Examples that only the second has right.
        neither: Examples that none has right.
        level: Of the two-sided interval.

    Returns:
        The differences, and the ends of their intervals, in [-1, 1].

    Source:
        Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on paired
        data", Statistics in Medicine 17, 2635-2650: the score method with corrected correlation (method 10).
    """
    e, f, g, h = (np.asarray(count, dtype=np.float64) for count in (both, only_first, only_second, neither))
    n = e + f + g + h
    first, first_low, first_high = _estimate_share(e + f, n, level)
    second, second_low, second_high = _estimate_share(e + g, n, level)
    product = e * h - f * g
    corrected = np.where(product > 0, np.maximum(product - n / 2, 0.0), product)
    margins = np.sqrt((e + f) * (g + h) * (e + g) * (f + h))
    correlation = np.divide(corrected, margins, out=np.zeros_like(n), where=margins > 0)

    def combine(one: FloatArray, other: FloatArray) -> FloatArray:
        # Rounding can make it negative where it is 0.
        return np.sqrt(np.maximum(one**2 - 2 * correlation * one * other + other**2, 0.0))

    difference = second - first
    return (
        difference,
        difference - combine(second - second_low, first_high - first),
        difference + combine(second_high - second, first - first_low),
    )


def estimate_stratified_difference(
    successes: Counts, n: Counts, other_successes: Counts, other_n: Counts, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Difference of two proportions at the same mix of strata: Mantel and Haenszel's weighted mean.

    Args:
        successes: (..., S) integers in [0, n], one for each of S strata.
        n: (..., S) integers >= 0.
        other_successes: (..., S) integers in [0, other_n].
        other_n: (..., S) integers >= 0.
        level: Of the two-sided interval, which is a normal approximation.

    Returns:
        The differences (...), and the ends of their intervals in [-1, 1]; NaN where no stratum has examples of both,
        and where each side is all successes or none: the variance is estimated as 0 there, which is no certainty.

    Source:
        Sato (1989), "On the variance estimator for the Mantel-Haenszel risk difference", Biometrics 45, 1323-1324, as
        SAS gives it:
        https://support.sas.com/documentation/cdl/en/statug/66859/HTML/default/statug_freq_details59.htm
    """
    x1, n1, x0, n0 = (np.asarray(count, dtype=np.float64) for count in (successes, n, other_successes, other_n))
    total = np.maximum(n1 + n0, 1.0)  # an empty stratum adds 0 to every sum
    weight = (n1 * n0 / total).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = ((x1 * n0 - x0 * n1) / total).sum(axis=-1) / weight
        p = ((n1**2 * x0 - n0**2 * x1 + n1 * n0 * (n0 - n1) / 2) / total**2).sum(axis=-1)
        q = ((x1 * (n0 - x0) + x0 * (n1 - x1)) / (2 * total)).sum(axis=-1)
        variance = difference * p + q
        is_known = variance > 1e-9  # a single success among n1 + n0 gives 1/4 or so; below is rounding
        deviation = np.sqrt(np.where(is_known, variance, np.nan)) / weight
    difference = np.where(is_known, difference, np.nan)
    reach = norm.ppf((1 + level) / 2) * deviation
    return difference, np.clip(difference - reach, -1.0, 1.0), np.clip(difference + reach, -1.0, 1.0)


def run_fisher_test(successes: Counts, n: Counts, other_successes: Counts, other_n: Counts) -> FloatArray:
    """Fisher's exact test of two independent proportions; two-sided as twice the smaller tail, at most 1.

    Given the successes of both together it asks how unusual their division is, so its level holds for any sizes.
    """
    x, n1, n0 = (np.asarray(count, dtype=np.int64) for count in (successes, n, other_n))
    all_successes = x + np.asarray(other_successes, dtype=np.int64)
    lower = hypergeom.cdf(x, n1 + n0, all_successes, n1)
    upper = hypergeom.sf(x - 1, n1 + n0, all_successes, n1)
    return cast(FloatArray, np.minimum(1.0, 2.0 * np.minimum(lower, upper)))


def run_mcnemar_test(only_first: Counts, only_second: Counts) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """McNemar's test, two-sided: whether one is right alone more often than the other.

    Args:
        only_first: Examples that only the first has right.
        only_second: Examples that only the second has right.

    Returns:
        The p-values; and whether each is exact (fewer than 25 discordant examples) or a mid-p value, which is less
        conservative and, in the source's 9,595 scenarios, never above its level.

    Source:
        Fagerland, Lydersen and Laake (2013), https://doi.org/10.1186/1471-2288-13-91
    """
    first, second = (np.asarray(count, dtype=np.int64) for count in (only_first, only_second))
    smaller, n = np.minimum(first, second), first + second
    exact = np.minimum(1.0, 2.0 * binom.cdf(smaller, n, 0.5))
    is_exact = n < _EXACT_BELOW
    # Among equals half the probability is taken away, not all of it.
    excess = binom.pmf(smaller, n, 0.5) * np.where(first == second, 0.5, 1.0)
    return np.where(is_exact, exact, exact - excess), is_exact


def adjust_by_holm(p_values: npt.ArrayLike) -> FloatArray:
    """Adjust p-values for being many, so that the chance of any false finding stays below the level.

    Args:
        p_values: (M,) in [0, 1]; the tests may depend on each other in any way.

    Returns:
        (M,) adjusted p-values, to be held against the level itself.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
        65-70.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    factors = len(values) - np.arange(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted


def _estimate_share(successes: Counts, n: Counts, level: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    low, high = wilson(successes, n, level)
    return np.asarray(successes, dtype=np.float64) / np.asarray(n, dtype=np.float64), low, high
