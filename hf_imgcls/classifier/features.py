"""What the head of a model is given: computed once for each image, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 8192  # rows that are float64 at a time


@dataclass(frozen=True)
class Features:
    """What the head is given for the examples of a split.

    Attributes:
        values: float32 ``(N, D)``, mapped from a file.
        labels: int64 ``(N,)`` class ids; or float64 ``(N, K)`` of 0 and 1 where an image may have several.
        seconds: What computing them took; 0 if they were there.
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
