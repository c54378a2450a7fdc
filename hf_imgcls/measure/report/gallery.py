"""Examples worth looking at: the worst mistakes, the least confident right answers, and the most confused classes.

The choice follows from the prediction table alone and is the same each time; pictures are added where the images are
at hand. A mistake of high loss is often a wrong label: looking at it is the cheapest way to a better dataset.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.reading import DEFAULT_READING, Reading
from hf_imgcls.errors import DataError
from hf_imgcls.measure.columns import name_files
from hf_imgcls.measure.report.sections import list_confused_pairs
from hf_imgcls.measure.tables import PredictionTable, Table, unique_names
from hf_imgcls.measure.task import task_of

THUMBNAIL_SIDE_PX = 160
IMAGE_FOLDER = "images"
IMAGE_PREFIX = "gallery-"
NUM_WORST = 20
NUM_LEAST_CONFIDENT = 10
NUM_PAIRS = 5
_NUM_PER_PAIR = 4


@dataclass
class Gallery:
    """What is shown, and its pictures.

    Attributes:
        content: What goes into ``ReportRecord.gallery``: ``worst_mistakes``, by loss, and ``least_confident_right``,
            lists of ``sample_index``, ``file`` (or None), what `hf_imgcls.measure.task.Task.describe_answer` says of
            the answer, ``log_loss``, ``image`` (path of the thumbnail inside the report's folder, or None) and
            ``reason`` (why there is none). With one label per image also ``confused_pairs``, a list of ``label``,
            ``prediction``, ``count``, ``mistakes`` (as above), ``train_of_label`` and ``train_of_prediction``
            (``sample_index``, ``file``, ``label``, ``image``, ``reason``).
        thumbnails: Path inside the report's folder -> PNG file.
    """

    content: dict[str, list[dict[str, Any]]]
    thumbnails: dict[str, bytes] = field(default_factory=dict)


def build_gallery(
    table: Table,
    dataset: Any = None,
    train: Any = None,
    *,
    reading: Reading = DEFAULT_READING,
) -> Gallery:
    """Choose examples and make their thumbnails.

    Args:
        table: The predictions.
        dataset: The split that was measured: rows with ``image`` and ``sample_index``, as `load_image_dataset` gives
            them, in memory or streaming; None leaves the pictures out.
        train: The training split, with ``label`` too, for examples of confused classes; a stream is not searched.
        reading: How files become pixels.

    Returns:
        The gallery. An image that cannot be read is left out with the reason, which is no error: the numbers stand.
    """
    task = task_of(table)
    certainty = task.measure_certainty(table)
    wrong, right = np.flatnonzero(~table.correct), np.flatnonzero(table.correct)
    worst = _rank_rows(wrong, -table.log_loss[wrong], table.sample_index)[:NUM_WORST]
    unsure = _rank_rows(right, certainty[right], table.sample_index)[:NUM_LEAST_CONFIDENT]
    pairs = _list_pairs(table) if isinstance(table, PredictionTable) else None
    album, names = Thumbnails(reading), unique_names(table.labels)
    sources, otherwise = {}, "the images were not at hand"
    if dataset is not None:
        chosen = {*worst, *unsure, *(row for _, rows in pairs or () for row in rows)}
        sources = find_rows(dataset, [int(table.sample_index[row]) for row in chosen])
        otherwise = "the image was not found in the split"

    def describe(row: int) -> dict[str, Any]:
        index = int(table.sample_index[row])
        return {
            "sample_index": index,
            "file": table.files[row],
            **task.describe_answer(table, row, names),
            "log_loss": float(table.log_loss[row]),
            **album.add(table.split, index, sources.get(index), otherwise),
        }

    content = {
        "worst_mistakes": [describe(row) for row in worst],
        "least_confident_right": [describe(row) for row in unsure],
    }
    if pairs is not None:
        classes = sorted({pair[key] for pair, _ in pairs for key in ("label_id", "prediction_id")})
        examples = _find_examples(train, classes, table.labels, album)
        content["confused_pairs"] = [
            {
                **{key: pair[key] for key in ("label", "prediction", "count")},
                "mistakes": [describe(row) for row in rows],
                "train_of_label": examples.get(pair["label_id"], []),
                "train_of_prediction": examples.get(pair["prediction_id"], []),
            }
            for pair, rows in pairs
        ]
    return Gallery(content, album.thumbnails)


def make_thumbnail(image: Image.Image) -> bytes:
    """A PNG file of at most 160 x 160 pixels; smaller images grow by a whole factor, so that pixels stay visible."""
    longest = max(image.size)
    if longest > THUMBNAIL_SIDE_PX:
        image = image.copy()
        image.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), Image.Resampling.LANCZOS)
    elif (factor := THUMBNAIL_SIDE_PX // longest) > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def find_rows(dataset: Any, sample_indices: Iterable[int]) -> dict[int, Any]:
    """The images of some samples, not decoded.

    Args:
        dataset: Rows with ``image`` and ``sample_index``; a stream is read until all are found.
        sample_indices: Which.

    Returns:
        sample_index -> what ``image`` holds; those that are not there are missing.
    """
    wanted = set(sample_indices)
    if hasattr(dataset, "select_columns"):
        rows = dataset.with_format(None)
        if hasattr(rows, "__len__"):
            index = np.asarray(rows.select_columns("sample_index")["sample_index"])
            places = np.flatnonzero(np.isin(index, list(wanted))).tolist()
            return {row["sample_index"]: row["image"] for row in (rows[place] for place in places)}
        dataset = rows
    found: dict[int, Any] = {}
    for row in dataset:
        if row["sample_index"] in wanted:
            found[row["sample_index"]] = row["image"]
            if len(found) == len(wanted):
                break
    return found


class Thumbnails:
    """Thumbnails, each made once."""

    def __init__(self, reading: Reading) -> None:
        self.thumbnails: dict[str, bytes] = {}
        self._decode: Callable[[Any], Image.Image] = lambda source: decode_image(
            source, reading, min_size=(2 * THUMBNAIL_SIDE_PX, 2 * THUMBNAIL_SIDE_PX)
        )

    def add(self, split: str, sample_index: int, source: Any, otherwise: str) -> dict[str, str | None]:
        """``image``: the thumbnail's path; or None and, under ``reason``, why there is none."""
        path = f"{IMAGE_FOLDER}/{IMAGE_PREFIX}{split}-{sample_index:06d}.png"
        if path in self.thumbnails:
            return {"image": path, "reason": None}
        if source is None:
            return {"image": None, "reason": otherwise}
        try:
            self.thumbnails[path] = make_thumbnail(self._decode(source))
        except DataError as error:
            return {"image": None, "reason": error.found}
        return {"image": path, "reason": None}


def _rank_rows(rows: Any, key: Any, sample_index: Any) -> list[int]:
    """The rows by ascending key; among equals the lower sample_index comes first."""
    return [int(row) for row in rows[np.lexsort((sample_index[rows], key))]]


def _list_pairs(table: PredictionTable) -> list[tuple[dict[str, Any], list[int]]]:
    """The most confused pairs of classes, each with rows of the one that were taken for the other, the worst first."""
    pairs = []
    for pair in list_confused_pairs(table)[:NUM_PAIRS]:
        rows = np.flatnonzero((table.label == pair["label_id"]) & (table.prediction == pair["prediction_id"]))
        pairs.append((pair, _rank_rows(rows, -table.log_loss[rows], table.sample_index)[:_NUM_PER_PAIR]))
    return pairs


def _find_examples(
    train: Any, classes: Sequence[int], labels: Sequence[str], album: Thumbnails
) -> dict[int, list[dict[str, Any]]]:
    """Class id -> its first few training examples, by sample_index."""
    if train is None or not hasattr(train, "__len__") or not hasattr(train, "select_columns"):
        return {}
    rows = train.with_format(None)
    columns = rows.select_columns(["label", "sample_index"])[:]
    label, index = np.asarray(columns["label"]), np.asarray(columns["sample_index"])
    names = rows.features["label"].names
    is_same = names == list(labels[: len(names)])
    examples: dict[int, list[dict[str, Any]]] = {}
    for class_id in classes:
        # Classes go by name; ids do where both have the same names, of which two may be equal.
        own_id = class_id if is_same else names.index(labels[class_id]) if labels[class_id] in names else -1
        places = np.flatnonzero(label == own_id)
        chosen = [rows[place] for place in places[np.argsort(index[places], kind="stable")][:_NUM_PER_PAIR].tolist()]
        paths = name_files([row["image"].get("path") for row in chosen])
        examples[class_id] = [
            {
                "sample_index": row["sample_index"],
                "file": path,
                "label": labels[class_id],
                **album.add("train", row["sample_index"], row["image"], "the row holds no image"),
            }
            for row, path in zip(chosen, paths, strict=True)
        ]
    return examples
