"""A model that is an object of the user's: transformers' classifiers as they are, any other module in a thin wrapper.

The wrapper gives a module what the rest of the run needs of a model: a config with labels, ``save_pretrained`` and, in
this process, ``from_pretrained``. Another process cannot build the user's class from the files; it has to be given the
module again.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_imgcls.classifier.head import set_labels
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.hooks import Hooks, is_transformers_classifier
from hf_imgcls.fit.model import adopt_weights, finish_model, set_processor_pixels
from hf_imgcls.fit.scratch import scratch_processor

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import DataArguments

MODEL_TYPE = "own_module"
_modules: dict[str, nn.Module] = {}  # by class name: what this process can build a wrapper around


class OwnConfig(PretrainedConfig):
    """Config of a wrapped module.

    Args:
        module: The class of the module.
        image_size: Height and width of its input in pixels.
        **kwargs: What every config has, the labels for example.
    """

    model_type = MODEL_TYPE

    def __init__(self, module: str = "", image_size: int = 224, **kwargs: Any) -> None:
        self.module, self.image_size = module, image_size
        super().__init__(**kwargs)


class OwnModel(PreTrainedModel):
    """A copy of a user's module, with a head for the number of classes in the config."""

    config_class = OwnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        if config.module not in _modules:
            raise ModelError(
                f"the model is a {config.module}, a class of its user's",
                "the module itself: its files hold weights and no code",
                "build the module and pass it as model in the same process",
            )
        self.network = copy.deepcopy(_modules[config.module])
        _fit_head(self.network, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as they were handed over."""

    def forward(self, pixel_values: torch.Tensor, labels: Any = None, **kwargs: Any) -> ImageClassifierOutput:
        """Return ``logits`` ``(B, K)`` for ``pixel_values`` ``(B, 3, H, W)``; labels are not read."""
        answer = self.network(pixel_values)
        return ImageClassifierOutput(logits=answer if isinstance(answer, torch.Tensor) else answer.logits)


def build_own_model(
    hooks: Hooks, data: DataArguments, labels: list[str], *, multi_label: bool = False
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Build the model of a run from a user's module, which is copied.

    A classifier of transformers is treated as one that was loaded: head rows go by class name, position embeddings
    follow ``image_size``. Of any other module the last linear layer is the head; it is replaced where the number of
    classes differs.

    Args:
        hooks: ``model`` and ``processor``.
        data: ``image_size``, ``image_mean`` and ``image_std``, and how images are read.
        labels: Class names; the position is the class id.
        multi_label: Whether an image may have several labels.

    Returns:
        As `hf_imgcls.fit.model.build_model`.

    Raises:
        ModelError: The module does not answer to images with a logit for each class.
    """
    module: Any = hooks.model
    if is_transformers_classifier(module):
        config = copy.deepcopy(module.config)
        processor = hooks.processor or _find_processor(module, data)
        model = adopt_weights(module, config, data, labels, type(module).__name__)
    else:
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        _modules[name] = copy.deepcopy(module).float().cpu()
        AutoConfig.register(MODEL_TYPE, OwnConfig, exist_ok=True)
        AutoModelForImageClassification.register(OwnConfig, OwnModel, exist_ok=True)
        config = OwnConfig(name, data.image_size or 224)
        set_labels(config, labels)
        processor = hooks.processor or scratch_processor(config, data)
        model = OwnModel(config)
    processor = copy.deepcopy(processor)
    set_processor_pixels(processor, data)
    try:
        return finish_model(model, processor, data, multi_label=multi_label)
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"{type(module).__name__} does not answer to pixel_values: {error}",
            "a module whose forward takes images (B, 3, H, W) and returns logits, or an output with .logits",
            "correct its forward",
        ) from error


def _find_processor(module: PreTrainedModel, data: DataArguments) -> BaseImageProcessor:
    """Return the processor that a model was saved with, or a resize to a square."""
    name = getattr(module.config, "name_or_path", "")
    if name:
        source = {"cache_dir": data.cache_dir, "token": data.token, "trust_remote_code": data.trust_remote_code}
        return load_image_processor(name, **source)
    return scratch_processor(module.config, data)


def _fit_head(network: nn.Module, num_labels: int) -> None:
    """Replace a module's last linear layer where it answers with another number of classes, in place."""
    found = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not found or found[-1][1].out_features == num_labels:
        return
    path, last = found[-1]
    fresh = nn.Linear(last.in_features, num_labels, bias=last.bias is not None)
    if not path:
        raise ModelError(
            f"the model is one linear layer for {last.out_features} classes, and the data has {num_labels}",
            f"{num_labels} outputs",
            "build it for the number of classes",
        )
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, fresh)
