"""Intervals of metrics that are sums of mistakes, also where few mistakes, or none, were seen.

A bootstrap draws from the mistakes that were seen; of a class without one it says that there is none to be made. The
intervals here are tests turned round: the ends are the numbers under which what was seen has a probability of
(1 - level) / 2, and an unseen mistake has a price in each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hf_imgcls.arrays import FloatArray

# Weight of one unseen mistake beside the observed ones, where the spread of what mistakes cost is estimated.
_PSEUDO_COUNT = 0.1
_MOST_SPREAD = 10.0
_MOST_TILT, _MOST_STEPS = 500.0, 60


class Mistakes(NamedTuple):
    """What a metric is lost to, by stratum (a class, for example); strata are independent of each other.

    Attributes:
        n: (S,) float64 > 0, chances for a mistake.
        lost: (S,) float64 in [0, n], how many of them were taken; a mistake may count in part.
        cost: (S,) float64 > 0, by how much the metric is worse for each.
    """

    n: FloatArray
    lost: FloatArray
    cost: FloatArray


def enclose_mistakes(
    mistakes: Mistakes,
    level: float,
    *,
    variance: float | None = None,
    unseen: float | None = None,
    freedom: float = np.inf,
) -> tuple[float, float]:
    """Interval of the expected loss ``sum(cost * n * q)``, where stratum s loses a share q_s of its n_s chances.

    For each loss that may be true, the shares are those of the largest likelihood among all that add up to it. They
    leave one number open, so that an exact test can be turned round: the ends are the losses under which the observed
    one, or a smaller (larger) one, has a probability of (1 - level) / 2. Of one stratum this is the interval of Clopper
    and Pearson; of several without a mistake, it holds what the rarest of them alone could add.

    Mistakes that count in part, or come together, vary less or more than as many whole ones. Then the chances are as
    many as would vary as much (Korn and Graubard).

    Args:
        mistakes: What was seen.
        level: Confidence level, in (0, 1).
        variance: Of the observed loss, from the influence of the examples; by default that of independent mistakes.
        unseen: What the dearest mistake that was not seen would cost; by default the largest ``cost``.
        freedom: Degrees of freedom of ``variance``; few of them widen the interval as Student's t does.

    Returns:
        Lower and upper end; the observed loss lies between them.

    Source:
        Constrained likelihood: Lloyd and Moldovan (2007), "Exact one-sided confidence limits for the difference
        between two correlated proportions", Statistics in Medicine 26, 3369-3384. Probabilities of sums: Daniels
        (1987), "Tail probability approximations", International Statistical Review 55, 37-48, the saddlepoint
        approximation with the second correction for steps. Effective size: Korn and Graubard (1998), "Confidence
        intervals for proportions with small expected number of positive counts estimated from survey data", Survey
        Methodology 24, 193-201.
    """
    from scipy.special import stdtrit

    dearest = float(mistakes.cost.max())
    share = mistakes.lost / mistakes.n
    independent = float(mistakes.cost**2 @ (mistakes.n * share * (1 - share)))
    pseudo = _PSEUDO_COUNT * dearest
    spread = (independent if variance is None else variance) + pseudo * (dearest if unseen is None else unseen)
    spread /= independent + pseudo * dearest
    if np.isfinite(freedom):
        ends = np.array([max(freedom, 1.0), np.inf])
        spread *= float(np.divide(*stdtrit(ends, 0.5 + level / 2))) ** 2
    spread = min(spread, _MOST_SPREAD)
    effective = Mistakes(mistakes.n / spread, mistakes.lost / spread, mistakes.cost * spread)
    tail = (1 - level) / 2
    # The lower end is the upper one of what was not lost.
    gained = effective._replace(lost=effective.n - effective.lost)
    total = float(mistakes.cost @ mistakes.n)
    return max(0.0, total - _find_upper_end(gained, tail)), _find_upper_end(effective, tail)


def _find_upper_end(mistakes: Mistakes, tail: float) -> float:
    """The loss under which one as small as the observed has a probability of ``tail``."""
    from scipy.optimize import brentq

    n, cost, share = mistakes.n, mistakes.cost, mistakes.lost / mistakes.n
    dearest, observed, total = cost.max(), float(cost @ mistakes.lost), float(cost @ n)

    def excess(pull: float) -> float:
        return _find_tail(mistakes, _pull_shares(share, pull * cost / dearest), observed) - tail

    near, far = 0.0, 1.0
    while excess(far) > 0:
        near, far = far, 4 * far
        if far > 1e7:  # all chances lost is as likely as that
            return total
    pull = brentq(excess, near, far, rtol=1e-8) if near or excess(1e-9) > 0 else near
    return min(float(cost @ (n * _pull_shares(share, pull * cost / dearest))), total)


def _pull_shares(share: FloatArray, pull: FloatArray) -> FloatArray:
    """Shares of the largest likelihood under the pull of a Lagrange multiplier, which is not negative."""
    slope = 1 - pull
    root = np.sqrt(slope**2 + 4 * pull * share)
    with np.errstate(invalid="ignore", divide="ignore"):  # the form that does not cancel is taken
        pulled = np.where(slope > 0, 2 * share / (slope + root), (root - slope) / (2 * pull))
    return np.clip(pulled, 0.0, 1.0)


def _find_tail(mistakes: Mistakes, share: FloatArray, observed: float) -> float:
    """Probability that ``sum(cost * Binomial(n, share))`` is at most ``observed``, by Daniels' approximation."""
    from scipy.special import expit, logit, ndtr

    observed -= float(mistakes.cost[share >= 1] @ mistakes.n[share >= 1])
    counted = (share > 0) & (share < 1)
    if observed < -1e-9 or not counted.any():
        return float(observed >= -1e-9)
    n, cost, q = mistakes.n[counted], mistakes.cost[counted], share[counted]
    if observed <= 0:  # exact
        return float(np.exp(n @ np.log1p(-q)))
    dearest = cost.max()
    reached = observed / dearest + 0.5
    cost = cost / dearest
    if reached >= cost @ n:
        return 1.0
    log_odds = logit(q)

    # Newton's steps, within bounds that close in: the sum of tilted shares rises with t.
    t, low, high = 0.0, -_MOST_TILT, _MOST_TILT
    for _ in range(_MOST_STEPS):
        tilted = expit(log_odds + cost * t)
        excess = float(cost @ (n * tilted)) - reached
        slope = float(cost**2 @ (n * tilted * (1 - tilted)))
        low, high = (low, t) if excess > 0 else (t, high)
        step = excess / slope if slope > 0 else np.inf
        if abs(excess) < 1e-7 * max(reached, 1.0):
            break
        t = t - step if low < t - step < high else (low + high) / 2
    if t > _MOST_TILT - 1:  # so much is lost only if nearly all is
        return 1.0
    deviation = np.sqrt(cost**2 @ (n * tilted * (1 - tilted)))
    if abs(t) * deviation < 1e-4:
        return 0.5
    generating = n @ np.log1p(q * np.expm1(cost * t))
    root = np.sign(t) * np.sqrt(max(2 * (t * reached - generating), 1e-300))
    density = np.exp(-(root**2) / 2) / np.sqrt(2 * np.pi)
    return float(ndtr(root) + density * (1 / root - 1 / (2 * np.sinh(t / 2) * deviation)))


def enclose_mean_loss(losses: FloatArray, mistake: float, level: float, *, most: float = np.inf) -> tuple[float, float]:
    """Interval of a mean of losses that may be arbitrarily large where a mistake is made, as the log loss is.

    The mean is taken for a gamma variable of its mean and variance; for the upper end, one more example has lost what
    a mistake costs, which is nearly all that is known of the mean where no mistake was seen.

    Args:
        losses: (N,) float64, not negative.
        mistake: What a mistake costs, on average.
        level: Confidence level, in (0, 1).
        most: The largest loss there can be.

    Returns:
        Lower and upper end; the mean lies between them.

    Source:
        Fay and Feuer (1997), "Confidence intervals for directly standardized rates: a method based on the gamma
        distribution", Statistics in Medicine 16, 791-801.
    """
    from scipy.special import gammaincinv

    n, mean = len(losses), float(losses.mean())
    variance = float(losses.var(ddof=1)) / n if n > 1 else mean**2
    tail, added = (1 - level) / 2, mistake / n
    if mean + added <= 0:
        return 0.0, 0.0

    def quantile(share: float, mean: float, variance: float) -> float:
        if mean <= 0 or variance <= mean**2 * 1e-12:
            return mean
        return float(gammaincinv(mean**2 / variance, share) * variance / mean)

    low = quantile(tail, mean, variance)
    high = quantile(1 - tail, mean + added, variance + added**2)
    return min(low, mean), max(min(high, most), mean)


def enclose_pooled_share(successes: FloatArray, chances: FloatArray, level: float) -> tuple[float, float]:
    """Interval of a share of chances that come several to an image, such as the decisions on its classes.

    Images are independent of each other, the chances of one are not: see `enclose_mistakes` for what is made of them.

    Args:
        successes: (N,) float64 in [0, chances], of each image.
        chances: (N,) float64, not all of them 0.
        level: Confidence level, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1]; the share of all chances lies between them.
    """
    n, total = len(chances), float(chances.sum())
    share = float(successes.sum()) / total
    influence = (successes - share * chances) / total
    pooled = Mistakes(*(np.array([part]) for part in (total, total * (1 - share), 1 / total)))
    variance = float(influence @ influence) * n / max(n - 1, 1)
    low, high = enclose_mistakes(pooled, level, variance=variance, freedom=n - 1)
    return max(1 - high, 0.0), min(1 - low, 1.0)


def find_lower_tail(chances: FloatArray, observed: float) -> float:
    """Probability of at most so many successes of independent trials with unequal chances.

    Args:
        chances: (N,) float64 in [0, 1].
        observed: How many succeeded.
    """
    trials = Mistakes(np.ones_like(chances), np.zeros_like(chances), np.ones_like(chances))
    return _find_tail(trials, chances, observed)
