"""What an exported file says about itself, so that somebody who has nothing else can use it.

ONNX files hold it as ``metadata_props``, OpenVINO models as ``rt_info`` under ``model_info``, both with these keys.
Values are texts, most of them JSON.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from hf_imgcls.records import SINGLE_LABEL, THRESHOLDS_KEY

if TYPE_CHECKING:
    from hf_imgcls.publish.export.exporter import ExportSource

RT_INFO_SECTION = "model_info"
# ConvNeXt's processors cut nothing off from this side on.
# Source: transformers' ConvNextImageProcessor.resize.
_CONVNEXT_WHOLE_PX = 384


def describe_model(source: ExportSource) -> dict[str, str]:
    """Describe the model that is being exported.

    Returns:
        ``task``; ``problem_type``; ``labels``, the class names by id (JSON); ``preprocessing``, see
        `describe_steps` (JSON); ``image_processor``, the whole of ``preprocessor_config.json``; ``input`` and
        ``output`` in words; ``label_thresholds`` (JSON), where each label has a threshold of its own.
    """
    config, (height, width) = source.model.config, source.image_size
    is_folded = source.options.fold_preprocessing
    about = {
        "task": "image-classification",
        "problem_type": config.problem_type or SINGLE_LABEL,
        "labels": json.dumps([config.id2label[index] for index in range(config.num_labels)], ensure_ascii=False),
        "preprocessing": json.dumps(describe_steps(source)),
        "image_processor": json.dumps(source.processor.to_dict(), ensure_ascii=False, default=str),
        "input": (
            f"image: uint8 (batch, {height}, {width}, 3), RGB, resized"
            if is_folded
            else f"pixel_values: float32 (batch, 3, {height}, {width}), RGB, resized, rescaled and normalised"
        ),
        "output": "probabilities (batch, labels)" if is_folded else "logits (batch, labels)",
    }
    thresholds = getattr(config, THRESHOLDS_KEY, None)
    return about | ({THRESHOLDS_KEY: json.dumps(thresholds)} if thresholds is not None else {})


def describe_steps(source: ExportSource) -> dict[str, Any] | None:
    """Describe the steps before the exported model, as `describe_preprocessing`; those that are folded in are null."""
    steps = describe_preprocessing(source.processor)
    if steps is not None and source.options.fold_preprocessing:
        steps |= {"rescale_factor": None, "mean": None, "std": None}
    return steps


def describe_preprocessing(processor: Any) -> dict[str, Any] | None:
    """Describe an image processor's steps, in their order, without its classes.

    Args:
        processor: Of transformers, or timm's within it.

    Returns:
        ``shortest_edge`` (px) or ``resize`` ([width, height], px), whichever it does; ``resample``, Pillow's number;
        ``crop`` ([width, height], px, from the middle); ``rescale_factor``; ``mean`` and ``std`` per channel, on the
        rescaled scale. What it does not do is null. None for a processor that does anything else.
    """
    if (data := getattr(processor, "data_config", None)) is not None:
        return _describe_timm(data)
    options = processor.to_dict()
    size, crop, fraction = options.get("size") or {}, options.get("crop_size") or {}, options.get("crop_pct")
    steps: dict[str, Any] = {
        "shortest_edge": None,
        "resize": None,
        "resample": int(options["resample"]) if options.get("resample") is not None else None,
        "crop": [crop["width"], crop["height"]] if options.get("do_center_crop") else None,
        "rescale_factor": options.get("rescale_factor") if options.get("do_rescale") else None,
        "mean": options.get("image_mean") if options.get("do_normalize") else None,
        "std": options.get("image_std") if options.get("do_normalize") else None,
    }
    if not options.get("do_resize") or options.get("do_pad"):
        return None
    if {"height", "width"} <= set(size):
        return steps | {"resize": [size["width"], size["height"]]}
    if set(size) != {"shortest_edge"}:
        return None
    edge = size["shortest_edge"]
    if fraction is None:
        return steps | {"shortest_edge": edge}
    if edge >= _CONVNEXT_WHOLE_PX:
        return steps | {"resize": [edge, edge]}
    return steps | {"shortest_edge": int(edge / fraction), "crop": [edge, edge]}


def _describe_timm(data: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluation transform that timm builds from these settings; None for those that are not the usual ones."""
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
    _, height, width = data["input_size"]
    if data.get("crop_mode", "center") != "center" or data.get("interpolation") not in filters or height != width:
        return None
    return {
        "shortest_edge": math.floor(height / data["crop_pct"]),
        "resize": None,
        "resample": filters[data["interpolation"]],
        "crop": [width, height],
        "rescale_factor": 1 / 255,
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }
