"""Streams: training on data that is not downloaded first, in an order that can be taken up again anywhere.

The rows of the parquet files are numbered from their footers, so the whole order of an epoch is a function of
``(seed, epoch, number of processes)`` and can be computed instead of replayed:

- row groups are permuted, and the resulting sequence of rows is shared out evenly over the processes;
- each process's share is divided into up to eight *lanes*, and batch ``j`` comes from lane ``j mod lanes``. Dataloader
  workers own whole lanes, so 0, 1, 2, 4 or 8 workers give the same batches;
- within a lane a row is delayed by a random time of at most the shuffle buffer's size. That is a shuffle buffer whose
  contents at any position are known beforehand: resuming reads the rows that were in it, and skips all others unread.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Features, Image, Sequence
from torch.utils.data import IterableDataset, get_worker_info

from hf_imgcls.data.columns import COLUMNS
from hf_imgcls.data.parquet import ParquetFiles, slice_groups
from hf_imgcls.data.stream_labels import KnownLabels, ListedLabels

logger = logging.getLogger(__name__)

MAX_LANES = 8
_MIXED_GROUPS = 8

Transform = Callable[[dict[str, list[Any]]], dict[str, Any]]


def find_process() -> tuple[int, int]:
    """Return rank and world size: from the launcher's variables, else from ``torch.distributed``, else 0 and 1."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class StreamingSplit(IterableDataset):  # type: ignore[type-arg]
    """One split as a stream of rows, already divided by process and by dataloader worker.

    Give it to a ``DataLoader`` with ``batch_size`` equal to ``set_batch_size``'s, ``shuffle=False``, and no further
    sharding. In training every process gets the same number of rows, and over an epoch no row comes twice; what does
    not divide evenly is left out, another remainder each epoch. In evaluation every row comes exactly once.

    Args:
        files: The files of the source's split.
        groups: int64 array ``(G, 4)``: the row groups, or parts of them, that belong to this split.
        image_column: The image column in the files.
        label_source: Where the labels of its rows come from.
        labels: Class names of the dataset.
        shuffle_buffer_size: Most rows that a process holds to shuffle from; 0 keeps the order of the files.
        seed: Seed of the order; may be set later, before iterating.
        multi_label: Whether an image has a list of labels.
    """

    def __init__(
        self,
        files: ParquetFiles,
        groups: np.ndarray,
        image_column: str,
        label_source: ListedLabels | KnownLabels,
        labels: list[str],
        *,
        shuffle_buffer_size: int = 0,
        seed: int = 0,
        multi_label: bool = False,
    ) -> None:
        self.files, self.groups = files, groups
        self.image_column, self.label_source = image_column, label_source
        self.shuffle_buffer_size, self.seed = shuffle_buffer_size, seed
        label: Any = ClassLabel(names=labels)
        self.multi_label = multi_label
        self.features = Features({"image": Image(decode=False), "label": Sequence(label) if multi_label else label})
        self.transform: Transform | None = None
        self.batch_size = 1
        # Epoch, the epoch to resume in, the first batch there, and whether rows stand in for those before it: shared
        # memory, so that set_epoch and resume_from reach dataloader workers that stay alive between epochs.
        self._position = torch.zeros(4, dtype=torch.int64).share_memory_()

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of a row, before the transform."""
        return list(COLUMNS)

    @property
    def num_examples(self) -> int:
        """Rows of the split, over all processes."""
        return int(self.groups[:, 3].sum())

    @property
    def is_training(self) -> bool:
        """Whether rows are shuffled and shared out evenly."""
        return self.shuffle_buffer_size > 0

    def __len__(self) -> int:
        """Rows that this process yields in an epoch."""
        start, stop = self._share()
        return stop - start

    def with_transform(self, transform: Transform) -> StreamingSplit:
        """Return this split with a transform on whole batches.

        Args:
            transform: Takes ``image``, ``label`` and ``sample_index`` as lists of up to ``batch_size`` and returns
                arrays or tensors with that first dimension; rows are views of them.
        """
        split = copy.copy(self)
        split.transform = transform
        return split

    def set_batch_size(self, batch_size: int) -> None:
        """Set the number of rows that the transform gets at once, and that come from one worker in a row."""
        self.batch_size = batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order. Also reaches live dataloader workers, from their next epoch on."""
        self._position[0] = epoch

    def resume_from(self, num_examples: int, *, stand_in: bool = False) -> None:
        """Begin the current epoch's next iteration after rows that were already used; other epochs begin at 0.

        Args:
            num_examples: Rows of this epoch that this process has used: whole batches, or the whole epoch.
            stand_in: Yield rows without content in place of the used ones, for a loop that skips batches by taking
                them (``Trainer``): nothing is read for them.

        Raises:
            ValueError: The number is not a multiple of the batch size.
        """
        if num_examples % self.batch_size and num_examples != len(self):
            raise ValueError(f"{num_examples} examples are not whole batches of {self.batch_size}")
        self._position[1] = self._position[0]
        self._position[2] = -(-num_examples // self.batch_size)
        self._position[3] = stand_in

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield rows, or with a transform rows of what it returns."""
        epoch, resumed_epoch, resumed_batch, stand_in = self._position.tolist()
        first_batch = resumed_batch if epoch == resumed_epoch else 0
        rank, world_size = find_process()
        lanes = self._divide_lanes(world_size)
        num_batches = -(-len(self) // self.batch_size)
        worker = get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        num_used = max(count for count in range(1, lanes + 1) if lanes % count == 0 and count <= num_workers)
        if worker_id >= num_used:
            if worker_id == num_used:
                logger.warning(
                    "%d of %d dataloader workers are idle: the stream has %d lanes, so use a number that divides it.",
                    num_workers - num_used, num_workers, lanes,
                )  # fmt: skip
            return
        groups = self._order_groups(epoch)
        readers: dict[int, Iterator[dict[str, Any]]] = {}
        # A loader asks its workers in turn, beginning with the first, wherever the stream is taken up.
        if stand_in:
            for _ in range(worker_id, first_batch, num_used):
                yield from [{"sample_index": torch.tensor(-1)}] * self.batch_size
            worker_id = (worker_id - first_batch) % num_used
        for batch in range(first_batch + worker_id, num_batches, num_used):
            lane = batch % lanes
            if lane not in readers:
                start, stop = self._lane_share(lane, lanes)
                used = batch // lanes * self.batch_size
                readers[lane] = self._read_lane(groups, start, stop, used, (self.seed, epoch, rank, lane))
            rows = [row for _, row in zip(range(self.batch_size), readers[lane], strict=False)]
            yield from self._transform_rows(rows)

    def _share(self) -> tuple[int, int]:
        """First and one-past-last row of this process in the epoch's sequence of rows."""
        rank, world_size = find_process()
        total = self.num_examples
        if self.is_training:
            return rank * (total // world_size), (rank + 1) * (total // world_size)
        return rank * total // world_size, (rank + 1) * total // world_size

    def _divide_lanes(self, world_size: int) -> int:
        """Number of lanes: a power of two up to 8, and not more than row groups, which would be read several times."""
        per_process = max(len(self.groups) // world_size, 1)
        return min(MAX_LANES, 1 << (per_process.bit_length() - 1))

    def _lane_share(self, lane: int, lanes: int) -> tuple[int, int]:
        """First and one-past-last row of a lane: as many whole batches as come from it, the last one perhaps short."""
        start, stop = self._share()
        num_batches = -(-(stop - start) // self.batch_size)
        sizes = [len(range(index, num_batches, lanes)) * self.batch_size for index in range(lanes)]
        if num_batches:
            # The lane of the epoch's last batch bears what that batch lacks.
            sizes[(num_batches - 1) % lanes] -= num_batches * self.batch_size - (stop - start)
        first = start + sum(sizes[:lane])
        return first, first + sizes[lane]

    def _order_groups(self, epoch: int) -> np.ndarray:
        if not self.is_training:
            return self.groups
        return self.groups[_random(self.seed, epoch).permutation(len(self.groups))]

    def _read_lane(
        self, groups: np.ndarray, start: int, stop: int, used: int, seed: tuple[int, ...]
    ) -> Iterator[dict[str, Any]]:
        """Yield a lane's rows in their shuffled order, from the ``used``-th on.

        Args:
            groups: The epoch's row groups, in its order.
            start: The lane's first row, counted over ``groups``.
            stop: One past its last.
            used: Rows of the lane that were used already.
            seed: Seed of the lane's order.
        """
        pieces = slice_groups(groups, start, stop)
        sizes = pieces[:, 3]
        piece_of = np.repeat(np.arange(len(pieces)), sizes)
        row_of = np.arange(stop - start) + np.repeat(pieces[:, 2] - (np.cumsum(sizes) - sizes), sizes)
        order = self._shuffle_rows(sizes, piece_of, seed)[used:]
        first_needed = np.full(len(pieces), np.iinfo(np.int64).max)
        np.minimum.at(first_needed, piece_of[order], row_of[order])
        is_used = np.ones(stop - start, dtype=bool)
        is_used[order] = False
        readers: dict[int, Generator[tuple[int, dict[str, Any]], None, None]] = {}
        waiting: dict[int, dict[str, Any]] = {}
        for position in order.tolist():
            piece, wanted = int(piece_of[position]), int(row_of[position])
            while wanted not in waiting:
                if piece not in readers:
                    readers[piece] = self.files.read_group(
                        pieces[piece],
                        int(first_needed[piece]),
                        (self.image_column, *self.label_source.columns),
                        0.5 if self.is_training else 1.0,
                    )
                row, content = next(readers[piece])
                if not is_used[position + row - wanted]:
                    waiting[row] = content
                if row + 1 == pieces[piece, 2] + pieces[piece, 3]:
                    readers.pop(piece).close()
            yield self._build_row(wanted, waiting.pop(wanted))

    def _shuffle_rows(self, sizes: np.ndarray, piece_of: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Order a lane's rows: each is due when it is read, or up to the buffer's size later, at random.

        A buffer no larger than a few row groups would fill batches from one of them, so up to eight are read by turns.

        Args:
            sizes: int64 array ``(P,)``: rows of each piece of a row group.
            piece_of: int64 array ``(N,)``: the piece that a row belongs to.
            seed: Seed of the random times.

        Returns:
            int64 array ``(N,)``: row positions in the order in which they come.
        """
        num_rows = len(piece_of)
        if not self.is_training:
            return np.arange(num_rows)
        delay = max(min(self.shuffle_buffer_size // self._divide_lanes(find_process()[1]), num_rows), 1)
        together = int(np.clip(np.ceil(_MIXED_GROUPS * sizes.mean() / delay), 1, _MIXED_GROUPS))
        turn = np.arange(len(sizes)) // together
        turn_sizes = np.bincount(turn, weights=sizes)
        offset = np.arange(num_rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        time = (np.cumsum(turn_sizes) - turn_sizes)[turn[piece_of]]
        time = time + offset * turn_sizes[turn[piece_of]] / sizes[piece_of]
        # The buffer is full before the first row leaves it, so that the first batch is as mixed as the rest.
        due = np.maximum(time - delay, 0) + delay * _random(*seed).random_sample(num_rows)
        return np.argsort(due, kind="stable")

    def _build_row(self, sample_index: int, row: dict[str, Any]) -> dict[str, Any]:
        image = row[self.image_column]
        if isinstance(image, bytes):
            image = {"bytes": image}
        if image is not None:
            image = {"bytes": image.get("bytes"), "path": image.get("path")}
        label = self.label_source.find(row, sample_index)
        return {"image": image, "label": label, "sample_index": sample_index}

    def _transform_rows(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if self.transform is None:
            yield from rows
            return
        batch = self.transform({name: [row[name] for row in rows] for name in COLUMNS})
        for index in range(len(rows)):
            yield {name: values[index] for name, values in batch.items()}


def _random(*seed: int) -> np.random.RandomState:
    """A generator whose stream is the same with every NumPy, for any integers."""
    return np.random.RandomState([value % 2**32 for value in seed])
