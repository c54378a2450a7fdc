"""Texts of others in Markdown: escaped, shortened, and put into tables that they cannot break."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from hf_imgcls.records import Estimate

NOT_MEASURED = "not measured"
MAX_TEXT = 60  # characters of a name in a cell or sentence

# What Markdown, HTML, and the Hub's formulas ($$) and our own templates would read as something other than text. Most
# have an entity, which no Markdown parser takes for syntax; the others read better behind a backslash.
_ENTITIES = {character: f"&#{ord(character)};" for character in "\\`|$<>{}"} | {"&": "&amp;"}
_BACKSLASHED = {character: f"\\{character}" for character in "*_[]~#"}
_SYNTAX = str.maketrans(_ENTITIES | _BACKSLASHED)
# Unicode's bidirectional controls: they would turn round what stands beside the name.
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escape(text: Any, limit: int = MAX_TEXT) -> str:
    """Text that Markdown shows as it is, on one line.

    Args:
        text: Anything from data or users.
        limit: Longer texts are cut, with an ellipsis.
    """
    cleaned = clean(text, limit).translate(_SYNTAX)
    return re.sub(r"(?i)(?<=\w):(?=//)|(?<=www)\.", lambda match: f"&#{ord(match.group())};", cleaned)


def clean(text: Any, limit: int = MAX_TEXT) -> str:
    """The same without Markdown's escapes, for metadata: one line, without control characters, and not too long."""
    text = "".join(character for character in str(text) if character not in _BIDIRECTIONAL)
    text = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and not c.isspace() else c for c in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def code(text: Any, limit: int = MAX_TEXT) -> str:
    """Text as code; what code in Markdown cannot hold is shown as plain text."""
    cleaned = clean(text, limit)
    return f"`{cleaned}`" if cleaned and not set(cleaned) & set("`|{}$\\") else escape(text, limit)


def show_number(value: float | None) -> str:
    """Four decimals; four digits for what is small; one decimal from 100 on; whole numbers with commas."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def show_share(value: float | None) -> str:
    """A share as a percentage with as few decimals as it needs, two at most."""
    return NOT_MEASURED if value is None else f"{100 * value:.2f}".rstrip("0").rstrip(".") + " %"


def show_estimate(estimate: Estimate | None, *, n: bool = False) -> str:
    """For example ``0.9852 (0.9625 to 0.9942), n = 270``."""
    if estimate is None or estimate.value is None:
        reason = "" if estimate is None else escape(estimate.remark, 200)
        return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED
    size = f", n = {estimate.n:,}" if n else ""
    return f"{show_number(estimate.value)} ({show_interval(estimate)}){size}"


def show_interval(estimate: Estimate) -> str:
    """Both ends of the interval, or why there is none."""
    if estimate.low is None and estimate.high is None:
        has_reason = estimate.remark.startswith("no interval")
        return escape(estimate.remark, 200) if has_reason else "interval not measured"
    ends = ["no end" if end is None else show_number(end) for end in (estimate.low, estimate.high)]
    return " to ".join(ends)


def show_duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def begin_sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]


def join_words(words: Sequence[str]) -> str:
    """For example ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def build_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A GitHub-flavoured table.

    Args:
        header: Names of columns; those that begin with ``>`` are aligned to the right.
        rows: Cells, already escaped, as many as there are columns.
    """
    names = [name.removeprefix(">") for name in header]
    lines = [names, ["---:" if name.startswith(">") else "---" for name in header], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
