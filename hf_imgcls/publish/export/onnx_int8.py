"""INT8 ONNX files by ONNX Runtime's own quantiser: static, with ranges from training images, and dynamic.

Optimum's ``ORTQuantizer`` calls the same functions; called directly they serve both transformers lines.

Weights have one scale per output channel and are kept to 7 bits: processors without VNNI add two products of 8 by 8
bits into 16, which overflows with 8-bit weights, and a file does not know where it will run.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hf_imgcls.extras import require
from hf_imgcls.publish.export.exclusion import find_float_layers
from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written
from hf_imgcls.publish.export.onnx_folding import finish_onnx

_FILE = "model_quantized.onnx"
# Where the time goes. Everything else stays in float: quantising additions and normalisations costs accuracy and, with
# the conversions around them, time.
_STATIC_OPERATORS = ["Conv", "MatMul", "Gemm"]
# An integer convolution with ranges found at run time is slower than a float one, and harms depthwise networks.
_DYNAMIC_OPERATORS = ["MatMul", "Gemm"]


class OnnxStaticExporter(Exporter):
    """``model_quantized.onnx`` with activation ranges from real training images."""

    is_quantized: ClassVar[bool] = True

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        require("onnx")
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        prepared = _prepare(source)
        ranges, num_images = _find_ranges(prepared, source)
        layers = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type in _STATIC_OPERATORS]

        def quantize(excluded: Sequence[str], target: Path) -> None:
            quantizer = QDQQuantizer(
                onnx.load(str(prepared)),
                per_channel=True,
                reduce_range=True,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=list(excluded),
                op_types_to_quantize=_STATIC_OPERATORS,
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(target / _FILE))
            opsets.append(finish_onnx(target / _FILE, source))

        opsets: list[int] = []
        kept = find_float_layers(layers, quantize, source, folder)
        options = source.options
        precision = (
            f"int8 weights (7 bits, per channel) and activations ({options.calibration_method}, "
            f"{num_images} training images)"
        )
        return Written(_FILE, precision, opsets[-1], kept)


class OnnxDynamicExporter(Exporter):
    """``model_quantized.onnx`` with activation ranges found at run time: no images needed, and less speed gained."""

    is_quantized: ClassVar[bool] = True

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        require("onnx")
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        prepared = _prepare(source)
        layers = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type in _DYNAMIC_OPERATORS]

        def quantize(excluded: Sequence[str], target: Path) -> None:
            quantize_dynamic(
                str(prepared),
                str(target / _FILE),
                op_types_to_quantize=_DYNAMIC_OPERATORS,
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(excluded),
            )
            opsets.append(finish_onnx(target / _FILE, source))

        opsets: list[int] = []
        kept = find_float_layers(layers, quantize, source, folder)
        precision = "int8 weights (7 bits, per channel), activations at run time; convolutions float32"
        return Written(_FILE, precision, opsets[-1], kept)


def _prepare(source: ExportSource) -> Path:
    """Shapes inferred and constants folded, as the quantiser wants it; every node has a name."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = source.work / "prepared.onnx"
    if not path.exists():
        quant_pre_process(str(source.write_onnx_once()), str(path), skip_symbolic_shape=True)
        model = onnx.load(str(path))
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        onnx.save(model, str(path))
    return path


def _find_ranges(path: Path, source: ExportSource) -> tuple[Any, int]:
    """The ranges of all activations, and the number of images they come from."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        """One batch."""

        def __init__(self, batch: Any) -> None:
            self._batches: Iterator[Any] = iter([batch])

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"pixel_values": batch}

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    calibrator = create_calibrator(
        path,
        _STATIC_OPERATORS,
        augmented_model_path=str(source.work / "augmented.onnx"),
        calibrate_method=methods[source.options.calibration_method],
    )
    count = 0
    for batch in source.read_calibration():
        # One by one: the methods with histograms keep every activation of what they are given at once.
        calibrator.collect_data(Reader(batch))
        count += len(batch)
    return calibrator.compute_data(), count


EXPORTERS = {"onnx_int8": OnnxStaticExporter, "onnx_int8_dynamic": OnnxDynamicExporter}
