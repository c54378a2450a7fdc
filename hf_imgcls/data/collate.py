"""Batches from rows, without copying a batch that exists already, and memory for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info

from hf_imgcls.classifier.memory import ReusedMemory


class WholeBatch(Sequence[dict[str, torch.Tensor]]):
    """The rows of a batch that exists already: cut out when somebody asks for one, which `collate_batch` does not.

    Args:
        tensors: Per key, a tensor with a leading batch dimension.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[number] for number in range(len(self))[position]]
        return {key: tensor[position] for key, tensor in self.tensors.items()}


def collate_batch(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join rows to a batch.

    A split with a batch transform (`hf_imgcls.data.batches.BatchedSplit`) hands over the batch whole. A stream, or a
    dataset that was made from such a split, cuts it into rows: views of one tensor. When the rows are all of them, in
    order, that tensor is the batch. Rows of any other origin are stacked.

    Args:
        rows: At least one; all with the same keys, a tensor of one shape each.

    Returns:
        Per key, a tensor with a leading batch dimension: ``pixel_values`` ``(B, 3, H, W)``, ``labels`` and
        ``sample_index`` int64 ``(B,)``, and what the device transform needs.
    """
    if isinstance(rows, WholeBatch):
        return dict(rows.tensors)
    return {key: _join([row[key] for row in rows]) for key in rows[0]}


_memory = ReusedMemory()


def allocate_batch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor; in a worker in shared memory, which it can leave without another copy.

    Args:
        shape: The tensor's shape.
        dtype: Its type.

    Source:
        torch.utils.data.default_collate, for the shared memory.
    """
    if get_worker_info() is None:
        return _memory.take(shape, dtype)
    like = torch.empty(0, dtype=dtype)
    storage = like.untyped_storage()._new_shared(math.prod(shape) * like.element_size())
    return torch.empty(0, dtype=dtype).set_(storage).resize_(*shape)  # type: ignore[arg-type]


def _join(tensors: list[torch.Tensor]) -> torch.Tensor:
    base = tensors[0]._base
    if base is not None and base.dim() > 0 and base.shape == (len(tensors), *tensors[0].shape) and base.is_contiguous():
        step, start = base.stride(0) * base.element_size(), base.data_ptr()
        if all(row._base is base and row.data_ptr() == start + i * step for i, row in enumerate(tensors)):
            return base
    out = allocate_batch((len(tensors), *tensors[0].shape), tensors[0].dtype)
    return torch.stack(tensors, out=out)
