"""The lines of a card that turn a picture into what the model was scored with, where ``pipeline()`` does not."""

from __future__ import annotations

from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.records import READING_KEY

_TRANSPARENT = "transparent"
# Kind of depth, see `hf_imgcls.classifier.intensity.Depth` -> range of its type
_RANGES = {
    "12-bit": (0, 4095),
    "16-bit": (0, 65535),
    "signed 16-bit": (-32768, 32767),
    "32-bit": (0, 2**32 - 1),
    "signed 32-bit": (-(2**31), 2**31 - 1),
}
_OPEN = 'ImageOps.exif_transpose(Image.open("picture.png"))'


def build_conversions(records: CardRecords) -> list[str]:
    """Return lines of Python for the kinds of pictures that ``pipeline()`` reads otherwise; none where there are none.

    Args:
        records: Its parity check says which kinds there are; without one, the model's config does.
    """
    reading = records.config.get(READING_KEY) or {}
    background, low_high = reading.get("alpha_background"), reading.get("intensity_range")
    if records.parity is not None:
        kinds = list(records.parity.read_otherwise)
    else:
        kinds = [_TRANSPARENT] * bool(background) + ["16-bit"] * bool(low_high)
    if not kinds:
        return []
    is_deep = any(kind != _TRANSPARENT for kind in kinds)
    lines = (["import numpy as np"] if is_deep else []) + ["from PIL import Image, ImageOps", ""]
    for kind in kinds:
        if len(kinds) > 1:
            lines.append(f"# {kind} pictures")
        lines += _compose(background) if kind == _TRANSPARENT else _scale(kind, low_high)
    return [*lines, "print(classifier(picture))"]


def _compose(background: str | None) -> list[str]:
    return [
        f'picture = {_OPEN}.convert("RGBA")',
        f'picture = Image.alpha_composite(Image.new("RGBA", picture.size, "{background}"), picture).convert("RGB")',
    ]


def _scale(kind: str, low_high: tuple[float, float] | None) -> list[str]:
    """The formula of `hf_imgcls.classifier.intensity.scale_values`."""
    stored = f'np.asarray({_OPEN}).view("uint32")' if kind == "32-bit" else f"np.asarray({_OPEN})"
    lines = [f"values = {stored}.astype(float)"]
    if low_high is None and kind == "float":
        lines += [
            "high = 1 if values.max() <= 1 else 255",
            "low = -1 if high == 1 and -1 <= values.min() < 0 else 0",
        ]
    else:
        low, high = (f"{int(end) if float(end).is_integer() else end}" for end in low_high or _RANGES[kind])
        lines.append(f"low, high = {low}, {high}")
    return [
        *lines,
        'picture = Image.fromarray(((values - low) * (255 / (high - low))).round().clip(0, 255).astype("uint8"))',
    ]
