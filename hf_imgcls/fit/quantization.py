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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hf_imgcls.errors import ArgumentError
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

QUANTIZERS_FILE = "quantizers.safetensors"
_HOOKS = "__nncf_hooks"  # the module that NNCF adds to a model
_CONFIG = "nncf_config"


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

    Weights get symmetric ranges per channel, activations asymmetric ones.

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
    is_transformer = getattr(model.config, "num_attention_heads", None) is not None
    quantized = nncf.quantize(
        model.eval(),
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # Both would change weights for the quantisers' sake, and the ordinary model has none.
            disable_bias_correction=True,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            # Weights of 7 bits: sums of products of 8 do not fit into the 16 bits that CPUs without VNNI have for them.
            overflow_fix=nncf.OverflowFix.ENABLE,
        ),
    )
    number = sum("Quantizer" in type(module).__name__ for module in getattr(quantized, _HOOKS).modules())
    logger.info("%d quantisers, their ranges from %d training images", number, count)
    model.train(training)
    return quantized.train(training)  # type: ignore[no-any-return]


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
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if is_quantizer(name)}
    save_file(tensors, folder / QUANTIZERS_FILE, metadata={_CONFIG: json.dumps(config)})


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


def load_quantizers(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """Give a model the quantisers of a file, in place.

    Args:
        model: An ordinary model with the weights that were trained.
        path: As `save_quantizers` has written it.
    """
    nncf = _load_quantizers()
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()[_CONFIG])
    quantized = nncf.torch.load_from_config(model, config)
    quantized.load_state_dict({**plain_state(quantized), **read_quantizers(path.parent)})
    return quantized  # type: ignore[no-any-return]


def remove_quantizers(model: nn.Module) -> None:
    """Make an ordinary model of it again, in place; nothing happens to one that is."""
    if is_quantized(model):
        delattr(model, _HOOKS)
        for name in ("forward", "_replicate_for_data_parallel"):  # what NNCF has put before the class's own
            model.__dict__.pop(name, None)
