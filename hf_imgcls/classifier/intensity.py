"""Deep pictures: one channel of more than 8 bits, whose values are scaled to 0..255 (imports no torch).

Pillow's own conversion, which ``pipeline()`` uses, clips such values at 255 instead: most of them become white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGNED = 2  # of TIFF's tag SampleFormat


class Depth(NamedTuple):
    """What the values of a deep picture are.

    Attributes:
        kind: ``"12-bit"``, ``"16-bit"``, ``"signed 16-bit"``, ``"32-bit"``, ``"signed 32-bit"`` or ``"float"``.
        low: Lowest value of the type; of floats 0, or -1 where there are negative values and none beyond -1 and 1.
        high: Highest value of the type; of floats 1 where no value exceeds it, else 255.
    """

    kind: str
    low: float
    high: float


def is_deep(image: Image.Image) -> bool:
    """Return whether an image holds integers of more than 8 bits, or floats."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def name_depth(image: Image.Image) -> str:
    """Return the `Depth.kind` of a deep picture, which its header tells."""
    return "float" if image.mode == "F" else _find_integer_depth(image).kind


def read_values(image: Image.Image) -> NDArray[Any]:
    """Return the values of a deep picture, ``(height, width)``.

    Raises:
        ValueError: There are NaN or infinite values.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    # Pillow keeps unsigned 32-bit values in signed ones.
    return values.view(np.uint32) if image.mode == "I" and _find_integer_depth(image).kind == "32-bit" else values


def find_depth(image: Image.Image, values: NDArray[Any]) -> Depth:
    """Return kind and range of a deep picture's values.

    Args:
        image: A deep picture.
        values: From `read_values`; only those of floats are looked at.
    """
    if image.mode != "F":
        return _find_integer_depth(image)
    high = 1.0 if values.max() <= 1 else 255.0
    return Depth("float", -1.0 if -1 <= values.min() < 0 and high == 1 else 0.0, high)


def scale_values(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return grey levels, uint8: ``(value - low) * 255 / (high - low)``, rounded, and clipped to 0..255."""
    return np.rint((values.astype(np.float64) - low) * (255.0 / (high - low))).clip(0, 255).astype(np.uint8)


def _find_integer_depth(image: Image.Image) -> Depth:
    tags: Any = getattr(image, "tag_v2", None) or {}
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    is_signed = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == _SIGNED
    if bits == 12:
        return Depth("12-bit", 0, 4095)
    # PNG, PPM and images made in memory hold 16-bit values, whatever Pillow's mode.
    bits = 32 if bits == 32 else 16
    if is_signed:
        return Depth(f"signed {bits}-bit", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Depth(f"{bits}-bit", 0, 2**bits - 1)
