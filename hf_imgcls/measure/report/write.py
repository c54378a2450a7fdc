"""Write a report into its folder, and read it again.

``report.json`` is written last and taken away first: where it lies, the report beside it is whole. Everything is drawn
before the first file is touched, so that a report that cannot be made leaves the earlier one as it was.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.classifier.reading import DEFAULT_READING, Reading
from hf_imgcls.errors import OutputError
from hf_imgcls.extras import require
from hf_imgcls.layout import REPORT_FOLDER
from hf_imgcls.measure.report.gallery import IMAGE_FOLDER, IMAGE_PREFIX, Gallery, build_gallery
from hf_imgcls.measure.tables import PREDICTIONS_FILE, Table, unique_names
from hf_imgcls.records import Estimate, ReportRecord

if TYPE_CHECKING:
    from hf_imgcls.measure.report.drawing import Chart, Theme

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
CHART_FILES = tuple(
    f"{name}.png"
    for name in ("reliability", "confusion", "mistakes", "classes", "imbalance", "risk_coverage", "slices", "learning")
)


def write_report(
    record: ReportRecord,
    folder: str | os.PathLike[str],
    *,
    table: Table | None = None,
    dataset: Any = None,
    train: Any = None,
    reading: Reading = DEFAULT_READING,
) -> Path:
    """Write ``report.json``, ``report.html`` and pictures (``reliability.png``, ``confusion.png`` and so on).

    Args:
        record: What was measured.
        folder: The run's folder; the report goes into ``report/`` inside, made if needed. Pictures that
            ``record.explanations`` names are looked for there and in ``report/images/``.
        table: The predictions, for the confusion matrix and, unless the record has one, the gallery.
        dataset: The split that was measured, for the gallery's pictures, see `build_gallery`.
        train: The training split, for the gallery.
        reading: How files become pixels.

    Returns:
        The report's folder.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
        OutputError: The folder cannot be written to.
    """
    require("report")
    from hf_imgcls.measure.report.drawing import PAGE, PRINT, encode_png
    from hf_imgcls.measure.report.page import render_page

    target = Path(folder) / REPORT_FOLDER
    gallery = Gallery({})
    if record.gallery is None and table is not None:
        gallery = build_gallery(table, dataset, train, reading=reading)
        record = dataclasses.replace(record, gallery=gallery.content)
    content = record.to_json()
    files = {f"{name}.png": encode_png(chart) for name, chart in draw_charts(content, table, PRINT).items()}
    files |= gallery.thumbnails
    images = _collect_images(content, target) | gallery.thumbnails
    page = render_page(content, draw_charts(content, table, PAGE), images)
    files[PAGE_FILE] = page.encode("utf-8", errors="replace")
    try:
        _replace_files(target, files, record)
    except OSError as error:
        raise OutputError(
            f"the report cannot be written to {target}: {error.strerror or error}",
            "a folder that can be written to, with space left",
            "free some space, or name another --output_dir",
        ) from error
    return target


def read_report(folder: str | os.PathLike[str]) -> ReportRecord:
    """Read the report of a run.

    Args:
        folder: The run's folder.

    Raises:
        UserError: There is no whole report, or one of another schema version.
    """
    record = ReportRecord.load(Path(folder) / REPORT_FOLDER / REPORT_FILE)
    record.per_class = {
        label: {name: item if isinstance(item, Estimate) else Estimate(**item) for name, item in estimates.items()}
        for label, estimates in record.per_class.items()
    }
    return record


def add_exports(folder: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Show a run's exported models in its report, if it has one that was measured on the same split.

    Args:
        folder: The run's folder.
        rows: From `hf_imgcls.publish.export.table`; they take the place of earlier ones.
    """
    folder = Path(folder)
    if not (folder / REPORT_FOLDER / REPORT_FILE).is_file():
        return
    record = read_report(folder)
    if rows == record.exports or (rows and record.split != rows[0]["split"]):
        return
    path = folder / PREDICTIONS_FILE.format(split=record.split)
    table = Table.load(path) if path.is_file() else None
    write_report(dataclasses.replace(record, exports=rows), folder, table=table)


def draw_charts(content: dict[str, Any], table: Table | None, theme: Theme) -> dict[str, Chart]:
    """The charts that the record has numbers for.

    Args:
        content: `ReportRecord.to_json`.
        table: The predictions, for a confusion matrix; without them, and with many classes, the most confused pairs
            take its place.
        theme: `PRINT` or `PAGE`.

    Returns:
        Name -> chart: ``reliability``, ``confusion`` (where an image may have several labels: ``mistakes``),
        ``classes``, ``imbalance``, ``risk_coverage``, ``slices`` and ``learning``.
    """
    from hf_imgcls.measure.report import plots, row_plots
    from hf_imgcls.measure.report.drawing import MAX_MATRIX_CLASSES

    labels = unique_names(content["labels"])
    charts = {}
    if any(item["n"] for item in content["calibration"].get("bins") or ()):
        multi_label = content["multi_label"] is not None
        charts["reliability"] = plots.draw_reliability(content["calibration"]["bins"], theme, of_labels=multi_label)
    if (content["multi_label"] or {}).get("mistakes"):
        charts["mistakes"] = row_plots.draw_label_mistakes(content["multi_label"]["mistakes"], labels, theme)
    counts = None if table is None or len(labels) > MAX_MATRIX_CLASSES else table.count_confusions()
    if counts is not None:
        charts["confusion"] = plots.draw_confusion_matrix(counts, labels, theme)
    elif content["confused_pairs"]:
        charts["confusion"] = row_plots.draw_confused_pairs(content["confused_pairs"], labels, theme)
    if any(item.get("recall", {}).get("value") is not None for item in content["per_class"].values()):
        charts["classes"] = row_plots.draw_classes(content["per_class"], labels, theme)
    if (content["imbalance"] or {}).get("classes"):
        charts["imbalance"] = plots.draw_imbalance(content["imbalance"], theme)
    if content["risk_coverage"].get("coverage"):
        charts["risk_coverage"] = plots.draw_risk_coverage(content["risk_coverage"], theme)
    if any(item["gap"] is not None for item in content["slices"]):
        charts["slices"] = row_plots.draw_slices(content["slices"], theme)
    if content["learning"]:
        charts["learning"] = plots.draw_learning(content["learning"], theme)
    return charts


def _collect_images(content: dict[str, Any], target: Path) -> dict[str, bytes]:
    """Pictures that the record names and that lie in the report's folder already; nothing outside it is read."""
    names = set(_find_values(content["gallery"], "image")) | set(_find_values(content["explanations"], "overlay"))
    images = {}
    for name in names:
        for path in (target / name, target / IMAGE_FOLDER / name):
            if path.is_file() and path.resolve().is_relative_to(target.resolve()):
                images[name] = path.read_bytes()
                break
    return images


def _find_values(content: Any, key: str) -> list[str]:
    if isinstance(content, dict):
        own = [content[key]] if isinstance(content.get(key), str) else []
        return own + [name for value in content.values() for name in _find_values(value, key)]
    return [name for value in content for name in _find_values(value, key)] if isinstance(content, list) else []


def _replace_files(target: Path, files: dict[str, bytes], record: ReportRecord) -> None:
    """Put new files in the place of the earlier report's, the record last; other files stay."""
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target, prefix=".unfinished-"))
    try:
        for name, data in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(data)
        (target / REPORT_FILE).unlink(missing_ok=True)
        # An earlier report's pictures must not stand beside numbers that they do not belong to.
        kept = set(_find_values(record.gallery, "image"))
        earlier = [target / name for name in CHART_FILES] + list((target / IMAGE_FOLDER).glob(f"{IMAGE_PREFIX}*.png"))
        for path in earlier:
            if path.relative_to(target).as_posix() not in kept:
                path.unlink(missing_ok=True)
        for name in files:
            (target / name).parent.mkdir(exist_ok=True)
            os.replace(staging / name, target / name)
        record.save(target / REPORT_FILE)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
