"""Preprocessing by Pillow and NumPy, as a saved image processor describes it (imports no torch).

The processors of transformers that this package uses resize by torchvision, whose results differ from Pillow's by one
grey level in some pixels; everything else is the same. Processors that do more than the steps below are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_imgcls.errors import ModelError
from hf_imgcls.model_files import check_processor

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROCESSOR_FILE = "preprocessor_config.json"
# ConvNeXt's processors crop nothing from this side on. Source: transformers' ConvNextImageProcessor.resize.
_CONVNEXT_WHOLE_PX = 384
_FILTERS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)  # that torchvision has
_TIMM_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


@dataclass(frozen=True)
class Steps:
    """What is done to an RGB image, in this order; what is None is not done.

    Attributes:
        shortest_edge: Resize so that the shorter side has so many pixels.
        resize: Resize to (width, height), px.
        resample: Pillow's number of the filter.
        crop: Crop (width, height) px from the middle; what is missing is black.
        rescale_factor: Multiply pixel levels 0..255.
        mean: Subtract, per channel, on the rescaled scale.
        std: Divide, per channel.
        rounds_to_even: Whether half a pixel of an odd margin is rounded to the even number, in place of down.
    """

    shortest_edge: int | None
    resize: tuple[int, int] | None
    resample: int | None
    crop: tuple[int, int] | None
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    rounds_to_even: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the steps but for the rounding, as JSON holds them."""
        steps = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del steps["rounds_to_even"]
        return steps

    def cut(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop an RGB image to uint8 ``(H, W, 3)``."""
        size = self.resize
        if self.shortest_edge is not None:
            short = min(image.size)
            size = tuple(self.shortest_edge * side // short for side in image.size)  # type: ignore[assignment]
        if size is not None and size != image.size:
            image = image.resize(size, self.resample if self.resample is not None else Image.Resampling.BILINEAR)
        if self.crop is not None:
            left, top = (self._find_margin(have, want) for have, want in zip(image.size, self.crop, strict=True))
            image = image.crop((left, top, left + self.crop[0], top + self.crop[1]))
        return np.asarray(image)

    def normalize(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 ``(B, H, W, 3)`` into the model's float32 ``(B, 3, H, W)``."""
        pixels = np.ascontiguousarray(levels.transpose(0, 3, 1, 2), dtype=np.float32)
        if self.mean is None or self.std is None:
            return pixels if self.rescale_factor is None else pixels * np.float32(self.rescale_factor)
        # Rescaling is folded into mean and deviation, as transformers does.
        scale = np.float32(1 / self.rescale_factor if self.rescale_factor is not None else 1)
        mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) * scale for values in (self.mean, self.std))
        pixels -= mean
        pixels /= std
        return pixels

    def _find_margin(self, have: int, want: int) -> int:
        """Return where the middle begins: negative where pixels are missing, the smaller half of them."""
        if have < want:
            return -((want - have) // 2)
        return round((have - want) / 2) if self.rounds_to_even else (have - want) // 2


def load_steps(folder: str | Path, config: dict[str, Any]) -> Steps:
    """Read the preprocessing of a saved model.

    Args:
        folder: Has ``preprocessor_config.json``; timm's models have theirs in ``config.json``.
        config: The content of its config.json.

    Raises:
        ModelError: The file is missing or damaged, or does what `Steps` cannot.
    """
    path = Path(folder, PROCESSOR_FILE)
    if not path.is_file() and isinstance(config.get("pretrained_cfg"), dict):
        return read_timm_steps(config["pretrained_cfg"])
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(options, dict):
            raise ValueError(f"it holds a {type(options).__name__}")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", "the image processor's settings", "export the model again"
        ) from error
    check_processor(folder, SimpleNamespace(**options))
    steps = read_steps(options)
    # ConvNeXt's processor crops by torchvision's rule in transformers 4. Remove when 4.x is dropped.
    is_old = str(config.get("transformers_version", "")).startswith("4.")
    is_convnext = options["image_processor_type"].startswith("ConvNext")
    return replace(steps, rounds_to_even=True) if is_old and is_convnext else steps


def read_steps(options: dict[str, Any]) -> Steps:
    """Read the settings of an image processor of transformers.

    Args:
        options: The content of ``preprocessor_config.json``.

    Raises:
        ModelError: The processor does anything that `Steps` cannot.
    """
    name = str(options.get("image_processor_type")).removesuffix("Fast")
    read = _READERS.get(name)
    if read is None:
        raise _cannot_repeat(f"{name} is not one of the image processors that are known here")
    if not options.get("do_resize") or options.get("do_pad"):
        raise _cannot_repeat(f"{name} with do_resize {options.get('do_resize')}, do_pad {options.get('do_pad')}")
    size = {key: side for key, side in (options.get("size") or {}).items() if side is not None}
    crop = options.get("crop_size") or {}
    normalizes = options.get("do_normalize")
    if options.get("resample") not in (None, *_FILTERS):
        raise _cannot_repeat(f"{name} with the filter {options['resample']}")
    steps: dict[str, Any] = {
        "shortest_edge": None,
        "resize": None,
        "resample": int(options["resample"]) if options.get("resample") is not None else None,
        "crop": (crop["width"], crop["height"]) if options.get("do_center_crop") else None,
        "rescale_factor": options.get("rescale_factor") if options.get("do_rescale") else None,
        "mean": _per_channel(options.get("image_mean")) if normalizes else None,
        "std": _per_channel(options.get("image_std")) if normalizes else None,
    }
    if set(size) == {"height", "width"}:
        steps["resize"] = (size["width"], size["height"])
    elif set(size) == {"shortest_edge"}:
        steps["shortest_edge"] = size["shortest_edge"]
    else:
        raise _cannot_repeat(f"{name} with the size {options.get('size')}")
    return Steps(**(steps | read(options, size)))


def read_timm_steps(data: dict[str, Any]) -> Steps:
    """Read the evaluation transform that timm builds from a ``pretrained_cfg``.

    Raises:
        ModelError: It is not the usual one: resize, crop from the middle, normalise.
    """
    _, height, width = data["input_size"]
    interpolation, crop_mode = data.get("interpolation", "bicubic"), data.get("crop_mode") or "center"
    if crop_mode != "center" or interpolation not in _TIMM_FILTERS or height != width:
        raise _cannot_repeat(f"timm with crop_mode {crop_mode}, interpolation {interpolation}, {width} x {height} px")
    return Steps(
        shortest_edge=math.floor(height / data.get("crop_pct", 0.875)),
        resize=None,
        resample=_TIMM_FILTERS[interpolation],
        crop=(width, height),
        rescale_factor=1 / 255,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def _read_plain(options: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    return {}


def _read_convnext(options: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    """Resize to size / crop_pct and crop below 384 px, squeeze into a square from there on."""
    edge = size.get("shortest_edge")
    if edge is None:
        raise _cannot_repeat(f"ConvNextImageProcessor with the size {size}")
    if edge >= _CONVNEXT_WHOLE_PX:
        return {"shortest_edge": None, "resize": (edge, edge), "crop": None}
    return {"shortest_edge": int(edge / (options.get("crop_pct") or 224 / 256)), "crop": (edge, edge)}


def _read_levit(options: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    edge = size.get("shortest_edge")
    return {} if edge is None else {"shortest_edge": int(256 / 224 * edge)}


def _read_poolformer(options: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    fraction = options.get("crop_pct")
    if fraction is None:
        return {}
    edges = set(size.values())
    if len(edges) != 1:
        raise _cannot_repeat(f"PoolFormerImageProcessor with the size {size}")
    return {"shortest_edge": int(edges.pop() / fraction), "resize": None}


def _read_efficientnet(options: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    """Normalise a second time with ``include_top``; subtract 1 more with ``rescale_offset``."""
    has_offset = options.get("rescale_offset") and options.get("do_rescale")
    if not options.get("do_normalize") and (options.get("include_top") or has_offset):
        raise _cannot_repeat("EfficientNetImageProcessor without do_normalize")
    changed: dict[str, Any] = {}
    if has_offset:
        changed["mean"] = tuple(value + 1 for value in _per_channel(options["image_mean"]))
    if options.get("include_top"):
        changed["std"] = tuple(value**2 for value in _per_channel(options["image_std"]))
    return changed


_READERS: dict[str, Callable[[dict[str, Any], dict[str, int]], dict[str, Any]]] = {
    **dict.fromkeys(
        (
            "ViTImageProcessor", "DeiTImageProcessor", "BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor",
            "SiglipImageProcessor", "MobileNetV1ImageProcessor", "MobileNetV2ImageProcessor", "PvtImageProcessor",
            "SegformerImageProcessor",
        ),
        _read_plain,
    ),
    "ConvNextImageProcessor": _read_convnext,
    "LevitImageProcessor": _read_levit,
    "PoolFormerImageProcessor": _read_poolformer,
    "EfficientNetImageProcessor": _read_efficientnet,
}  # fmt: skip


def _per_channel(values: float | Sequence[float] | None) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, Sequence) else (float(values or 0),) * 3


def _cannot_repeat(found: str) -> ModelError:
    return ModelError(
        f"this preprocessing cannot be repeated without torch: {found}",
        "resizing, a crop from the middle, rescaling and normalisation, by " + ", ".join(sorted(_READERS)),
        "score with torch and transformers, which run any image processor",
    )
