"""Charts of many named numbers, one row each: classes, groups of images, and the changes from one model to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.catalogue import get_metric
from hf_imgcls.measure.report.drawing import (
    MAX_MATRIX_CLASSES,
    MAX_ROWS,
    ROW_IN,
    Chart,
    ClassNames,
    Theme,
    group_thousands,
    make_figure,
    set_title,
    shorten_name,
    styled,
)
from hf_imgcls.measure.tables import unique_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VERDICTS = {"better": "better", "worse": "worse", "not distinguishable": "not distinguishable from the first"}


def draw_classes(per_class: dict[str, dict[str, Any]], labels: Sequence[str], theme: Theme) -> Chart:
    """Recall of the classes with intervals, lowest first, and against the number of examples when there are many.

    Args:
        per_class: Class name -> ``recall`` -> estimate, as in the record.
        labels: Class names by id.
        theme: Where the chart goes.
    """
    recalls = {name: item["recall"] for name, item in per_class.items() if item["recall"]["value"] is not None}
    order = sorted(recalls, key=lambda name: (recalls[name]["value"], name))
    rows = order if len(order) <= MAX_MATRIX_CLASSES else order[:MAX_ROWS]
    names = ClassNames(labels, theme)
    with styled(theme):
        if rows is order:
            figure = make_figure(0.9 + ROW_IN * len(rows))
            upper, lower = figure.subplots(), None
            set_title(figure, "Recall of each class, lowest first (n: its images)")
        else:
            figure = make_figure(3.4 + ROW_IN * len(rows))
            upper, lower = figure.subplots(2, 1, height_ratios=[ROW_IN * len(rows), 2.3])
            set_title(figure, f"The {len(rows)} of {len(order):,} classes with the lowest recall (n: their images)")
        chosen = [recalls[name] for name in rows]
        _draw_rows(upper, [names[name] for name in rows], chosen, theme, [f"{item['n']:,}" for item in chosen])
        lowest = min((item["value"] if item["low"] is None else item["low"] for item in chosen), default=0.0)
        upper.set(xlim=(max(0.0, np.floor(10 * lowest - 0.1) / 10), 1.01), xlabel="recall")
        if lower is not None:
            _draw_all_classes(lower, [recalls[name] for name in order], theme)
    first = f"{shorten_name(order[0])} with {recalls[order[0]]['value']:.3f}"
    return Chart(figure, f"Recall of {len(order):,} classes with intervals. The lowest is {first}.")


def _draw_all_classes(axes: Axes, recalls: Sequence[dict[str, Any]], theme: Theme) -> None:
    from matplotlib.ticker import LogLocator

    support, values = np.array([item["n"] for item in recalls]), np.array([item["value"] for item in recalls])
    axes.set_title(f"All {len(recalls):,} classes")
    if support.max() > 1.5 * support.min():
        axes.scatter(support, values, s=10, color=theme.first, alpha=0.4, linewidths=0)
        axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="images of the class (logarithmic)", ylabel="recall")
        # Supports often lie within a decade, where the powers of ten alone would leave the axis bare.
        is_narrow = support.max() < 200 * support.min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,)))
        group_thousands(axes.xaxis)
    else:  # nothing to see against the support
        axes.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=theme.first, alpha=0.75)
        each = f"{support.min():,}" + (f" to {support.max():,}" if support.max() > support.min() else "")
        axes.set(xlim=(0, 1), xlabel=f"recall ({each} images each)", ylabel="classes")


def draw_slices(slices: Sequence[dict[str, Any]], theme: Theme) -> Chart:
    """Gaps of groups of images to all other images, with intervals: the first `MAX_ROWS` that have one."""
    rows = [item for item in slices if item.get("gap") is not None][:MAX_ROWS]
    texts = [_name_slice(item, theme) for item in rows]
    styles = {"worse": ("o", theme.second), "better": ("^", theme.first)}
    with styled(theme):
        figure = make_figure(1.2 + ROW_IN * len(rows))
        axes = figure.subplots()
        axes.axvline(0, color=theme.muted, linewidth=1)
        estimates = [{"value": item["gap"], "low": item["gap_low"], "high": item["gap_high"]} for item in rows]
        shapes = [styles.get(item["verdict"], ("s", theme.muted)) for item in rows]
        _draw_rows(axes, texts, estimates, theme, [f"{item['n']:,}" for item in rows], shapes)
        name = rows[0]["metric"].replace("_", " ")
        axes.set_xlabel(f"{name} of the group less that of all others")
        set_title(figure, "Groups of images (n: their images)\ncircle: worse; triangle: better; square: cannot be told")
    return Chart(
        figure,
        f"{name.capitalize()} gaps of {len(rows)} groups with intervals; "
        f"{sum(item['verdict'] == 'worse' for item in rows)} are worse than the rest.",
    )


def draw_confused_pairs(pairs: Sequence[dict[str, Any]], labels: Sequence[str], theme: Theme) -> Chart:
    """How often one class is taken for another: the first `MAX_ROWS` of ``confused_pairs``."""
    from matplotlib.ticker import MaxNLocator

    pairs = pairs[:MAX_ROWS]
    names = ClassNames(labels, theme, 22)
    with styled(theme):
        figure = make_figure(0.9 + 1.6 * ROW_IN * len(pairs))
        axes = figure.subplots()
        for place, pair in enumerate(pairs):
            _draw_bar(axes, place, pair["count"], pair["share_of_label"], theme.second)
        _name_bars(axes, [f"{names[pair['label']]}\ntaken for {names[pair['prediction']]}" for pair in pairs])
        axes.set(xlim=(0, 1.35 * max(pair["count"] for pair in pairs)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        set_title(figure, "Most confused pairs: images (share of the true class)")
    first = pairs[0]
    return Chart(
        figure,
        f"Bar chart of the {len(pairs)} most confused pairs of classes. First: "
        f"{shorten_name(first['label'])} taken for {shorten_name(first['prediction'])}, {first['count']:,} images.",
    )


def draw_label_mistakes(mistakes: Sequence[dict[str, Any]], labels: Sequence[str], theme: Theme) -> Chart:
    """How often each class is missed where it is, and invented where it is not: the first `MAX_ROWS` of ``mistakes``.

    Args:
        mistakes: ``multi_label["mistakes"]``, the most mistakes first.
        labels: Class names by id.
        theme: Where the chart goes.
    """
    from matplotlib.ticker import MaxNLocator

    rows = mistakes[:MAX_ROWS]
    names = ClassNames(labels, theme)
    with styled(theme):
        figure = make_figure(1.2 + 1.6 * ROW_IN * len(rows))
        axes = figure.subplots()
        most = max(max(row["missed"], row["invented"]) for row in rows) or 1
        for place, row in enumerate(rows):
            for kind, sign, colour in (("missed", -1, theme.second), ("invented", 1, theme.first)):
                _draw_bar(axes, place, row[kind], row[f"{kind}_share"], colour, sign)
        axes.axvline(0, color=theme.muted, linewidth=1)
        _name_bars(axes, [names[row["label"]] for row in rows])
        axes.set(xlim=(-1.6 * most, 1.6 * most))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        set_title(
            figure,
            "Left: missed (share of the images that have the class)\n"
            "right: invented (share of the images that have it not)",
        )
    first = rows[0]
    return Chart(
        figure,
        f"Missed and invented labels of {len(rows)} classes. First: {shorten_name(first['label'])}, missed in "
        f"{first['missed']:,} images and invented in {first['invented']:,}.",
    )


def draw_comparison(comparison: dict[str, Any], theme: Theme) -> Chart:
    """Two models on the same images: differences of the metrics and of the classes' recall, with intervals.

    Args:
        comparison: `ComparisonRecord.to_json`. Metrics that are no shares are left out: they have another scale.
        theme: Where the chart goes.
    """
    shares = {name: item for name, item in comparison["metrics"].items() if get_metric(name).most == 1.0}
    classes = comparison["per_class"][:MAX_ROWS]
    names = ClassNames(unique_names(comparison["labels"]), theme)
    verdicts = {
        "worse": ("o", theme.second),
        "better": ("^", theme.first),
    }
    with styled(theme):
        figure = make_figure(2.6 + ROW_IN * (len(shares) + len(classes)))
        upper, lower = figure.subplots(2, 1, height_ratios=[len(shares) + 0.6, len(classes) + 0.6])
        for axes in (upper, lower):
            axes.axvline(0, color=theme.muted, linewidth=1)
        labels = [f"{name.replace('_', ' ')}: {item['a']:.4f}, {item['b']:.4f}" for name, item in shares.items()]
        differences = [item["difference"] for item in shares.values()]
        shapes = [verdicts.get(item["verdict"], ("s", theme.muted)) for item in shares.values()]
        _draw_rows(upper, labels, differences, theme, [f"{item['n']:,}" for item in differences], shapes)
        upper.set_xlabel("second less first (first's and second's value at the left)")
        changes = [{"value": item["difference"], "low": item["low"], "high": item["high"]} for item in classes]
        shapes = [verdicts.get(item["verdict"], ("s", theme.muted)) for item in classes]
        shown = [names[item["class"]] for item in classes]
        _draw_rows(lower, shown, changes, theme, [f"{item['n']:,}" for item in classes], shapes)
        lower.set_xlabel("recall of the second less recall of the first")
        left_out = len(comparison["per_class"]) - len(classes)
        lower.set_title(f"Classes ({left_out:,} more not shown)" if left_out else "Classes")
        set_title(
            figure,
            f"first: {shorten_name(comparison['a'], 60)}\nsecond: {shorten_name(comparison['b'], 60)}\n"
            f"the second is {_VERDICTS[comparison['verdict']]}\n"
            "circle: worse; triangle: better; square: cannot be told",
        )
    return Chart(
        figure,
        f"Two models on the same {comparison['num_examples']:,} images: by {comparison['decided_by']} the second is "
        f"{_VERDICTS[comparison['verdict']]}.",
    )


def _name_slice(item: dict[str, Any], theme: Theme) -> str:
    return ClassNames([], theme, 34)[f"{item['column']}: {item['group']}"]


def _draw_bar(axes: Axes, place: int, count: int, share: float | None, colour: str, sign: int = 1) -> None:
    """Draw one bar to the right, or to the left, with its count and share at the end."""
    axes.barh(place, sign * count, height=0.6, color=colour, alpha=0.85)
    axes.annotate(
        f"{count:,}" + ("" if share is None else f" ({100 * share:.1f} %)"),
        (sign * count, place),
        textcoords="offset points",
        xytext=(3 * sign, 0),
        ha="left" if sign > 0 else "right",
        va="center",
        fontsize=8,
    )


def _name_bars(axes: Axes, texts: Sequence[str]) -> None:
    axes.set_yticks(range(len(texts)), texts)
    axes.set(ylim=(len(texts) - 0.4, -0.6), xlabel="images")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _draw_rows(
    axes: Axes,
    texts: Sequence[str],
    estimates: Sequence[dict[str, Any]],
    theme: Theme,
    counts: Sequence[str],
    shapes: Sequence[tuple[str, str]] | None = None,
) -> None:
    """One row per estimate: its name, value with interval, and count at the right edge."""
    from matplotlib.ticker import MaxNLocator

    for row, estimate in enumerate(estimates):
        marker, colour = shapes[row] if shapes else ("o", theme.first)
        if estimate["low"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [row, row], color=colour, linewidth=1.4, alpha=0.8)
        axes.plot(estimate["value"], row, marker=marker, color=colour, markersize=4.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    labels = axes.secondary_yaxis("right")
    labels.set_yticks(range(len(counts)), [f"n {count}" for count in counts])
    labels.tick_params(length=0, labelcolor=theme.muted)
    labels.spines["right"].set_visible(False)
    axes.set_yticks(range(len(texts)), texts)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(texts) - 0.4, -0.6)
