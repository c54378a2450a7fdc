"""Memory that batches are written into again and again."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch


class ReusedMemory:
    """Tensors in memory that was used before, as soon as nothing refers to it any more.

    Writing to fresh memory costs a page fault per 4 KiB, which for a batch of images is as much as normalising it; the
    C library gives blocks of this size back to the system every time. Memory is handed out again only when its
    storage has no other reference: a tensor or view still held by anybody, autograd's saved tensors and NumPy arrays
    included, keeps it out of reach, and another block is taken.

    Args:
        most: Blocks to keep.
    """

    def __init__(self, most: int = 3) -> None:
        self._most = most
        self._storages: list[torch.UntypedStorage] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[int]]:
        return ReusedMemory, (self._most,)  # memory is not copied along

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised CPU tensor.

        Args:
            shape: The tensor's shape.
            dtype: Its type.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            for storage in self._storages:
                # torch's own CUDA graph trees use this count for the same purpose.
                if storage.nbytes() == num_bytes and torch._C._storage_Use_Count(storage._cdata) == 1:
                    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
            tensor = torch.empty(*shape, dtype=dtype)
            self._storages = [tensor.untyped_storage(), *self._storages][: self._most]
            return tensor
