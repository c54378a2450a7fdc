"""A training batch as a picture: what the model is shown, with what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hf_imgcls.data.collate import collate_batch

if TYPE_CHECKING:
    from hf_imgcls.data.transforms import BatchPlan

_COLUMNS, _ROWS = 8, 4
_TILE, _CAPTION, _GAP = 128, 30, 8  # pixels
_FONT_SIZE, _LINE, _MOST_LETTERS = 11, 14, 20


def draw_batch(plan: BatchPlan, labels: Sequence[str], path: Path) -> None:
    """Draw 32 training images, augmented, mixed and as large as the model sees them, under a common scale.

    No random number of the run is used up.

    Args:
        plan: Splits with their transforms; the training split is one that has a length.
        labels: Class names by id.
        path: PNG file.
    """
    count = min(_COLUMNS * _ROWS, len(plan.train))
    positions = np.random.default_rng(0).choice(len(plan.train), count, replace=False)
    with torch.random.fork_rng(devices=[]):
        batch = plan.train_device_transform(collate_batch(plan.train.__getitems__(positions.tolist())))
    levels = plan.train_transform.preprocessor.normalizer.restore_levels(batch["pixel_values"])
    rows = -(-count // _COLUMNS)
    size = (_GAP + _COLUMNS * (_TILE + _GAP), _GAP + rows * (_TILE + _CAPTION + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), _load_font()
    for number, (pixels, label) in enumerate(zip(levels, batch["labels"], strict=True)):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        scale = _TILE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        filter = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
        left = _GAP + number % _COLUMNS * (_TILE + _GAP)
        top = _GAP + number // _COLUMNS * (_TILE + _CAPTION + _GAP)
        sheet.paste(image.resize((width, height), filter), (left + (_TILE - width) // 2, top + (_TILE - height) // 2))
        for line, text in enumerate(_describe(label, labels)):
            draw.text((left, top + _TILE + 2 + line * _LINE), text, "black", font)
    sheet.save(path)


def _load_font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, if it is installed: Pillow's own font has no accented letters."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, _FONT_SIZE - 1)  # its letters are wider
    return ImageFont.load_default(_FONT_SIZE)


def _describe(label: torch.Tensor, names: Sequence[str]) -> list[str]:
    """One or two lines: the class, the shares of a mixed image, or the labels of one that has several."""
    if label.dim() == 0:
        return [_shorten(names[int(label)])]
    shares = sorted(((share, names[k]) for k, share in enumerate(label.tolist()) if share >= 0.005), reverse=True)
    lines = [_shorten(name) if share > 0.995 else f"{100 * share:.0f} % {_shorten(name, 6)}" for share, name in shares]
    return lines[:2] if len(lines) <= 2 else [lines[0], f"and {len(lines) - 1} more"]


def _shorten(name: str, taken: int = 0) -> str:
    most = _MOST_LETTERS - taken
    return name if len(name) <= most else name[: most - 1] + "…"
