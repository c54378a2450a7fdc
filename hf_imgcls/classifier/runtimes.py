"""Run an exported model by its own runtime (imports torch for programs of torch alone).

The file's name says which runtime it is for; ``config.json`` and ``preprocessor_config.json`` beside it say the rest.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hf_imgcls.classifier.onnx_files import check_external_data
from hf_imgcls.errors import ModelError
from hf_imgcls.extras import require
from hf_imgcls.model_files import CONFIG_FILE, check_config

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
        onnxruntime = require("onnx", "onnxruntime")
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
        import torch

        self.name = f"torch {torch.__version__}"
        self.hints = {}
        self._call = self._load(path)

    @staticmethod
    def _load(path: Path) -> Any:
        raise NotImplementedError

    def run(self, batch: Array) -> Array:
        """See `Runtime.run`."""
        import torch

        with torch.inference_mode():
            return np.asarray(self._call(torch.from_numpy(batch)))


class TorchExport(TorchProgram):
    """A graph of torch.export."""

    file_pattern = "model.pt2"

    @staticmethod
    def _load(path: Path) -> Any:
        import torch

        return torch.export.load(str(path)).module()


class AotInductor(TorchProgram):
    """Machine code that torch.export's graph was compiled to."""

    file_pattern = "model_aoti.pt2"

    @staticmethod
    def _load(path: Path) -> Any:
        import torch

        return torch._inductor.aoti_load_package(str(path))


class TorchScript(TorchProgram):
    """A traced program of TorchScript."""

    file_pattern = "model_torchscript.pt"

    @staticmethod
    def _load(path: Path) -> Any:
        import torch

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
        import torch

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
            "put each into a folder of its own, as hf-imgcls export does",
        )
    return found[0] if found else None


def open_runtime(folder: str | Path, num_threads: int, *, is_trusted: bool = False) -> Runtime:
    """Open the exported model in a folder.

    Args:
        folder: Holds one exported model and its ``config.json``.
        num_threads: Threads that one call may use.
        is_trusted: Whether files that run native code may be loaded.

    Raises:
        ModelError: There is no such model, it is damaged, refers to files outside its folder, or would run code.
        MissingExtraError: Its runtime is not installed.
    """
    found = find_exported_file(folder)
    if found is None:
        patterns = ", ".join(runtime.file_pattern for runtime in RUNTIMES)
        raise ModelError(f"{folder} holds no exported model", f"one of {patterns}", "make one: hf-imgcls export RUN")
    path, runtime_class = found
    if runtime_class.runs_code and not is_trusted:
        raise ModelError(
            f"loading {path} runs code that it contains",
            "a file of your own, or from somebody you trust",
            "pass --trust_remote_code if you do",
        )
    check_config(folder, Path(folder, CONFIG_FILE))
    try:
        return runtime_class(path, num_threads)
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(path, str(error)) from error
    except Exception as error:  # the runtimes have exceptions of their own, which are no subclass of anything else
        if type(error).__module__.split(".")[0] not in ("onnxruntime", "openvino", "google"):
            raise
        raise cannot_load(path, str(error)) from error


def no_features(name: str) -> ModelError:
    """Return the error for features of an exported model."""
    return ModelError(
        f"features of an exported model ({name})", "a PyTorch model", "load the run that it was exported from"
    )


def to_logits(runtime: Runtime, answers: Array) -> Array:
    """Return the logits (B, K) float32 of a runtime's answers; a constant added to all of an image changes nothing."""
    if not runtime.takes_levels:
        return answers
    return np.log(np.maximum(answers, np.finfo(np.float32).tiny))


def cannot_load(path: Path, reason: str) -> ModelError:
    """Return the error for an exported model that does not open."""
    return ModelError(
        f"{path} cannot be loaded: {reason[:500]}",
        "an exported image classifier with its config.json",
        "export the model again: hf-imgcls export RUN",
    )
