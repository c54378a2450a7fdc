"""The bridges between transformers 4.57 and 5.x, all in one place.

Each bridge says what differs, links to where it changed upstream, and says when it can go. The rest of the package
asks this module and never looks at a version number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version

from hf_imgcls.errors import ModelError
from hf_imgcls.model_files import check_processor
from hf_imgcls.records import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

TRANSFORMERS_MAJOR = Version(transformers.__version__).major


def load_image_processor(name_or_path: str, **kwargs: Any) -> BaseImageProcessor:
    """Load an image processor with the torchvision backend.

    5.x uses it always; 4.57 chooses by what the checkpoint was saved with, unless ``use_fast`` is given
    (seen on 4.57.6 and 5.23.0). Remove ``use_fast`` when 4.x is dropped.

    Raises:
        ModelError: There is no image processor at that name or path.
    """
    from transformers import AutoImageProcessor

    if TRANSFORMERS_MAJOR < 5:
        kwargs["use_fast"] = True
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"no image processor could be loaded from {name_or_path!r}: {error}",
            "a folder or Hub repository with preprocessor_config.json",
            "name one with --image_processor_name",
        ) from error
    check_processor(name_or_path, processor)
    return processor


def keep_fast_processor(processor: Any, folder: str | Path) -> None:
    """Let 4.57 load the image processor that 5.x has saved with the same backend, and so with the same pixels.

    5.x names its torchvision classes without the ``Fast`` at the end, which is the name of the slow classes in 4.57:
    those resize by Pillow, off by up to 0.008. With it both lines take the torchvision class (5.x calls it an old name:
    ``models/auto/image_processing_auto.py``). Remove when 4.x is dropped.

    Args:
        processor: As it was saved.
        folder: Where, in ``preprocessor_config.json``; timm's processors have no such file.
    """
    path = Path(folder) / "preprocessor_config.json"
    if TRANSFORMERS_MAJOR < 5 or not path.is_file() or hasattr(processor, "auto_map"):
        return
    from transformers.image_processing_backends import TorchvisionBackend

    content = json.loads(path.read_text(encoding="utf-8"))
    name = str(content.get("image_processor_type", ""))
    if isinstance(processor, TorchvisionBackend) and name and not name.endswith("Fast"):
        write_json(path, content | {"image_processor_type": f"{name}Fast"})


def plain_image_processor_class() -> type[BaseImageProcessor]:
    """The processor class for models trained from scratch: resize to a square, rescale, normalise.

    The torchvision-backed class is ``ViTImageProcessorFast`` in 4.57 and ``ViTImageProcessor`` in 5.x. Remove when
    4.x is dropped.
    """
    if TRANSFORMERS_MAJOR < 5:
        from transformers import ViTImageProcessorFast

        return ViTImageProcessorFast
    from transformers import ViTImageProcessor

    return ViTImageProcessor


_LORA_TARGETS = {
    "convnext": ["pwconv1", "pwconv2"],
    "convnextv2": ["pwconv1", "pwconv2"],
    "timm_wrapper": ["qkv", "proj", "fc1", "fc2", "conv_pw", "conv_pwl"],
}
# LoRA on attention queries and values. Source: Hu et al. 2021, "LoRA", section 4.2 (arXiv:2106.09685).
_ATTENTION_NAMES = [("query", "value"), ("q_proj", "v_proj"), ("qkv",)]


def lora_target_modules(model: PreTrainedModel) -> list[str]:
    """Default modules that LoRA adapts: attention query and value, or the pointwise layers of a ConvNet.

    5.x renamed the attention projections of the ViT family from ``query``/``value`` to ``q_proj``/``v_proj``
    (https://github.com/huggingface/transformers/issues/43701), and timm fuses them into ``qkv``: what is there is
    taken. Remove the first pair when 4.x is dropped.

    Args:
        model: The classification model, before it is wrapped.

    Returns:
        Names of modules, as ``LoraConfig.target_modules`` takes them.

    Raises:
        ModelError: The architecture is not known here; the user must name the modules.
    """
    from torch import nn

    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    pointwise = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    }
    for names in _ATTENTION_NAMES:
        if linear.issuperset(names):
            return list(names)
    known = [name for name in _LORA_TARGETS.get(model.config.model_type, []) if name in linear | pointwise]
    if known:
        return known
    raise ModelError(
        f"no default LoRA targets are known for model type {model.config.model_type!r}",
        "attention projections (query/value, q_proj/v_proj, qkv) or ConvNeXt's pwconv1/pwconv2",
        f"name some with --lora_target_modules; this model's linear layers are called: {', '.join(sorted(linear))}",
    )


def restore_weights(model: PreTrainedModel, checkpoint: str, beside: Mapping[str, torch.Tensor] | None = None) -> None:
    """Copy every tensor of a checkpoint into ``model``, and fail when one is missing.

    5.x saves the ViT family under its old parameter names, and ``Trainer`` then loads the file without renaming:
    32 of a small ViT's 40 tensors silently keep their values. Upstream:
    https://github.com/huggingface/transformers/issues/43701 and https://github.com/huggingface/transformers/issues/48805.
    Remove when both are closed in the oldest supported release.

    Args:
        model: The live model; changed in place.
        checkpoint: A folder with ``config.json`` and safetensors.
        beside: Tensors that the live model has beside those of its class.

    Raises:
        ModelError: A tensor of the model is not in the checkpoint.
    """
    saved, info = type(model).from_pretrained(
        checkpoint, config=model.config, dtype=model.dtype, use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ModelError(
            f"{checkpoint} does not hold {sorted(map(str, info['missing_keys'] or info['mismatched_keys']))[:5]} ...",
            "a checkpoint with every tensor of this model",
            "resume from another checkpoint",
        )
    model.load_state_dict({**saved.state_dict(), **(beside or {})})


def correct_resumed_loss(train_loss: float, step: int, first_step: int) -> float:
    """The mean training loss of the steps done since a run was resumed.

    4.57 divides their sum by all steps of the run; 5.x divides by theirs (seen on 4.57.6 and 5.23.0). Remove when 4.x
    is dropped.

    Args:
        train_loss: As ``Trainer`` has computed it.
        step: Steps done.
        first_step: Steps that the checkpoint had.
    """
    return train_loss * step / max(step - first_step, 1) if TRANSFORMERS_MAJOR < 5 else train_loss


def restore_evaluator() -> None:
    """Let ``evaluate.evaluator(...).compute`` run on 5.x, which has no TensorFlow models any more.

    evaluate 0.4.6 asks whether what it was given is a ``transformers.TFPreTrainedModel``, and a name that is not there
    ends in an AttributeError (``evaluate/evaluator/base.py``, ``prepare_pipeline``; TensorFlow left in
    https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md). Nothing is an instance of the class
    that is put there. It is put into the module as evaluate holds it: importing ``transformers.processing_utils``
    loads the package a second time, so that ours may be another one. Remove when evaluate no longer asks.
    """
    from evaluate.evaluator.base import transformers as asked

    if not hasattr(asked, "TFPreTrainedModel"):
        asked.TFPreTrainedModel = type("TFPreTrainedModel", (), {})
