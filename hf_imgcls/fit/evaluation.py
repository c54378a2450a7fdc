"""One evaluation loop, for the validation split during training and for scoring a saved folder.

Every example is counted exactly once whatever the number of processes: each process takes its own positions of the
split, keeps only its own, and what was counted is merged at the end. Nothing is padded into the numbers, and no
batch of logits is sent between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from hf_imgcls.data.collate import collate_batch

if TYPE_CHECKING:
    from accelerate import PartialState

Batch = dict[str, Any]
BatchTransform = Callable[[Batch], Batch]


class Accumulator(Protocol):
    """What the loop needs of ``hf_imgcls.measure.metrics.accumulate.ClassificationAccumulator``."""

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch."""

    def merge(self, other: Any) -> None:
        """Add what another process counted."""


AccumulatorT = TypeVar("AccumulatorT", bound=Accumulator)


class ShardSampler(Sampler[int]):
    """Positions ``rank, rank + world_size, ...`` of a split, the same number of them on every process.

    Processes that would run out first repeat their last positions: a sharded model (FSDP) needs every process to run
    the same number of batches. `num_valid` says how many of this process's positions count.

    Args:
        num_examples: Length of the split.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, num_examples: int, rank: int, world_size: int) -> None:
        own = list(range(rank, num_examples, world_size))
        self.num_valid = len(own)
        per_process = -(-num_examples // world_size)
        self._positions = own + [max(num_examples - 1, 0)] * (per_process - len(own))

    def __iter__(self) -> Iterator[int]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def build_eval_dataloader(
    dataset: Any,
    batch_size: int,
    state: PartialState,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    worker_init_fn: Callable[[int], None] | None = None,
) -> DataLoader:
    """A loader of this process's share of ``dataset``, in order and without shuffling.

    Args:
        dataset: A split with its transform attached; a stream (`hf_imgcls.data.streaming`) shares itself out.
        batch_size: Images per batch on this process.
        state: Tells rank and world size.
        num_workers: Loader processes.
        pin_memory: Copy batches into page-locked memory first.
        worker_init_fn: Called in each loader process first, with its number.
    """
    sampler = None
    if isinstance(dataset, IterableDataset):
        dataset.set_batch_size(batch_size)
    else:
        sampler = ShardSampler(len(dataset), state.process_index, state.num_processes)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_batch,
        worker_init_fn=worker_init_fn,
        # A loader draws a seed for its workers when it starts: training's random state must not notice an evaluation.
        generator=torch.Generator(),
    )


@torch.inference_mode()
def evaluate_batches(
    model: torch.nn.Module,
    dataloader: DataLoader,
    accumulator: AccumulatorT,
    state: PartialState,
    *,
    device_transform: BatchTransform,
    autocast: Callable[[], Any],
    on_batch: Callable[[], None] | None = None,
) -> AccumulatorT:
    """Run ``model`` over a loader and count every example once.

    Args:
        model: Put into evaluation mode, and back afterwards.
        dataloader: From `build_eval_dataloader`; yields ``pixel_values``, ``labels`` (B,) and ``sample_index`` (B,).
        accumulator: Empty; filled with this process's examples, then with all other processes'.
        state: Tells device, rank and world size.
        device_transform: Turns a batch that lies on the device into model inputs: ``pixel_values`` float
            ``(B, 3, H, W)``.
        autocast: Gives the context in which the model runs.
        on_batch: Called after every batch, for a progress bar.

    Returns:
        ``accumulator``, holding the whole split on every process.
    """
    remaining = dataloader.sampler.num_valid if isinstance(dataloader.sampler, ShardSampler) else None
    training = model.training
    model.eval()
    try:
        for rows in dataloader:
            batch = {name: value.to(state.device, non_blocking=True) for name, value in rows.items()}
            batch = device_transform(batch)
            with autocast():
                logits = model(pixel_values=batch["pixel_values"]).logits
            valid = len(logits) if remaining is None else min(len(logits), remaining)
            if valid:
                accumulator.update(logits[:valid].float(), batch["labels"][:valid], batch["sample_index"][:valid])
            remaining = None if remaining is None else remaining - valid
            if on_batch is not None:
                on_batch()
    finally:
        model.train(training)
    return merge_processes(accumulator, state)


def merge_processes(accumulator: AccumulatorT, state: PartialState) -> AccumulatorT:
    """Give every process the examples of all processes, each once."""
    if state.num_processes == 1:
        return accumulator
    from accelerate.utils import gather_object

    others = gather_object([accumulator])
    for rank, other in enumerate(others):
        if rank != state.process_index:
            accumulator.merge(other)
    return accumulator
