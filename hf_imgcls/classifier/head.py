"""The classification head of a model: where it is, and what can be folded into it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from hf_imgcls.errors import ModelError
from hf_imgcls.records import TEMPERATURE_KEY

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_HEAD_NAMES: dict[tuple[type, str], frozenset[str]] = {}


def head_parameter_names(config: PretrainedConfig) -> set[str]:
    """Names of the parameters whose shape depends on the number of classes: the head, whatever it is called.

    Found by building the architecture twice without memory, with one class more the second time.

    Args:
        config: Any config that ``AutoModelForImageClassification`` accepts.

    Returns:
        For example ``{"classifier.weight", "classifier.bias"}``.
    """
    shapes, key = [], (type(config), config.to_json_string(use_diff=False))
    if key not in _HEAD_NAMES:
        for num_labels in (config.num_labels, config.num_labels + 1):
            variant = copy.deepcopy(config)
            set_labels(variant, [str(index) for index in range(num_labels)])
            with torch.device("meta"):
                shapes.append({name: p.shape for name, p in auto_model().from_config(variant).named_parameters()})
        _HEAD_NAMES[key] = frozenset(name for name, shape in shapes[0].items() if shape != shapes[1][name])
    return set(_HEAD_NAMES[key])


def auto_model() -> Any:
    """Return transformers' class, which takes seconds to import."""
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification


def find_linear_head(model: nn.Module) -> nn.Linear:
    """The one linear layer that the head consists of.

    Raises:
        ModelError: The head is something else.
    """
    modules = find_head_modules(model)
    if len(modules) != 1 or not isinstance(modules[0], nn.Linear) or modules[0].bias is None:
        found = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(
            f"the head of {type(model).__name__} consists of: {found}",
            "one linear layer with a bias, which can be solved for",
            "use --adaptation head, which trains any head",
        )
    return modules[0]


def fold_temperature(model: PreTrainedModel, temperature: float, pixel_values: torch.Tensor | None = None) -> None:
    """Divide the head's last layer by a temperature, so that the model's own logits are divided by it.

    Dividing all logits of an image by one positive number leaves their order as it is: the answers, and with them the
    accuracy, stay the same. It is tried on images; a model that answers with anything else is left as it was.

    Args:
        model: Float32; its config gets ``calibration_temperature``, the product of all that was folded in.
        temperature: From `fit_temperature`.
        pixel_values: (B, 3, H, W) float32, what it is tried on; noise by default.

    Raises:
        ModelError: The head cannot be divided; the reason is said.
    """
    import torch

    if not (np.isfinite(temperature) and temperature > 0):
        raise ModelError(f"the temperature {temperature}", "a positive number", "fit it with fit_temperature")
    if hasattr(model, "peft_config"):
        raise _cannot_fold("its adapter is not merged", "merge it first: model.merge_and_unload()")
    parameters = dict(model.named_parameters())
    names = sorted(head_parameter_names(model.config))
    if not names or any(name not in parameters or parameters[name].dtype != torch.float32 for name in names):
        found = ", ".join(f"{name} {parameters[name].dtype if name in parameters else 'missing'}" for name in names)
        raise _cannot_fold(f"its head is not made of float32 weights ({found or 'none found'})", "load it as float32")
    if pixel_values is None:
        pixel_values = _draw_noise(model)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        expected = model(pixel_values=pixel_values).logits / temperature
    kept = {name: parameters[name].detach().clone() for name in names}
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(kept[name].double() / temperature)
    with torch.inference_mode():
        difference = float((model(pixel_values=pixel_values).logits - expected).abs().max())
    model.train(was_training)
    if not difference <= 1e-4 * max(float(expected.abs().max()), 1.0 / temperature):
        with torch.no_grad():
            for name in names:
                parameters[name].copy_(kept[name])
        raise _cannot_fold(
            f"with {', '.join(names)} divided by {temperature:.4g}, its logits are off by {difference:.2g}",
            "divide the logits where the model is used",
        )
    setattr(model.config, TEMPERATURE_KEY, getattr(model.config, TEMPERATURE_KEY, 1.0) * temperature)


def _draw_noise(model: PreTrainedModel) -> torch.Tensor:
    import torch

    config: Any = model.config
    size = getattr(config, "image_size", None)
    if size is None:
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[1:]
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return cast("torch.Tensor", torch.randn(4, 3, height, width, generator=generator).to(model.device))


def _cannot_fold(reason: str, fix: str) -> ModelError:
    return ModelError(
        f"the temperature cannot be folded into the model: {reason}",
        "a classifier whose last layer is linear in its weights",
        fix,
    )


# A run asks several times, and building a large architecture takes a while.


def find_head_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that hold the head's parameters, as the forward pass calls them.

    Args:
        model: A classification model, or the ``PeftModel`` around one, which calls copies of its own.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    paths = sorted({name.rpartition(".")[0] for name in head_parameter_names(base.config)})
    modules: list[Any] = [base.get_submodule(path) for path in paths]
    return [module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module for module in modules]


def set_labels(config: PretrainedConfig, labels: list[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    # A timm checkpoint keeps its labels a second time, and that copy wins when the folder is loaded again: a new head
    # would be saved with the old names (seen on 4.57.6 and 5.23.0). Remove when TimmWrapperConfig derives label_names
    # from id2label.
    if hasattr(config, "label_names"):
        config.label_names = list(labels)
