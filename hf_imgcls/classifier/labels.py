"""Class names and what goes with them: which logit means which class, and from which score on (imports no torch)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.errors import ModelError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, THRESHOLDS_KEY

if TYPE_CHECKING:
    from hf_imgcls.arrays import FloatArray


def read_labels(config: dict[str, Any]) -> list[str]:
    """Return the class names of a model's config.json by logit; transformers' own names where it has none."""
    names = config.get("id2label")
    if not names:
        return [f"LABEL_{index}" for index in range(config.get("num_labels") or 2)]
    by_id = {int(index): str(name) for index, name in names.items()}
    return [by_id[index] for index in range(len(by_id))]


def read_thresholds(name: str, config: dict[str, Any], num_labels: int) -> FloatArray | None:
    """Return the model's own thresholds, float64 ``(K,)``; None where it has none.

    Args:
        name: How the user calls the model.
        config: The content of its config.json.
        num_labels: K.

    Raises:
        ModelError: They are not a list with a number for each class.
    """
    values = config.get(THRESHOLDS_KEY)
    if values is None or config.get("problem_type") != MULTI_LABEL:
        return None
    try:
        thresholds = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        thresholds = np.zeros(0)
    if thresholds.shape != (num_labels,) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ModelError(
            f"{THRESHOLDS_KEY} in the config.json of {name!r} is {values!r}",
            f"{num_labels} numbers from 0 to 1, one for each class",
            "correct it, or remove it: then 0.5 holds for all classes",
        )
    return thresholds


def check_problem_type(name: str, problem_type: str | None, multi_label: bool) -> None:
    """Refuse a model whose scores mean something else than the data's labels.

    Raises:
        ModelError: One is about several labels per image and the other about one.
    """
    if (problem_type == MULTI_LABEL) == multi_label:
        return
    kinds = ("one label", "several labels")
    fix = "score a model that was trained on such data" + (
        "" if multi_label else "; a column of texts with several labels needs --label_separator"
    )
    raise ModelError(
        f"{name!r} gives an image {kinds[not multi_label]} (problem_type {problem_type!r} in its "
        f"config.json), the data {kinds[multi_label]}",
        f"problem_type {MULTI_LABEL if multi_label else SINGLE_LABEL!r}",
        fix,
    )


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
