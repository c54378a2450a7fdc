"""The catalogue of metrics: everything that is known of a metric without computing it, one row each.

Goals, selection of the best model, progress, report, card, comparison and the `evaluate` modules read it; a fact about
a metric is written nowhere else. The order of the rows is the order in which metrics are shown. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

# Where a metric is measured.
TRAINING = "training"  # by the loop that trains; a best model can be chosen by it
EVALUATION = "evaluation"  # in each evaluation: a best model can be chosen by it
REPORT = "report"  # in a report only
CLASS = "class"  # of each class
GOAL = "goal"  # nowhere: a goal can be about it

# What an interval has to do with a metric's value, see `hf_imgcls.measure.report.estimates`.
SHARE = "share"  # of images that are right
RANK = "share by rank"  # of images whose class is among the best scores
POOLED = "pooled share"  # of decisions, several to an image
AVERAGE = "average over classes"
RANKING = "ranking"
LOSS = "mean loss"
CALIBRATION = "calibration error"
OTHER = "other"

# Places that show some of the metrics.
HEADLINE = "headline"  # the overview of a card, and the progress of training; the first one is the primary metric
COMPARISON = "comparison"  # of two models
REPEATS = "repeats"  # of a recipe with other seeds
THRESHOLDS = "thresholds"  # what they change
CLASSES = "classes"  # the table of classes

_ONE, _SEVERAL, _BOTH = (False,), (True,), (False, True)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in results, recipes and goals.
        title: As in a report.
        meaning: One line; empty where the title says it.
        multi_label_meaning: The same where an image may have several labels; by default ``meaning``.
        kind: ``SHARE``, ``AVERAGE`` and so on.
        is_higher_better: Which side is the better one.
        most: The largest value it can have; the least is 0.
        tasks: Whether it is about several labels per image: ``False``, ``True`` or both.
        measured: ``TRAINING``, ``EVALUATION``, ``REPORT``, ``CLASS`` or ``GOAL``.
        average: ``macro``, ``micro`` or ``weighted``, where it is an average of precision, recall or F1.
        is_on_hub: Whether the Hub knows the metric, by the name `hub_name`.
        shown: The places that show it.
        multi_label_shown: The same where an image may have several labels.
    """

    name: str
    title: str
    meaning: str = ""
    multi_label_meaning: str | None = None
    kind: str = AVERAGE
    is_higher_better: bool = True
    most: float = 1.0
    tasks: tuple[bool, ...] = _BOTH
    measured: str = EVALUATION
    average: str | None = None
    is_on_hub: bool = False
    shown: tuple[str, ...] = ()
    multi_label_shown: tuple[str, ...] = ()

    @property
    def hub_name(self) -> str:
        """The Hub's name: the average is an argument there."""
        return self.name.removeprefix(f"{self.average}_")

    @property
    def needs_scores(self) -> bool:
        """Whether the answers alone do not tell it."""
        return self.kind in (RANK, RANKING, LOSS, CALIBRATION)

    def describe(self, *, multi_label: bool = False) -> str:
        """What it says, and which side is better where that is the lower one; empty where the title says it."""
        meaning = self.multi_label_meaning if multi_label and self.multi_label_meaning is not None else self.meaning
        return meaning if self.is_higher_better or not meaning else f"{meaning}; lower is better"


_MACRO = "unweighted mean over classes"
_WEIGHTED = "mean over classes, weighted by their number of images"
_CURVE = "area under the precision-recall curve, mean over classes"
_CHOSEN = (HEADLINE, COMPARISON, REPEATS)

_ROWS = (
    Metric(
        "loss", "Loss", "mean of -log of the true class's probability", "mean binary cross-entropy of all decisions",
        LOSS, is_higher_better=False, most=math.inf, measured=TRAINING,
    ),
    Metric(
        "accuracy", "Accuracy", "share of images whose top prediction is correct", kind=SHARE, tasks=_ONE,
        is_on_hub=True, shown=_CHOSEN,
    ),
    Metric(
        "top5_accuracy", "Top-5 accuracy", "share of images whose class is among the five highest scores", kind=RANK,
        tasks=_ONE,
    ),
    Metric(
        "mean_average_precision", "Mean average precision", _CURVE, kind=RANKING, tasks=_SEVERAL,
        multi_label_shown=_CHOSEN,
    ),
    Metric(
        "micro_average_precision", "Micro average precision", "average precision of all decisions pooled", kind=RANKING,
        tasks=_SEVERAL,
    ),
    Metric(
        "subset_accuracy", "Subset accuracy", "share of images whose predicted labels are exactly right",
        kind=SHARE, tasks=_SEVERAL, multi_label_shown=(HEADLINE, COMPARISON, THRESHOLDS),
    ),
    Metric(
        "hamming_loss", "Hamming loss", "share of wrong decisions, one for each image and class", kind=POOLED,
        is_higher_better=False, tasks=_SEVERAL, multi_label_shown=(COMPARISON, THRESHOLDS),
    ),
    Metric(
        "micro_precision", "Micro precision", "share of predicted labels that are correct", kind=POOLED, tasks=_SEVERAL,
        average="micro", is_on_hub=True,
    ),
    Metric(
        "micro_recall", "Micro recall", "share of true labels that are predicted", kind=POOLED, tasks=_SEVERAL,
        average="micro", is_on_hub=True,
    ),
    Metric(
        "micro_f1", "Micro F1", "harmonic mean of micro precision and micro recall", kind=POOLED, tasks=_SEVERAL,
        average="micro", is_on_hub=True, multi_label_shown=(HEADLINE, COMPARISON, THRESHOLDS),
    ),
    Metric("macro_precision", "Macro precision", _MACRO, average="macro", is_on_hub=True),
    Metric("macro_recall", "Macro recall", _MACRO, average="macro", is_on_hub=True),
    Metric(
        "macro_f1", "Macro F1", _MACRO, average="macro", is_on_hub=True, shown=_CHOSEN,
        multi_label_shown=(COMPARISON, REPEATS, THRESHOLDS),
    ),
    Metric("weighted_precision", "Weighted precision", _WEIGHTED, average="weighted", is_on_hub=True),
    Metric("weighted_recall", "Weighted recall", _WEIGHTED, average="weighted", is_on_hub=True),
    Metric("weighted_f1", "Weighted F1", _WEIGHTED, average="weighted", is_on_hub=True),
    Metric(
        "balanced_accuracy", "Balanced accuracy", "mean recall of the classes that occur", tasks=_ONE, shown=(REPEATS,)
    ),
    Metric(
        "log_loss", "Log loss", "mean of -log of the true class's probability",
        "mean binary cross-entropy of all decisions", LOSS, is_higher_better=False, most=math.inf,
        shown=(COMPARISON, REPEATS), multi_label_shown=(COMPARISON, REPEATS),
    ),
    Metric("roc_auc", "ROC-AUC", "mean area under the one-vs-rest curves", kind=RANKING, is_on_hub=True),
    Metric("recall", "Recall", measured=CLASS, shown=(CLASSES,), multi_label_shown=(CLASSES,)),
    Metric("precision", "Precision", measured=CLASS, shown=(CLASSES,), multi_label_shown=(CLASSES,)),
    Metric("f1", "F1", measured=CLASS, shown=(CLASSES,), multi_label_shown=(CLASSES,)),
    Metric(
        "ece", "ECE", "expected calibration error, bins of equal width",
        "calibration error of all decisions, bins of equal width", CALIBRATION, is_higher_better=False,
        shown=(REPEATS,), multi_label_shown=(REPEATS, CLASSES),
    ),
    Metric(
        "top3_accuracy", "Top-3 accuracy", "share of images whose class is among the three highest scores", kind=RANK,
        tasks=_ONE, measured=REPORT,
    ),
    Metric(
        "average_precision", "Average precision", _CURVE, kind=RANKING, tasks=_ONE, measured=REPORT, shown=(CLASSES,),
        multi_label_shown=(CLASSES,),
    ),
    Metric(
        "brier", "Brier score", "squared error of the probabilities, 0 to 2", "mean squared error of the scores", LOSS,
        is_higher_better=False, most=2.0, measured=REPORT, multi_label_shown=(CLASSES,),
    ),
    Metric(
        "adaptive_ece", "Adaptive ECE", "calibration error, bins with equally many images",
        "the same, bins of equally many decisions", CALIBRATION, is_higher_better=False, measured=REPORT,
    ),
    Metric("worst_class_recall", "Recall of the worst class", kind=OTHER, measured=GOAL),
    Metric("worst_class_precision", "Precision of the worst class", kind=OTHER, measured=GOAL),
    Metric("worst_slice_accuracy", "Accuracy of the worst slice", kind=OTHER, tasks=_ONE, measured=GOAL),
    Metric(
        "worst_slice_subset_accuracy", "Subset accuracy of the worst slice", kind=OTHER, tasks=_SEVERAL, measured=GOAL
    ),
    Metric("latency_p50_ms", "Median latency, ms", kind=OTHER, is_higher_better=False, most=math.inf, measured=GOAL),
    Metric(
        "latency_p95_ms", "95th percentile of the latency, ms", kind=OTHER, is_higher_better=False, most=math.inf,
        measured=GOAL,
    ),
    Metric(
        "size_mb", "Size of the weights, MB", kind=OTHER, is_higher_better=False, most=math.inf, measured=GOAL
    ),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ROWS}


def list_metrics(*measured: str, multi_label: bool | None = None) -> tuple[str, ...]:
    """Names of the metrics that are measured in some places.

    Args:
        measured: ``EVALUATION`` and so on.
        multi_label: Those of images with one label or with several; by default all.
    """
    return tuple(
        metric.name
        for metric in _ROWS
        if metric.measured in measured and (multi_label is None or multi_label in metric.tasks)
    )


def list_shown(place: str, *, multi_label: bool) -> tuple[str, ...]:
    """Names of the metrics that a place shows, for example ``HEADLINE``."""
    return tuple(
        metric.name for metric in _ROWS if place in (metric.multi_label_shown if multi_label else metric.shown)
    )


def get_primary(*, multi_label: bool) -> str:
    """The metric that a model is told by where there is room for one only."""
    return list_shown(HEADLINE, multi_label=multi_label)[0]


def has_several_labels(names: Container[str]) -> bool:
    """Whether these are the metrics of images that may have several labels."""
    return get_primary(multi_label=True) in names


def choose_selection(adaptation: str, *, multi_label: bool) -> str:
    """The metric that ``--metric_for_best_model auto`` stands for.

    Args:
        adaptation: Of the run; ``auto`` goes by what it compares its models by.
        multi_label: Whether an image may have several labels.
    """
    return "log_loss" if adaptation == "auto" else get_primary(multi_label=multi_label)


def is_higher_better(name: str) -> bool:
    """Which side of a metric is the better one; of one that is not known here the higher one.

    Args:
        name: With or without ``eval_``.
    """
    return get_metric(name.removeprefix("eval_")).is_higher_better


def get_metric(name: str) -> Metric:
    """Return a metric's row; one that is not in the catalogue is a user's own, of any size."""
    own = Metric(name, name.replace("_", " ").capitalize(), kind=OTHER, most=math.inf)
    return METRICS.get(name, own)


def build_table() -> str:
    """Return all metrics as a Markdown table; `docs/metrics.md` holds it."""
    kinds = {(False, True): "both", (False,): "one", (True,): "several"}
    places = {TRAINING: "evaluation", EVALUATION: "evaluation, report", REPORT: "report", CLASS: "report, each class"}
    lines = ["| name | what it says | labels per image | better | measured in |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        says = metric.describe() or metric.title
        if (other := metric.describe(multi_label=True)) and other != metric.describe() and len(metric.tasks) > 1:
            says += f"; several labels: {other}"
        says = says.replace("; lower is better", "")
        better = "higher" if metric.is_higher_better else "lower"
        place = places.get(metric.measured, "goals")
        lines.append(f"| `{metric.name}` | {says} | {kinds[metric.tasks]} | {better} | {place} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(build_table())
