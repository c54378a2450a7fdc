"""Examples worth looking at where an image may have several labels: the worst mistakes, and narrow right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.classifier.reading import DEFAULT_READING, Reading
from hf_imgcls.measure.report.gallery import NUM_LEAST_CONFIDENT, NUM_WORST, Album, Gallery, find_rows, rank_rows
from hf_imgcls.measure.tables import unique_names

if TYPE_CHECKING:
    from hf_imgcls.measure.tables import MultiLabelTable

_MAX_NAMED = 10


def build_label_gallery(table: MultiLabelTable, dataset: Any = None, *, reading: Reading = DEFAULT_READING) -> Gallery:
    """Choose examples and make their thumbnails; arguments as for `hf_imgcls.measure.report.gallery.build_gallery`.

    Args:
        table: The predictions.
        dataset: The split that was measured; None leaves the pictures out.
        reading: How files become pixels.

    Returns:
        The gallery: ``worst_mistakes``, by loss, and ``least_confident_right``, by the distance of the nearest score to
        its threshold. Each entry has ``sample_index``, ``file``, ``label`` and ``prediction`` (names with commas
        between, or "none"), ``missed`` and ``invented`` (up to ten ``label``, ``score`` and ``threshold``), ``margin``
        (that distance), ``log_loss``, ``image`` and ``reason``.
    """
    margin = np.abs(table.scores - table.thresholds).min(axis=1)
    wrong, right = np.flatnonzero(~table.correct), np.flatnonzero(table.correct)
    worst = rank_rows(wrong, -table.log_loss[wrong], table.sample_index)[:NUM_WORST]
    narrow = rank_rows(right, margin[right], table.sample_index)[:NUM_LEAST_CONFIDENT]
    album, names = Album(reading), unique_names(table.labels)
    sources = {}
    if dataset is not None:
        sources = find_rows(dataset, [int(table.sample_index[row]) for row in {*worst, *narrow}])
    otherwise = "the images were not at hand" if dataset is None else "the image was not found in the split"

    def name(chosen: Any) -> str:
        return ", ".join(names[label] for label in np.flatnonzero(chosen)) or "none"

    def list_scores(row: int, chosen: Any, sign: int) -> list[dict[str, Any]]:
        ids = np.flatnonzero(chosen)
        ids = ids[np.argsort(sign * table.scores[row, ids], kind="stable")][:_MAX_NAMED]
        return [
            {
                "label": names[label],
                "score": float(table.scores[row, label]),
                "threshold": float(table.thresholds[label]),
            }
            for label in ids.tolist()
        ]

    def describe(row: int) -> dict[str, Any]:
        targets, answers = table.targets[row], table.answers[row]
        index = int(table.sample_index[row])
        return {
            "sample_index": index,
            "file": table.files[row],
            "label": name(targets),
            "prediction": name(answers),
            "missed": list_scores(row, targets & ~answers, 1),
            "invented": list_scores(row, answers & ~targets, -1),
            "margin": float(margin[row]),
            "log_loss": float(table.log_loss[row]),
            **album.add(table.split, index, sources.get(index), otherwise),
        }

    content = {
        "worst_mistakes": [describe(row) for row in worst],
        "least_confident_right": [describe(row) for row in narrow],
    }
    return Gallery(content, album.thumbnails)
