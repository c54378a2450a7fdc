"""Score a saved model on a split, through the folder that a consumer would load.

Model and preprocessing come from the folder (or Hub repository) alone, labels are matched by name, and every example is
counted exactly once on any number of processes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch.utils.data import IterableDataset

from hf_imgcls.classifier.labels import align_labels, check_problem_type
from hf_imgcls.classifier.loading import Classifier, load_classifier
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.classifier.torch_engine import NamedLogits
from hf_imgcls.data.transforms import attach_evaluation
from hf_imgcls.errors import DataError
from hf_imgcls.fit.evaluation import build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.mirror import mirror_folder
from hf_imgcls.measure.columns import read_columns
from hf_imgcls.measure.metrics.evaluation import Evaluation
from hf_imgcls.measure.metrics.examples import ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.single import read_measured
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import MULTI, task_of
from hf_imgcls.records import TEMPERATURE_KEY, THRESHOLDS_KEY, Baselines

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments, DataArguments
    from hf_imgcls.arrays import FloatArray, IntArray
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

_FROM_CONFIG = f"{THRESHOLDS_KEY} in the model's config"


@dataclass
class Score:
    """What a model scored on a split.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        labels: The dataset's class names, then those that only the model knows; the position is the class id below.
        metrics: Those of an evaluation, ``loss``, ``num_examples``, ``runtime`` (seconds) and ``samples_per_second`` ->
            value; ``None`` where not defined.
        reasons: Metric -> why it is ``None``.
        remarks: Metric -> what its value leaves out.
        notes: How model and data were brought together, one sentence each.
        confusion_matrix: (K, K) int64, rows are references and columns are predictions; None where an image may have
            several labels.
        examples: Label, prediction and probability of each example, ordered by sample_index; with several labels per
            image its labels and scores.
        table: What a report is made from, the scores of each example included; on the main process only.
        unseen: The same numbers without the images that training or selection has seen, see
            `hf_imgcls.measure.unseen.measure_unseen`; None where there are no such images.
        baselines: What the model is held against, see `hf_imgcls.measure.baselines`; None for a model of no run.
    """

    split: str
    labels: list[str]
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    remarks: dict[str, str]
    notes: list[str]
    confusion_matrix: IntArray | None
    examples: ExampleTable | MultiLabelExamples
    table: Table | None = None
    unseen: dict[str, Any] | None = None
    baselines: Baselines | None = None

    def numbers(self) -> dict[str, float]:
        """Return the metrics that are defined, each with the split's name before it: ``test_accuracy`` and so on."""
        return {f"{self.split}_{name}": value for name, value in self.metrics.items() if value is not None}

    def decide(self, thresholds: FloatArray) -> Score:
        """Return what follows from the same scores where the model's config has other thresholds.

        Args:
            thresholds: (K,) float64, from which score on a class is answered.
        """
        recorder = MULTI.new_recorder(len(self.labels), thresholds)
        values, reasons, remarks = read_measured(recorder.measure(self.examples))
        table = self.table
        if table is not None:
            table = replace(table, thresholds=thresholds, source=table.source | {"thresholds_from": _FROM_CONFIG})
        return replace(self, metrics=self.metrics | values, reasons=reasons, remarks=remarks, table=table)


def open_classifier(model: str | Path, args: Arguments) -> Classifier:
    """Load the model that a command scores; called by all processes, whether or not they see the main one's folder."""
    return load_classifier(mirror_folder(model), args.fit.model_revision, data=args.data)


def score_folder(
    model: Classifier | str | Path,
    dataset: ImageDataset,
    data: DataArguments,
    *,
    split: str = "test",
    batch_size: int = 64,
    num_workers: int = 0,
    on_batch: Callable[[], None] | None = None,
    state: PartialState | None = None,
) -> Score:
    """Score a saved model on one split, with all processes that run.

    Args:
        model: The classifier; or a folder that ``pipeline("image-classification")`` can load, or a Hub id.
        dataset: From `load_image_dataset`.
        data: How images are read, where the model does not say it, and how the Hub is reached.
        split: The split to score.
        batch_size: Images per forward pass and process.
        num_workers: Loader processes per process.
        on_batch: Called after every batch, for a progress bar.
        state: Tells device and processes; by default all that run.

    Returns:
        The score, the same on every process but for its table.

    Raises:
        DataError: The dataset has no such split, or it is empty.
        ModelError: The model cannot be loaded, or lacks one of the dataset's classes.
    """
    _check_split(dataset, split)
    classifier = model if isinstance(model, Classifier) else load_classifier(mirror_folder(model), data=data)
    task = task_of(dataset)
    check_problem_type(classifier.name, classifier.problem_type, dataset.is_multi_label)
    columns, labels, note = align_labels(classifier.labels, dataset.labels, keep_others=task.is_exclusive)
    if note:
        logger.warning("%s", note)
    recorder = task.new_recorder(len(labels), _pick(classifier.thresholds, columns))
    state = state or PartialState()
    reading = Reading.from_arguments(data, classifier.reading.choices)
    num_labels = len(labels) if dataset.is_multi_label else None
    rows, to_input = attach_evaluation(
        dataset.splits[split], Preprocessor(classifier.processor), reading, data, num_labels
    )
    start = time.perf_counter()
    evaluate_batches(
        NamedLogits(classifier.model, columns).to(state.device),
        build_eval_dataloader(rows, batch_size, state, num_workers=num_workers, pin_memory=state.device.type == "cuda"),
        recorder,
        state,
        device_transform=to_input,
        autocast=contextlib.nullcontext,
        on_batch=on_batch,
    )
    seconds = time.perf_counter() - start
    examples = recorder.collect_examples()
    if len(examples) != (num_examples := _count(rows)):
        raise RuntimeError(f"{len(examples)} of {num_examples} examples were counted")
    source = _describe_source(classifier, dataset, split)
    table = task.collect_table(recorder, state, split=split, labels=labels, source=source)
    if table is not None:
        table.files, table.metadata = read_columns(dataset.splits[split], examples.sample_index)
    evaluation = Evaluation(recorder, multi_label=not task.is_exclusive)
    metrics = evaluation.compute()
    collected, reasons, remarks = read_measured(task.measure_collected(table, state))
    metrics = {"loss": metrics["log_loss"], **metrics, **collected, "num_examples": len(examples)}
    metrics |= {"runtime": round(seconds, 4), "samples_per_second": round(len(examples) / seconds, 3)}
    return Score(
        split=split,
        labels=labels,
        metrics=metrics,
        reasons={name: text for name, text in evaluation.reasons.items() if name not in collected} | reasons,
        remarks=recorder.remarks | remarks,
        notes=[note] if note else [],
        confusion_matrix=recorder.confusion_matrix,
        examples=examples,
        table=table,
    )


def _check_split(dataset: ImageDataset, split: str) -> None:
    if split not in dataset.splits:
        raise DataError(
            f"the dataset has no {split} split",
            f"one of {', '.join(dataset.splits)}",
            "name another split, or say which split it is with --test_split_name or --test_dir",
        )


def _pick(thresholds: FloatArray | None, columns: list[int] | None) -> FloatArray | None:
    """Return the thresholds of the classes that are scored, in their order."""
    return thresholds if thresholds is None or columns is None else thresholds[columns]


def _count(rows: Any) -> int:
    """Return how many examples there are on all processes; the length of a stream is one process's share."""
    return rows.num_examples if isinstance(rows, IterableDataset) else len(rows)


def _describe_source(classifier: Classifier, dataset: ImageDataset, split: str) -> dict[str, Any]:
    record, config = dataset.record, classifier.model.config
    thresholds = _FROM_CONFIG if classifier.thresholds is not None else "0.5 for every class"
    return {
        "model": classifier.name,
        "model_revision": classifier.commit,
        "data": " ".join(filter(None, [record.source, record.config])),
        "data_revision": record.revision,
        "num_classes": len(record.labels),
        "fingerprint": record.splits[split].fingerprint if split in record.splits else None,
        "temperature": getattr(config, TEMPERATURE_KEY, 1.0),
        **({"thresholds_from": thresholds} if classifier.is_multi_label else {}),
        "hf_imgcls": version("hf_imgcls"),
    }
