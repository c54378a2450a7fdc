"""A split that gives whole batches, and the same example several times with other random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import ClassLabel, Value
from torch.utils.data import Dataset

from hf_imgcls.data.collate import WholeBatch

if TYPE_CHECKING:
    from datasets import Dataset as ArrowDataset
    from numpy.typing import NDArray


class BatchedSplit(Dataset[dict[str, torch.Tensor]]):
    """Rows of a dataset behind a transform on whole batches.

    Batches reach the collator whole: `datasets` would cut them into rows, to be joined again. Where pixels come from a
    cache, nothing of a batch is read from the dataset but numbers, and these are kept in memory: finding the rows of a
    shuffled batch in Arrow's tables costs as much as resampling its images.

    Position ``p`` of a split with N rows is row ``p % N``, drawn for the ``p // N``-th time: a sampler that wants an
    example again in the same epoch asks for another repetition, and the augmentation draws other numbers for it.

    Args:
        split: Columns ``image`` (not read with a cache), ``label`` and ``sample_index``.
        transform: Gets a dict of columns, and gives a dict of tensors; its ``cache`` holds decoded pixels, or is None.
    """

    def __init__(self, split: ArrowDataset, transform: Any) -> None:
        cached = transform.cache is not None
        self.column_names = ["label", "sample_index"] if cached else ["image", "label", "sample_index"]
        self.transform: Callable[[dict[str, Any]], dict[str, torch.Tensor]] = transform
        self._rows = split.select_columns(self.column_names)
        self._numbers: dict[str, NDArray[np.int64]] | None = None
        if cached and isinstance(split.features["label"], (ClassLabel, Value)):
            arrays = self._rows.with_format("numpy")
            self._numbers = {name: np.asarray(arrays[name][:], dtype=np.int64) for name in self.column_names}

    def __len__(self) -> int:
        return len(self._rows)

    def read_labels(self) -> Sequence[int]:
        """The class id of each row, in order."""
        return self._rows["label"][:] if self._numbers is None else self._numbers["label"].tolist()

    def __getitem__(self, key: int | slice | Sequence[int]) -> dict[str, torch.Tensor]:
        """One row, or a batch of several with a leading batch dimension."""
        if isinstance(key, int):
            return self.__getitems__([range(len(self))[key]])[0]
        return self.__getitems__(range(len(self))[key] if isinstance(key, slice) else key).tensors

    def __getitems__(self, positions: Sequence[int]) -> WholeBatch:
        """A batch; what `torch.utils.data.DataLoader` asks for."""
        drawn = np.asarray(positions, dtype=np.int64)
        keys, repetition = drawn % len(self), drawn // len(self)
        if self._numbers is None:
            rows: dict[str, Any] = self._rows[keys.tolist()]
        else:
            rows = {name: numbers[keys] for name, numbers in self._numbers.items()}
        return WholeBatch(self.transform({**rows, "repetition": repetition} if repetition.any() else rows))
