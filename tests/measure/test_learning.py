"""The learning curve is what Trainer's state says."""

from __future__ import annotations

import pytest

from hf_imgcls.measure.learning import read_learning
from hf_imgcls.measure.report.drawing import PRINT
from hf_imgcls.measure.report.plots import draw_learning
from hf_imgcls.records import write_json

HISTORY = [
    {"epoch": 1.0, "step": 10, "loss": 2.0},
    {"epoch": 1.0, "step": 10, "eval_loss": 1.5, "eval_accuracy": 0.4},
    {"epoch": 2.0, "step": 20, "eval_loss": 1.25},
    {"epoch": 3.0, "step": 30, "loss": 0.5},
    {"epoch": 3.0, "step": 30, "eval_loss": 1.75},
    {"epoch": 3.0, "step": 30, "train_runtime": 9.0},
    {"epoch": 3.0, "step": 30, "eval_loss": 1.25},  # the best weights, measured again
]


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "trainer_state.json", {"best_global_step": 20, "log_history": HISTORY})
    return tmp_path


def test_every_evaluation_is_a_point(run):
    points = read_learning(run)
    assert [(point["epoch"], point["training"], point["validation"]) for point in points] == [
        (1.0, 2.0, 1.5),
        (2.0, 2.0, 1.25),
        (3.0, 0.5, 1.75),
    ]
    assert [point["step"] for point in points if point["is_best"]] == [20]
    description = draw_learning(points, PRINT).description
    assert description.endswith("from 1.5000 to 1.7500, lowest 1.2500 at epoch 2.")


def test_there_is_no_curve_where_there_is_nothing_to_draw(run, tmp_path):
    assert read_learning(tmp_path / "elsewhere") == []
    write_json(run / "train_results.json", {"train_penalty": 1.0})  # the probe was kept
    assert read_learning(run) == []
    write_json(run / "train_results.json", {"train_loss": 1.0})
    write_json(run / "trainer_state.json", {"log_history": HISTORY[:2]})
    assert read_learning(run) == []
