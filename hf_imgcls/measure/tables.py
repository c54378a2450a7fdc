"""The prediction table of a split: what a report is computed from, with or without the model.

It is a parquet file with typed columns that pandas, Polars and DuckDB read, and holds one row per example. Where an
image has one label, every probability is kept (float32) with up to 1,000 classes, and beyond that the best 20; where it
may have several, all labels and all scores.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.measure.metrics.examples import Answers, ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.multi_label import BoolArray, count_decisions, decide
from hf_imgcls.measure.metrics.single import count_classes, count_confusions
from hf_imgcls.measure.metrics.top_scores import class_dtype
from hf_imgcls.measure.table_file import (
    METADATA_PREFIX,
    TABLE_KEY,
    TABLE_VERSION,
    Layout,
    find_type,
    public_source,
    read_about,
    read_columns,
    reading_errors,
    unreadable,
    write_column,
    write_parquet,
)
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

PREDICTIONS_FILE = "predictions_{split}.parquet"


@dataclass(kw_only=True)
class Table:
    """What a model answered on a split; row i of every column belongs to the same example.

    Attributes:
        problem_type: What a label is, as in a model's config: one class, or a set of classes.
        share_name: The metric that ``correct`` is the share of.
        strata_name: What ``strata`` are, in words.
        split: ``train``, ``validation`` or ``test``.
        labels: K class names; the position is the class id.
        sample_index: (N,) int64, position in the source split; unique and ascending.
        log_loss: (N,) float64, in nats.
        files: N names of image files, relative to the folder that holds them all; None where they have none.
        metadata: Name -> N values (text, number, bool or None): the dataset's other columns, scalars only.
        source: Where it comes from: ``model``, ``model_revision``, ``data``, ``data_revision``, ``fingerprint`` of the
            split, ``temperature`` that was folded into the model's head (1.0 if none was), ``thresholds_from`` (where
            the thresholds come from, if there are any), and ``hf_imgcls``.
        thresholds: (K,) float64, from which score on a class is answered; None where the best one is.
    """

    problem_type: ClassVar[str]
    share_name: ClassVar[str]
    strata_name: ClassVar[str]
    layout: ClassVar[Layout]

    split: str
    labels: list[str]
    sample_index: IntArray
    log_loss: FloatArray
    files: list[str | None]
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    thresholds: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.log_loss)

    @property
    def is_complete(self) -> bool:
        """Whether the score of every class is kept."""
        return True

    @property
    def correct(self) -> BoolArray:
        """(N,) whether the answer is the label."""
        raise NotImplementedError

    @property
    def strata(self) -> tuple[IntArray, int]:
        """(N,) what makes examples more or less hard, a number from 0, and how many such numbers there are."""
        raise NotImplementedError

    @property
    def examples(self) -> Any:
        """The part that metrics are computed from."""
        raise NotImplementedError

    def examples_with_scores(self) -> Any:
        """Return ``examples`` with the scores of every class, where they were kept."""
        return self.examples

    def read_answers(self) -> Answers:
        """Return references and predictions, and the scores of every class where they were kept."""
        return self.examples_with_scores().read_answers(getattr(self, "thresholds", None))

    def count_classes(self) -> tuple[IntArray, IntArray, IntArray]:
        """References, answers and right answers of each class: (K,) int64 each."""
        raise NotImplementedError

    def count_confusions(self) -> IntArray | None:
        """(K, K) int64, rows are references and columns are predictions; None where an image may have several."""
        return None

    @classmethod
    def from_examples(cls, examples: Any, **columns: Any) -> Self:
        """Join what was kept of each example with what else is known about it.

        Args:
            examples: In the order of sample_index; its arrays are the columns of the same name.
            columns: The other columns, by the names of the table's attributes; ``files`` may be missing.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        kept = {item.name: getattr(examples, item.name) for item in dataclasses.fields(examples) if item.name in names}
        return cls(**{"files": [None] * len(examples)} | kept | columns)

    def to_pandas(self) -> pd.DataFrame:
        """Return the columns of the file as a data frame, one row per example."""
        return self._to_arrow(slice(0, len(self)), self._schema()).to_pandas()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as parquet, in one step: a reader sees the old file or the new one."""
        write_parquet(path, self._schema(), self._to_arrow, len(self))

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        columns = [
            (name, find_type(getattr(self, attribute), stored or class_dtype(len(self.labels))))
            for name, (attribute, stored, _) in self.layout.items()
        ]
        columns.append(("file", pa.string()))
        columns += [(METADATA_PREFIX + name, pa.array(values).type) for name, values in self.metadata.items()]
        about = {"version": TABLE_VERSION, **self._describe_kind(), "split": self.split, "labels": self.labels}
        return pa.schema(columns, metadata={TABLE_KEY: json.dumps(about | {"source": public_source(self.source)})})

    def _describe_kind(self) -> dict[str, Any]:
        """What the file says of this kind of table alone."""
        return {}

    @classmethod
    def _read_kind(cls, about: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes that `_describe_kind` has described."""
        return {}

    def _to_arrow(self, rows: slice, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        arrays = []
        for item in schema:
            if item.name in self.layout:
                arrays.append(write_column(getattr(self, self.layout[item.name][0])[rows], item.type))
            else:
                is_file = item.name == "file"
                values = self.files if is_file else self.metadata[item.name.removeprefix(METADATA_PREFIX)]
                arrays.append(pa.array(values[rows], item.type))
        return pa.table(arrays, schema=schema)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table: ``Table.load`` one of either kind, a subclass its own.

        Raises:
            DataError: The file is missing, damaged, or no such prediction table of this release.
        """
        import pyarrow.parquet as pq

        with reading_errors(path):
            about = read_about(path)
            kind = MultiLabelTable if about.get("problem_type") == MULTI_LABEL else PredictionTable
            if not issubclass(kind, cls):
                raise unreadable(path, f"it is of the problem type {kind.problem_type}, not {cls.problem_type}")
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = kind._from_parquet(file, about)
        if fault := table._find_fault():
            raise unreadable(path, fault)
        return cast("Self", table)

    @classmethod
    def _from_parquet(cls, file: pq.ParquetFile, about: dict[str, Any]) -> Self:
        arrays, lists = read_columns(file, cls.layout, len(about["labels"]))
        columns: dict[str, Any] = {name: about[name] for name in ("split", "labels", "source")}
        columns |= arrays | cls._read_kind(about) | {"files": lists.pop("file")}
        columns["metadata"] = {name.removeprefix(METADATA_PREFIX): values for name, values in lists.items()}
        return cls(**columns)

    def _find_fault(self) -> str:
        """Return why the table is invalid, or "" if it is valid."""
        if not len(self):
            return "it holds no examples"
        if (np.diff(self.sample_index) <= 0).any():
            return "sample_index is not ascending"
        return self._find_fault_of_kind() or ("" if np.isfinite(self.log_loss).all() else "log_loss is not finite")

    def _find_fault_of_kind(self) -> str:
        """Return why this kind of table is invalid, or ""."""
        return ""


@dataclass(kw_only=True)
class PredictionTable(Table):
    """A table of images with one label each; see `Table`.

    Attributes:
        label: (N,) int64, the reference.
        prediction: (N,) int64, the class with the highest logit, the lowest id among equals.
        log_loss: Minus the log-probability of ``label``.
        reference_rank: (N,) int64, rank of ``label`` among the scores, 0 is the best.
        top_classes: (N, k) integers, the classes of the k highest probabilities, ``prediction`` first.
        top_probabilities: (N, k) float32 softmax scores in [0, 1], falling. All K when there are at most 1,000 classes,
            otherwise 20.
    """

    problem_type = SINGLE_LABEL
    share_name = "accuracy"
    strata_name = "classes"
    layout: ClassVar[Layout] = {
        "sample_index": ("sample_index", np.int64, None),
        "label": ("label", np.int32, np.int64),
        "prediction": ("prediction", np.int32, np.int64),
        "log_loss": ("log_loss", np.float64, None),
        "reference_rank": ("reference_rank", np.int32, np.int64),
        "top_classes": ("top_classes", None, None),
        "top_probabilities": ("top_probabilities", np.float32, None),
    }

    label: IntArray
    prediction: IntArray
    reference_rank: IntArray
    top_classes: npt.NDArray[Any]
    top_probabilities: npt.NDArray[Any]

    @property
    def is_complete(self) -> bool:
        """Whether the score of every class is kept."""
        return self.top_classes.shape[1] == len(self.labels)

    @property
    def confidence(self) -> FloatArray:
        """(N,) float64, the probability of ``prediction``."""
        return self.top_probabilities[:, 0].astype(np.float64)

    @property
    def correct(self) -> BoolArray:
        """(N,) whether ``prediction`` is ``label``."""
        return cast("BoolArray", self.prediction == self.label)

    @property
    def examples(self) -> ExampleTable:
        """The part that metrics are computed from, without scores."""
        return ExampleTable(
            self.sample_index, self.log_loss, self.label, self.prediction, self.confidence, self.reference_rank
        )

    def examples_with_scores(self) -> ExampleTable:
        """Return ``examples`` with the scores of every class, where they were kept."""
        return dataclasses.replace(self.examples, scores=self.probabilities)

    def count_classes(self) -> tuple[IntArray, IntArray, IntArray]:
        """References, predictions and right predictions of each class: (K,) int64 each."""
        return count_classes(self.label, self.prediction, len(self.labels))

    def count_confusions(self) -> IntArray:
        """(K, K) int64, rows are references and columns are predictions."""
        return count_confusions(self.label, self.prediction, len(self.labels))

    @property
    def strata(self) -> tuple[IntArray, int]:
        """(N,) class id of each example, and the number of classes."""
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

    def _find_fault_of_kind(self) -> str:
        num_labels, top = len(self.labels), self.top_probabilities
        for name in ("label", "prediction", "reference_rank", "top_classes"):
            values = getattr(self, name)
            if values.min() < 0 or values.max() >= num_labels:
                return f"{name} has values outside 0 to {num_labels - 1}"
        if not (top.min() >= 0 and top.max() <= 1 + 1e-6):
            return "it has probabilities outside 0 to 1"
        return "top_classes does not begin with prediction" if (self.top_classes[:, 0] != self.prediction).any() else ""


@dataclass(kw_only=True)
class MultiLabelTable(Table):
    """A table of images that may have several labels, or none; see `Table`.

    Attributes:
        targets: (N, K) bool, the labels.
        scores: (N, K) float32, sigmoid scores in [0, 1].
        log_loss: Mean binary cross-entropy over the classes.
        thresholds: (K,) float64, from which score on a class is answered.
    """

    problem_type = MULTI_LABEL
    share_name = "subset_accuracy"
    strata_name = "numbers of labels"
    layout: ClassVar[Layout] = {
        "sample_index": ("sample_index", np.int64, None),
        "labels": ("targets", np.int32, np.bool_),
        "probabilities": ("scores", np.float32, None),
        "log_loss": ("log_loss", np.float64, None),
    }

    targets: BoolArray
    scores: npt.NDArray[np.float32]
    thresholds: FloatArray

    @cached_property
    def answers(self) -> BoolArray:
        """(N, K) bool, the classes whose score reaches their threshold."""
        return decide(self.scores, self.thresholds)

    @property
    def correct(self) -> BoolArray:
        """(N,) whether exactly the labels are answered."""
        return np.asarray((self.answers == self.targets).all(axis=1))

    @property
    def examples(self) -> MultiLabelExamples:
        """The part that metrics are computed from."""
        return MultiLabelExamples(self.sample_index, self.log_loss, self.targets, self.scores)

    def count_classes(self) -> tuple[IntArray, IntArray, IntArray]:
        """References, answers and right answers of each class: (K,) int64 each."""
        return count_decisions(self.targets, self.answers)

    @property
    def strata(self) -> tuple[IntArray, int]:
        """(N,) number of labels of each example, of which more are harder, and one more than there can be."""
        return self.targets.sum(axis=1), len(self.labels) + 1

    def _describe_kind(self) -> dict[str, Any]:
        return {"problem_type": self.problem_type, "thresholds": self.thresholds.tolist()}

    @classmethod
    def _read_kind(cls, about: dict[str, Any]) -> dict[str, Any]:
        return {"thresholds": np.array(about["thresholds"], dtype=np.float64)}

    def _find_fault_of_kind(self) -> str:
        if len(self.thresholds) != len(self.labels):
            return f"it has {len(self.thresholds)} thresholds for {len(self.labels)} classes"
        return "" if self.scores.min() >= 0 and self.scores.max() <= 1 else "it has probabilities outside 0 to 1"


def unique_names(labels: list[str]) -> list[str]:
    """Class names that can be keys: a name that several classes have gets the class id behind it."""
    count = Counter(labels)
    return [name if count[name] == 1 else f"{name} ({index})" for index, name in enumerate(labels)]
