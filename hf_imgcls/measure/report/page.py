"""The page of a report: one HTML file that needs no network, and says how sure each number is (extra ``report``).

Texts from data (class names, file names, values of columns) are hostile: jinja2 escapes them, and a content security
policy in the page forbids every request and every script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from hf_imgcls import __version__
from hf_imgcls.catalogue import CLASSES, get_metric, list_shown
from hf_imgcls.extras import require
from hf_imgcls.measure.report.drawing import Chart, encode_svg
from hf_imgcls.measure.report.goals import EXAMPLES

_PICTURE = re.compile(r"<img [^>]*>")
_WORDS = {
    "aurc": "Area under the risk-coverage curve (mean error rate; lower is better)",
    "ece before": "ECE before",
    "ece after": "ECE after",
    "n": "n",
    "size mb": "Size of the weights, MB",
    "image size px": "Image size, pixels",
}
_SECTIONS = (
    ("goals", "Verdict on the goals"),
    ("metrics", "Metrics"),
    ("baselines", "Baselines on the same images"),
    ("notes", "Notes"),
    ("classes", "Classes"),
    ("confusion", "Confusions"),
    ("calibration", "Calibration"),
    ("abstention", "Selective prediction"),
    ("slices", "Groups of images"),
    ("learning", "Training curves"),
    ("gallery", "Examples"),
    ("explanations", "Explanations"),
    ("latency", "Latency and size"),
    ("exports", "Exports"),
)
# A PNG of a photograph is five times as large as a JPEG that looks the same at this size.
_MAX_PNG_BYTES = 12_000
_WIDE_PT = 470.0  # charts up to here shrink to a phone's width and stay legible; wider ones scroll


def render_page(content: Mapping[str, Any], charts: Mapping[str, Chart], images: Mapping[str, bytes]) -> str:
    """Write a report as HTML.

    Args:
        content: `ReportRecord.to_json`.
        charts: ``reliability``, ``confusion`` or ``mistakes``, ``classes``, ``imbalance``, ``risk_coverage``,
            ``slices``, ``learning``, as far as there are numbers for them; drawn with the theme `PAGE`.
        images: Path inside the report's folder -> image file, of the gallery and the explanations.

    Returns:
        A whole HTML document.
    """
    require("report")
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "clean": clean_text,
        "count": lambda value: f"{value:,}",
        "number": format_number,
        "signed": lambda value: f"{value:+.4f}",
        "small": lambda value: f"{value:.2g}",
        "words": _spell_out,
        "plain": _describe,
    }
    script = _read_part("script.js")
    calibration, risk_coverage = content["calibration"], content["risk_coverage"]
    multi_label = content["multi_label"] is not None
    left_out = {name for name in ("notes", "baselines", "learning", "exports") if not content[name]}
    left_out |= {"abstention"} if multi_label else set()
    titles = {"confusion": "Missed and false-positive labels"} if multi_label else {}
    sections = [(name, titles.get(name, title)) for name, title in _SECTIONS if name not in left_out]
    return environment.from_string(_read_part("template.html")).render(
        report=content,
        verdict=judge_report(content["goals"], multi_label=multi_label),
        contents=sections,
        charts=dict.fromkeys(
            ("reliability", "confusion", "mistakes", "classes", "imbalance", "risk_coverage", "slices", "learning")
        )
        | {key: {"svg": _size_svg(chart, key), "title": chart.description} for key, chart in charts.items()},
        embed=_make_embedder(images),
        get_metric=get_metric,
        multi_label=multi_label,
        class_columns=[
            key
            for key in list_shown(CLASSES, multi_label=multi_label)
            if any(key in item for item in content["per_class"].values())
        ],
        calibration_facts=_leave_out(calibration, "bins", "temperature", "temperature_remark"),
        risk_facts=_leave_out(risk_coverage, "coverage", "accuracy", "threshold", "threshold_for"),
        latency_facts=_leave_out(content["latency"] or {}, "pipeline", "model"),
        explanation_scores=_name_scores(content["explanations"]),
        style=_read_part("style.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def judge_report(goals: list[dict[str, Any]], *, multi_label: bool = False) -> dict[str, str]:
    """The verdict over all goals: ``kind`` (a CSS class), ``sign`` and ``text``."""
    if not goals:
        shown = " ".join(f'"{goal}"' for goal in EXAMPLES[multi_label])
        text = f"No goals were set, so there is no verdict. Set some with --goals {shown}."
        return {"kind": "unknown", "sign": "–", "text": text}
    counts = {
        status: sum(goal["status"] == status for goal in goals)
        for status in ("met", "not met", "not distinguishable", "not measured")
    }
    parts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if counts["not met"]:
        return {"kind": "not-met", "sign": "✗", "text": f"Not all goals are met: of {len(goals)}, {parts}."}
    if counts["met"] == len(goals):
        return {"kind": "met", "sign": "✓", "text": f"All {len(goals)} goals are met."}
    return {"kind": "unknown", "sign": "?", "text": f"The data are too few to judge every goal: {parts}."}


def drop_pictures(page: str) -> str:
    """A page without the images of the dataset that it shows; charts, which are SVG, and numbers stay.

    Args:
        page: From `render_page`.
    """
    return _PICTURE.sub('<span class="none">no picture: it is not published</span>', page)


def clean_text(value: Any) -> str:
    """Text that HTML can hold: control characters and halves of characters become a replacement character."""
    return "".join(
        "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace() else character
        for character in str(value)
    )


def format_number(value: float) -> str:
    """Four decimals; four digits for what is small; one decimal from 100 on."""
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _spell_out(name: str) -> str:
    """A key of the record in words."""
    text = str(name).replace("_", " ").strip()
    return _WORDS.get(text) or text[:1].upper() + text[1:]


def _describe(value: Any) -> str:
    """A number, text, estimate or small collection on one line."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return format_number(value)
    if isinstance(value, Mapping):
        if {"value", "low", "high", "n"} <= set(value):
            if value["value"] is None:
                return f"not measured: {value.get('remark', '')}"
            ends = "" if value["low"] is None else f" ({_describe(value['low'])} to {_describe(value['high'])})"
            return f"{_describe(value['value'])}{ends}, n {value['n']:,}"
        return "; ".join(f"{_spell_out(key)}: {_describe(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_describe, value))
    return str(value)


def _make_embedder(images: Mapping[str, bytes]) -> Callable[[str], str]:
    """What turns an image's path into a data URI, or nothing where the file is missing."""

    def embed(path: str) -> str:
        return _encode_image(images[path]) if path in images else ""

    return embed


def _encode_image(data: bytes) -> str:
    import io

    from PIL import Image

    kind = "png"
    if len(data) > _MAX_PNG_BYTES:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(buffer, format="JPEG", quality=85, optimize=True)
        if buffer.tell() < len(data):
            data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _size_svg(chart: Chart, name: str) -> str:
    svg = encode_svg(chart, name)
    return svg.replace("<svg ", '<svg class="wide" ', 1) if 72 * chart.figure.get_figwidth() > _WIDE_PT else svg


def _name_scores(explanations: Mapping[str, Any] | None) -> list[str]:
    methods = (explanations or {}).get("methods", {}).values()
    numbers = [key for item in methods for key, value in item.items() if isinstance(value, float)]
    return list(dict.fromkeys(numbers))


def _leave_out(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in names}


def _read_part(name: str) -> str:
    return resources.files("hf_imgcls.measure.report").joinpath(name).read_text(encoding="utf-8")
