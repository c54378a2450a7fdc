"""Features: what the head of a model is given for an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_imgcls.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 8192  # rows that are float64 at a time


@dataclass(frozen=True)
class Features:
    """What the head is given for the examples of a split.

    Attributes:
        values: float32 ``(N, D)``, mapped from a file.
        labels: int64 ``(N,)`` class ids; or float64 ``(N, K)`` of 0 and 1 where an image may have several.
        seconds: Spent computing them; 0 if they were cached.
    """

    values: NDArray[np.float32]
    labels: NDArray[Any]
    seconds: float

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Values (float64) and labels, some thousand examples at a time."""
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            values = torch.from_numpy(self.values[rows].astype(np.float64))
            yield values.to(device), torch.from_numpy(self.labels[rows]).to(device)


def read_features(model: nn.Module, head: nn.Linear, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the head is given for images: ``(B, D)``.

    Args:
        model: In evaluation mode.
        head: From `hf_imgcls.classifier.head.find_linear_head`.
        pixels: The model's input, float ``(B, 3, H, W)``.

    Raises:
        ModelError: The logits are made of something else.
    """
    given: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        logits = model(pixel_values=pixels).logits
    finally:
        hook.remove()
    if len(given) != 1 or given[0].shape != (len(logits), head.in_features) or (
        not torch.allclose(nn.functional.linear(given[0], head.weight, head.bias), logits, atol=1e-4)
    ):  # fmt: skip
        raise ModelError(
            f"the logits of {type(model).__name__} are not what its linear head makes of one vector per image",
            "a head that is called once and answers last",
            "use --adaptation head, which trains any head",
        )
    return given[0]


def digest_backbone(model: nn.Module, head: nn.Module) -> str:
    """Name the weights that features depend on: every tensor but the head's and an untrained adapter's."""
    own = {id(tensor) for tensor in head.parameters()}
    config = getattr(model, "config", None)
    digest = hashlib.sha256(json.dumps(config.to_dict() if config else {}, default=str, sort_keys=True).encode())
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in own and "lora_" not in name and ".original_module." not in name:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
