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
from hf_imgcls.measure.metrics.examples import ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.single import read_measured
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import MULTI_LABEL, TEMPERATURE_KEY, THRESHOLDS_KEY, Baselines

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import PretrainedConfig

    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.arrays import IntArray
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
    task = task_of(dataset)
    check_problem_type(model_name_or_path, model.config, dataset.is_multi_label)
    model_labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    columns, labels, note = align_labels(model_labels, dataset.labels, keep_others=task.is_exclusive)
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
    recorder = task.new_recorder(len(labels), thresholds)

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

    examples = recorder.collect_examples()
    if len(examples) != num_examples:
        raise RuntimeError(f"{len(examples)} of {num_examples} examples were counted")
    commit = find_commit(model_name_or_path, data, model_revision)
    source = _describe_source(model_name_or_path, commit, model.config, dataset, split)
    table = task.collect_table(recorder, state, split=split, labels=labels, source=source)
    if table is not None:
        table.files, table.metadata = read_columns(dataset.splits[split], examples.sample_index)
    metrics, reasons, remarks = read_measured(task.measure_recorded(recorder, table, state))
    metrics = {"loss": metrics["log_loss"], **metrics, "num_examples": len(examples)}
    metrics |= {"runtime": round(seconds, 4), "samples_per_second": round(len(examples) / seconds, 3)}
    return Score(
        split=split,
        labels=labels,
        metrics=metrics,
        reasons=reasons,
        remarks=remarks,
        notes=notes,
        confusion_matrix=recorder.confusion_matrix,
        examples=examples,
        table=table,
    )


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
