"""What a person sees of an evaluation while a model trains."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_imgcls.fit.callbacks import ThroughputProgress


@pytest.mark.parametrize(
    ("selected", "metrics", "line"),
    [
        (
            "accuracy",
            {"accuracy": 0.5, "macro_f1": 0.25, "ece": 0.125},
            "validation loss 0.7500, accuracy 0.5000, macro_f1 0.2500",
        ),
        (
            "mean_average_precision",
            {"macro_f1": 0.5, "micro_f1": 0.25, "mean_average_precision": 0.125, "subset_accuracy": 0.5},
            "validation loss 0.7500, mean_average_precision 0.1250, subset_accuracy 0.5000, micro_f1 0.2500",
        ),
        ("mcc", {"accuracy": 0.5, "mcc": 0.25}, "validation loss 0.7500, accuracy 0.5000, mcc 0.2500"),
    ],
)
def test_an_evaluation_shows_the_headline_and_what_is_selected_by(tmp_path, capsys, selected, metrics, line):
    args = TrainingArguments(str(tmp_path), metric_for_best_model=selected, use_cpu=True, report_to="none")
    state, control, progress = TrainerState(max_steps=2, epoch=1.0), TrainerControl(), ThroughputProgress()
    progress.on_train_begin(args, state, control)
    measured = {f"eval_{name}": value for name, value in {"loss": 0.75, **metrics}.items()}
    progress.on_evaluate(args, state, control, metrics=measured)
    progress.on_train_end(args, state, control)
    assert line in capsys.readouterr().out.splitlines()[0]
