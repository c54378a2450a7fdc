"""What an exported file says about itself, so that somebody who has nothing else can use it.

ONNX files hold it as ``metadata_props``, OpenVINO models as ``rt_info`` under ``model_info``, both with these keys.
Values are texts, most of them JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hf_imgcls.classifier.steps import read_steps, read_timm_steps
from hf_imgcls.errors import ModelError
from hf_imgcls.records import SINGLE_LABEL, THRESHOLDS_KEY

if TYPE_CHECKING:
    from hf_imgcls.publish.export.exporter import ExportSource

RT_INFO_SECTION = "model_info"


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
    data = getattr(processor, "data_config", None)  # timm's
    try:
        steps = read_steps(processor.to_dict()) if data is None else read_timm_steps(data)
    except ModelError:
        return None
    return steps.to_json()
