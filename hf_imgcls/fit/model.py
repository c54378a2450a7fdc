"""A model and its image processor for the dataset's classes: pretrained or from scratch.

The head follows the dataset by class *name*, the position embeddings follow ``--image_size``, and both end up in the
saved config and processor, so that a plain ``pipeline("image-classification")`` needs nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_imgcls.classifier.head import auto_model, head_parameter_names, set_labels
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.saved_reading import save_reading
from hf_imgcls.classifier.source import LOADING_ERRORS, check_config_of, check_weights, pin_source
from hf_imgcls.classifier.torch_engine import check_forward
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.head_rows import describe_rows, match_rows, pick_rows
from hf_imgcls.fit.scratch import scratch_config, scratch_processor, set_config_pixels, timm_processor
from hf_imgcls.offline import explain_missing_model
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, TEMPERATURE_KEY, THRESHOLDS_KEY

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import DataArguments, FitArguments

logger = logging.getLogger(__name__)


def build_model(
    fit: FitArguments, data: DataArguments, labels: list[str], *, multi_label: bool = False
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Build the model and image processor that a run trains.

    Args:
        fit: Which model: ``model_name_or_path``, or ``model_type`` with ``model_config`` for one from scratch.
        data: ``image_size``, ``image_mean`` and ``image_std`` override what the processor says; how images are read is
            kept in the config.
        labels: Class names; the position is the class id.
        multi_label: Whether an image may have several labels: ``pipeline()`` then answers with a sigmoid of each.

    Returns:
        The model (float32, on the CPU, in training mode) and the processor that feeds it.

    Raises:
        ModelError: The model is unknown, does not fit the weights, cannot take images of that size, or has no
            stochastic depth that could be set.
    """
    if fit.model_type is not None:
        config = scratch_config(fit, data, labels)
        _set_drop_path(config, fit.drop_path_rate)
        processor = scratch_processor(config, data, (fit.model_config or {}).get("image_size"))
        try:
            model = auto_model().from_config(config)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{fit.model_type} cannot be built from model_config {fit.model_config}: {error}",
                "values that fit each other, for example as many depths as num_stages",
                "correct model_config",
            ) from error
        logger.info("%s from scratch: %.2f M parameters", fit.model_type, model.num_parameters() / 1e6)
    else:
        model = _load_pretrained(fit, data, labels)
        processor = _pretrained_processor(fit, data, model.config)
    return finish_model(model, processor, data, multi_label=multi_label)


def finish_model(
    model: PreTrainedModel, processor: BaseImageProcessor, data: DataArguments, *, multi_label: bool
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Write into the config what the scores are and how images are read, and try the model on a grey image.

    Raises:
        ModelError: Model and processor do not fit each other.
    """
    _set_problem_type(model.config, multi_label)
    save_reading(model.config, data)
    _check_image_size(model.config)
    check_forward(model, processor)
    return model.train(), processor


def check_model(fit: FitArguments, data: DataArguments) -> None:
    """Refuse what is wrong with a model whatever the classes are, before data are loaded and every image is looked at.

    Args:
        fit: Which model.
        data: ``image_size``, and where the model's files are cached.

    Raises:
        ModelError: The model is unknown, no image classifier, or cannot take images of that size.
    """
    if fit.model_type is not None:
        config = scratch_config(fit, data, ["0", "1"])
    else:
        config = _load_config(fit, data, pin_source(str(fit.model_name_or_path), data, fit.model_revision))
        set_config_pixels(config, data)
    _set_drop_path(config, fit.drop_path_rate)
    _check_image_size(config)


def find_own_size(fit: FitArguments, data: DataArguments) -> tuple[int, int]:
    """Return height and width in pixels that a pretrained model's processor gives, whatever ``--image_size`` says.

    Args:
        fit: Which model.
        data: Where the model's files are cached.
    """
    own = dataclasses.replace(data, image_size=None, image_mean=None, image_std=None)
    config = _load_config(fit, own, pin_source(str(fit.model_name_or_path), own, fit.model_revision))
    return Preprocessor(_pretrained_processor(fit, own, config)).target_size


def _set_drop_path(config: PretrainedConfig, rate: float | None) -> None:
    if rate is None:
        return
    if not hasattr(config, "drop_path_rate"):
        raise ModelError(
            f"drop_path_rate {rate}, and {config.model_type} has no stochastic depth",
            "an architecture with drop_path_rate in its config, such as ConvNeXt, Swin, BEiT or DINOv2",
            "leave out --drop_path_rate",
        )
    config.drop_path_rate = rate


def _set_problem_type(config: PretrainedConfig, multi_label: bool) -> None:
    """Say what the scores are, in the word that ``pipeline()`` reads, and forget what was said of other weights."""
    if multi_label:
        config.problem_type = MULTI_LABEL
    elif config.problem_type == MULTI_LABEL:
        config.problem_type = SINGLE_LABEL
    for key in (THRESHOLDS_KEY, TEMPERATURE_KEY):
        if hasattr(config, key):
            delattr(config, key)


# --------------------------------------------------------------------------------------------- pretrained


def _load_config(fit: FitArguments, data: DataArguments, source: dict[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    name = fit.config_name or str(fit.model_name_or_path)
    if fit.config_name is not None:
        check_config_of(name, data, fit.model_revision)
    try:
        config = AutoConfig.from_pretrained(name, **_choose(source, fit.config_name, fit))
    except (OSError, ValueError, KeyError) as error:
        raise explain_missing_model(name, error) from error
    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES and not hasattr(config, "auto_map"):
        raise ModelError(
            f"{name!r} is a {config.model_type}, which transformers has no image classifier for",
            "a model of AutoModelForImageClassification, such as ViT, ConvNeXt, Swin or a timm checkpoint",
            "name another model",
        )
    return config


def _load_pretrained(fit: FitArguments, data: DataArguments, labels: list[str]) -> PreTrainedModel:
    name = str(fit.model_name_or_path)
    source = pin_source(name, data, fit.model_revision, fetches_weights=True)
    config = _load_config(fit, data, source)
    old_config = copy.deepcopy(config)
    try:
        pretrained, info = auto_model().from_pretrained(
            name,
            config=old_config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=fit.ignore_mismatched_sizes,
            output_loading_info=True,
            **source,
        )
    except LOADING_ERRORS as error:
        raise ModelError(
            f"the weights of {name!r} could not be loaded: {error}",
            "safetensors weights that fit the model's config",
            "convert pickled weights to safetensors; --ignore_mismatched_sizes starts tensors of another shape anew",
        ) from error

    check_weights(pretrained, name)
    _set_drop_path(config, fit.drop_path_rate)
    head = head_parameter_names(old_config)
    missing = {str(key) for key in info["missing_keys"]} - head
    if missing and not fit.ignore_mismatched_sizes:
        raise ModelError(
            f"{name!r} lacks {len(missing)} tensors of {type(pretrained).__name__}: {', '.join(sorted(missing)[:5])}",
            "a checkpoint of the same architecture",
            "use another checkpoint, or --ignore_mismatched_sizes to start these tensors anew",
        )
    has_head = not any(str(key) in head for key in info["missing_keys"])
    return adopt_weights(pretrained, config, data, labels, name, has_head=has_head)


def adopt_weights(
    pretrained: PreTrainedModel,
    config: PretrainedConfig,
    data: DataArguments,
    labels: list[str],
    name: str,
    *,
    has_head: bool = True,
) -> PreTrainedModel:
    """Build a model for the dataset's classes and image size, with another one's weights.

    Args:
        pretrained: Has the weights.
        config: A copy of its config; gets the classes and the size.
        data: ``image_size``, ``image_mean`` and ``image_std``.
        labels: Class names; a row of the pretrained head goes to the class of the same name.
        name: What the pretrained model is called in messages.
        has_head: Whether its head was trained.

    Raises:
        ModelError: A tensor does not fit the image size.
    """
    old_config: Any = pretrained.config
    old_labels = [str(old_config.id2label[index]) for index in range(old_config.num_labels)]
    head = head_parameter_names(old_config)
    set_labels(config, labels)
    set_config_pixels(config, data)
    rows = match_rows(old_labels if has_head else [], labels)
    if line := describe_rows(name, old_labels if has_head else None, labels, rows):
        logger.warning("%s", line)
    model = auto_model().from_config(config)
    model.load_state_dict(_fit_tensors(model.state_dict(), pretrained.state_dict(), head, rows, name))
    return model


def _fit_tensors(
    fresh: dict[str, torch.Tensor],
    pretrained: dict[str, torch.Tensor],
    head: set[str],
    rows: list[int | None],
    name: str,
) -> dict[str, torch.Tensor]:
    """The new model's tensors: copied where they fit, head rows picked by name, position tables interpolated."""
    fitted = {}
    for key, target in fresh.items():
        value = pretrained.get(key)
        if key in head:
            fitted[key] = target if value is None else pick_rows(value, target, rows)
        elif value is None or key.endswith("relative_position_index"):
            fitted[key] = target  # buffers that follow from the geometry
        elif value.shape == target.shape:
            fitted[key] = value
        elif key.endswith(("position_embeddings", "pos_embed")):
            fitted[key] = _interpolate_position_embeddings(value, target.shape[1])
        else:
            raise ModelError(
                f"{key} of {name!r} has shape {tuple(value.shape)}, the model at this size needs {tuple(target.shape)}",
                "an architecture whose only size-dependent weights are absolute position embeddings",
                "leave out --image_size, or use a checkpoint of that size",
            )
    return fitted


def _interpolate_position_embeddings(embeddings: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Resample absolute position embeddings to another square grid; class and distillation tokens are kept.

    Args:
        embeddings: ``(1, prefix + h * h, C)`` float tensor, 0 to 2 prefix tokens.
        num_positions: ``prefix + H * H`` of the new grid.

    Returns:
        ``(1, num_positions, C)``.

    Source: bicubic 2-D interpolation, Dosovitskiy et al. 2020, section 3.2 (arXiv:2010.11929).
    """
    for prefix in range(3):
        old, new = math.isqrt(embeddings.shape[1] - prefix), math.isqrt(num_positions - prefix)
        if old * old + prefix == embeddings.shape[1] and new * new + prefix == num_positions:
            break
    else:
        raise ModelError(
            f"position embeddings for {embeddings.shape[1]} tokens cannot be resampled to {num_positions}",
            "square grids of patches",
            "leave out --image_size",
        )
    grid = embeddings[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([embeddings[:, :prefix], grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)], dim=1)


def _pretrained_processor(fit: FitArguments, data: DataArguments, config: PretrainedConfig) -> BaseImageProcessor:
    if config.model_type == "timm_wrapper":
        return timm_processor(config)
    name = fit.image_processor_name or str(fit.model_name_or_path)
    source = pin_source(str(fit.model_name_or_path), data, fit.model_revision)
    processor = load_image_processor(name, **_choose(source, fit.image_processor_name, fit))
    set_processor_pixels(processor, data)
    return processor


def set_processor_pixels(processor: Any, data: DataArguments) -> None:
    """Give a processor the image size, mean and deviation that are asked for."""
    if data.image_size is not None:
        processor.size, processor.crop_size = _resized(processor, data.image_size)
    if data.image_mean is not None:
        processor.image_mean = data.image_mean
    if data.image_std is not None:
        processor.image_std = data.image_std


def _resized(processor: Any, image_size: int) -> tuple[Any, Any]:
    """Another output size with the same geometry: shortest edge and crop keep their proportion (256 -> 224)."""
    size, crop = dict(processor.size), getattr(processor, "crop_size", None)
    square = {"height": image_size, "width": image_size}
    if "shortest_edge" not in size:
        return square, crop and square
    edge = image_size
    if crop and getattr(processor, "do_center_crop", False):
        edge = round(size["shortest_edge"] * image_size / crop["height"])
    return {"shortest_edge": edge}, crop and square


def _choose(source: dict[str, Any], other: str | None, fit: FitArguments) -> dict[str, Any]:
    """The model's pinned source; another repository that is named besides has no part in the model's commit."""
    return source if other is None else {**source, "revision": fit.model_revision}


# --------------------------------------------------------------------------------------------- checks


def _check_image_size(config: PretrainedConfig) -> None:
    image_size, patch_size = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    # Flexible networks (ConvNeXt) keep a nominal image_size that their patch size need not divide.
    has_grid = hasattr(config, "num_attention_heads") and not hasattr(config, "num_stages")
    if has_grid and isinstance(image_size, int) and isinstance(patch_size, int) and image_size % patch_size:
        lower, upper = image_size // patch_size * patch_size, -(-image_size // patch_size) * patch_size
        raise ModelError(
            f"image_size {image_size} is not a multiple of the patch size {patch_size}",
            f"an image size such as {lower or upper} or {upper}",
            f"pass --image_size {upper}, or another patch_size in model_config",
        )
