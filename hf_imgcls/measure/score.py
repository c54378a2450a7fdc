"""Score a saved model on a split, through the folder that a consumer would load.

Model and preprocessing come from the folder (or Hub repository) alone, labels are matched by name, and every example is
counted exactly once on any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset

from hf_imgcls.classifier.loading import NamedLogits, align_labels, check_problem_type, load_classifier, read_thresholds
from hf_imgcls.classifier.saved_reading import adopt_reading
from hf_imgcls.classifier.source import find_commit
from hf_imgcls.errors import DataError
from hf_imgcls.measure.columns import read_columns
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, ExampleTable
from hf_imgcls.measure.metrics.accumulate_multi_label import MultiLabelAccumulator, MultiLabelExamples
from hf_imgcls.measure.metrics.single import Measured, measure_roc_auc
from hf_imgcls.measure.metrics.top_scores import TopScores
from hf_imgcls.measure.multi_label_table import MultiLabelTable, Table
from hf_imgcls.measure.tables import NOT_EVERY_SCORE, PredictionTable
from hf_imgcls.records import MULTI_LABEL, TEMPERATURE_KEY, THRESHOLDS_KEY, Baselines

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import PretrainedConfig

    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.arrays import FloatArray, IntArray
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)


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


def score_folder(
    model_name_or_path: str | Path,
    dataset: ImageDataset,
    data: DataArguments,
    *,
    split: str = "test",
    model_revision: str = "main",
    batch_size: int = 64,
    num_workers: int = 0,
    autocast_dtype: torch.dtype | None = None,
    on_batch: Callable[[], None] | None = None,
    state: PartialState | None = None,
    trusts_programs: bool = False,
) -> Score:
    """Score a saved model on one split, with all processes that run.

    Args:
        model_name_or_path: A folder that ``pipeline("image-classification")`` can load, or a Hub id.
        dataset: From `load_image_dataset`.
        data: How images are read, where the model does not say it, and how the Hub is reached.
        split: The split to score.
        model_revision: Branch, tag or commit of a Hub model.
        batch_size: Images per forward pass and process.
        num_workers: Loader processes per process.
        autocast_dtype: Compute in this dtype (weights stay float32); ``None`` is float32 throughout.
        on_batch: Called after every batch, for a progress bar.
        state: Tells device and processes; by default all that run.
        trusts_programs: Whether an exported model that runs native code may be loaded, whatever ``data`` says about
            code from elsewhere.

    Returns:
        The score, the same on every process but for its table.

    Raises:
        DataError: The dataset has no such split, or it is empty.
        ModelError: The model cannot be loaded, or lacks one of the dataset's classes.
    """
    from accelerate import PartialState

    from hf_imgcls.data.transforms import attach_transforms
    from hf_imgcls.fit.evaluation import build_eval_dataloader, evaluate_batches
    from hf_imgcls.fit.mirror import mirror_folder

    if split not in dataset.splits:
        raise DataError(
            f"the dataset has no {split} split",
            f"one of {', '.join(dataset.splits)}",
            "name another split, or say which split it is with --test_split_name or --test_dir",
        )
    model_name_or_path = mirror_folder(model_name_or_path)
    data = adopt_reading(data, model_name_or_path, model_revision)
    model, processor = load_classifier(
        model_name_or_path, data, revision=model_revision, trusts_programs=trusts_programs
    )
    several = dataset.is_multi_label
    check_problem_type(model_name_or_path, model.config, several)
    model_labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    columns, labels, note = align_labels(model_labels, dataset.labels, keep_others=not several)
    notes = [note] if note else []
    for text in notes:
        logger.warning("%s", text)

    state = state or PartialState()
    # As the test split, because a training split gets the training augmentation.
    rows = dataclasses.replace(dataset, splits={"test": dataset.splits[split]})
    plan = attach_transforms(rows, processor, data, seed=0)
    # A stream's length is what this process gets of it.
    num_examples = plan.test.num_examples if isinstance(plan.test, IterableDataset) else len(plan.test)
    thresholds = read_thresholds(model_name_or_path, model.config, columns)
    recorder = LabelSetRecorder(len(labels), thresholds) if several else Recorder(len(labels))

    device_type = state.device.type
    autocast: Callable[[], Any] = contextlib.nullcontext
    if autocast_dtype is not None:
        autocast = lambda: torch.autocast(device_type, autocast_dtype)  # noqa: E731
    start = time.perf_counter()
    evaluate_batches(
        NamedLogits(model, columns).to(state.device),
        build_eval_dataloader(plan.test, batch_size, state, num_workers=num_workers, pin_memory=device_type == "cuda"),
        recorder,
        state,
        device_transform=plan.eval_device_transform,
        autocast=autocast,
        on_batch=on_batch,
    )
    seconds = time.perf_counter() - start

    accumulator = recorder.accumulator
    metrics = accumulator.compute()
    examples = accumulator.collect_examples()
    if len(examples) != num_examples:
        raise RuntimeError(f"{len(examples)} of {num_examples} examples were counted")
    commit = find_commit(model_name_or_path, data, model_revision)
    source = _describe_source(model_name_or_path, commit, model.config, dataset, split)
    table = recorder.collect_table(state, split=split, labels=labels, source=source)
    if table is not None:
        table.files, table.metadata = read_columns(dataset.splits[split], examples.sample_index)
    metrics = {"loss": metrics["log_loss"], **metrics}
    if isinstance(recorder, Recorder):
        metrics["roc_auc"] = _add_roc_auc(table, recorder.accumulator, state)
    metrics |= {"runtime": round(seconds, 4), "samples_per_second": round(len(examples) / seconds, 3)}
    return Score(
        split=split,
        labels=labels,
        metrics=metrics,
        reasons=accumulator.reasons,
        remarks=accumulator.remarks,
        notes=notes,
        confusion_matrix=recorder.accumulator.confusion_matrix if isinstance(recorder, Recorder) else None,
        examples=examples,
        table=table,
    )


class Recorder:
    """What `evaluate_batches` fills: numbers of each example on every process, its scores on the one that had it.

    Args:
        num_labels: K, the number of classes.
    """

    def __init__(self, num_labels: int) -> None:
        self.accumulator = ClassificationAccumulator(num_labels)
        self.top = TopScores(num_labels)

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch."""
        batch = self.accumulator.measure_batch(logits, labels, sample_index)
        self.accumulator.add(batch)
        self.top.update(batch)

    def merge(self, other: Recorder) -> None:
        """Add what another process counted; its scores stay there until they are collected."""
        self.accumulator.merge(other.accumulator)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to other processes."""
        return {"accumulator": self.accumulator}

    def collect_table(self, state: PartialState, **about: Any) -> Table | None:
        """The table, on the main process; every process has to call this.

        Args:
            state: Tells rank and world size.
            about: ``split``, ``labels`` and ``source``.
        """
        examples = self.accumulator.collect_examples()
        top = self.top.collect(examples.sample_index, state)
        return None if top is None else PredictionTable.from_examples(examples, *top, **about)


class LabelSetRecorder:
    """The same where an image may have several labels: every process gets all scores.

    Args:
        num_labels: K, the number of classes.
        thresholds: From which score on a class is answered.
    """

    def __init__(self, num_labels: int, thresholds: FloatArray | None) -> None:
        self.accumulator = MultiLabelAccumulator(num_labels, thresholds)

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch."""
        self.accumulator.update(logits, labels, sample_index)

    def merge(self, other: LabelSetRecorder) -> None:
        """Add what another process counted."""
        self.accumulator.merge(other.accumulator)

    def collect_table(self, state: PartialState, **about: Any) -> Table | None:
        """As of `Recorder`."""
        if not state.is_main_process:
            return None
        examples = self.accumulator.collect_examples()
        return MultiLabelTable.from_examples(examples, thresholds=self.accumulator.thresholds, **about)


def _add_roc_auc(table: Table | None, accumulator: ClassificationAccumulator, state: PartialState) -> float | None:
    """ROC-AUC of the scores that the main process has, on every process; what is to be said about it is added."""
    measured = Measured(None)
    if isinstance(table, PredictionTable):
        scores = table.scores_by_class()
        measured = measure_roc_auc(table.label, scores.T) if scores is not None else Measured(None, NOT_EVERY_SCORE)
    if state.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        measured = broadcast_object_list([measured])[0]
    accumulator.reasons.pop("roc_auc", None)
    if measured.remark:
        (accumulator.reasons if measured.value is None else accumulator.remarks)["roc_auc"] = measured.remark
    return measured.value


def _describe_source(
    model: str | Path, commit: str | None, config: PretrainedConfig, dataset: ImageDataset, split: str
) -> dict[str, Any]:
    record = dataset.record
    return {
        "model": str(model),
        "model_revision": commit,
        "data": " ".join(filter(None, [record.source, record.config])),
        "data_revision": record.revision,
        "num_classes": len(record.labels),
        "fingerprint": record.splits[split].fingerprint if split in record.splits else None,
        "temperature": getattr(config, TEMPERATURE_KEY, 1.0),
        **_describe_thresholds(config),
        "hf_imgcls": version("hf_imgcls"),
    }


def _describe_thresholds(config: PretrainedConfig) -> dict[str, str]:
    if config.problem_type != MULTI_LABEL:
        return {}
    has_own = getattr(config, THRESHOLDS_KEY, None) is not None
    return {"thresholds_from": f"{THRESHOLDS_KEY} in the model's config" if has_own else "0.5 for every class"}
