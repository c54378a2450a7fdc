"""The search for training arguments: what a trial is, what is kept, and what comes out of it."""

from __future__ import annotations

import pytest
from faults.processes import RUN, Run
from PIL import Image

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import ArgumentError, OutputError
from hf_imgcls.fit.tune import Search, Trial, default_space, describe_search, draw_search, finish_search
from hf_imgcls.layout import RUN_FILE, TUNE_FILE, TUNE_PICTURE, TUNED_RECIPE

pytest.importorskip("optuna")

EPOCHS, SCHEDULES = "{num_train_epochs: [1, 2, 3]}", "{lr_scheduler_type: [linear, cosine, constant]}"
SPACE = "{learning_rate: [0.001, 0.003, 1.0e+30], weight_decay: [0.0, 0.1]}"
FLAGS = (*RUN, "--max_steps", "10", "--tune_space", SPACE)


@pytest.mark.slow
def test_a_search_goes_on_and_leaves_the_best_recipe(tmp_path):
    optuna = pytest.importorskip("optuna")
    first = Run(*FLAGS, "--tune", "1", "--ema_decay", "0.9", folder=tmp_path / "run")
    assert first.wait() == 0, first.output
    assert "(the recipe as it was)" in first.output
    assert sorted(path.name for path in first.folder.iterdir() if path.suffix) == [
        TUNE_FILE, TUNE_PICTURE, TUNED_RECIPE,
    ]  # fmt: skip

    second = Run(*FLAGS, "--tune", "9", "--ema_decay", "0.9", folder=tmp_path / "run")
    assert second.wait() == 0, second.output
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{second.folder / TUNE_FILE}")
    assert [trial.number for trial in study.trials] == list(range(9))
    assert study.trials[0].params == {"learning_rate": 0.003, "weight_decay": 0.0}
    # What explodes is given up, and the search goes on.
    exploded = [trial for trial in study.trials if trial.params["learning_rate"] == 1e30]
    assert exploded
    assert all(trial.state == optuna.trial.TrialState.PRUNED for trial in exploded)
    others = [trial for trial in study.trials if trial not in exploded]
    assert [trial.state for trial in others] == [optuna.trial.TrialState.COMPLETE] * len(others)
    assert exploded[0].number < others[-1].number  # nothing of an explosion is left to the next trial
    tuned = parse_arguments(["--config", str(second.folder / TUNED_RECIPE)])
    assert {name: tuned.training[name] for name in study.best_params} == study.best_params
    assert tuned.fit.tune == 0
    assert tuned.fit.ema_decay == 0.9
    assert tuned.training["max_steps"] == 10
    assert tuned.training["output_dir"] == str(second.folder)

    other = Run(*FLAGS, "--tune", "9", "--ema_decay", "0.8", folder=tmp_path / "run")
    assert other.wait() == 2
    assert "ema_decay: 0.9 then, 0.8 now" in other.output

    # The folder of a search takes the run that follows from it.
    run = Run("--config", second.folder / TUNED_RECIPE, folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    assert {RUN_FILE, TUNE_FILE} <= {path.name for path in run.folder.iterdir()}


def test_trials_start_from_the_same_weights(tmp_path):
    """A choice that changes nothing gives the same result."""
    optuna = pytest.importorskip("optuna")
    space = "{adam_beta1: [0.9, 0.9, 0.9]}"
    run = Run(*RUN, "--tune_space", space, "--tune", "2", "--max_steps", "10", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{run.folder / TUNE_FILE}")
    values = [trial.value for trial in study.trials]
    assert len(values) == 2
    assert values[0] == values[1]
    assert study.trials[0].intermediate_values == study.trials[1].intermediate_values
    for number, value in enumerate(values):
        assert f"Trial {number}: accuracy {value:.4f} with adam_beta1 0.9\n" in run.output
    assert "Best is trial" not in run.output  # Optuna's own lines


@pytest.mark.slow
def test_a_search_in_which_all_explodes_says_so_and_a_killed_one_goes_on(tmp_path):
    space = "{learning_rate: [1.0e+29, 1.0e+30]}"
    run = Run(*RUN, "--tune", "2", "--max_steps", "10", "--tune_space", space, folder=tmp_path / "run")
    run.wait_for(TUNE_FILE)
    run.kill()
    again = Run(*RUN, "--tune", "2", "--max_steps", "10", "--tune_space", space, folder=tmp_path / "run")
    assert again.wait() == 2, again.output
    assert "none of 2 trials came to its end" in again.output
    assert "Traceback" not in again.output


def test_what_was_found_is_told(tmp_path):
    trials = [
        Trial(3, 0.91, {"learning_rate": 3.1e-3, "optim": "sgd"}),
        Trial(0, 0.85, {"learning_rate": 1e-3, "optim": "adamw_torch"}),
        Trial(2, None, {"learning_rate": 1e-1, "optim": "sgd"}),
    ]
    found = Search("accuracy", 400, trials, baseline=0)
    lines = describe_search(found, tmp_path)
    assert [line.split() for line in lines[:2]] == [
        ["trial", "accuracy", "learning_rate", "optim"], ["3", "0.9100", "0.0031", "sgd"],
    ]  # fmt: skip
    assert lines[2].endswith("(the recipe as it was)")
    assert "given up" in lines[3]
    assert "400 images has a standard error of 0.0143" in lines[4]
    draw_search(found, tmp_path / "tune.png")
    assert Image.open(tmp_path / "tune.png").size == (1560, 560)
    with pytest.raises(OutputError, match="none of 1 trials"):
        finish_search(
            Search("accuracy", 400, trials[2:], None), parse_arguments(["--dataset_name", "digits"]), tmp_path
        )


def test_the_space_has_the_recipe_in_its_middle():
    space = default_space(1e-3)
    assert space["learning_rate"] == pytest.approx([1e-4, 1e-2])
    assert set(space) == {"learning_rate", "weight_decay", "label_smoothing_factor"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tune_space", "{learning_rate: [1e-4, 1e-2]}"], "tune_space without tune"),
        (["--tune", "3", "--tune_space", "{learning_rate: 0.1}"], "two numbers for a range"),
        (["--tune", "3", "--tune_space", "{learning_rate: [0.1, 0.01]}"], "the lower end first"),
        (["--tune", "3", "--tune_space", "{learning_rat: [0.1, 0.2]}"], "a name of learning_rate"),
        (["--tune", "3", "--tune_space", "{learning_rate: [low, high]}"], "a number"),
        (["--tune", "3", "--adaptation", "probe"], "takes optimizer steps"),
        (["--tune", "3", "--find_lr"], "tune with find_lr true"),
        (["--tune", "3", "--unfreeze_epochs", "1"], "tune with unfreeze_epochs"),
        (["--tune", "3", "--tune_space", EPOCHS, "--progressive_resizing", "0.5"], "one of them"),
        (["--tune", "3", "--tune_space", SCHEDULES, "--lr_scheduler_type", "step"], "leave step out"),
        (["--tune", "3", "--do_eval", "false", "--eval_strategy", "no"], "tune without"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_an_error(flags, message):
    with pytest.raises(ArgumentError, match=message):
        parse_arguments(["--dataset_name", "digits", *flags])
