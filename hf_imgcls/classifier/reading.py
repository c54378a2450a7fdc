"""How image files are read: what the arguments choose, in one value that every reader takes (imports no torch)."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from PIL import ImageColor

from hf_imgcls.errors import ArgumentError

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
    """

    alpha_background: str = DROP
    intensity_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_arguments(cls, data: DataArguments) -> Reading:
        """Return what the arguments ask for; what they leave open is the model's own, then the default.

        Raises:
            ArgumentError: The background is not a colour.
        """
        own = data.model_reading
        low_high = data.intensity_range or own.get("intensity_range")
        reading = cls(
            data.alpha_background or own.get("alpha_background") or DROP,
            (float(low_high[0]), float(low_high[1])) if low_high is not None else None,
            data.max_image_pixels,
        )
        if not reading.drops_alpha:
            parse_background(reading.alpha_background)
        return reading

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
        return asdict(self)


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
