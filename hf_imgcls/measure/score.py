"""Score a saved model on a split, through the folder that a consumer would load.

Model and preprocessing come from the folder (or Hub repository) alone, labels are matched by name, and every example is
counted exactly once on any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from hf_imgcls.compat import load_image_processor
from hf_imgcls.errors import DataError, ModelError
from hf_imgcls.fit.model import check_forward
from hf_imgcls.fit.saved_reading import adopt_reading
from hf_imgcls.fit.weights import find_commit, load_trained, pin_source
from hf_imgcls.measure.columns import read_columns
from hf_imgcls.measure.exported_model import ExportedClassifier, find_exported_file, load_exported
from hf_imgcls.measure.formulas import Measured, measure_roc_auc
from hf_imgcls.measure.metrics import ClassificationAccumulator, ExampleTable
from hf_imgcls.measure.multilabel_metrics import MultiLabelAccumulator, MultiLabelExamples
from hf_imgcls.measure.multilabel_table import MultiLabelTable, Table
from hf_imgcls.measure.predictions import NOT_EVERY_SCORE, PredictionTable
from hf_imgcls.measure.top_scores import TopScores
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, TEMPERATURE_KEY, THRESHOLDS_KEY, Baselines

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments import DataArguments
    from hf_imgcls.data.load import ImageDataset
    from hf_imgcls.measure.formulas import FloatArray, IntArray

logger = logging.getLogger(__name__)


@dataclass
class Score:
    """What a model scored on a split.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        labels: The dataset's class names, then those that only the model knows; the position is the class id below.
        metrics: `METRIC_NAMES`, ``loss``, ``num_examples``, ``runtime`` (seconds) and ``samples_per_second`` -> value;
            ``None`` where not defined.
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
        _NamedLogits(model, columns).to(state.device),
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


def load_classifier(
    name_or_path: str | Path, data: DataArguments, *, revision: str = "main", trusts_programs: bool = False
) -> tuple[PreTrainedModel | ExportedClassifier, BaseImageProcessor]:
    """Load a saved classifier and its image processor: safetensors only, float32; or an exported model.

    Args:
        name_or_path: A folder or Hub id.
        data: ``cache_dir``, ``token`` and ``trust_remote_code``.
        revision: Branch, tag or commit on the Hub.
        trusts_programs: See `score_folder`.

    Returns:
        The model (on the CPU, in evaluation mode) and the processor.

    Raises:
        ModelError: Either is missing, or a tensor of the model is.
    """
    if find_exported_file(name_or_path) is not None:
        processor = load_image_processor(str(name_or_path), trust_remote_code=data.trust_remote_code)
        is_trusted = data.trust_remote_code or trusts_programs
        return load_exported(name_or_path, processor, is_trusted=is_trusted), processor
    source = pin_source(name_or_path, data, revision, fetches_weights=True)
    model, processor = load_trained(name_or_path, source), load_image_processor(str(name_or_path), **source)
    check_forward(model, processor)
    return model, processor


def check_problem_type(name: str | Path, config: PretrainedConfig, multi_label: bool) -> None:
    """Refuse a model whose scores mean something else than the data's labels.

    Raises:
        ModelError: One is about several labels per image and the other about one.
    """
    if (config.problem_type == MULTI_LABEL) == multi_label:
        return
    kinds = ("one label", "several labels")
    fix = "score a model that was trained on such data" + (
        "" if multi_label else "; a column of texts with several labels needs --label_separator"
    )
    raise ModelError(
        f"{str(name)!r} gives an image {kinds[not multi_label]} (problem_type {config.problem_type!r} in its "
        f"config.json), the data {kinds[multi_label]}",
        f"problem_type {MULTI_LABEL if multi_label else SINGLE_LABEL!r}",
        fix,
    )


def read_thresholds(name: str | Path, config: PretrainedConfig, columns: list[int] | None) -> FloatArray | None:
    """The model's own thresholds, in the order of the classes that are scored; None where it has none.

    Raises:
        ModelError: They are no list of a number for each class.
    """
    values = getattr(config, THRESHOLDS_KEY, None)
    if values is None or config.problem_type != MULTI_LABEL:
        return None
    try:
        thresholds = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        thresholds = np.zeros(0)
    if thresholds.shape != (config.num_labels,) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ModelError(
            f"{THRESHOLDS_KEY} in the config.json of {str(name)!r} is {values!r}",
            f"{config.num_labels} numbers from 0 to 1, one for each class",
            "correct it, or remove it: then 0.5 holds for all classes",
        )
    return thresholds if columns is None else thresholds[columns]


def align_labels(
    model_labels: list[str], dataset_labels: list[str], *, keep_others: bool = True
) -> tuple[list[int] | None, list[str], str | None]:
    """Which logit belongs to which class, by name.

    Classes that only the model knows stay in the game: a consumer of the model can get them as an answer, so scoring
    without them would flatter it. Where an image may have several labels, an answer about a class that the dataset
    knows nothing of is neither right nor wrong, and they are left out.

    Args:
        model_labels: The model's class names by logit.
        dataset_labels: The dataset's class names by class id.
        keep_others: Whether classes that only the model knows stay.

    Returns:
        The logits in the order of the names that come second, or ``None`` when they are in it already; the dataset's
        names followed by those that only the model knows; and a sentence on what was done, if anything was.

    Raises:
        ModelError: A class of the dataset is unknown to the model, or its name is ambiguous.
    """
    if model_labels == dataset_labels:
        return None, dataset_labels, None
    index_of = {name: index for index, name in enumerate(model_labels)}
    if missing := [name for name in dataset_labels if name not in index_of]:
        raise ModelError(
            f"the model does not know {len(missing)} of the dataset's {len(dataset_labels)} classes: "
            f"{_shorten(missing)}",
            f"the model's own classes: {_shorten(model_labels)}",
            "score a model that was trained on these classes, or correct id2label in its config.json",
        )
    in_model, in_dataset = Counter(model_labels), Counter(dataset_labels)
    if repeated := [name for name in in_dataset if max(in_model[name], in_dataset[name]) > 1]:
        raise ModelError(
            "two classes have the same name, and model and dataset order their classes differently: "
            f"{_shorten(repeated)}",
            "unique class names, or the same names in the same order",
            "make the names unique in the model's config.json and in the dataset",
        )
    columns = [index_of[name] for name in dataset_labels]
    if len(columns) == len(model_labels):
        note = "The model has the dataset's classes in another order: its logits were matched by name."
        return columns, dataset_labels, note
    others = [index for index, name in enumerate(model_labels) if name not in in_dataset]
    if not keep_others:
        known = _shorten([model_labels[index] for index in others], 3)
        note = f"The model knows {len(others)} classes that the dataset lacks ({known}): they are not scored."
        return columns, dataset_labels, note
    names = [model_labels[index] for index in others]
    note = (
        f"The model knows {len(others)} classes that the dataset lacks ({_shorten(names, 3)}): it can answer with "
        "them, and is then wrong."
    )
    return columns + others, dataset_labels + names, note


def _shorten(names: list[str], limit: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


class _NamedLogits(torch.nn.Module):
    """A classifier whose logits are in the dataset's order.

    Args:
        model: Answers with ``logits`` (B, K).
        columns: The logits in the order wanted; ``None`` leaves them as they are.
    """

    def __init__(self, model: torch.nn.Module, columns: list[int] | None) -> None:
        super().__init__()
        self.model = model
        self.columns = columns

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """``logits`` (B, K) for ``pixel_values`` (B, 3, H, W)."""
        logits = self.model(pixel_values=pixel_values).logits
        return SimpleNamespace(logits=logits if self.columns is None else logits[:, self.columns])
