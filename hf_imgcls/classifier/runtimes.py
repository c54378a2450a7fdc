"""A folder with an exported model, run by its own runtime, in the place of a PyTorch model.

Everything that scores, compares and times a classifier takes what `load_exported` returns, so that an exported model is
measured by the very code that measured the original. The runtime is told by the file's name; ``config.json`` and
``preprocessor_config.json`` beside it say the rest.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require
from hf_imgcls.model_files import CONFIG_FILE, check_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor

Array = npt.NDArray[Any]


class Runtime:
    """Runs one exported file on the CPU; a subclass for each kind of file.

    Args:
        path: The file.
        num_threads: Threads that one call may use.

    Attributes:
        file_pattern: Names of its files.
        runs_code: Whether loading such a file runs native code or unpickles: then it must come from somebody trusted.
        name: What runs the file, with version.
        hints: Settings that change numbers or speed.
        takes_levels: Whether the input is uint8 ``(B, H, W, 3)`` and the output probabilities: the preprocessing was
            folded in.
    """

    file_pattern: ClassVar[str]
    runs_code: ClassVar[bool] = False
    name: str
    hints: dict[str, Any]
    takes_levels = False

    def __init__(self, path: Path, num_threads: int) -> None:
        raise NotImplementedError

    def run(self, batch: Array) -> Array:
        """Logits (B, K) float32 of ``batch``, float32 ``(B, 3, H, W)``; see ``takes_levels`` for the other kind."""
        raise NotImplementedError


class OnnxRuntime(Runtime):
    """An ONNX file; whatever it keeps outside itself must lie in its own folder."""

    file_pattern = "*.onnx"

    def __init__(self, path: Path, num_threads: int) -> None:
        onnxruntime = require("onnx")
        check_external_data(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3  # of graph optimisations that are of no use to a reader
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self.takes_levels = self._input.type == "tensor(uint8)"
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.hints = {"provider": "CPUExecutionProvider"}

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        return np.asarray(self._session.run(None, {self._input.name: batch})[0], dtype=np.float32)


class OpenVino(Runtime):
    """An OpenVINO model, in float32 where it is not quantised.

    On processors with AMX or AVX-512 BF16 OpenVINO computes in bfloat16 unless it is told not to, which moves logits by
    about 0.004.
    """

    file_pattern = "*.xml"
    asked: ClassVar[dict[str, Any]] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}

    def __init__(self, path: Path, num_threads: int) -> None:
        openvino = require("openvino")
        self.hints = dict(self.asked)
        options = {**self.hints, "INFERENCE_NUM_THREADS": num_threads}
        with keep_signal_stack():
            self._model = openvino.Core().compile_model(str(path), "CPU", options)
        self.takes_levels = self._model.input(0).get_element_type() == openvino.Type.u8
        self.name = f"openvino {version('openvino')}"

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        return np.asarray(self._model(batch)[0], dtype=np.float32)


class _SignalStack(ctypes.Structure):
    _fields_: ClassVar[Any] = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Leave the thread the stack on which its signals were handled before; to be put around what OpenVINO compiles.

    Each of OpenVINO's cores gives the thread a signal stack of its own, and takes it away with itself: of two cores,
    should the older go first, the younger gives the thread back the older's, which is no memory any more. The next
    signal that Python handles is then a segmentation fault, a dataloader worker's end for example. NNCF makes such
    cores as well. Seen in OpenVINO 2026.4; added by https://github.com/openvinotoolkit/openvino/pull/11894, in whose
    destructor it lies. A core finds another stack than its own and leaves it alone. Remove when that is mended.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    stack = _SignalStack()
    sigaltstack(None, ctypes.byref(stack))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(stack), None)


class TorchProgram(Runtime):
    """A program of PyTorch; it uses torch's own threads."""

    runs_code = True

    def __init__(self, path: Path, num_threads: int) -> None:
        self.name = f"torch {torch.__version__}"
        self.hints = {}
        self._call = self._load(path)

    @staticmethod
    def _load(path: Path) -> Any:
        raise NotImplementedError

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        with torch.inference_mode():
            return np.asarray(self._call(torch.from_numpy(batch)))


class TorchExport(TorchProgram):
    """A graph of torch.export."""

    file_pattern = "model.pt2"

    @staticmethod
    def _load(path: Path) -> Any:
        return torch.export.load(str(path)).module()


class AotInductor(TorchProgram):
    """Machine code that torch.export's graph was compiled to."""

    file_pattern = "model_aoti.pt2"

    @staticmethod
    def _load(path: Path) -> Any:
        return torch._inductor.aoti_load_package(str(path))


class TorchScript(TorchProgram):
    """A traced program of TorchScript."""

    file_pattern = "model_torchscript.pt"

    @staticmethod
    def _load(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch.jit's end, which docs/export.md tells
            return torch.jit.load(str(path), map_location="cpu")


class ExecuTorch(Runtime):
    """An ExecuTorch program, which takes one image at a time; its threads are those of the process."""

    file_pattern = "*.pte"

    def __init__(self, path: Path, num_threads: int) -> None:
        executorch = require("executorch")
        require("executorch", "executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(num_threads)
        self._method = executorch.Runtime.get().load_program(str(path)).load_method("forward")
        self.name = f"executorch {version('executorch')}"
        self.hints = {"delegate": "XNNPACK"}

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        answers = [self._method.execute([torch.from_numpy(batch[i : i + 1])])[0] for i in range(len(batch))]
        return np.concatenate([answer.numpy().copy() for answer in answers])


class LiteRt(Runtime):
    """A LiteRT model, which takes one image at a time with the channels last."""

    file_pattern = "*.tflite"

    def __init__(self, path: Path, num_threads: int) -> None:
        interpreter = require("tflite", "ai_edge_litert.interpreter")
        self._model = interpreter.Interpreter(model_path=str(path), num_threads=num_threads)
        self._model.allocate_tensors()
        self._input, self._output = self._model.get_input_details()[0], self._model.get_output_details()[0]
        self.name = f"ai-edge-litert {version('ai-edge-litert')}"
        self.hints = {"delegate": "XNNPACK"}

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        answers = []
        for image in np.ascontiguousarray(batch.transpose(0, 2, 3, 1)):
            self._model.set_tensor(self._input["index"], image[None])
            self._model.invoke()
            answers.append(self._model.get_tensor(self._output["index"]))
        return np.concatenate(answers)


RUNTIMES: tuple[type[Runtime], ...] = (
    OnnxRuntime, OpenVino, TorchExport, AotInductor, TorchScript, ExecuTorch, LiteRt,
)  # fmt: skip


def find_exported_file(folder: str | Path) -> tuple[Path, type[Runtime]] | None:
    """The exported model in a folder, and what runs it.

    Returns:
        None where there is no such folder, or it holds no exported model at its top level, or a PyTorch model besides.

    Raises:
        ModelError: There are several.
    """
    folder = Path(folder)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    found = [(path, runtime) for runtime in RUNTIMES for path in sorted(folder.glob(runtime.file_pattern))]
    if len(found) > 1:
        raise ModelError(
            f"{folder} holds {len(found)} exported models: {', '.join(path.name for path, _ in found)}",
            "one exported model with its config.json and preprocessor_config.json",
            "put each into a folder of its own, as recipes/export.py does",
        )
    return found[0] if found else None


def load_exported(
    folder: str | Path, processor: BaseImageProcessor, *, is_trusted: bool = False, num_threads: int | None = None
) -> ExportedClassifier:
    """Load an exported model.

    Args:
        folder: Holds one exported model and its ``config.json``.
        processor: The folder's image processor.
        is_trusted: Whether files that run native code may be loaded.
        num_threads: Threads that one call may use; by default as many as torch uses.

    Raises:
        ModelError: There is no such model, it is damaged, refers to files outside its folder, or would run code.
        MissingExtraError: Its runtime is not installed.
    """
    from transformers import AutoConfig

    found = find_exported_file(folder)
    if found is None:
        patterns = ", ".join(runtime.file_pattern for runtime in RUNTIMES)
        raise ModelError(f"{folder} holds no exported model", f"one of {patterns}", "make one: recipes/export.py")
    path, runtime_class = found
    if runtime_class.runs_code and not is_trusted:
        raise ModelError(
            f"loading {path} runs code that it contains",
            "a file of your own, or from somebody you trust",
            "pass --trust_remote_code if you do",
        )
    check_config(folder, Path(folder, CONFIG_FILE))
    try:
        config = AutoConfig.from_pretrained(str(folder))
        runtime = runtime_class(path, num_threads or torch.get_num_threads())
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_load(path, str(error)) from error
    except Exception as error:  # the runtimes have exceptions of their own, which are no subclass of anything else
        if type(error).__module__.split(".")[0] not in ("onnxruntime", "openvino", "google"):
            raise
        raise _cannot_load(path, str(error)) from error
    return ExportedClassifier(runtime, config, processor)


def _cannot_load(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} cannot be loaded: {reason[:500]}",
        "an exported image classifier with its config.json",
        "export the model again: recipes/export.py",
    )


class ExportedClassifier(torch.nn.Module):
    """An exported model that answers as a PyTorch model of transformers does.

    Args:
        runtime: Runs the file.
        config: Class names by id.
        processor: Its normalisation is undone for a model that normalises by itself.

    Attributes:
        runtime: As given.
        config: As given.
    """

    def __init__(self, runtime: Runtime, config: PretrainedConfig, processor: BaseImageProcessor) -> None:
        super().__init__()
        self.runtime = runtime
        self.config = config
        self._normalizer = Normalizer.from_processor(processor)

    # What pipeline() asks of a model.
    device = torch.device("cpu")
    dtype = torch.float32

    def can_generate(self) -> bool:
        """Whether it writes text."""
        return False

    def prepare(self, pixel_values: torch.Tensor) -> npt.NDArray[Any]:
        """What the runtime gets: float32 (B, 3, H, W), or uint8 (B, H, W, 3) where the preprocessing is folded in."""
        if self.runtime.takes_levels:
            return self._normalizer.restore_levels(pixel_values.cpu()).permute(0, 2, 3, 1).contiguous().numpy()
        return np.ascontiguousarray(pixel_values.cpu().numpy(), dtype=np.float32)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """``logits`` (B, K) float32 for normalised ``pixel_values`` (B, 3, H, W), on the same device."""
        from transformers.modeling_outputs import ImageClassifierOutput

        logits = self.runtime.run(self.prepare(pixel_values))
        if self.runtime.takes_levels:
            # Of probabilities; what is added to all logits of an image changes nothing.
            logits = np.log(np.maximum(logits, np.finfo(np.float32).tiny))
        return ImageClassifierOutput(logits=torch.from_numpy(logits).to(pixel_values.device))


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file whose weights lie outside its own folder: another file of the machine would be read.

    Raises:
        ModelError: They do, or the file is no ONNX file.
    """
    require("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise _cannot_load(path, str(error)) from error
    folder = os.path.realpath(path.parent)
    for tensor in _walk_tensors(model):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
        if location is None:
            continue
        target = os.path.realpath(os.path.join(folder, location))
        if os.path.isabs(location) or os.path.commonpath([folder, target]) != folder:
            raise ModelError(
                f"{path} reads its tensor {tensor.name!r} from {location!r}, outside its folder",
                "weights in the file itself or in its own folder",
                "do not use this file; export the model again: recipes/export.py",
            )


def _walk_tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a protobuf message, those of nodes, sub-graphs and functions included."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") and not hasattr(value, "DESCRIPTOR") else (value,):
                yield from _walk_tensors(part)
