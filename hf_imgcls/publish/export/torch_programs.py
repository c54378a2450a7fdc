"""Programs of PyTorch itself: torch.export, AOTInductor (compiled for this machine's processor) and TorchScript.

Loading one runs code that it contains, so nobody should load one from a stranger; ``hf-imgcls measure`` asks for
``--trust_remote_code``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from hf_imgcls.compat.exporters import explain_export
from hf_imgcls.errors import ModelError
from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written


class Logits(torch.nn.Module):
    """Pixels to logits: what is exported must not return transformers' own classes.

    Args:
        model: Answers with ``logits``.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, K) for (B, 3, H, W)."""
        return self.model(pixel_values=pixel_values).logits


class TorchExportExporter(Exporter):
    """``model.pt2``: the graph of torch.export."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        torch.export.save(_trace(source), str(folder / "model.pt2"))
        return Written("model.pt2", "float32")


class AotInductorExporter(Exporter):
    """``model_aoti.pt2``: compiled to machine code for processors like this one."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise ModelError("there is no C++ compiler here", "g++ or clang++ for aot_inductor", "install one: apt g++")
        path = folder / "model_aoti.pt2"
        torch._inductor.aoti_compile_and_package(_trace(source), package_path=str(path))
        return Written(path.name, "float32", notes=["It runs on processors with this one's instructions only."])


class TorchScriptExporter(Exporter):
    """``model_torchscript.pt``: for programs that cannot do without; PyTorch develops it no further."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """See `Exporter.write`."""
        path = folder / "model_torchscript.pt"
        with torch.no_grad(), explain_export(source.model, "TorchScript"):
            torch.jit.save(torch.jit.trace(Logits(source.model), _make_pixels(source), check_trace=False), str(path))
        return Written(path.name, "float32", notes=["PyTorch develops it no further: prefer torch_export."])


def _trace(source: ExportSource) -> Any:
    with torch.no_grad(), explain_export(source.model, "torch.export"):
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        return torch.export.export(Logits(source.model), (_make_pixels(source),), dynamic_shapes=shapes)


def _make_pixels(source: ExportSource) -> torch.Tensor:
    return torch.zeros(2, 3, *source.image_size)  # one image would let the batch be taken for fixed


EXPORTERS: dict[str, type[Exporter]] = {
    "torch_export": TorchExportExporter,
    "aot_inductor": AotInductorExporter,
    "torchscript": TorchScriptExporter,
}
