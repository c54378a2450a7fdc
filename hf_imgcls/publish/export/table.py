"""All exported models of a run side by side: a table to print, and a picture of accuracy against latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.layout import EXPORT_FILE, EXPORTS_PICTURE
from hf_imgcls.records import ExportRecord

if TYPE_CHECKING:
    from hf_imgcls.measure.report.drawing import Chart, Theme


def read_exports(folder: Path) -> list[ExportRecord]:
    """The records of all exported models in a run's folder, by name.

    Raises:
        UserError: One is damaged.
    """
    return [ExportRecord.load(path) for path in sorted(folder.glob(f"*/{EXPORT_FILE}"))]


def show_exports(folder: Path) -> list[ExportRecord]:
    """Print the table of all exported models in a run's folder, and show them in its report.

    Where what draws is installed: there is a picture too.

    Returns:
        Their records, by name.
    """
    records = read_exports(folder)
    (folder / EXPORTS_PICTURE).unlink(missing_ok=True)  # it may show what is there no more
    if records:
        print_exports(records)
        if find_spec("matplotlib"):
            from hf_imgcls.measure.report.drawing import PRINT, encode_png

            (folder / EXPORTS_PICTURE).write_bytes(encode_png(draw_exports(records, PRINT)))
            print(f"  picture: {folder / EXPORTS_PICTURE}")
    if all(find_spec(name) for name in ("matplotlib", "jinja2")):
        # Not above: cards are written from here too, and need neither datasets nor pandas.
        from hf_imgcls.measure.report.write import add_exports

        add_exports(folder, [list_figures(record) for record in records])
    return records


def name_conditions(record: ExportRecord) -> str:
    """What the numbers of an export were measured on: not the same for all that were made one after the other."""
    threads = f"{record.threads} thread{'s' if record.threads > 1 else ''}"
    return f"{record.num_examples:,} images of the {record.split} split, on {record.device} with {threads}"


def list_figures(record: ExportRecord) -> dict[str, Any]:
    """An export as a row of the report."""
    return {
        "format": record.format,
        "precision": "; ".join([record.precision, *(f"{key} {value}" for key, value in record.hints.items())]),
        "conditions": name_conditions(record),
        "split": record.split,
        "device": record.device,
        "threads": record.threads,
        "accuracy": dataclasses.asdict(record.accuracy),
        "difference": dataclasses.asdict(record.accuracy_difference),
        "agreement": record.top1_agreement,
        "size_mb": record.size_mb,
        "p50_ms": record.latency["p50_ms"],
        "p95_ms": record.latency["p95_ms"],
        "speedup": record.latency["speedup"],
        "images_per_s": record.throughput["images_per_s"],
    }


def print_exports(records: Sequence[ExportRecord]) -> None:
    """Print one line for each export, what was measured on what, and what is to be known besides."""
    print(f"\n{name_conditions(records[0])}")
    rows = [("format", "accuracy", "loss (points)", "agree", "max diff", "MB", "p50 ms", "p95 ms", "x", "images/s")]
    for record in records:
        difference = record.accuracy_difference
        loss = f"{0.0 - 100 * (difference.value or 0.0):.2f}"
        if difference.low is not None and difference.high is not None:
            loss += f" ({0.0 - 100 * difference.high:.2f} to {0.0 - 100 * difference.low:.2f})"
        rows.append(
            (
                record.format,
                f"{record.accuracy.value:.4f}",
                loss,
                f"{record.top1_agreement:.2%}",
                f"{record.max_probability_difference:.1e}",
                f"{record.size_mb:.1f}",
                f"{record.latency['p50_ms']:.2f}",
                f"{record.latency['p95_ms']:.2f}",
                f"{record.latency['speedup']:.1f}",
                f"{record.throughput['images_per_s']:.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in _pair(row, widths)))
    print("  (x: times as fast as eager PyTorch, timed in turn with it, one image at a time)")
    for record in records:
        if record.float_layers:
            print(f"  {record.format} keeps {len(record.float_layers)} layers in float: {_list(record.float_layers)}")
        if record.hints:
            print(f"  {record.format} was told: {', '.join(f'{key} {value}' for key, value in record.hints.items())}")
        if name_conditions(record) != name_conditions(records[0]):
            print(f"  {record.format} was measured otherwise: {name_conditions(record)}")
        for note in record.notes:
            print(f"  {record.format}: {note}")


def _pair(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    return list(zip(row[1:], widths[1:], strict=True))


def _list(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def draw_exports(records: Sequence[ExportRecord], theme: Theme) -> Chart:
    """Accuracy with its interval against median latency; what no other export beats in both is filled.

    Args:
        records: Exports of one model, measured on the same images.
        theme: Where the chart goes.
    """
    from hf_imgcls.extras import require
    from hf_imgcls.measure.report.drawing import Chart, make_figure, set_title, styled

    require("report")
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    eager = sorted(record.latency["pytorch_p50_ms"] for record in records)[len(records) // 2]
    original = (records[0].accuracy.value or 0.0) - (records[0].accuracy_difference.value or 0.0)
    points = [("PyTorch, eager", eager, original, None)] + [
        (record.format, record.latency["p50_ms"], record.accuracy.value or 0.0, record.accuracy) for record in records
    ]
    best = {
        name
        for name, latency, accuracy, _ in points
        if not any(
            other != name and x <= latency and y >= accuracy and (x, y) != (latency, accuracy)
            for other, x, y, _ in points
        )
    }
    with styled(theme):
        figure = make_figure(1.2 + 0.32 * len(points))
        axes, names = figure.subplots(1, 2, width_ratios=[2.2, 1])
        order = sorted(points, key=lambda point: point[1])
        for number, (name, latency, accuracy, estimate) in enumerate(order, start=1):
            colour = theme.second if estimate is None else theme.first
            if estimate is not None and estimate.low is not None and estimate.high is not None:
                axes.plot([latency] * 2, [estimate.low, estimate.high], color=theme.muted, linewidth=0.8)
            axes.plot(
                latency, accuracy, marker="D" if estimate is None else "o", markersize=6, color=colour,
                markerfacecolor=colour if name in best else "white",
            )  # fmt: skip
            axes.annotate(
                str(number), (latency, accuracy), textcoords="offset points", fontsize=8, color=theme.ink,
                xytext=(4, 5 + 9 * (number % 3)),  # neighbours must not cover each other
            )  # fmt: skip
            names.text(0, 1 - (number - 0.5) / len(order), f"{number}  {name}", va="center", fontsize=8)
        names.set_axis_off()
        axes.set(xlabel="median latency of one image, ms", ylabel="accuracy", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.15)
        set_title(figure, "Exports: accuracy against latency (filled: no other beats it in both)")
    fastest = order[0]
    return Chart(
        figure,
        f"Accuracy against latency of {len(records)} exports and the PyTorch model. Fastest: {fastest[0]}, "
        f"{fastest[1]:.2f} ms at accuracy {fastest[2]:.4f}.",
    )
