"""Every interval of a report by simulation: samples of a population whose metrics are known, from rows to intervals."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from made_tables import make_table

from hf_imgcls.measure.estimates import SUMMARY_NAMES, estimate_classes, estimate_metrics, rank_classes

NUM_SIMULATIONS, NUM_LABELS, SAMPLE = 1000, 4, 300
# Where the errors of calibration are small, only one end of their intervals can miss (`enclose_absolute_sum`).
CONSERVATIVE = {"ece", "adaptive_ece"}


def estimate(logits: np.ndarray, labels: np.ndarray, seed: int, draws: int) -> dict:
    """Name -> estimate; those of classes have the class's name before the metric's."""
    table = make_table(logits, labels)
    rankings = rank_classes(table, seed, 0.95, draws)
    estimates = dict(estimate_metrics(table, rankings, seed, 0.95, draws))
    for name, numbers in estimate_classes(table, rankings, 0.95).items():
        estimates |= {f"{name} {metric}": item for metric, item in numbers.items()}
    return estimates


@pytest.mark.slow
def test_every_interval_covers():
    generator = np.random.default_rng(0)
    size = 20_000
    shares = np.arange(1, NUM_LABELS + 1) / np.arange(1, NUM_LABELS + 1).sum()  # classes of unequal size
    labels = generator.choice(NUM_LABELS, size, p=shares)
    logits = generator.normal(scale=1.5, size=(size, NUM_LABELS))
    logits[np.arange(size), labels] += 2.0
    truth = estimate(logits, labels, seed=0, draws=2)

    covered = defaultdict(list)
    for seed in range(NUM_SIMULATIONS):
        rows = np.random.default_rng([7, seed]).integers(0, size, SAMPLE)
        for name, item in estimate(logits[rows], labels[rows], seed, draws=300).items():
            if item.value is not None:
                # Shares of few examples take few values, which moves a single class's coverage up and down.
                metric = name.removeprefix("class ").lstrip("0123456789")
                covered[metric].append(item.low <= truth[name].value <= item.high)
    of_classes = {" precision", " recall", " f1", " average_precision"}
    assert set(covered) == {*SUMMARY_NAMES, *of_classes} - {"top5_accuracy"}  # there are four classes
    for name, results in covered.items():
        assert len(results) >= 0.99 * NUM_SIMULATIONS * (NUM_LABELS if name in of_classes else 1)
        lowest, highest = (0.95, 0.99) if name in CONSERVATIVE else (0.93, 0.97)
        assert lowest <= np.mean(results) <= highest, (name, np.mean(results))
