"""Optimum's exporters, which do not work on both lines."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from hf_imgcls.compat.models import TRANSFORMERS_MAJOR
from hf_imgcls.errors import ModelError, UserError
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
