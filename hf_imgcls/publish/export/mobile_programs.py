"""Programs for phones and small devices: ExecuTorch (``.pte``) and LiteRT (``.tflite``), float32, one image at a time.

Each has an extra of its own outside ``all``: together they weigh more than PyTorch, and LiteRT holds torch back.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hf_imgcls.compat.exporters import explain_export
from hf_imgcls.extras import require
from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written
from hf_imgcls.publish.export.torch_programs import Logits

_ONE = "It takes one image at a time."


class ExecuTorchExporter(Exporter):
    """``model.pte`` for the ExecuTorch runtime, lowered to XNNPACK where that has the operator."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        require("executorch", "executorch.exir")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        with torch.no_grad(), explain_export(source.model, "ExecuTorch"):
            program = torch.export.export(Logits(source.model), (_make_image(source),))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        path = folder / "model.pte"
        path.write_bytes(lowered.buffer)
        return Written(path.name, "float32", notes=[_ONE, "Its input is pixel_values, float32 (1, 3, height, width)."])


class LiteRtExporter(Exporter):
    """``model.tflite`` for LiteRT, formerly TensorFlow Lite; its input has the channels last, as that world expects."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        litert_torch = require("tflite")
        path = folder / "model.tflite"
        with torch.no_grad(), explain_export(source.model, "LiteRT"):
            channels_last = litert_torch.to_channel_last_io(Logits(source.model), args=[0])
            image = _make_image(source).permute(0, 2, 3, 1).contiguous()
            litert_torch.convert(channels_last.eval(), (image,)).export(str(path))
        return Written(path.name, "float32", notes=[_ONE, "Its input is float32 (1, height, width, 3), normalised."])


def _make_image(source: ExportSource) -> torch.Tensor:
    return torch.zeros(1, 3, *source.image_size)


EXPORTERS: dict[str, type[Exporter]] = {"executorch": ExecuTorchExporter, "tflite": LiteRtExporter}
