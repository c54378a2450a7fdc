"""``--tune N``: runs with other training arguments, judged on the validation split, and what came out of them.

The search is ``Trainer.hyperparameter_search`` with Optuna. It lives in the run's folder: the same command goes on
where a search stopped, and a larger N adds trials to it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.parse import known_arguments
from hf_imgcls.arguments.recipe import save_recipe, to_recipe
from hf_imgcls.arguments.types import coerce
from hf_imgcls.errors import OutputError
from hf_imgcls.extras import require
from hf_imgcls.fit.rehearsal import count_steps, shorten_run
from hf_imgcls.layout import TUNE_FILE, TUNE_PICTURE, TUNED_RECIPE

if TYPE_CHECKING:
    import optuna

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

_TIMING = ("eval_strategy", "eval_steps", "eval_delay", "warmup_steps", "warmup_ratio", "max_steps")
_SHOWN = 8  # trials in the printed table
_STARTUP_TRIALS = 5  # that are drawn at random, and never pruned
_LOG_FROM = 10.0  # a range whose end is so many times its start is searched on a logarithmic scale
_RECIPE_KEY = "recipe"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of the search.

    Attributes:
        number: From 0, in the order they began.
        value: The metric after its last evaluation; ``None`` if it was given up before its end.
        values: Argument -> what it was.
    """

    number: int
    value: float | None
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        metric: Name of what was compared.
        num_examples: Of the validation split; ``None`` where that is not known.
        trials: The best one first, those given up last.
        baseline: Number of the trial with the recipe's own values; ``None`` if they lie outside the space.
    """

    metric: str
    num_examples: int | None
    trials: list[Trial]
    baseline: int | None


def prepare_search(args: Arguments, folder: Path) -> Arguments:
    """The arguments of a trial: the same run, evaluated as asked, saved nowhere.

    Args:
        args: What the user asked for; not changed.
        folder: Where it may write.
    """
    timing = {name: args.training[name] for name in _TIMING if name in args.training}
    return shorten_run(args, folder, timing.pop("max_steps", -1), **timing)


def search(trainer: ImageClassificationTrainer, asked: Arguments, folder: Path) -> Search:
    """Run the trials that are still missing; each starts from the same weights and shows the same images.

    Args:
        trainer: Of the arguments of `prepare_search`.
        asked: What the user asked for: ``tune``, ``tune_space``.
        folder: Where the search is kept.

    Raises:
        MissingExtraError: Optuna is not installed (extra ``tune``), or what draws (``report``).
        OutputError: The folder has a search that asks for something else.
    """
    optuna = require("tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # `_Trials` tells of each trial in one line
    require("report")  # which draws what comes out, and is missed before and not after it
    args = trainer.args
    known = known_arguments()
    given = asked.fit.tune_space or default_space(args.learning_rate)
    space = {name: [coerce(value, known[name].type) for value in allowed] for name, allowed in given.items()}
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    storage = f"sqlite:///{folder / TUNE_FILE}"
    direction = "maximize" if args.greater_is_better else "minimize"
    study = optuna.create_study(storage=storage, study_name="tune", direction=direction, load_if_exists=True)
    _check_same(study, {**_describe(asked), "tune_space": space, "metric": metric})
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))
    own = {name: getattr(args, name) for name in space}
    own = {name: getattr(value, "value", value) for name, value in own.items()}
    has_own = all(_is_inside(value, space[name]) for name, value in own.items())
    if has_own and not any(trial.params == own for trial in finished):
        study.enqueue_trial(own)
    missing = asked.fit.tune - len(finished)
    if missing > 0:
        images = args.train_batch_size * args.gradient_accumulation_steps
        steps = count_steps(args.max_steps, args.num_train_epochs, len(trainer.train_dataset), images)
        untrained = copy.deepcopy(trainer.model)
        trials = _Trials(space, own, metric)
        trainer.model_init = lambda: copy.deepcopy(untrained)
        try:
            trainer.hyperparameter_search(
                trials.suggest,
                trials.judge,
                missing,
                direction,
                "optuna",
                storage=storage,
                study_name="tune",
                load_if_exists=True,
                # Another seed for each part of a search that was stopped: the same one would ask the same again.
                sampler=optuna.samplers.TPESampler(
                    seed=args.seed + len(study.trials), n_startup_trials=_STARTUP_TRIALS
                ),
                pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=steps // 3),
            )
        except ValueError:
            # transformers asks for the best trial, and Optuna refuses where none came to its end; that is told below.
            if study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
                raise
    return _read(study, metric, len(trainer.eval_dataset), own)


class _Trials:
    """What the Trainer asks of a search: the values of each trial, and how good it was.

    Args:
        space: Argument -> what is tried.
        own: The recipe's own values.
        metric: What trials are judged by.
    """

    def __init__(self, space: dict[str, list[Any]], own: dict[str, Any], metric: str) -> None:
        self.space, self.own, self.metric = space, own, metric
        self.number, self.values = 0, dict[str, Any]()

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return the arguments of the next trial."""
        self.number = trial.number
        self.values = {name: _suggest(trial, name, allowed, self.own) for name, allowed in self.space.items()}
        return self.values

    def judge(self, metrics: dict[str, float]) -> float:
        """Return the metric of a finished trial, and log it."""
        value = metrics[f"eval_{self.metric}"]
        shown = ", ".join(f"{name} {_write(value)}" for name, value in self.values.items())
        logger.info("Trial %d: %s %.4f with %s", self.number, self.metric, value, shown)
        return value


def default_space(learning_rate: float) -> dict[str, list[Any]]:
    """What is searched unless ``--tune_space`` says otherwise.

    Args:
        learning_rate: The recipe's own, in the middle of what is tried.
    """
    return {
        "learning_rate": [learning_rate / 10, learning_rate * 10],
        "weight_decay": [0.0, 0.3],
        "label_smoothing_factor": [0.0, 0.2],
    }


def _is_range(allowed: list[Any]) -> bool:
    return len(allowed) == 2 and all(isinstance(end, (int, float)) for end in allowed)


def _is_inside(value: Any, allowed: list[Any]) -> bool:
    return allowed[0] <= value <= allowed[1] if _is_range(allowed) else value in allowed


def _suggest(trial: optuna.Trial, name: str, allowed: list[Any], own: dict[str, Any]) -> Any:
    if not _is_range(allowed):
        return trial.suggest_categorical(name, allowed)
    low, high = allowed
    if isinstance(low, int) and isinstance(high, int) and isinstance(own[name], int):
        return trial.suggest_int(name, low, high)
    is_log = low > 0 and high / low >= _LOG_FROM
    return trial.suggest_float(name, low, high, log=is_log)


def _describe(asked: Arguments) -> dict[str, Any]:
    """The recipe that the trials vary, as it can be compared with that of an earlier start."""
    left_out = ("tune", "tune_space", "output_dir", "overwrite_output_dir", "num_processes")
    recipe = {name: value for name, value in to_recipe(asked).items() if name not in left_out}
    return dict(json.loads(json.dumps(recipe, default=str)))


def _check_same(study: optuna.Study, now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    before = study.user_attrs.get(_RECIPE_KEY)
    if before is None:
        study.set_user_attr(_RECIPE_KEY, now)
        return
    changed = [
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in (now | before)
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise OutputError(
            "the search in output_dir tried another recipe:\n  - " + "\n  - ".join(changed),
            "the same recipe, to go on with it",
            f"choose another --output_dir, or delete {TUNE_FILE} to begin anew",
        )


def _read(study: optuna.Study, metric: str, num_examples: int | None, own: dict[str, Any]) -> Search:
    import optuna

    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    trials = [
        Trial(trial.number, trial.value if trial.state == complete else None, trial.params)
        for trial in study.get_trials(states=(complete, pruned))
    ]
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    trials.sort(key=lambda trial: math.inf if trial.value is None else sign * trial.value)
    baseline = next((trial.number for trial in trials if trial.values == own), None)
    return Search(metric, num_examples, trials, baseline)


def save_best(found: Search, asked: Arguments, path: Path) -> None:
    """Write the recipe with the best trial's values as YAML.

    Args:
        found: With a trial that came to its end.
        asked: What the user asked for.
        path: The file.
    """
    best = found.trials[0].values
    fit = dataclasses.replace(asked.fit, tune=0, tune_space=None)
    explicit = (asked.explicit - {"tune", "tune_space"}) | set(best)
    save_recipe(dataclasses.replace(asked, fit=fit, training=asked.training | best, explicit=explicit), path)


def describe_search(found: Search, folder: Path) -> list[str]:
    """The best trials as a table, and what to do with them.

    Args:
        found: What came out.
        folder: Where `save_best` and `draw_search` have written.
    """
    names = list(found.trials[0].values)
    rows = [["trial", found.metric, *names]]
    shown = found.trials[:_SHOWN]
    shown += [trial for trial in found.trials[_SHOWN:] if trial.number == found.baseline]
    for trial in shown:
        value = "given up" if trial.value is None else f"{trial.value:.4f}"
        rows.append([str(trial.number), value, *(_write(trial.values[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for number, trial in enumerate(shown, start=1):
        if trial.number == found.baseline:
            lines[number] += "  (the recipe as it was)"
    best = found.trials[0]
    if found.metric == "accuracy" and found.num_examples and best.value is not None:
        error = math.sqrt(best.value * (1 - best.value) / found.num_examples)
        lines.append(
            f"An accuracy on {found.num_examples:,} images has a standard error of {error:.4f}: trials closer "
            "than about two of these cannot be told apart."
        )
    lines.append("The best of many trials looks better than it is: the test split, which none has seen, will say.")
    lines.append(f"To train with it: hf-imgcls finetune --config {folder / TUNED_RECIPE}")
    return lines


def _write(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_search(found: Search, path: Path) -> None:
    """Draw the metric over the trials and over each argument as a PNG (extra ``report``).

    Args:
        found: What came out.
        path: The file.
    """
    require("report")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    names = list(found.trials[0].values)
    ended = sorted((trial for trial in found.trials if trial.value is not None), key=lambda trial: trial.number)
    values = [trial.value for trial in ended]
    figure = Figure(figsize=(2.6 * (len(names) + 1), 2.8), layout="constrained")
    panels = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(found.metric)
    for axes, name in zip(panels, ["trial", *names], strict=True):
        numbers = [trial.number if name == "trial" else trial.values[name] for trial in ended]
        axes.scatter(numbers, values, s=14, color="#0072b2", alpha=0.7, linewidths=0)
        for trial, number in zip(ended, numbers, strict=True):
            if trial is found.trials[0]:
                axes.scatter(number, trial.value, s=40, color="#d55e00", label="best")
            if trial.number == found.baseline:
                axes.scatter(number, trial.value, s=40, facecolors="none", edgecolors="black", label="as it was")
        floats = [number for number in numbers if isinstance(number, float)]
        if name != "trial" and floats and min(floats) > 0 and max(floats) / min(floats) >= _LOG_FROM:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif floats:
            axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=200)


def finish_search(found: Search, asked: Arguments, folder: Path) -> list[str]:
    """Leave the best recipe and the picture in a folder, and say what was found.

    Raises:
        OutputError: Every trial was given up.
    """
    if not found.trials or found.trials[0].value is None:
        raise OutputError(
            f"none of {len(found.trials)} trials came to its end: their losses were not finite",
            "at least one",
            "search lower learning rates with --tune_space",
        )
    save_best(found, asked, folder / TUNED_RECIPE)
    draw_search(found, folder / TUNE_PICTURE)
    return describe_search(found, folder)
