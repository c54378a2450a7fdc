"""The prediction table of a split whose images may show several classes: all labels and all scores of each example.

The file has the name and the metadata of the single-label one (`hf_imgcls.measure.tables`), other columns, and
says so under ``problem_type``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.accumulate_multi_label import MultiLabelExamples, decide
from hf_imgcls.measure.metrics.multi_label import BoolArray, count_decisions
from hf_imgcls.measure.tables import (
    METADATA_PREFIX,
    TABLE_KEY,
    TABLE_VERSION,
    PredictionTable,
    read_about,
    reading_errors,
    tell_source,
    unreadable,
    write_parquet,
)
from hf_imgcls.records import MULTI_LABEL

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class MultiLabelTable:
    """What a model answered on a split; row i of every column belongs to the same example.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        labels: K class names; the position is the class id.
        sample_index: (N,) int64, position in the source split; unique and ascending.
        targets: (N, K) bool, the labels.
        scores: (N, K) float32, sigmoid scores in [0, 1].
        log_loss: (N,) float64, mean binary cross-entropy over the classes, in nats.
        thresholds: (K,) float64, from which score on a class is answered.
        files: N names of image files, relative to the folder that holds them all; None where they have none.
        metadata: Name -> N values (text, number, bool or None): the dataset's other columns, scalars only.
        source: As in `PredictionTable`; ``thresholds_from`` says where the thresholds come from.
    """

    split: str
    labels: list[str]
    sample_index: IntArray
    targets: BoolArray
    scores: npt.NDArray[np.float32]
    log_loss: FloatArray
    thresholds: FloatArray
    files: list[str | None]
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log_loss)

    @cached_property
    def answers(self) -> BoolArray:
        """(N, K) bool, the classes whose score reaches their threshold."""
        return decide(self.scores, self.thresholds)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether exactly the labels are answered."""
        return np.asarray((self.answers == self.targets).all(axis=1))

    @property
    def strata_name(self) -> str:
        """What ``strata`` are, in words."""
        return "numbers of labels"

    @property
    def share_name(self) -> str:
        """The metric that ``correct`` is the share of."""
        return "subset_accuracy"

    @property
    def examples(self) -> MultiLabelExamples:
        """The part that metrics are computed from."""
        return MultiLabelExamples(self.sample_index, self.targets, self.scores, self.log_loss)

    def count_classes(self) -> tuple[IntArray, IntArray, IntArray]:
        """References, answers and right answers of each class: (K,) int64 each."""
        return count_decisions(self.targets, self.answers)

    @property
    def strata(self) -> tuple[IntArray, int]:
        """(N,) number of labels of each example, of which more are harder, and one more than there can be."""
        return self.targets.sum(axis=1), len(self.labels) + 1

    @classmethod
    def from_examples(
        cls, examples: MultiLabelExamples, *, split: str, labels: list[str], thresholds: npt.ArrayLike, **columns: Any
    ) -> MultiLabelTable:
        """Join what was kept of each example, in the order of sample_index, with what else is known about it."""
        columns.setdefault("files", [None] * len(examples))
        return cls(
            split=split,
            labels=labels,
            sample_index=examples.sample_index,
            targets=examples.targets,
            scores=examples.scores,
            log_loss=examples.log_loss,
            thresholds=np.asarray(thresholds, dtype=np.float64),
            **columns,
        )

    def with_thresholds(self, thresholds: npt.ArrayLike, **source: Any) -> MultiLabelTable:
        """The same scores, answered with other thresholds."""
        values = np.asarray(thresholds, dtype=np.float64)
        return replace(self, thresholds=values, source={**self.source, **source})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as parquet, in one step: a reader sees the old file or the new one."""
        write_parquet(path, self._schema(), self._to_arrow, len(self))

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        columns = [
            ("sample_index", pa.int64()),
            ("labels", pa.list_(pa.int32())),
            ("probabilities", pa.list_(pa.float32(), len(self.labels))),
            ("log_loss", pa.float64()),
            ("file", pa.string()),
        ]
        columns += [(METADATA_PREFIX + name, pa.array(values).type) for name, values in self.metadata.items()]
        about = {
            "version": TABLE_VERSION,
            "problem_type": MULTI_LABEL,
            "split": self.split,
            "labels": self.labels,
            "thresholds": self.thresholds.tolist(),
            "source": tell_source(self.source),
        }
        return pa.schema(columns, metadata={TABLE_KEY: json.dumps(about)})

    def _to_arrow(self, rows: slice, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        targets = self.targets[rows]
        offsets = np.concatenate([[0], np.cumsum(targets.sum(axis=1))])
        arrays: list[Any] = [
            pa.array(self.sample_index[rows]),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.nonzero(targets)[1], pa.int32())),
            pa.FixedSizeListArray.from_arrays(pa.array(self.scores[rows].ravel(), pa.float32()), len(self.labels)),
            pa.array(self.log_loss[rows]),
            pa.array(self.files[rows], pa.string()),
        ]
        metadata = {item.name: item.type for item in schema if item.name.startswith(METADATA_PREFIX)}
        arrays += [
            pa.array(self.metadata[name.removeprefix(METADATA_PREFIX)][rows], kind) for name, kind in metadata.items()
        ]
        return pa.table(arrays, schema=schema)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MultiLabelTable:
        """Read a table.

        Raises:
            DataError: The file is missing, damaged, or no such table of this release.
        """
        import pyarrow.parquet as pq

        with reading_errors(path):
            about = read_about(path)
            content = pq.read_table(path, page_checksum_verification=True).combine_chunks()
            columns = {
                name: column.combine_chunks() for name, column in zip(content.column_names, content, strict=True)
            }
            num_labels = len(about["labels"])
            targets = np.zeros((len(content), num_labels), dtype=bool)
            lists = columns["labels"]
            owner = np.repeat(np.arange(len(content)), np.diff(lists.offsets.to_numpy()))
            targets[owner, lists.flatten().to_numpy()] = True
            table = cls(
                split=about["split"],
                labels=about["labels"],
                sample_index=columns["sample_index"].to_numpy(),
                targets=targets,
                scores=columns["probabilities"].flatten().to_numpy().reshape(len(content), num_labels),
                log_loss=columns["log_loss"].to_numpy(),
                thresholds=np.array(about["thresholds"], dtype=np.float64),
                files=columns["file"].to_pylist(),
                metadata={
                    name.removeprefix(METADATA_PREFIX): column.to_pylist()
                    for name, column in columns.items()
                    if name.startswith(METADATA_PREFIX)
                },
                source=about["source"],
            )
        if fault := table._find_fault():
            raise unreadable(path, fault)
        return table

    def _find_fault(self) -> str:
        """What cannot be in such a table; nothing if there is no such thing."""
        if not len(self):
            return "it holds no examples"
        if (np.diff(self.sample_index) <= 0).any():
            return "sample_index is not ascending"
        if len(self.thresholds) != len(self.labels):
            return f"it has {len(self.thresholds)} thresholds for {len(self.labels)} classes"
        if not np.isfinite(self.log_loss).all() or not (self.scores.min() >= 0 and self.scores.max() <= 1):
            return "it has probabilities that are none"
        return ""


Table = PredictionTable | MultiLabelTable


def load_table(path: str | os.PathLike[str]) -> Table:
    """Read a prediction table of either kind.

    Raises:
        DataError: The file is missing, damaged, or no prediction table of this release.
    """
    with reading_errors(path):
        several = read_about(Path(path)).get("problem_type") == MULTI_LABEL
    return MultiLabelTable.load(path) if several else PredictionTable.load(path)
