"""The bridges between transformers 4.57 and 5.x, all in one place.

Each bridge says what differs, links to where it changed upstream, and says when it can go. The rest of the package
asks this module and never looks at a version number.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version

from hf_imgcls.errors import LaunchError, ModelError
from hf_imgcls.provenance import count_cores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments
    from transformers.image_processing_utils import BaseImageProcessor

TRANSFORMERS_MAJOR = Version(transformers.__version__).major


def build_training_arguments(training: dict[str, Any], hub_token: str | None = None) -> TrainingArguments:
    """Build ``TrainingArguments`` from names of either line.

    Bridges, upstream notes in https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md:

    * ``warmup_ratio`` became a fractional ``warmup_steps`` in 5.0. Remove when 4.x is dropped.
    * ``logging_dir`` became the environment variable ``TENSORBOARD_LOGGING_DIR`` in 5.0. Remove when 4.x is dropped.
    * 4.57 sends trackio runs to a Hub Space named "trackio" unless told otherwise; 5.0 keeps them local. Remove when
      4.x is dropped.

    And four decisions that hold on both lines: bfloat16 where the GPU has it and the user chose no precision; no
    pinned memory where there is nothing to pin it for; a token goes to the environment, where the Hub client looks
    for it, and not into ``training_args.bin``; ``Trainer`` is not told of ``push_to_hub``, for it would push whatever
    lies in the run's folder, to a public repository: `hf_imgcls.publish` pushes instead.

    Args:
        training: Keyword arguments as ``hf_imgcls.arguments`` resolved them.
        hub_token: A token given as a flag.

    Returns:
        The installed line's ``TrainingArguments``.

    Raises:
        LaunchError: The processes that were launched do not form one run.
    """
    from transformers import TrainingArguments

    values = {name: value for name, value in training.items() if name != "push_to_hub"}
    known = {field.name for field in dataclasses.fields(TrainingArguments)}

    if "warmup_ratio" in values and "warmup_ratio" not in known:
        values["warmup_steps"] = values.pop("warmup_ratio")

    logging_dir = values.pop("logging_dir", None)
    if logging_dir and "logging_dir" in known:
        values["logging_dir"] = logging_dir
    elif logging_dir:
        os.environ["TENSORBOARD_LOGGING_DIR"] = logging_dir

    if TRANSFORMERS_MAJOR < 5:
        values.setdefault("trackio_space_id", None)
    if hub_token:
        os.environ["HF_TOKEN"] = hub_token
    if values.get("lr_scheduler_type") == "step":
        # Built by ImageClassificationTrainer.create_scheduler; TrainingArguments only knows transformers' own names.
        values.update(lr_scheduler_type="constant", lr_scheduler_kwargs=None)
    if not torch.accelerator.is_available():
        # Said outright, because without it several processes on CPUs do not find each other: each trains alone.
        values["use_cpu"] = True
    cuda = torch.cuda.is_available() and not values.get("use_cpu")
    if cuda and "bf16" not in values and not values.get("fp16") and torch.cuda.is_bf16_supported(False):
        values["bf16"] = True
    if not cuda:
        values.setdefault("dataloader_pin_memory", False)

    arguments = TrainingArguments(**{name: value for name, value in values.items() if name in known})
    # Several GPUs in one process would be nn.DataParallel, which computes our loss once on the gathered logits while
    # Trainer multiplies it by the number of GPUs. Several GPUs are used through several processes.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size != launched:
        raise LaunchError(
            f"{launched} processes were launched, but only {arguments.world_size} of them train together",
            "one run over all processes",
            "launch with: accelerate launch --config_file accelerate_config.yaml, or torchrun",
        )
    return arguments


def use_all_cores() -> None:
    """Give a process on the CPU its share of the cores.

    ``accelerate launch`` sets ``OMP_NUM_THREADS=1`` unless it is told a number, so that one process on a machine
    without a GPU computes on one core
    (https://huggingface.co/docs/accelerate/package_reference/cli, ``--num_cpu_threads_per_process``). Remove when the
    launcher counts cores itself.
    """
    if torch.cuda.is_available() or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        cores = count_cores()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


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
        return AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no image processor could be loaded from {name_or_path!r}: {error}",
            "a folder or Hub repository with preprocessor_config.json",
            "name one with --image_processor_name",
        ) from error


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


def restore_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Copy every tensor of a checkpoint into ``model``, and fail when one is missing.

    5.x saves the ViT family under its old parameter names, and ``Trainer`` then loads the file without renaming:
    32 of a small ViT's 40 tensors silently keep their values. Upstream:
    https://github.com/huggingface/transformers/issues/43701 and https://github.com/huggingface/transformers/issues/48805.
    Remove when both are closed in the oldest supported release.

    Args:
        model: The live model; changed in place.
        checkpoint: A folder with ``config.json`` and safetensors.

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
    model.load_state_dict(saved.state_dict())


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
    that is put there. Remove when evaluate no longer asks.
    """
    if not hasattr(transformers, "TFPreTrainedModel"):
        transformers.TFPreTrainedModel = type("TFPreTrainedModel", (), {})
