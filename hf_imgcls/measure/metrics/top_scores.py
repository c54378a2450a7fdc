"""The best scores of every example, batch by batch, on one process or on many: what fills a prediction table.

A row takes 6 bytes per class, and stays with the process that computed it until the main process collects all of them,
a few megabytes at a time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    from accelerate import PartialState

    from hf_imgcls.measure.metrics.examples import ExampleTable

MAX_CLASSES_KEPT = 1000  # with more, only this many probabilities of an example:
NUM_TOP_OF_MANY = 20
NOT_EVERY_SCORE = f"of more than {MAX_CLASSES_KEPT:,} classes only the {NUM_TOP_OF_MANY} best scores are kept"
_PIECE_BYTES = 2**24


class _Piece(NamedTuple):
    sample_index: IntArray
    classes: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float32]


class TopScores:
    """Collects the best scores of a split.

    Args:
        num_labels: K. Up to 1,000 classes all scores are kept, beyond that 20 of each example.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self.num_top = count_top(num_labels)
        self._batches: list[_Piece] = []
        self._pieces: list[_Piece] = []

    def update(self, batch: ExampleTable) -> None:
        """Add a batch, measured with its scores; of all batches, each sample_index is there once."""
        if batch.scores is None:
            raise ValueError("a batch without scores has no best ones")
        classes, top = sort_scores(batch.scores, batch.prediction, self.num_top)
        self._batches.append(_Piece(batch.sample_index, classes, top))
        if sum(batch.probabilities.nbytes for batch in self._batches) >= _PIECE_BYTES:
            self._close_piece()

    def _close_piece(self) -> None:
        if self._batches:
            self._pieces.append(_Piece(*(np.concatenate(parts) for parts in zip(*self._batches, strict=True))))
            self._batches = []

    def collect(
        self, sample_index: IntArray, state: PartialState | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]] | None:
        """Bring the rows of all processes together, and forget them. Every process has to call this.

        Args:
            sample_index: (N,) ascending, the examples of the split; each was added once, by one process.
            state: Tells rank and world size; None is one process.

        Returns:
            On the main process classes (N, k), integers, and probabilities (N, k) float32; None on the others.
        """
        self._close_piece()
        is_main = state is None or state.is_main_process
        shape = (len(sample_index) if is_main else 0, self.num_top)
        classes = np.empty(shape, dtype=class_dtype(self.num_labels))
        probabilities = np.empty(shape, dtype=np.float32)
        num_placed = 0
        for _ in range(max(_gather(len(self._pieces), state))):
            for piece in _gather(self._pieces.pop(0) if self._pieces else None, state):
                if piece is None or not is_main:
                    continue
                places = np.searchsorted(sample_index, piece.sample_index)
                classes[places], probabilities[places] = piece.classes, piece.probabilities
                num_placed += len(places)
        if not is_main:
            return None
        if num_placed != len(sample_index):
            raise RuntimeError(f"scores of {num_placed} examples were kept, and there are {len(sample_index)}")
        return classes, probabilities


def class_dtype(num_labels: int) -> type[np.int16] | type[np.int32]:
    """The smallest signed type for class ids: of a thousand per example, they are a third of a table."""
    return np.int16 if num_labels <= 2**15 else np.int32


def count_top(num_labels: int) -> int:
    """How many probabilities of an example are kept."""
    return num_labels if num_labels <= MAX_CLASSES_KEPT else NUM_TOP_OF_MANY


def sort_scores(
    probabilities: FloatArray, prediction: IntArray, num_top: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """The best scores of each example, by falling score, the lowest class id first among equals.

    Args:
        probabilities: (B, K) in [0, 1].
        prediction: (B,) the class that comes first, where several have the highest score as float32.
        num_top: k.

    Returns:
        Classes (B, k), integers, and probabilities (B, k) float32.
    """
    if sys.byteorder != "little":
        raise RuntimeError("scores are sorted by their bits, which needs a little-endian machine")
    num_labels = probabilities.shape[1]
    # The bits of floats that are not negative grow with the number. Score and class in one integer sort many times
    # faster than an argsort, and the order is the same with every NumPy.
    bits = probabilities.astype(np.float32).view(np.uint32)
    keys = (~bits).astype(np.uint64) << np.uint64(32) | np.arange(num_labels, dtype=np.uint64)
    if num_top < num_labels:
        keys = np.partition(keys, num_top - 1, axis=1)[:, :num_top]
    keys.sort(axis=1)
    classes = (keys & np.uint64(0xFFFFFFFF)).astype(class_dtype(num_labels))
    top = (~(keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)
    for row in np.flatnonzero(classes[:, 0] != prediction):
        found = np.flatnonzero(classes[row] == prediction[row])
        place = int(found[0]) if len(found) else num_top - 1
        classes[row, 1 : place + 1] = classes[row, :place].copy()
        classes[row, 0] = prediction[row]
    return classes, top


def _gather(content: Any, state: PartialState | None) -> list[Any]:
    if state is None or state.num_processes == 1:
        return [content]
    from accelerate.utils import gather_object

    return list(gather_object([content]))
