"""How a training went: its losses by epoch, out of the state that Trainer leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_state(folder: str | Path) -> dict[str, Any]:
    """Read ``trainer_state.json`` of a run; empty where there is none."""
    path = Path(folder) / "trainer_state.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def is_probe(folder: str | Path) -> bool:
    """Whether a run's model is a linear probe, whose head was solved for."""
    path = Path(folder) / "train_results.json"
    return path.is_file() and "train_penalty" in json.loads(path.read_text(encoding="utf-8"))


def read_learning(folder: str | Path) -> list[dict[str, Any]]:
    """Read the losses of a run's evaluations.

    Args:
        folder: The run's folder.

    Returns:
        For each evaluation ``epoch``, ``step``, ``validation`` (mean loss) and ``training`` (the mean loss that was
        logged last before it, None where none was), and ``is_best`` for the one whose weights were kept; nothing where
        fewer than two are recorded, which make no curve, and where a probe was kept instead of what was trained.
    """
    if is_probe(folder):
        return []
    state = read_state(folder)
    points: list[dict[str, Any]] = []
    training = None
    for entry in state.get("log_history") or []:
        if "loss" in entry:
            training = entry["loss"]
        if "eval_loss" not in entry:
            continue
        if points and points[-1]["step"] == entry["step"]:  # measured again after training
            continue
        points.append(
            {
                "epoch": entry["epoch"],
                "step": entry["step"],
                "validation": entry["eval_loss"],
                "training": training,
                "is_best": entry["step"] == state.get("best_global_step"),
            }
        )
    return points if len(points) > 1 else []
