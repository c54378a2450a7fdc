"""Write what was measured into the run's folder, under Trainer's own names."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.records import Baselines, build_record, write_json

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.measure.score import Score

ALL_RESULTS_FILE = "all_results.json"
CONFUSION_MATRIX_FILE = "confusion_matrix.json"
# Trainer says "eval" for the validation split; its own train_results.json holds the training's loss and speed.
RESULT_PREFIXES = {"test": "test", "validation": "eval", "train": "train_eval"}


def flatten_score(score: Score) -> dict[str, Any]:
    """The content of ``<prefix>_results.json``.

    Numbers lie flat under ``test_accuracy``, ``test_macro_f1`` and so on, as `transformers.Trainer` writes them.
    ``test_not_measured`` maps each metric that is not defined to the reason, ``test_remarks`` each metric that leaves
    something out to what, ``test_unseen`` has the metrics without the images that training or selection has seen, and
    ``test_baselines`` what the model is held against; none of them is there when it would be empty.
    """
    prefix = RESULT_PREFIXES[score.split]
    values = {f"{prefix}_{name}": value for name, value in score.metrics.items() if value is not None}
    described: dict[str, Any] = {"not_measured": score.reasons, "remarks": score.remarks, "unseen": score.unseen}
    described["baselines"] = dataclasses.asdict(score.baselines) if score.baselines else None
    return values | {f"{prefix}_{name}": texts for name, texts in described.items() if texts}


def list_results(score: Score, training_args: TrainingArguments) -> dict[str, float]:
    """Return the numbers of a validation score under the names that ``Trainer.evaluate`` gives them."""
    numbers = {name: value for name, value in score.metrics.items() if value is not None}
    steps = math.ceil(numbers.pop("num_examples") / (training_args.eval_batch_size * training_args.world_size))
    numbers["steps_per_second"] = round(steps / max(numbers["runtime"], 1e-4), 3)
    return {f"eval_{name}": value for name, value in numbers.items()}


def read_baselines(content: Any) -> Baselines | None:
    """Read ``test_baselines`` of ``test_results.json``; None where it is missing.

    Raises:
        UserError: It is damaged.
    """
    return None if content is None else build_record(Baselines, content, "the baselines")


def write_results(folder: str | Path, score: Score) -> dict[str, Any]:
    """Write ``<prefix>_results.json``, and all files of that kind merged as ``all_results.json``.

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
    write_metrics(folder, prefix, content)
    return content


def write_metrics(folder: str | Path, prefix: str, metrics: dict[str, Any]) -> None:
    """Write ``<prefix>_results.json``, and all files of that kind merged as ``all_results.json``, each in one step.

    ``Trainer.save_metrics`` would write in place: a kill would leave half a file, and the next start would not read it.

    Args:
        folder: The run's folder.
        prefix: ``train``, ``eval`` or ``test``.
        metrics: Name -> value; one that is not finite is left out.
    """
    folder = Path(folder)
    finite = {key: item for key, item in metrics.items() if not isinstance(item, float) or math.isfinite(item)}
    write_json(folder / f"{prefix}_results.json", finite)
    merged: dict[str, Any] = {}
    for path in sorted(folder.glob("*_results.json")):
        if path.name != ALL_RESULTS_FILE:
            merged |= json.loads(path.read_text(encoding="utf-8"))
    write_json(folder / ALL_RESULTS_FILE, merged)
