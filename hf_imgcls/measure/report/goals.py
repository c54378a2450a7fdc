"""Goals: what a classifier must reach, said before it is measured, and judged on the confidence interval.

A goal is *met* when the whole interval is on its side, *not met* when the whole interval is on the other, and *not
distinguishable* when the bound lies inside: more examples are needed to tell. A recipe ends with exit code 3 when a
goal is not met, so that CI can stop there. Goals that are not distinguishable or not measured are printed and do not
change the exit code.

Importing this needs the standard library only, so that a mistyped goal is an error before torch is loaded.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_imgcls.catalogue import EVALUATION, GOAL, METRICS, REPORT, is_higher_better, list_metrics
from hf_imgcls.errors import ArgumentError, UserError, join_errors
from hf_imgcls.records import Estimate, ReportRecord

GOALS_EXIT_CODE = 3
MET, NOT_MET, NOT_DISTINGUISHABLE, NOT_MEASURED = "met", "not met", "not distinguishable", "not measured"

GOAL_NAMES = list_metrics(EVALUATION, REPORT, GOAL)
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_PATTERN = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|=>|=<|==|=|>|<)\s*(\S+)\s*")
# Goals that can be set, as suggestions.
# By whether an image may have several labels.
EXAMPLES = {False: ("accuracy>=0.93", "ece<=0.05"), True: ("mean_average_precision>=0.6", "micro_f1>=0.7")}
_LABELS = {False: "one label", True: "several labels"}
_ADVICE = {
    multi_label: "for example --goals " + " ".join(f'"{goal}"' for goal in goals)
    for multi_label, goals in EXAMPLES.items()
}


@dataclass(frozen=True)
class Goal:
    """One bound on one number.

    Attributes:
        metric: One of `GOAL_NAMES`.
        operator: ``">="``, ``">"``, ``"<="`` or ``"<"``, towards the better side.
        bound: A share in [0, 1], or in the metric's own unit.
    """

    metric: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{self.bound:g}"


def parse_goals(texts: Sequence[Any]) -> list[Goal]:
    """Read goals, as the command line or a YAML list gives them.

    Args:
        texts: For example ``["accuracy>=0.93", "latency_p95_ms<=50"]``.

    Raises:
        ArgumentError: Some cannot be read; all of them are named.
    """
    if isinstance(texts, str):  # one goal on a YAML line
        texts = [texts]
    goals: list[Goal] = []
    errors: list[UserError] = []
    for text in texts:
        try:
            goals.append(parse_goal(text))
        except ArgumentError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)
    return goals


def parse_goal(text: Any) -> Goal:
    """Read one goal.

    Args:
        text: A name of `GOAL_NAMES`, an operator and a number.

    Raises:
        ArgumentError: It is no goal, its name is unknown (the nearest is offered), or its bound makes no sense.
    """
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _OPERATORS:
        raise ArgumentError(
            f"the goal {text!r} cannot be read", "a name, one of >= <= > <, and a number", _ADVICE[False]
        )
    name, sign, number = match.groups()
    if name not in GOAL_NAMES:
        near = difflib.get_close_matches(name, GOAL_NAMES, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ArgumentError(
            f"the goal {text!r} is about {name!r}{hint}", f"one of {', '.join(GOAL_NAMES)}", _ADVICE[False]
        )
    try:
        bound = float(number)
    except ValueError:
        bound = float("nan")
    highest = 1.0 if METRICS[name].most == 1.0 else float("inf")
    if not 0.0 <= bound <= highest or bound == float("inf"):
        what = "a share between 0 and 1" if highest == 1.0 else "a number from 0"
        raise ArgumentError(f"the goal {text!r} has the bound {number!r}", what, "write 93 % as 0.93")
    wanted = ">" if is_higher_better(name) else "<"
    if not sign.startswith(wanted):
        better = "lower" if wanted == "<" else "higher"
        raise ArgumentError(
            f"the goal {text!r} asks for the worse side", f"{name}{wanted}=...: {better} is better", "turn it round"
        )
    return Goal(name, sign, bound)


def check_goals(goals: Sequence[Goal], *, multi_label: bool) -> None:
    """Refuse goals that the data's kind of labels does not have, before anything is trained.

    Args:
        goals: From `parse_goals`.
        multi_label: Whether an image may have several labels.

    Raises:
        ArgumentError: Some make no sense; all of them are named.
    """
    known = list_metrics(EVALUATION, REPORT, GOAL, multi_label=multi_label)
    errors: list[UserError] = [
        ArgumentError(
            f"the goal {str(goal)!r} is not defined where an image has {_LABELS[multi_label]}",
            f"one of {', '.join(known)}",
            _ADVICE[multi_label],
        )
        for goal in goals
        if goal.metric not in known
    ]
    if errors:
        raise join_errors(errors)


def judge(goal: Goal, report: ReportRecord) -> dict[str, Any]:
    """Hold a goal against a report.

    Args:
        goal: From `parse_goal`.
        report: Its metrics, classes, slices and latency are read.

    Returns:
        ``goal`` (text), ``metric``, ``operator``, ``bound``; ``value``, ``low``, ``high`` and ``n`` (None where there
        are none); ``where``: the class or slice that is the worst; ``status``: ``"met"``, ``"not met"``, ``"not
        distinguishable"`` or ``"not measured"``; ``reason``: why it could not be told.
    """
    estimate, where = _find_estimate(goal, report)
    status, reason = _decide(goal, estimate)
    return {
        "goal": str(goal),
        "metric": goal.metric,
        "operator": goal.operator,
        "bound": goal.bound,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "where": where,
        "status": status,
        "reason": reason,
    }


def choose_exit_code(judgements: Sequence[Mapping[str, Any]]) -> int:
    """Exit code of a recipe: 3 when a goal is not met, else 0."""
    return GOALS_EXIT_CODE if any(judgement["status"] == NOT_MET for judgement in judgements) else 0


def describe_judgement(judgement: Mapping[str, Any]) -> str:
    """One line for a person, for example ``accuracy>=0.93: met (0.9512, 0.9432 to 0.9581, n = 3000)``."""
    details = []
    if judgement["value"] is not None:
        details.append(f"{judgement['value']:.4g}")
        if judgement["low"] != judgement["high"]:
            low, high = (
                f"no {name} end" if judgement[end] is None else f"{judgement[end]:.4g}"
                for end, name in (("low", "lower"), ("high", "upper"))
            )
            details.append(f"{low} to {high}")
        details += [f"n = {judgement['n']}"] if judgement["n"] else []
    details += [text for text in (judgement["where"], judgement["reason"]) if text]
    return f"{judgement['goal']}: {judgement['status']}" + (f" ({', '.join(details)})" if details else "")


def _decide(goal: Goal, estimate: Estimate) -> tuple[str, str]:
    if estimate.value is None:
        return NOT_MEASURED, estimate.remark
    holds = _OPERATORS[goal.operator]
    upwards = goal.operator.startswith(">")
    nearer, farther = (estimate.low, estimate.high) if upwards else (estimate.high, estimate.low)
    if nearer is not None and holds(nearer, goal.bound):
        return MET, ""
    if farther is not None and not holds(farther, goal.bound):
        return NOT_MET, ""
    if nearer is None:
        return NOT_DISTINGUISHABLE, estimate.remark or "its interval has no end on this side"
    return NOT_DISTINGUISHABLE, "the bound lies inside the interval"


def _find_estimate(goal: Goal, report: ReportRecord) -> tuple[Estimate, str]:
    """The number that a goal is about, and the class or slice it belongs to."""
    metric = goal.metric
    if metric in ("latency_p50_ms", "latency_p95_ms"):
        return _find_latency(metric.removeprefix("latency_").removesuffix("_ms"), report), ""
    if metric == "size_mb":
        size = (report.latency or {}).get("size_mb")
        if size is None:
            return _nothing("the size of the model's files was not measured"), ""
        return Estimate(size, size, size, 0, "none", "a fact, not a sample"), ""  # nothing is left to chance
    if metric in ("worst_class_recall", "worst_class_precision"):
        return _find_worst_class(goal, report)
    if metric in ("worst_slice_accuracy", "worst_slice_subset_accuracy"):
        shares = {
            f"{entry['column']}: {entry['group']}": Estimate(
                entry["value"], entry["low"], entry["high"], entry["n"], "wilson"
            )
            for entry in report.slices
            if entry["verdict"] != "too few samples" and f"worst_slice_{entry['metric']}" == metric
        }
        return _take_worst(shares, "no slice was measured on enough examples", goal, report.confidence_level)
    return report.metrics.get(metric) or _nothing("it is not in the report"), ""


def _find_latency(percentile: str, report: ReportRecord) -> Estimate:
    timed = (report.latency or {}).get("pipeline")
    if timed is None:
        return _nothing("latency was not measured")
    value, low, high = (timed[f"{percentile}{end}_ms"] for end in ("", "_low", "_high"))
    remark = "" if high is not None else f"{timed['n']} runs are too few for an upper end"
    return Estimate(value, low, high, timed["n"], "order statistics", remark)


def _find_worst_class(goal: Goal, report: ReportRecord) -> tuple[Estimate, str]:
    from hf_imgcls.measure.statistics.class_means import name_few
    from hf_imgcls.measure.tables import unique_names

    name = goal.metric.removeprefix("worst_class_")
    found = {label: _as_estimate(numbers[name]) for label, numbers in report.per_class.items() if name in numbers}
    shares = {label: estimate for label, estimate in found.items() if estimate.value is not None}
    estimate, where = _take_worst(shares, f"no class has a {name}", goal, report.confidence_level)
    missing = [label for label in found if label not in shares]
    if not missing or estimate.value is None:
        return estimate, where
    where += f"; {len(missing)} of {len(report.per_class)} classes have no {name}"
    foreign = [] if report.num_classes is None else unique_names(report.labels)[report.num_classes :]
    unseen = [label for label in missing if label not in foreign]
    if not unseen or (estimate.high is not None and not _OPERATORS[goal.operator](estimate.high, goal.bound)):
        return estimate, where
    # A class of which nothing was seen may be the worst one, however good the others are.
    remark = name_few(unseen, "images" if name == "recall" else "predictions")
    return replace(estimate, low=None, remark=remark), where


def _take_worst(shares: Mapping[str, Estimate], otherwise: str, goal: Goal, level: float) -> tuple[Estimate, str]:
    """The smallest of many shares, with an exact interval for the smallest, and whose end decides on the goal.

    The lower end is the lowest of all lower ends: whichever is truly the smallest lies above its own. The smallest
    upper end would often be too small by chance, so upper ends are taken at level 1 - (1 - level) / M for M shares
    (Bonferroni), each by Clopper and Pearson: Wilson's is too low too often for a share near 1.
    """
    from hf_imgcls.measure.statistics.intervals import clopper_pearson

    if not shares:
        return _nothing(otherwise), ""
    names = list(shares)
    sizes = [estimate.n for estimate in shares.values()]
    successes = [round((estimate.value or 0.0) * estimate.n) for estimate in shares.values()]
    low = clopper_pearson(successes, sizes, level)[0].tolist()
    high = clopper_pearson(successes, sizes, 1 - (1 - level) / len(shares))[1].tolist()
    fails = not _OPERATORS[goal.operator](min(high), goal.bound)
    decisive = names[high.index(min(high)) if fails else low.index(min(low))]
    smallest = min(names, key=lambda name: (shares[name].value, name))
    where = decisive
    if shares[smallest].value != shares[decisive].value:
        where += f"; the lowest value is that of {smallest}, n = {shares[smallest].n}"
    remark = f"of {len(shares)}; upper end for all of them together (Bonferroni)"
    estimate = Estimate(shares[smallest].value, min(low), min(high), shares[decisive].n, "clopper-pearson", remark)
    return estimate, where


def _as_estimate(content: Any) -> Estimate:
    """A class's numbers are dicts once a report was read from its file."""
    return content if isinstance(content, Estimate) else Estimate(**content)


def _nothing(remark: str) -> Estimate:
    return Estimate(None, None, None, 0, "none", remark)
