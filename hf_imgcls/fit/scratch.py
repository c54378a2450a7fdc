"""Configs and image processors that are made here: of models from scratch, and of timm's, at any image size."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import torch

from hf_imgcls.classifier.head import set_labels
from hf_imgcls.compat.models import plain_image_processor_class
from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import DataArguments, FitArguments

# ViT's own normalisation; https://huggingface.co/google/vit-base-patch16-224-in21k
_DEFAULT_MEAN_STD = [0.5, 0.5, 0.5]
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC


def scratch_config(fit: FitArguments, data: DataArguments, labels: list[str]) -> PretrainedConfig:
    """Return the config of ``model_type`` with the user's ``model_config`` and ``image_size``.

    Raises:
        ModelError: The architecture, or a key or value of ``model_config``, is unknown.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    known = sorted(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    if fit.model_type not in known:
        near = difflib.get_close_matches(str(fit.model_type), known, n=3) or known
        raise ModelError(
            f"model type {fit.model_type!r} is not an image classifier of transformers",
            "one of AutoModelForImageClassification's model types",
            f"did you mean {', '.join(near)}?",
        )
    values = dict(fit.model_config or {})
    if data.image_size is not None:
        values["image_size"] = data.image_size
    default = AutoConfig.for_model(fit.model_type)
    for key in values:
        if key not in ("image_size", "architecture") and not hasattr(default, key):
            near = difflib.get_close_matches(key, list(default.to_dict()), n=3)
            raise ModelError(
                f"model_config has {key!r}, which {type(default).__name__} does not know",
                f"keys of {type(default).__name__}",
                f"did you mean {', '.join(near)}?" if near else "remove it",
            )
    if fit.model_type == "timm_wrapper":
        values = _timm_scratch_values(values)
    elif not hasattr(default, "image_size"):
        values.pop("image_size", None)
    try:
        config = AutoConfig.for_model(fit.model_type, **values)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model_config {values}: {error}", f"a valid {type(default).__name__}", "correct it"
        ) from error
    if fit.model_type == "timm_wrapper":
        set_config_pixels(config, data)
    set_labels(config, labels)
    # A model type with two classification classes (DeiT) is looked up by this list, which a new config lacks.
    config.architectures = config.architectures or []
    return config


def _timm_scratch_values(values: dict[str, Any]) -> dict[str, Any]:
    timm = require("timm")
    values = dict(values)
    architecture = values.get("architecture")
    if not architecture or not timm.is_model(architecture):
        near = difflib.get_close_matches(str(architecture), timm.list_models(), n=3)
        raise ModelError(
            f"timm has no architecture {architecture!r}",
            "model_config: {architecture: <a timm model name>}",
            f"did you mean {', '.join(near)}?" if near else "list them with timm.list_models()",
        )
    values.pop("image_size", None)
    return {**values, "pretrained_cfg": timm.get_pretrained_cfg(architecture).to_dict()}


def _timm_takes_img_size(timm: Any, architecture: str) -> bool:
    try:
        with torch.device("meta"):
            timm.create_model(architecture, img_size=224)
    except TypeError:
        return False
    return True


def scratch_processor(config: PretrainedConfig, data: DataArguments, image_size: Any = None) -> BaseImageProcessor:
    """Return a processor that resizes to a square.

    Args:
        config: Of the model.
        data: ``image_size``, ``image_mean`` and ``image_std``.
        image_size: Where neither the arguments nor the config have one: convolutional networks take any size, and
            several of their configs have no field for it.
    """
    if config.model_type == "timm_wrapper":
        return timm_processor(config)
    size = data.image_size or image_size or getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return plain_image_processor_class()(
        size={"height": height, "width": width},
        resample=_BICUBIC,
        image_mean=data.image_mean or _DEFAULT_MEAN_STD,
        image_std=data.image_std or _DEFAULT_MEAN_STD,
        do_convert_rgb=True,
    )


def timm_processor(config: PretrainedConfig) -> BaseImageProcessor:
    """Timm keeps its preprocessing in the model's config, and has no preprocessor_config.json."""
    from transformers import TimmWrapperImageProcessor

    return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)


def set_config_pixels(config: PretrainedConfig, data: DataArguments) -> None:
    """Write another image size into the config; for timm also mean and deviation, which live there too."""
    if config.model_type != "timm_wrapper":
        if data.image_size is not None and hasattr(config, "image_size"):
            config.image_size = data.image_size
        return
    changes: dict[str, Any] = {"mean": data.image_mean, "std": data.image_std}
    changes = {key: value for key, value in changes.items() if value}
    if data.image_size is not None:
        changes.update(input_size=(3, data.image_size, data.image_size), test_input_size=None)
        if _timm_takes_img_size(require("timm"), config.architecture):
            config.model_args = {**(config.model_args or {}), "img_size": data.image_size}
    config.pretrained_cfg = {**config.pretrained_cfg, **changes}
