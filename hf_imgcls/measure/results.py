"""Write what was measured into the run's folder, under Trainer's own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.measure.metrics import METRIC_NAMES
from hf_imgcls.measure.multilabel_formulas import MULTI_LABEL_METRIC_NAMES
from hf_imgcls.records import write_json

if TYPE_CHECKING:
    from hf_imgcls.measure.score import Score

ALL_RESULTS_FILE = "all_results.json"
CONFUSION_MATRIX_FILE = "confusion_matrix.json"
# Trainer says "eval" for the validation split; its own train_results.json holds the training's loss and speed.
RESULT_PREFIXES = {"test": "test", "validation": "eval", "train": "train_eval"}


def flatten_score(score: Score) -> dict[str, Any]:
    """The content of ``<prefix>_results.json``.

    Numbers lie flat under ``test_accuracy``, ``test_macro_f1`` and so on, as `transformers.Trainer` writes them.
    ``test_not_measured`` maps each metric that is not defined to the reason, and ``test_remarks`` each metric that
    leaves something out to what; neither is there when it would be empty.
    """
    prefix = RESULT_PREFIXES[score.split]
    values = {f"{prefix}_{name}": value for name, value in score.metrics.items() if value is not None}
    described = {"not_measured": score.reasons, "remarks": score.remarks}
    return values | {f"{prefix}_{name}": texts for name, texts in described.items() if texts}


def write_results(folder: str | Path, score: Score) -> dict[str, Any]:
    """Write ``<prefix>_results.json``, and merge the numbers into ``all_results.json``.

    Where an image has one label, the confusion matrix is written too.

    Args:
        folder: The run's folder; made if needed.
        score: From `hf_imgcls.measure.score.score_folder`.

    Returns:
        The content of ``<prefix>_results.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix, content = RESULT_PREFIXES[score.split], flatten_score(score)
    write_json(folder / f"{prefix}_results.json", content)
    matrix = folder / (CONFUSION_MATRIX_FILE if score.split == "test" else f"{prefix}_{CONFUSION_MATRIX_FILE}")
    matrix.unlink(missing_ok=True)
    if score.confusion_matrix is not None:
        write_json(
            matrix,
            {
                "split": score.split,
                "labels": score.labels,
                "rows": "references",
                "columns": "predictions",
                "counts": score.confusion_matrix.tolist(),
            },
        )
    all_results = folder / ALL_RESULTS_FILE
    earlier = json.loads(all_results.read_text(encoding="utf-8")) if all_results.exists() else {}
    # What an earlier scoring of this split said, and this one does not, must not stay behind.
    own = {f"{prefix}_{name}" for name in (*METRIC_NAMES, *MULTI_LABEL_METRIC_NAMES, "not_measured", "remarks")}
    write_json(all_results, {name: value for name, value in earlier.items() if name not in own} | content)
    return content
