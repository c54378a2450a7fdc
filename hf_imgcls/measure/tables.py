"""The one prediction table of a split: what a report is computed from, with or without the model.

It is a parquet file with typed columns that pandas, Polars and DuckDB read, and holds one row per example. With up to
1,000 classes every probability is kept (float32), beyond that the best 20.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.accumulate import ExampleTable
from hf_imgcls.measure.metrics.single import count_classes

if TYPE_CHECKING:
    import pyarrow as pa


PREDICTIONS_FILE = "predictions_{split}.parquet"
MAX_CLASSES_KEPT = 1000  # with more, only this many probabilities of an example:
NUM_TOP_OF_MANY = 20
NOT_EVERY_SCORE = f"of more than {MAX_CLASSES_KEPT:,} classes only the {NUM_TOP_OF_MANY} best scores are kept"
TABLE_VERSION = 1  # of the file's layout
TABLE_KEY = b"hf_imgcls.predictions"
METADATA_PREFIX = "metadata."
_ROWS = 4096  # of a row group: converted at a time, so that memory holds a table once


@dataclass
class PredictionTable:
    """What a model answered on a split; row i of every column belongs to the same example.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        labels: K class names; the position is the class id.
        sample_index: (N,) int64, position in the source split; unique and ascending.
        label: (N,) int64, the reference.
        prediction: (N,) int64, the class with the highest logit, the lowest id among equals.
        log_loss: (N,) float64, minus the log-probability of ``label``, in nats.
        reference_rank: (N,) int64, rank of ``label`` among the scores, 0 is the best.
        top_classes: (N, k) integers, the classes of the k highest probabilities, ``prediction`` first.
        top_probabilities: (N, k) float32 softmax scores in [0, 1], falling. All K when there are at most 1,000 classes,
            otherwise 20.
        files: N names of image files, relative to the folder that holds them all; None where they have none.
        metadata: Name -> N values (text, number, bool or None): the dataset's other columns, scalars only.
        source: Where it comes from: ``model``, ``model_revision``, ``data``, ``data_revision``, ``fingerprint`` of the
            split, ``temperature`` that was folded into the model's head (1.0 if none was), and ``hf_imgcls``.
    """

    split: str
    labels: list[str]
    sample_index: IntArray
    label: IntArray
    prediction: IntArray
    log_loss: FloatArray
    reference_rank: IntArray
    top_classes: npt.NDArray[Any]
    top_probabilities: npt.NDArray[Any]
    files: list[str | None]
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def is_complete(self) -> bool:
        """Whether the probability of every class is kept."""
        return self.top_classes.shape[1] == len(self.labels)

    @property
    def confidence(self) -> FloatArray:
        """(N,) float64, the probability of ``prediction``."""
        return self.top_probabilities[:, 0].astype(np.float64)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether ``prediction`` is ``label``."""
        return cast("npt.NDArray[np.bool_]", self.prediction == self.label)

    @property
    def strata_name(self) -> str:
        """What ``strata`` are, in words."""
        return "classes"

    @property
    def share_name(self) -> str:
        """The metric that ``correct`` is the share of."""
        return "accuracy"

    @property
    def examples(self) -> ExampleTable:
        """The part that a parity check compares."""
        numbers = (self.sample_index, self.label, self.prediction, self.confidence, self.log_loss, self.reference_rank)
        return ExampleTable(*numbers, None)

    def count_classes(self) -> tuple[IntArray, IntArray, IntArray]:
        """References, predictions and right predictions of each class: (K,) int64 each."""
        return count_classes(self.label, self.prediction, len(self.labels))

    @property
    def strata(self) -> tuple[IntArray, int]:
        """(N,) class id of each example, and the number of classes: what makes examples more or less hard."""
        return self.label, len(self.labels)

    @property
    def probabilities(self) -> FloatArray | None:
        """(N, K) float64, by class id: 8 * N * K bytes made anew; None when not every probability was kept."""
        scores = self.scores_by_class()
        return None if scores is None else scores.T.astype(np.float64, order="C")

    def scores_by_class(self) -> npt.NDArray[np.float32] | None:
        """(K, N) float32: the scores of class k lie together in row k; None when not every probability was kept."""
        if not self.is_complete:
            return None
        scores = np.empty((len(self.labels), len(self)), dtype=np.float32)
        for rows in self.chunks():
            part = np.empty((rows.stop - rows.start, len(self.labels)), dtype=np.float32)
            np.put_along_axis(part, self.top_classes[rows].astype(np.int64), self.top_probabilities[rows], axis=1)
            scores[:, rows] = part.T
        return scores

    def chunks(self, size: int = 512) -> Iterator[slice]:
        """Slices over all rows, for work that needs little memory, and a processor's caches, when done piece by piece.

        Args:
            size: Rows in a slice; the last one may be shorter.
        """
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    @classmethod
    def from_examples(
        cls,
        examples: ExampleTable,
        top_classes: npt.NDArray[Any],
        top_probabilities: npt.NDArray[Any],
        *,
        split: str,
        labels: list[str],
        files: list[str | None] | None = None,
        metadata: dict[str, list[Any]] | None = None,
        source: dict[str, Any] | None = None,
    ) -> PredictionTable:
        """Join what was kept of each example with its best scores.

        Args:
            examples: In the order of sample_index.
            top_classes: (N, k) in the same order, see `hf_imgcls.measure.metrics.top_scores`.
            top_probabilities: (N, k) float32.
            split: The split.
            labels: K class names.
            files: N names; None where no example has one.
            metadata: Name -> N values.
            source: See `PredictionTable`.
        """
        return cls(
            split=split,
            labels=labels,
            sample_index=examples.sample_index,
            label=examples.label,
            prediction=examples.prediction,
            log_loss=examples.log_loss,
            reference_rank=examples.reference_rank,
            top_classes=top_classes,
            top_probabilities=top_probabilities,
            files=files or [None] * len(examples),
            metadata=metadata or {},
            source=source or {},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as parquet, in one step: a reader sees the old file or the new one."""
        write_parquet(path, self._schema(), self._to_arrow, len(self))

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        num_top = self.top_classes.shape[1]
        columns = [
            ("sample_index", pa.int64()),
            ("label", pa.int32()),
            ("prediction", pa.int32()),
            ("log_loss", pa.float64()),
            ("reference_rank", pa.int32()),
            ("top_classes", pa.list_(pa.from_numpy_dtype(class_dtype(len(self.labels))), num_top)),
            ("top_probabilities", pa.list_(pa.float32(), num_top)),
            ("file", pa.string()),
        ]
        columns += [(METADATA_PREFIX + name, pa.array(values).type) for name, values in self.metadata.items()]
        source = tell_source(self.source)
        about = {"version": TABLE_VERSION, "split": self.split, "labels": self.labels, "source": source}
        return pa.schema(columns, metadata={TABLE_KEY: json.dumps(about)})

    def _to_arrow(self, rows: slice, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        arrays = []
        for item in schema:
            if item.name in ("top_classes", "top_probabilities"):
                flat = pa.array(getattr(self, item.name)[rows].ravel(), item.type.value_type)
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, item.type.list_size))
            elif item.name.startswith(METADATA_PREFIX):
                arrays.append(pa.array(self.metadata[item.name.removeprefix(METADATA_PREFIX)][rows], item.type))
            else:
                arrays.append(
                    pa.array((self.files if item.name == "file" else getattr(self, item.name))[rows], item.type)
                )
        return pa.table(arrays, schema=schema)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PredictionTable:
        """Read a table.

        Raises:
            DataError: The file is missing, damaged, or no prediction table of this release.
        """
        import pyarrow.parquet as pq

        with reading_errors(path):
            about = read_about(path)
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = cls._from_parquet(file, about)
        if fault := table._find_fault():
            raise unreadable(path, fault)
        return table

    @classmethod
    def _from_parquet(cls, file: Any, about: dict[str, Any]) -> PredictionTable:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        num_top = schema.field("top_classes").type.list_size
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.empty(num_rows, dtype=np.float64 if name == "log_loss" else np.int64)
            for name in ("sample_index", "label", "prediction", "log_loss", "reference_rank")
        }
        arrays["top_classes"] = np.empty((num_rows, num_top), dtype=class_dtype(len(about["labels"])))
        arrays["top_probabilities"] = np.empty((num_rows, num_top), dtype=np.float32)
        lists: dict[str, list[Any]] = {name: [] for name in schema.names if name not in arrays}
        start = 0
        for batch in file.iter_batches(_ROWS):
            rows = slice(start, start + len(batch))
            for name, column in zip(schema.names, batch.columns, strict=True):
                if name in lists:
                    lists[name] += column.to_pylist()
                elif name.startswith("top_"):
                    arrays[name][rows] = column.flatten().to_numpy().reshape(len(batch), num_top)
                else:
                    arrays[name][rows] = column.to_numpy()
            start = rows.stop
        columns: dict[str, Any] = {name: about[name] for name in ("split", "labels", "source")} | arrays
        columns["files"] = lists.pop("file")
        columns["metadata"] = {name.removeprefix(METADATA_PREFIX): values for name, values in lists.items()}
        return cls(**columns)

    def _find_fault(self) -> str:
        """What cannot be in such a table; nothing if there is no such thing."""
        num_labels, top = len(self.labels), self.top_probabilities
        if not len(self):
            return "it holds no examples"
        if (np.diff(self.sample_index) <= 0).any():
            return "sample_index is not ascending"
        for name in ("label", "prediction", "reference_rank", "top_classes"):
            values = getattr(self, name)
            if values.min() < 0 or values.max() >= num_labels:
                return f"{name} has values outside 0 to {num_labels - 1}"
        if not np.isfinite(self.log_loss).all() or not (top.min() >= 0 and top.max() <= 1 + 1e-6):
            return "it has probabilities that are none"
        if (self.top_classes[:, 0] != self.prediction).any():
            return "top_classes does not begin with prediction"
        return ""


def write_parquet(
    path: str | os.PathLike[str], schema: pa.Schema, to_arrow: Callable[[slice, pa.Schema], pa.Table], num_rows: int
) -> None:
    """Write a table piece by piece, in one step for a reader.

    Args:
        path: The file.
        schema: Its columns.
        to_arrow: Makes the columns of some rows.
        num_rows: N.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Probabilities hardly repeat: a dictionary of them would only cost time.
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer:
            for start in range(0, num_rows, _ROWS):
                writer.write_table(to_arrow(slice(start, min(start + _ROWS, num_rows)), schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def tell_source(source: dict[str, Any]) -> dict[str, Any]:
    """What a table's file says about where it comes from: it may be published, the model's place may not."""
    model = source.get("model")
    is_path = isinstance(model, str) and os.path.isabs(model)
    return source | ({"model": os.path.basename(str(model).rstrip(os.sep))} if is_path else {})


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a table says about itself: version, split, labels, source; ``problem_type`` where it is multi-label."""
    import pyarrow.parquet as pq

    about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(TABLE_KEY, b"{}"))
    if about.get("version") != TABLE_VERSION:
        raise unreadable(path, "it was not written by this release")
    return about


@contextlib.contextmanager
def reading_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say in our words why a table cannot be read."""
    import pyarrow as pa

    try:
        yield
    except (OSError, KeyError, IndexError, ValueError, TypeError, pa.ArrowException) as error:
        raise unreadable(path, str(error)) from error


def class_dtype(num_labels: int) -> type[np.int16] | type[np.int32]:
    """The smallest signed type for class ids: of a thousand per example, they are a third of a table."""
    return np.int16 if num_labels <= 2**15 else np.int32


def count_top(num_labels: int) -> int:
    """How many probabilities of an example are kept."""
    return num_labels if num_labels <= MAX_CLASSES_KEPT else NUM_TOP_OF_MANY


def unique_names(labels: list[str]) -> list[str]:
    """Class names that can be keys: a name that several classes have gets the class id behind it."""
    count = Counter(labels)
    return [name if count[name] == 1 else f"{name} ({index})" for index, name in enumerate(labels)]


def unreadable(path: str | os.PathLike[str], reason: str) -> DataError:
    return DataError(
        f"{path} cannot be used: {reason}",
        "a prediction table (predictions_<split>.parquet) as recipes/measure.py writes it",
        "measure the model again, or name another file",
    )
