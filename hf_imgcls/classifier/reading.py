"""How image files are read: what the arguments choose, in one value that every reader takes (imports no torch)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from PIL import ImageColor

from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.extras import require
from hf_imgcls.records import READING_KEY

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments

DROP = "drop"
# Pillow warns of a decompression bomb above this size and refuses at twice it; here the warning is an error too.
MAX_PIXELS = 89_478_485
# An uncompressed file with four channels of 16 bits; a mebibyte for metadata, or for small limits.
_BYTES_PER_PIXEL, _BYTES_ANYHOW = 8, 1 << 20


@dataclass(frozen=True)
class Reading:
    """How image files become pixels.

    Attributes:
        alpha_background: Colour that shows through transparent pixels; ``"drop"``: the alpha channel is dropped, which
            is what ``pipeline()`` does.
        intensity_range: ``(low, high)``: values of deep pictures (16-bit, 32-bit, float) that become black and white;
            None: the range of the file's type.
        max_pixels: Most pixels (width * height) an image may have; never more than Pillow's own bomb limit,
            ``PIL.Image.MAX_IMAGE_PIXELS``.
        decoder: ``"pillow"`` or ``"simplejpeg"``, which is faster and gives the same pixels.
    """

    alpha_background: str = DROP
    intensity_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    decoder: str = "pillow"

    @classmethod
    def from_arguments(cls, data: DataArguments, own: Mapping[str, Any] | None = None) -> Reading:
        """Return what the arguments ask for; what they leave open is the model's own, then the default.

        Args:
            data: ``alpha_background``, ``intensity_range``, ``max_image_pixels`` and ``decoder``.
            own: The model's own, from `read_choices`; by default what `adopt_reading` found.

        Raises:
            ArgumentError: The background is not a colour.
            MissingExtraError: The decoder is not installed.
        """
        own = data.model_reading if own is None else own
        low_high = data.intensity_range or own.get("intensity_range")
        reading = cls(
            data.alpha_background or own.get("alpha_background") or DROP,
            (float(low_high[0]), float(low_high[1])) if low_high is not None else None,
            data.max_image_pixels,
            _choose_decoder(data.decoder),
        )
        if not reading.drops_alpha:
            parse_background(reading.alpha_background)
        return reading

    @classmethod
    def from_choices(cls, own: Mapping[str, Any]) -> Reading:
        """Return how a model's images are read: `choices`, as `read_choices` checked them."""
        low_high = own.get("intensity_range")
        return cls(
            own.get("alpha_background", DROP),
            (float(low_high[0]), float(low_high[1])) if low_high is not None else None,
        )

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen otherwise than by default; a model's config.json keeps it."""
        chosen: dict[str, Any] = {} if self.drops_alpha else {"alpha_background": self.alpha_background}
        return chosen | ({"intensity_range": list(self.intensity_range)} if self.intensity_range else {})

    @property
    def drops_alpha(self) -> bool:
        """Whether transparency is ignored."""
        return self.alpha_background == DROP

    @property
    def max_bytes(self) -> int:
        """Most bytes a file may have."""
        return _BYTES_PER_PIXEL * self.max_pixels + _BYTES_ANYHOW

    @property
    def key(self) -> dict[str, Any]:
        """What pixels depend on: part of the key of everything that is kept about them."""
        key = asdict(self)
        del key["decoder"]  # both give the same pixels
        return key


DEFAULT_READING = Reading()


@functools.lru_cache(maxsize=16)
def parse_background(background: str) -> tuple[int, int, int]:
    """Read a colour as Pillow writes them: a name, ``"#rrggbb"`` or ``"rgb(r, g, b)"``.

    Raises:
        ArgumentError: The text is not a colour.
    """
    try:
        return ImageColor.getcolor(background, "RGB")  # type: ignore[return-value]
    except ValueError as error:
        raise ArgumentError(
            f"alpha_background is {background!r}",
            f'{DROP}, or a colour such as "white", "black", "#7f7f7f" or "rgb(124, 116, 104)"',
            "set --alpha_background to one of these",
        ) from error


def read_choices(name: str, value: Any) -> dict[str, Any]:
    """Return `Reading.choices` as a model's config.json holds them, if they make sense.

    Args:
        name: How the user calls the model.
        value: Under `READING_KEY`; None where there is no such key.

    Raises:
        ModelError: They do not.
    """
    if value is None:
        return {}
    try:
        background, low_high = value.get("alpha_background", DROP), value.get("intensity_range")
        if background != DROP:
            parse_background(background)
        if low_high is not None:
            low, high = low_high
            if not -math.inf < low < high < math.inf:
                raise ValueError
    except (ArgumentError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{READING_KEY} in the config.json of {name!r} is {value!r}",
            "alpha_background (a colour) and intensity_range (two numbers, the lower first)",
            "correct or remove it",
        ) from error
    return {"alpha_background": background, "intensity_range": low_high}


def _choose_decoder(name: str) -> str:
    """Resolve ``--decoder``: ``auto`` is simplejpeg where it is installed.

    Raises:
        MissingExtraError: simplejpeg is asked for by name and not installed.
    """
    if name == "auto":
        return "simplejpeg" if find_spec("simplejpeg") else "pillow"
    if name == "simplejpeg":
        require("decode")
    return name
