"""OpenVINO models: float32, float16 weights, INT8 weights, and INT8 throughout by NNCF's post-training quantisation."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hf_imgcls.classifier.runtimes import keep_signal_stack
from hf_imgcls.compat.exporters import explain_export
from hf_imgcls.extras import require
from hf_imgcls.fit.quantization import load_nncf, load_quantizers
from hf_imgcls.publish.export.description import RT_INFO_SECTION, describe_model
from hf_imgcls.publish.export.exclusion import exceeds_budget, find_float_layers
from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written

logger = logging.getLogger(__name__)

_FILE = "openvino_model.xml"


class OpenVinoExporter(Exporter):
    """``openvino_model.xml`` and ``.bin``, float32."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        _save(_read(source), source, folder)
        return Written(_FILE, "float32")


class OpenVinoHalfExporter(Exporter):
    """The same with float16 weights: half the size, computed in float32."""

    tie_tolerance: ClassVar[float] = 1e-2
    max_probability_difference: ClassVar[float | None] = 2e-2

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        _save(_read(source), source, folder, half=True)
        return Written(_FILE, "float16 weights, float32 activations")


class OpenVinoWeightsExporter(Exporter):
    """INT8 weights, computed in float32: a quarter of the size, hardly faster, and hardly another answer."""

    is_quantized: ClassVar[bool] = True

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        nncf = load_nncf()
        with keep_signal_stack():
            model = nncf.compress_weights(_read(source), mode=nncf.CompressWeightsMode.INT8_ASYM)
        _save(model, source, folder)
        return Written(_FILE, "int8 weights (asymmetric, per channel), float32 activations")


class OpenVinoInt8Exporter(Exporter):
    """INT8 weights and activations, with ranges from real training images, or from quantisation-aware training."""

    is_quantized: ClassVar[bool] = True

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        nncf = load_nncf()
        notes = []
        if source.quantizers is not None:
            _save(_convert_quantized(source, source.quantizers), source, folder)
            drop, budget = source.measure_drop and source.measure_drop(folder), source.options.max_accuracy_drop
            if drop is None or not exceeds_budget(drop, budget):
                return Written(_FILE, "int8 weights and activations (NNCF, quantisation-aware training)")
            notes = ["The ranges that were learned lose more accuracy than they may: these were chosen after training."]
            logger.warning("%s", notes[0])
            shutil.rmtree(folder)
            folder.mkdir()
        images = [batch[index : index + 1] for batch in source.read_calibration() for index in range(len(batch))]
        dataset = nncf.Dataset(images)

        def quantize(excluded: Sequence[str], target: Path) -> None:
            model = _read(source)
            operations = {operation.get_friendly_name(): operation.get_type_name() for operation in model.get_ops()}
            is_transformer = {"Softmax", "ScaledDotProductAttention"} & set(operations.values())
            with keep_signal_stack():
                quantized = nncf.quantize(
                    model,
                    dataset,
                    subset_size=len(images),
                    preset=nncf.QuantizationPreset.MIXED,
                    model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
                    ignored_scope=nncf.IgnoredScope(names=list(excluded)) if excluded else None,
                )
            _save(quantized, source, target)

        layers = [
            operation.get_friendly_name()
            for operation in _read(source).get_ordered_ops()
            if operation.get_type_name() in ("MatMul", "Convolution", "GroupConvolution")
        ]
        kept = find_float_layers(layers, quantize, source, folder)
        precision = f"int8 weights and activations (NNCF, {len(images)} training images)"
        return Written(_FILE, precision, float_layers=kept, notes=notes)


def _read(source: ExportSource) -> Any:
    return require("openvino").Core().read_model(str(source.write_openvino_once()))


def _convert_quantized(source: ExportSource, path: Path) -> Any:
    """The model with the quantisers it was trained with; their places are OpenVINO's to fuse."""
    openvino = require("openvino")
    quantized = load_quantizers(copy.deepcopy(source.model), path, source.image_size)
    pixels = {"pixel_values": torch.zeros(2, 3, *source.image_size)}
    with explain_export(source.model, "OpenVINO"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of conditions that hold for all images
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit, which openvino.convert_model uses
        model = openvino.convert_model(quantized, example_input=pixels)
    model.inputs[0].get_tensor().set_names({"pixel_values"})
    model.outputs[0].get_tensor().set_names({"logits"})
    model.reshape([-1, 3, *source.image_size])
    return model


def _save(model: Any, source: ExportSource, folder: Path, half: bool = False) -> None:
    if source.options.fold_preprocessing:
        model = _fold(model, source)
    for key, value in describe_model(source).items():
        model.set_rt_info(value, [RT_INFO_SECTION, key])
    require("openvino").save_model(model, str(folder / _FILE), compress_to_fp16=half)


def _fold(model: Any, source: ExportSource) -> Any:
    """As `hf_imgcls.publish.export.onnx_folding.fold_onnx`, by OpenVINO's own means."""
    import openvino.opset13 as ops
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    normalizer, (height, width) = source.normalizer, source.image_size
    logits = model.outputs[0].get_node().input_value(0)
    softmax = ops.softmax(logits, axis=-1)
    softmax.output(0).get_tensor().set_names({"probabilities"})
    model.add_results([ops.result(softmax)])
    model.remove_result(model.get_results()[0])
    processor = PrePostProcessor(model)
    tensor = processor.input().tensor()
    tensor.set_element_type(Type.u8).set_layout(Layout("NHWC")).set_shape([-1, height, width, 3])
    processor.input().model().set_layout(Layout("NCHW"))
    steps = processor.input().preprocess().convert_element_type(Type.f32)
    if normalizer.mean is not None and normalizer.std is not None:
        steps.mean(normalizer.mean.flatten().tolist()).scale(normalizer.std.flatten().tolist())
    else:
        steps.scale(float(np.float32(1.0) / np.float32(normalizer.rescale_factor or 1.0)))
    folded = processor.build()
    folded.inputs[0].get_tensor().set_names({"image"})
    return folded


EXPORTERS = {
    "openvino": OpenVinoExporter,
    "openvino_fp16": OpenVinoHalfExporter,
    "openvino_int8": OpenVinoInt8Exporter,
    "openvino_int8_weights": OpenVinoWeightsExporter,
}
