"""The bridges between transformers 4.57 and 5.x, all in one place.

Each bridge says what differs, links to where it changed upstream, and says when it can go. The rest of the package
asks this module and never looks at a version number.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version

from hf_imgcls.errors import ArgumentError, LaunchError, ModelError, UserError
from hf_imgcls.extras import require
from hf_imgcls.model_files import check_processor
from hf_imgcls.provenance import count_cores
from hf_imgcls.records import write_json

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
    * 4.57 checkpoints gradients with ``use_reentrant``, which gives nothing to blocks whose input needs no gradient:
      behind frozen embeddings only the head would learn, silently (seen on 4.57.6 with ViT and Swin; 5.x has the other
      default). Remove when 4.x is dropped.

    And five decisions that hold on both lines: bfloat16 where the GPU has it and the user chose no precision; batches
    are copied to the GPU while it computes, for a copy that is waited for would leave it idle at each step's beginning;
    no pinned memory where there is nothing to pin it for; a token goes to the environment, where the Hub client looks
    for it, and not into ``training_args.bin``; ``Trainer`` is not told of ``push_to_hub``, for it would push whatever
    lies in the run's folder, to a public repository: `hf_imgcls.publish` pushes instead.

    Args:
        training: Keyword arguments as ``hf_imgcls.arguments`` resolved them.
        hub_token: A token given as a flag.

    Returns:
        The installed line's ``TrainingArguments``.

    Raises:
        LaunchError: The processes that were launched do not form one run, or are to shard a model between CPUs.
        ArgumentError: transformers does not take a value.
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
        if values.get("gradient_checkpointing"):
            values["gradient_checkpointing_kwargs"] = {
                "use_reentrant": False, **(values.get("gradient_checkpointing_kwargs") or {})
            }  # fmt: skip
    if hub_token:
        os.environ["HF_TOKEN"] = hub_token
    if values.get("lr_scheduler_type") == "step":
        # Built by ImageClassificationTrainer.create_scheduler; TrainingArguments only knows transformers' own names.
        values.update(lr_scheduler_type="constant", lr_scheduler_kwargs=None)
    if not torch.accelerator.is_available():
        # Said outright, because without it several processes on CPUs do not find each other: each trains alone.
        values["use_cpu"] = True
    if values.get("use_cpu"):
        _refuse_sharding(values)
    cuda = torch.cuda.is_available() and not values.get("use_cpu")
    if cuda and "bf16" not in values and not values.get("fp16") and torch.cuda.is_bf16_supported(False):
        values["bf16"] = True
    if cuda and values.get("dataloader_pin_memory", True):
        values.setdefault("accelerator_config", {"non_blocking": True})
    if not cuda:
        values.setdefault("dataloader_pin_memory", False)

    try:
        arguments = TrainingArguments(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise refuse_arguments(error) from error
    if arguments.torch_compile:
        _check_compile(arguments)
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


def update_training_arguments(arguments: TrainingArguments, values: dict[str, Any]) -> None:
    """Set training arguments that were decided after the object was built, in place, by names of either line.

    Args:
        arguments: From `build_training_arguments`.
        values: Name -> value; other names than those of ``TrainingArguments`` are passed over.
    """
    from transformers.trainer_utils import SchedulerType

    known = {field.name for field in dataclasses.fields(arguments)}
    for name, value in values.items():
        if name == "warmup_ratio" and name not in known:  # see `build_training_arguments`
            arguments.warmup_steps = value
        elif name in known:
            setattr(arguments, name, SchedulerType(value) if name == "lr_scheduler_type" else value)


def _refuse_sharding(values: dict[str, Any]) -> None:
    """Refuse FSDP and DeepSpeed on CPUs, where accelerate trains plain replicas without a word.

    Source: ``accelerate/state.py``, ``AcceleratorState.__init__``, which turns to them on accelerators only.
    """
    for name, title in (("fsdp", "FSDP"), ("deepspeed", "DeepSpeed")):
        launched = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true"
        if launched or values.get(name):
            where = "the launcher's configuration" if launched else f"--{name}"
            raise LaunchError(
                f"{title} is asked for by {where}, and this run is on the CPU, where nothing would be sharded",
                "GPUs for a sharded model, or plain data parallelism on CPUs",
                "launch with accelerate_config.yaml" if launched else f"leave out --{name}",
            )


def refuse_arguments(error: Exception, what: str = "the training arguments") -> ArgumentError:
    """What transformers says of training arguments that it does not take, as a user's error."""
    return ArgumentError(
        f"transformers refuses {what}: {error}",
        "values that fit each other, this machine and the packages that are installed",
        "correct or leave out what it names",
    )


def _check_compile(arguments: TrainingArguments) -> None:
    """Refuse what torch.compile would refuse in the first step."""
    import torch._dynamo
    import torch._inductor

    backend, mode = arguments.torch_compile_backend, arguments.torch_compile_mode
    modes = list(torch._inductor.list_mode_options())
    for flag, value, accepted, known in (
        ("torch_compile_backend", backend, torch._dynamo.list_backends(None), torch._dynamo.list_backends()),
        ("torch_compile_mode", mode, modes, modes),
    ):
        if value is not None and value not in accepted:
            raise ArgumentError(f"{flag} is {value!r}", "one of " + ", ".join(known), f"correct --{flag}")


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


def require_exporter(family: str) -> None:
    """Make sure that what exports to ``"onnx"`` or ``"openvino"`` on the installed line is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if TRANSFORMERS_MAJOR < 5:  # the extra that fits this line has them all
        for module in {
            "onnx": ("onnxruntime", "onnx", "optimum.onnxruntime"),
            "openvino": ("openvino", "optimum.intel"),
        }[family]:
            require("optimum", module)
        return
    require(family)
    if family == "onnx":
        require("onnx", "onnx_ir")
        require("onnx", "onnxscript")


def write_onnx(model: PreTrainedModel, path: Path, image_size: tuple[int, int], opset: int) -> None:
    """Write a classifier as one ONNX file: ``pixel_values`` (batch, 3, H, W) to ``logits``, float32.

    Optimum exports on 4.57; it does not support 5.x (https://github.com/huggingface/optimum-onnx/issues/114), where
    transformers has an exporter of its own. Remove the first branch when 4.x is dropped.

    Args:
        model: In evaluation mode, on the CPU.
        path: The file; its folder must be empty.
        image_size: Height and width in pixels; the number of images stays free.
        opset: ONNX opset.

    Raises:
        MissingExtraError: Optimum, or the packages that transformers' exporter needs, are not installed.
        ModelError: The architecture cannot be exported.
    """
    height, width = image_size
    require_exporter("onnx")
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if size > 0.99 * 2**31:
        raise ModelError(
            f"{type(model).__name__} has {size / 1e9:.1f} GB of weights, and one ONNX file holds 2",
            "a smaller model",
            "export it to openvino, or to torch_export",
        )
    if TRANSFORMERS_MAJOR < 5:
        import onnx
        from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed
        from optimum.exporters.onnx import onnx_export_from_model
        from optimum.exporters.onnx.model_configs import ViTOnnxConfig
        from optimum.exporters.tasks import TasksManager

        options: dict[str, Any] = {}
        if model.config.model_type not in TasksManager._SUPPORTED_MODEL_TYPE:
            # Image in, logits out: what Optimum says of ViT holds for every classifier, timm's among them.
            options["custom_onnx_configs"] = {"model": ViTOnnxConfig(model.config, task="image-classification")}
        with explain_export(model, "ONNX"):
            onnx_export_from_model(
                model, path.parent, task="image-classification", opset=opset, monolith=True, do_validation=False,
                height=height, width=width, **options,
            )  # fmt: skip
        graph = onnx.load(str(path))
        for name, size in (("num_channels", 3), ("height", height), ("width", width)):
            make_dim_param_fixed(graph.graph, name, size)  # Optimum leaves them free, and the weights do not
        onnx.save(graph, str(path))
        _name_batch(path)
        return
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters import OnnxConfig, OnnxExporter

    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1)}}
    with explain_export(model, "ONNX"):
        exported = OnnxExporter().export(
            model, _make_pixels(image_size), config=OnnxConfig(opset_version=opset, dynamic_shapes=shapes)
        )
    # Stack traces of every node: as large as a small model, and full of this machine's paths.
    ClearMetadataAndDocStringPass()(exported.program)
    onnx_ir.save(exported.program, str(path))
    _name_batch(path)


def _name_batch(path: Path) -> None:
    """Call an ONNX file's free axis ``batch``: Optimum says ``batch_size``, torch's exporter ``s99`` or the like."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    name = re.escape(graph.input[0].type.tensor_type.shape.dim[0].dim_param)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{name}\b", "batch", axis.dim_param)
    onnx.save(model, str(path))


def write_openvino(model: PreTrainedModel, path: Path, image_size: tuple[int, int]) -> None:
    """Write a classifier as an OpenVINO model: ``pixel_values`` (?, 3, H, W) to ``logits``, float32.

    Optimum exports on 4.57; its releases for 5.x need another huggingface_hub, and transformers has an exporter of its
    own. Remove the first branch when 4.x is dropped.

    Args:
        model: In evaluation mode, on the CPU.
        path: The ``.xml``; the ``.bin`` goes beside it, into a folder that must be empty.
        image_size: Height and width in pixels; the number of images stays free.

    Raises:
        MissingExtraError: Optimum or OpenVINO is not installed.
        ModelError: The architecture cannot be exported.
    """
    require_exporter("openvino")
    import openvino

    if TRANSFORMERS_MAJOR < 5:
        from optimum.exporters.openvino.convert import export_from_model
        from optimum.exporters.tasks import TasksManager
        from optimum.intel import OVConfig

        with explain_export(model, "OpenVINO"):
            if model.config.model_type in TasksManager._SUPPORTED_MODEL_TYPE:
                export_from_model(
                    model, path.parent, task="image-classification", ov_config=OVConfig(dtype="fp32"), stateful=False
                )
                program = openvino.Core().read_model(str(path))
            else:  # timm's, which Optimum does not know
                program = openvino.convert_model(model, example_input=_make_pixels(image_size))
                program.inputs[0].get_tensor().set_names({"pixel_values"})
                program.outputs[0].get_tensor().set_names({"logits"})
    else:
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter

        shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1)}}
        with explain_export(model, "OpenVINO"):
            program = (
                OpenVINOExporter()
                .export(model, _make_pixels(image_size), config=OpenVINOConfig(dynamic_shapes=shapes))
                .program
            )
    program.reshape([-1, 3, *image_size])
    # Beside the file it may have been read from, which is still mapped into memory.
    whole = path.with_name(f"whole_{path.name}")
    openvino.save_model(program, str(whole), compress_to_fp16=False)
    del program
    for suffix in (".xml", ".bin"):
        os.replace(whole.with_suffix(suffix), path.with_suffix(suffix))


def _make_pixels(image_size: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(2, 3, *image_size)}  # one image would let an exporter take the batch for fixed


# Loggers that warn of what is no concern of a reader; "" is the root, for what has no level of its own.
_TALKATIVE = ("", "transformers", "torch", "optimum", "nncf", "onnxscript", "onnx_ir")


@contextmanager
def _only_errors(names: Sequence[str]) -> Iterator[None]:
    """Let some loggers, and those below them, tell of errors only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explain_export(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Exporters fail with whatever exception the layer below had, and warn of what the gate will have measured.

    Args:
        model: What is exported.
        name: To what.

    Raises:
        ModelError: In place of any exception that is no user's error already.
    """
    try:
        # NNCF's progress bars go to standard output.
        with warnings.catch_warnings(), _only_errors(_TALKATIVE), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} could not be exported to {name}: {type(error).__name__}: {str(error)[:500]}",
            f"an architecture that the installed exporter knows (transformers {transformers.__version__})",
            "try another format, see docs/export.md",
        ) from error
