"""What several runs of one recipe reach: the mean over their seeds, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student_t

from hf_imgcls.catalogue import REPEATS, has_several_labels, list_shown

_LEVEL = 0.95


def summarise_repeats(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the metrics that all runs have.

    Args:
        results: ``test_results.json`` of each run; at least one.

    Returns:
        ``num_runs``, ``level``, and by metric, without ``test_``: ``values`` of the runs in order, ``mean``,
        ``standard_deviation`` over the seeds, and ``low`` and ``high`` of the mean's interval, by Student's t with
        ``num_runs - 1`` degrees of freedom. Of one run there is no interval: the three are ``None``.
    """
    metrics: dict[str, Any] = {}
    for name in results[0]:
        found = [result.get(name) for result in results]
        if not name.startswith("test_") or name.startswith("test_num") or not all(map(_is_number, found)):
            continue
        values = [float(value) for value in found if value is not None]
        mean = fmean(values)
        spread: float | None = None
        low: float | None = None
        high: float | None = None
        if len(values) > 1:
            spread = stdev(values)
            half = float(student_t.ppf((1 + _LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
            low, high = mean - half, mean + half
        metrics[name.removeprefix("test_")] = {
            "values": values, "mean": mean, "standard_deviation": spread, "low": low, "high": high,
        }  # fmt: skip
    return {"num_runs": len(results), "level": _LEVEL, "metrics": metrics}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def describe_repeats(summary: Mapping[str, Any]) -> list[str]:
    """The headline metrics as lines for a terminal.

    Args:
        summary: From `summarise_repeats`.
    """
    lines = [f"{summary['num_runs']} runs; mean, its 95 % interval over seeds, and each run"]
    for name in list_shown(REPEATS, multi_label=has_several_labels(summary["metrics"])):
        if (found := summary["metrics"].get(name)) is None:
            continue
        interval = "" if found["low"] is None else f" ({found['low']:.4f} to {found['high']:.4f})"
        each = "  ".join(f"{value:.4f}" for value in found["values"])
        lines.append(f"  {name:<22} {found['mean']:.4f}{interval:<20}  {each}")
    lines.append("The interval is that of other seeds on the same test images; each run has that of other images.")
    return lines
