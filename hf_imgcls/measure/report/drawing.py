"""How a report's pictures look, and how they become files: colours, class names, PNG and SVG (extra ``report``).

A chart is drawn twice from the same numbers: on white as a PNG, for a model card, and as an SVG that takes its colours
from the page it stands in, light or dark. The two colours are of Okabe and Ito's palette, which people with any of the
common colour-vision deficiencies tell apart; for a print in grey, shapes, places and numbers say the same.

Source: Okabe and Ito (2008), "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from hf_imgcls.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 200
WIDTH_IN = 5.0  # narrow enough that text stays legible when a phone shows the SVG at its own width
NAME_LENGTH = 28
MAX_MATRIX_CLASSES = 30  # a matrix of more cannot be read: the most confused pairs take its place
MAX_ROWS = 20  # of a chart with one named number in each
ROW_IN = 0.21

_FONT = "DejaVu Sans"  # comes with matplotlib
# What the page asks for: Verdana is as wide as DejaVu Sans, which the layout was made for.
_PAGE_FONTS = "'DejaVu Sans', Verdana, sans-serif"
_STYLE: dict[str, Any] = {
    "font.family": [_FONT],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "figure.constrained_layout.h_pad": 0.06,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.parse_math": False,  # a class may be called "$5"
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text: selectable, and in scripts that our font lacks
}
_EXPLICIT_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@dataclass(frozen=True)
class Theme:
    """The colours of a chart, as ``#rrggbb``.

    Attributes:
        ink: Text and axes.
        muted: What stands back: second texts, what is not certain.
        grid: Grid lines.
        first: The first colour, and what is right.
        on_first: Text on a cell filled with ``first``.
        second: The second colour, and what is wrong.
        on_second: Text on a cell filled with ``second``.
        is_page: Whether a browser draws the text, which knows every script.
    """

    ink: str
    muted: str
    grid: str
    first: str
    on_first: str
    second: str
    on_second: str
    is_page: bool


PRINT = Theme("#1b1b1b", "#5c5c5c", "#dcdcdc", "#0072b2", "#ffffff", "#d55e00", "#1b1b1b", is_page=False)
# Stand-ins: `encode_svg` puts the page's variables --ink, --muted and so on in their place.
PAGE = Theme("#010203", "#020304", "#030405", "#040506", "#050607", "#060708", "#070809", is_page=True)
_VARIABLES = {
    colour: f"var(--{role.replace('_', '-')})"
    for role, colour in dataclasses.asdict(PAGE).items()
    if isinstance(colour, str)
}
_PAGE_PARTS = re.compile("|".join(map(re.escape, ("url(#", f"'{_FONT}'", *_VARIABLES))))
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass
class Chart:
    """A figure and what it shows, in words, for those who cannot see it."""

    figure: Figure
    description: str


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Draw in the house's style, and leave matplotlib's settings as they were."""
    require("report")
    import matplotlib

    colours = {
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.muted, "grid.color": theme.grid,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink, "axes.facecolor": "none",
    }  # fmt: skip
    settings: Any = _STYLE | colours  # not every release of matplotlib has the same names in its types
    with matplotlib.rc_context(settings):
        yield


def make_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure of the given size in inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, text: str) -> None:
    """Put a title at the left edge of the whole figure, where no name of a class moves it."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=9)


def group_thousands(axis: Any) -> None:
    """Label an axis with whole numbers such as 10,000; what lies between two labels of a logarithmic axis has none."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def encode_png(chart: Chart) -> bytes:
    """The chart as a PNG file of `PNG_DPI` on white, with the description in it."""
    buffer = io.BytesIO()
    with styled(PRINT):
        metadata = {"Software": None, "Description": chart.description}
        chart.figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def encode_svg(chart: Chart, name: str) -> str:
    """The chart as an ``<svg>`` element to stand in a page.

    Args:
        chart: Drawn with the theme `PAGE`.
        name: Put before every id inside, so that several charts can stand in one page.

    Returns:
        Markup without references to anything outside it. Equal charts give equal markup.
    """
    import matplotlib

    buffer = io.StringIO()
    with styled(PAGE), matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser draws it
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        chart.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The style would hold for the whole page, which has the same rule for its pictures.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == f"{{{_XLINK}}}href":
                value = value.replace("#", f"#{name}-", 1)
            else:
                value = _PAGE_PARTS.sub(lambda match: _adapt(match[0], name), value)
            element.set(key, value)
    root.set("role", "img")
    root.set("aria-label", chart.description)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode").strip()


def _adapt(part: str, name: str) -> str:
    if part == "url(#":
        return f"url(#{name}-"
    return _PAGE_FONTS if part == f"'{_FONT}'" else _VARIABLES[part]


class ClassNames:
    """Class names as a chart can show them.

    Args:
        labels: Class names by id.
        theme: Where the chart goes.
        limit: Most characters of a name.
    """

    def __init__(self, labels: Sequence[str], theme: Theme, limit: int = NAME_LENGTH) -> None:
        self._ids = {name: index for index, name in reversed(list(enumerate(labels)))}
        self._theme, self._limit = theme, limit

    def __getitem__(self, name: str) -> str:
        """The name on one line, shortened; ``class id 7`` where the PNG's font cannot write it."""
        text = shorten_name(name, self._limit)
        if self._theme.is_page:
            return f"\u2068{text}\u2069"  # isolated: a name from right to left leaves its surroundings in order
        return text if _can_draw(text) else f"class id {self._ids.get(name, '?')}"


def shorten_name(name: str, limit: int = NAME_LENGTH) -> str:
    """A name on one line with at most ``limit`` characters, the middle left out.

    Control characters and marks that turn the direction of text are left out, since they would reach beyond the name.
    """
    kept = (
        character
        for character in name
        if unicodedata.bidirectional(character) not in _EXPLICIT_DIRECTIONS
        and (character.isspace() or unicodedata.category(character) not in ("Cc", "Cs", "Cn"))
    )
    text = " ".join("".join(kept).split()) or "(no name)"
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 1].rstrip()}…{text[-tail:].lstrip()}"


@functools.cache
def _load_glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(_FONT)).get_charmap())


@functools.cache
def _shapes_text() -> bool:
    import matplotlib
    from packaging.version import Version

    return Version(matplotlib.__version__) >= Version("3.11")  # the first to write from right to left, by libraqm


def _can_draw(text: str) -> bool:
    is_reversed = any(unicodedata.bidirectional(character) in ("R", "AL") for character in text)
    return all(ord(character) in _load_glyphs() for character in text) and (_shapes_text() or not is_reversed)
