"""ONNX files in float32 and float16."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from hf_imgcls.extras import require
from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written
from hf_imgcls.publish.export.onnx_folding import finish_onnx


class OnnxExporter(Exporter):
    """``model.onnx``, float32: what every other ONNX format is made from."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        path = folder / "model.onnx"
        shutil.copy(source.write_onnx_once(), path)
        return Written(path.name, "float32", finish_onnx(path, source))


class OnnxHalfExporter(Exporter):
    """``model_fp16.onnx``: half the size. On most CPUs it is computed in float32, and no faster."""

    tie_tolerance: ClassVar[float] = 1e-2
    max_probability_difference: ClassVar[float | None] = 2e-2

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        require("onnx")
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        path = folder / "model_fp16.onnx"
        # Inputs and outputs stay float32, so that a consumer need not know.
        model = OnnxModel(convert_float_to_float16(onnx.load(str(source.write_onnx_once())), keep_io_types=True))
        model.topological_sort()  # the casts of the inputs come last
        onnx.save(model.model, str(path))
        return Written(path.name, "float16, inputs and outputs float32", finish_onnx(path, source))


EXPORTERS = {"onnx": OnnxExporter, "onnx_fp16": OnnxHalfExporter}
