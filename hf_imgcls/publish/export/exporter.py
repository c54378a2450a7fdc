"""What an exporter is, and which there are: one small file for each backend."""

from __future__ import annotations

import importlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from hf_imgcls.compat.exporters import require_exporter, write_onnx, write_openvino
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import PublishArguments
    from hf_imgcls.classifier.preprocess import Normalizer
    from hf_imgcls.records import Estimate

# Format -> the module of this package that writes it.
_MODULE_OF = {
    "onnx": "onnx_float",
    "onnx_fp16": "onnx_float",
    "onnx_int8": "onnx_int8",
    "onnx_int8_dynamic": "onnx_int8",
    "openvino": "openvino_files",
    "openvino_fp16": "openvino_files",
    "openvino_int8": "openvino_files",
    "openvino_int8_weights": "openvino_files",
    "torch_export": "torch_programs",
    "aot_inductor": "torch_programs",
    "torchscript": "torch_programs",
    "executorch": "mobile_programs",
    "tflite": "mobile_programs",
}
FORMATS = tuple(_MODULE_OF)


@dataclass
class ExportSource:
    """The model that is exported, and what exporters may ask for.

    Attributes:
        model: On the CPU, float32, in evaluation mode.
        processor: Its image processor.
        image_size: Height and width of its input in pixels.
        normalizer: From uint8 levels to the model's input.
        options: The arguments of the group ``export``.
        work: A folder for whatever is not part of the result; its files go away.
        read_calibration: Gives batches of real training images as the model gets them, float32 ``(B, 3, H, W)``, all of
            the same B.
        measure_drop: Takes a folder with an exported model and gives the difference of its accuracy to the PyTorch
            model's on the validation split, on the same images; None where there is no such split.
        quantizers: File with the quantisers that quantisation-aware training has left beside the model.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    image_size: tuple[int, int]
    normalizer: Normalizer
    options: PublishArguments
    work: Path
    read_calibration: Callable[[], Iterator[npt.NDArray[Any]]]
    measure_drop: Callable[[Path], Estimate] | None = None
    quantizers: Path | None = None
    _files: dict[str, Path] = field(default_factory=dict)

    def write_onnx_once(self) -> Path:
        """The float32 ONNX file that the formats of this family start from; written when first asked for."""
        if "onnx" not in self._files:
            path = self._open_folder("onnx") / "model.onnx"
            write_onnx(self.model, path, self.image_size, self.options.export_opset)
            self._files["onnx"] = path
        return self._files["onnx"]

    def write_openvino_once(self) -> Path:
        """The same for OpenVINO: the ``.xml``, with its ``.bin`` beside it."""
        if "openvino" not in self._files:
            path = self._open_folder("openvino") / "openvino_model.xml"
            write_openvino(self.model, path, self.image_size)
            self._files["openvino"] = path
        return self._files["openvino"]

    def _open_folder(self, name: str) -> Path:
        """An empty folder: another format may have tried before, and failed."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / name).mkdir()
        return self.work / name


@dataclass
class Written:
    """What an exporter has written.

    Attributes:
        file: Name of the model's file in its folder.
        precision: Of weights and activations, in words.
        opset: Of an ONNX file.
        float_layers: Layers that a quantised model keeps in float to stay within the accuracy budget.
        notes: What a user should know, one sentence each.
    """

    file: str
    precision: str
    opset: int | None = None
    float_layers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Exporter(ABC):
    """Writes one format.

    Attributes:
        is_quantized: Whether answers may change, within the accuracy budget; a float export must give the same ones.
        tie_tolerance: Probabilities closer than this count as equal; the rounding of the format's numbers.
        max_probability_difference: A larger difference means that something other than rounding has happened; None: no
            bound, because that is what quantisation does.
    """

    is_quantized: ClassVar[bool] = False
    tie_tolerance: ClassVar[float] = 1e-4
    max_probability_difference: ClassVar[float | None] = 1e-3

    @abstractmethod
    def write(self, source: ExportSource, folder: Path) -> Written:
        """Write the model into an empty folder.

        Raises:
            MissingExtraError: The backend is not installed.
            ModelError: It cannot take this model.
        """


def check_formats(names: Sequence[str]) -> None:
    """Make sure, before a long run, that what writes these formats is installed.

    Raises:
        MissingExtraError: It is not.
    """
    for family in ("onnx", "openvino"):
        if any(name.startswith(family) for name in names):
            require_exporter(family)
    if any(name.startswith("openvino_int8") for name in names):
        require("openvino", "nncf")
    for name in ("executorch", "tflite"):
        if name in names:
            require(name)


def find_exporter(name: str) -> Exporter:
    """The exporter of a format in `FORMATS`."""
    module = importlib.import_module(f"hf_imgcls.publish.export.{_MODULE_OF[name]}")
    return module.EXPORTERS[name]()
