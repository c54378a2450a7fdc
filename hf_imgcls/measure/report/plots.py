"""The charts of a report, from the numbers of its record (extra ``report``); those of many rows are in row_plots.py.

Every interval that the record has is drawn. Colour never carries a meaning alone: a marker's shape, a number or a place
says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.measure.report.drawing import (
    MAX_MATRIX_CLASSES,
    MAX_ROWS,
    WIDTH_IN,
    Chart,
    ClassNames,
    Theme,
    group_thousands,
    make_figure,
    set_title,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COUNT_CLASSES = 10  # up to here there is room for whole counts in the matrix


def draw_reliability(bins: Sequence[dict[str, Any]], theme: Theme, *, of_labels: bool = False) -> Chart:
    """Share of right answers against confidence, bin by bin, over a histogram of the confidences.

    Args:
        bins: ``calibration["bins"]``, each with ``low``, ``high``, ``n``, ``confidence``, ``accuracy``,
            ``accuracy_low`` and ``accuracy_high``; empty bins are passed over.
        theme: Where the chart goes.
        of_labels: Whether the bins hold all decisions, one for each image and class, instead of first answers.
    """
    what = ("scores", "score", "have the label") if of_labels else ("answers", "confidence", "are right")
    filled = [item for item in bins if item["n"]]
    confidence, accuracy, low, high = _columns(filled, "confidence", "accuracy", "accuracy_low", "accuracy_high")
    with styled(theme):
        figure = make_figure(5.2)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=theme.muted, linestyle="--", linewidth=1, label="perfectly calibrated")
        for x, y in zip(confidence, accuracy, strict=True):
            top.plot([x, x], [x, y], color=theme.second, linewidth=3, alpha=0.35, solid_capstyle="butt", zorder=1)
        _plot_intervals(top, confidence, accuracy, low, high, theme.first, label="measured, with interval")
        top.set(
            xlim=(0, 1), ylim=(0, 1.02), ylabel="share that has the label" if of_labels else "share of right answers"
        )
        top.legend(loc="lower right")
        title = "Reliability: is an answer right as often as it is confident?"
        set_title(figure, "Reliability: is a label there as often as its score says?" if of_labels else title)
        edges = [item["low"] for item in bins] + [bins[-1]["high"]]
        bottom.stairs([item["n"] for item in bins], edges, fill=True, color=theme.first, alpha=0.75)
        if of_labels:
            bottom.set(xlabel="score of a class, of all images and classes", ylabel="decisions")
            bottom.set_yscale("symlog", linthresh=1)
        else:
            bottom.set(xlabel="confidence: the answer's own probability", ylabel="images")
        group_thousands(bottom.yaxis)
    worst = max(filled, key=lambda item: item["n"] * abs(item["confidence"] - item["accuracy"]))
    return Chart(
        figure,
        f"Reliability diagram of {len(filled)} bins. The bin that adds most to the calibration error holds "
        f"{worst['n']:,} {what[0]} of mean {what[1]} {worst['confidence']:.3f}, of which {worst['accuracy']:.3f} "
        f"{what[2]}.",
    )


def draw_confusion_matrix(counts: npt.NDArray[np.int64], labels: Sequence[str], theme: Theme) -> Chart:
    """The confusion matrix of up to `MAX_MATRIX_CLASSES` classes.

    Right answers and mistakes have colours of their own; the darkest mistake is the most frequent one, so that
    mistakes stay visible beside a diagonal that is a hundred times larger.

    Args:
        counts: (K, K) integers, rows are references and columns predictions.
        labels: K class names.
        theme: Where the chart goes.
    """
    from matplotlib.patches import Rectangle

    num_labels = len(labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = shares * (1 - np.eye(num_labels))
    most = float(mistakes.max()) or 1.0
    in_counts = num_labels <= _MAX_COUNT_CLASSES
    names = ClassNames(labels, theme, 20)
    with styled(theme):
        shown = [names[name] for name in labels]
        side = max(WIDTH_IN, 0.9 + 0.075 * max(map(len, shown)) + (0.42 if in_counts else 0.28) * num_labels)
        figure = make_figure(side, side)
        axes = figure.subplots()
        for row, column in zip(*np.nonzero(counts), strict=True):
            is_right, share = row == column, float(shares[row, column])
            strength = share if is_right else share / most
            colour = theme.first if is_right else theme.second
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=0.06 + 0.94 * strength, linewidth=0)
            )
            if not in_counts and round(100 * share) == 0:
                continue
            count = int(counts[row, column])
            text = (f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f}k") if in_counts else f"{100 * share:.0f}"
            inside = theme.on_first if is_right else theme.on_second
            size = 8 if in_counts else 7
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color=inside if strength > 0.55 else theme.ink,
                fontsize=size,
            )
        axes.set(xlim=(-0.5, num_labels - 0.5), ylim=(num_labels - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(num_labels), shown, rotation=90)
        axes.set_yticks(range(num_labels), shown)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true class")
        unit = "images" if in_counts else "per cent of the true class's images, from 0.5"
        set_title(
            figure,
            f"Confusion matrix: {unit}\nblue: right; orange: wrong, the fullest is {100 * most:.1f} % of its row",
        )
    return Chart(
        figure,
        f"Confusion matrix of {num_labels} classes, {int(counts.sum()):,} images, {int(np.trace(counts)):,} of them on "
        "the diagonal. The most confused pairs are listed beside it.",
    )


def draw_risk_coverage(risk_coverage: dict[str, Any], theme: Theme) -> Chart:
    """Share of right answers when only the most confident share of images is answered.

    Args:
        risk_coverage: See `measure_risk_coverage` of `hf_imgcls.measure.statistics.selective`.
        theme: Where the chart goes.
    """
    coverage, accuracy = np.array(risk_coverage["coverage"]), np.array(risk_coverage["accuracy"])
    reached: dict[float, tuple[list[str], dict[str, Any]]] = {}  # by threshold: several aims may need the same one
    for target, item in risk_coverage["threshold_for"].items():
        if item and item["n"]:
            reached.setdefault(item["threshold"], ([], item))[0].append(f"{100 * float(target):g} %")
    with styled(theme):
        figure = make_figure(3.4)
        axes = figure.subplots()
        axes.plot(coverage, accuracy, color=theme.first, linewidth=1.8)
        for targets, item in reached.values():
            x, y = item["coverage"], item["accuracy"]
            axes.errorbar(
                x,
                y,
                yerr=[[y - item["accuracy_low"]], [item["accuracy_high"] - y]],
                color=theme.second,
                fmt="D",
                markersize=5,
                linewidth=1.2,
                capsize=2,
            )
            # The curve falls, so that there is room above it on the right and below it on the left.
            side: dict[str, Any] = {"xytext": (6, 3), "ha": "left", "va": "bottom"}
            if x > 0.6:
                side = {"xytext": (-7, -3), "ha": "right", "va": "top"}
            text = f"aim {', '.join(targets)}: answer {100 * x:.3g} %"
            axes.annotate(text, (x, y), textcoords="offset points", fontsize=8, **side)
        lowest = float(min([accuracy.min(), *(item["accuracy_low"] for _, item in reached.values())]))
        axes.set(xlim=(0, 1.02), ylim=(max(0.0, lowest - 0.15 * (1.02 - lowest) - 0.01), 1 + 0.03 * (1.02 - lowest)))
        axes.set(xlabel="share of images answered, the most confident first", ylabel="share of right answers")
        set_title(figure, "What is gained by leaving the least confident to a person")
    return Chart(
        figure,
        f"Risk-coverage curve: {accuracy[-1]:.3f} right when all images are answered; "
        + (f"{len(reached)} thresholds marked." if reached else "no threshold reaches a target."),
    )


def draw_imbalance(imbalance: dict[str, Any], theme: Theme) -> Chart:
    """Recall of the classes against their training images, with intervals while there is room for them."""
    classes = imbalance["classes"]
    train, recall, low, high = _columns(classes, "train", "recall", "low", "high")
    with styled(theme):
        figure = make_figure(3.2)
        axes = figure.subplots()
        lowest = float(recall.min()) - 0.15
        if len(classes) <= 2 * MAX_MATRIX_CLASSES:
            _plot_intervals(axes, train, recall, low, high, theme.first)
            lowest = min(lowest, float(low.min()) - 0.02)
        else:
            axes.scatter(train, recall, s=10, color=theme.first, alpha=0.4, linewidths=0)
        if train.max() > 10 * max(train.min(), 1):
            axes.set_xscale("symlog", linthresh=1)
        group_thousands(axes.xaxis)
        axes.set(ylim=(max(0.0, lowest), 1.02), xlabel="training images of the class")
        axes.set_ylabel("recall")
        set_title(figure, "Recall of a class against its training images")
    rho = imbalance["rho"]
    told = "" if rho is None else f" Spearman's rank correlation is {rho:.2f}."
    return Chart(figure, f"Recall of {len(classes):,} classes against their number of training images.{told}")


def draw_learning(learning: Sequence[dict[str, Any]], theme: Theme) -> Chart:
    """Validation and training loss against epochs, the evaluation whose weights were kept marked.

    Args:
        learning: From `hf_imgcls.measure.learning.read_learning`.
        theme: Where the chart goes.
    """
    epoch, training, validation = _columns(learning, "epoch", "training", "validation")
    best = [index for index, point in enumerate(learning) if point["is_best"]]
    with styled(theme):
        figure = make_figure(3.2)
        axes = figure.subplots()
        marker = "o" if len(learning) <= 2 * MAX_ROWS else ""
        axes.plot(epoch, validation, color=theme.first, marker=marker, markersize=4, label="validation")
        if np.isfinite(training).any():
            axes.plot(epoch, training, color=theme.second, linestyle="--", linewidth=1.2, label="training")
        if best:
            axes.plot(epoch[best], validation[best], "D", color=theme.first, markersize=7, label="weights kept")
        axes.set(ylim=(0, None), xlabel="epoch", ylabel="mean loss")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
        set_title(figure, "Loss while training")
    lowest = int(np.argmin(validation))
    return Chart(
        figure,
        f"Learning curve of {len(learning)} evaluations: validation loss from {validation[0]:.4f} to "
        f"{validation[-1]:.4f}, lowest {validation[lowest]:.4f} at epoch {epoch[lowest]:.4g}.",
    )


def _plot_intervals(axes: Axes, x: Any, y: Any, low: Any, high: Any, colour: str, label: str | None = None) -> None:
    axes.errorbar(
        x, y, yerr=[y - low, high - y], color=colour, fmt="o", markersize=4.5, linewidth=1.3, capsize=2, label=label
    )


def _columns(rows: Sequence[dict[str, Any]], *names: str) -> list[npt.NDArray[np.float64]]:
    return [np.array([row[name] for row in rows], dtype=np.float64) for name in names]
