"""Load a saved classifier: model, processor, labels, thresholds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_imgcls.classifier.runtimes import ExportedClassifier, find_exported_file, load_exported
from hf_imgcls.classifier.source import load_trained, pin_source
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import ModelError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, THRESHOLDS_KEY

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.arrays import FloatArray


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


class NamedLogits(torch.nn.Module):
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


@torch.no_grad()
def check_forward(model: PreTrainedModel, processor: BaseImageProcessor) -> None:
    """Send one grey image through processor and model, so that a misfit shows before any data is read.

    Raises:
        ModelError: The model does not take the processor's images, or does not answer with a logit for each class.
    """
    from PIL import Image

    training = model.training
    pixel_values = processor(Image.new("RGB", (320, 240), "gray"), return_tensors="pt")["pixel_values"]
    try:
        logits = model.eval()(pixel_values=pixel_values).logits
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model does not accept the processor's images of shape {tuple(pixel_values.shape)}: {error}",
            "an image size that model and processor agree on",
            "pass --image_size, or another --image_processor_name",
        ) from error
    if logits.shape != (1, model.config.num_labels):
        raise ModelError(
            f"the model answers with shape {tuple(logits.shape)}",
            f"(1, {model.config.num_labels}), one logit for each class",
            "use an image classification model",
        )
    model.train(training)
