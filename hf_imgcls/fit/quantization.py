"""Quantisation-aware training: the rounding of INT8 is in the forward pass, and the weights learn to live with it.

NNCF (extra ``openvino``) puts a quantiser before each operation that INT8 speeds up. Their ranges begin at what
calibration images show, and are trained with the weights: gradients pass the rounding as if it were not there. The
weights stay float32, so that a checkpoint and the run's folder hold an ordinary model; the quantisers lie beside it in
`QUANTIZERS_FILE`, and the export to ``openvino_int8`` takes them from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.extras import require
from hf_imgcls.layout import QUANTIZERS_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_HOOKS = "__nncf_hooks"  # the module that NNCF adds to a model
_CONFIG, _MADE_WITH = "nncf_config", "made_with"


def load_nncf() -> Any:
    """Import NNCF, which tells of errors only.

    Raises:
        MissingExtraError: It is not installed.
    """
    nncf = require("openvino", "nncf")
    # Its set_log_level would also silence the handlers that everybody shares.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def _load_quantizers() -> Any:
    """NNCF, its quantisers computed by torch's own operations.

    At their first use it would compile a C++ or CUDA extension: a minute on a CPU, an error on a GPU without nvcc, and
    another where a build that was killed has left its lock (seen with 3.4). These are what it falls back to itself.
    """
    nncf = load_nncf()
    from nncf.torch.quantization import extensions
    from nncf.torch.quantization.reference import torch_executor

    functions = SimpleNamespace(Quantize_forward=torch_executor.forward, Quantize_backward=torch_executor.backward)
    for extension in (extensions.QuantizedFunctionsCPU, extensions.QuantizedFunctionsCUDA):
        extension._loaded_namespace = functions
    return nncf


def add_quantizers(model: PreTrainedModel, batches: Iterable[npt.NDArray[Any]]) -> PreTrainedModel:
    """A copy of a trained model that computes as INT8 would, in float32 numbers that are rounded.

    Weights get symmetric ranges per channel, activations mostly asymmetric ones. In bfloat16 its rounding comes on top.

    Args:
        model: Trained; on the CPU.
        batches: Calibration images as the model gets them, float32 ``(B, 3, H, W)``.

    Returns:
        A model of the same class, in the same mode.

    Raises:
        MissingExtraError: NNCF is not installed.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference" (arXiv:1712.05877), section 3.
    """
    nncf = _load_quantizers()
    images = [{"pixel_values": torch.from_numpy(batch)} for batch in batches]
    training, count = model.training, sum(len(image["pixel_values"]) for image in images)
    quantized = nncf.quantize(
        model.eval(),
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if _has_attention(model, images[0]) else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # Both would change weights for the quantisers' sake, and the ordinary model has none.
            disable_bias_correction=True,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            overflow_fix=nncf.OverflowFix.ENABLE,  # see _leave_headroom
        ),
    )
    quantizers = _list_quantizers(quantized)
    for quantizer in quantizers:
        quantizer.register_forward_pre_hook(_leave_headroom)
    logger.info("%d quantisers, their ranges from %d training images", len(quantizers), count)
    model.train(training)
    return quantized.train(training)  # type: ignore[no-any-return]


def _has_attention(model: nn.Module, inputs: dict[str, torch.Tensor]) -> bool:
    """By what is computed: configs name the heads of attention in many ways."""

    class Watch(TorchFunctionMode):
        seen = False

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen |= getattr(function, "__name__", "") in ("softmax", "scaled_dot_product_attention")
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch() as watch:
        model(**inputs)
    return watch.seen


def _list_quantizers(model: nn.Module) -> list[nn.Module]:
    return [module for module in getattr(model, _HOOKS).modules() if "Quantizer" in type(module).__name__]


def _leave_headroom(quantizer: Any, inputs: tuple[Any, ...]) -> None:
    """Keep the range of a weight at twice its largest value, so that 7 bits are used of 8.

    Sums of products of 8-bit numbers do not fit into the 16 bits that CPUs without VNNI have for them.
    """
    weight = inputs[0]
    if isinstance(weight, nn.Parameter):
        scale = quantizer._scale_param_storage
        kept = [axis for axis in range(weight.dim()) if scale.dim() == weight.dim() and scale.shape[axis] > 1]
        others = [axis for axis in range(weight.dim()) if axis not in kept]
        with torch.no_grad():
            largest = weight.abs().amax(dim=others, keepdim=True).reshape(scale.shape)
            scale.copy_(torch.maximum(scale, 2 * largest))


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has quantisers in its forward pass."""
    return _HOOKS in model._modules


def is_quantizer(parameter_name: str) -> bool:
    """Whether a parameter of such a model is a range, not a weight."""
    return _HOOKS in parameter_name.split(".")


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of the ordinary model that has been given quantisers."""
    return {name: tensor for name, tensor in model.state_dict().items() if not is_quantizer(name)}


def save_quantizers(model: nn.Module, folder: Path) -> None:
    """Write `QUANTIZERS_FILE`: where the quantisers sit, and their ranges.

    Raises:
        OSError, SafetensorError: It cannot be written.
    """
    config = load_nncf().torch.get_config(model)
    # Copies, because a quantiser may sit in several places, and a file takes no tensor twice.
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if is_quantizer(name)}
    metadata = {_CONFIG: json.dumps(config), _MADE_WITH: f"transformers {transformers.__version__}"}
    save_file(tensors, folder / QUANTIZERS_FILE, metadata=metadata)


def read_quantizers(folder: Path) -> dict[str, torch.Tensor]:
    """The part of a model's state that `save_quantizers` has written.

    Raises:
        ArgumentError: There is no such file.
    """
    path = folder / QUANTIZERS_FILE
    if not path.exists():
        raise ArgumentError(
            f"{folder} has no {QUANTIZERS_FILE}: it was saved without --quantization_aware_training",
            "a checkpoint of this run",
            "leave out --quantization_aware_training, or begin anew with --resume_from_checkpoint false",
        )
    return load_file(path)  # type: ignore[no-any-return]


def load_quantizers(model: PreTrainedModel, path: Path, image_size: tuple[int, int]) -> PreTrainedModel:
    """Give a model the quantisers of a file, in place.

    Args:
        model: An ordinary model with the weights that were trained, on the CPU in evaluation mode.
        path: As `save_quantizers` has written it.
        image_size: Height and width of its input in pixels.

    Raises:
        ModelError: The file is damaged, or some quantisers have no place in this model.
    """
    nncf = _load_quantizers()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        quantized = nncf.torch.load_from_config(model, json.loads(metadata[_CONFIG]))
        quantized.load_state_dict({**plain_state(quantized), **load_file(path)})
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, nncf.InternalError) as error:
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {error}", "the file that was trained with it", "delete it"
        ) from error
    idle = set(_list_quantizers(quantized))
    handles = [quantizer.register_forward_pre_hook(_leave_headroom) for quantizer in idle]
    handles += [quantizer.register_forward_hook(lambda module, *_: idle.discard(module)) for quantizer in list(idle)]
    with torch.no_grad():
        quantized(pixel_values=torch.zeros(1, 3, *image_size))
    for handle in handles:
        handle.remove()
    if idle:
        raise ModelError(
            f"{len(idle)} quantisers of {path} have no place in {type(model).__name__} as transformers "
            f"{transformers.__version__} computes it",
            f"what they were trained with: {metadata.get(_MADE_WITH)}",
            "export with that version, or delete the file for ranges that are chosen after training",
        )
    return quantized  # type: ignore[no-any-return]


def remove_quantizers(model: nn.Module) -> None:
    """Make an ordinary model of it again, in place; nothing happens to one that is."""
    if is_quantized(model):
        delattr(model, _HOOKS)
        for name in ("forward", "_replicate_for_data_parallel"):  # what NNCF has put before the class's own
            model.__dict__.pop(name, None)
