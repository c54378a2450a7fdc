"""A user's own ``evaluate`` modules, measured beside the metrics of the catalogue.

A module is called with the answers of a whole split, on the main process, once per evaluation. What it is given follows
from its features:

- ``references``: class ids (``Value`` of integers), or a vector of 0 and 1 per image (``Sequence`` of integers) where
  an image may have several labels;
- a ``Sequence`` of floats: the scores of all classes, whatever the name of the input;
- anything else of integers: the predictions, shaped as the references.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.arguments.metric_names import check_metric_name, find_metric_file
from hf_imgcls.catalogue import METRICS
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.metrics.examples import Answers
from hf_imgcls.measure.metrics.single import Measured
from hf_imgcls.measure.statistics.intervals import DEFAULT_LEVEL
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.arrays import FloatArray

REFERENCES, PREDICTIONS, SCORES = "references", "predictions", "scores"
# Names of numbers that a split has beside its metrics.
_TAKEN = {"num_examples", "num_seen", "epoch", "runtime", "samples_per_second", "steps_per_second"}
_TRIAL_EXAMPLES = 24
# A bootstrap calls the module once per draw: some 10 s at most, of which evaluate's copies would be the largest part.
_FEWEST_DRAWS, _MOST_DRAWS, _MOST_ENTRIES = 100, 500, 100_000_000
_MOST_COPIES, _MOST_COPIED = 200, 5_000_000
_LEAST_DEFINED = 0.95  # share of the draws in which a metric has to be defined


@dataclass(frozen=True)
class OwnMetric:
    """One module of a user.

    Attributes:
        name: As the user named it.
        module: An ``evaluate.EvaluationModule``.
        inputs: Name of an input -> ``REFERENCES``, ``PREDICTIONS`` or ``SCORES``.
        keys: The numbers that it returns.
    """

    name: str
    module: Any
    inputs: Mapping[str, str]
    keys: tuple[str, ...] = ()

    @property
    def needs_scores(self) -> bool:
        """Whether it is given the scores of all classes."""
        return SCORES in self.inputs.values()

    def compute(self, answers: Answers, *, directly: bool = False) -> dict[str, float]:
        """Return every number of the module, NaN included.

        Args:
            answers: Of a split.
            directly: Call the module's own function, without evaluate's copies of the inputs.

        Raises:
            Exception: Whatever the module raises.
        """
        given = {REFERENCES: answers.references, PREDICTIONS: answers.predictions, SCORES: answers.scores}
        call = self.module._compute if directly else self.module.compute
        result = call(**{name: given[what] for name, what in self.inputs.items()})
        if not isinstance(result, Mapping):
            raise TypeError(f"compute returned {type(result).__name__} and not a dict")
        return {str(name): float(value) for name, value in result.items() if _is_number(value)}

    def measure(self, answers: Answers) -> dict[str, Measured]:
        """Return every number of the module, ``None`` with the reason where it is not defined.

        Raises:
            DataError: The module fails.
        """
        if self.needs_scores and answers.scores is None:
            return {key: Measured(None, "it needs the scores of all classes, which were not kept") for key in self.keys}
        try:
            found = self.compute(answers)
        except Exception as error:
            raise DataError(
                f"the metric {self.name} fails on {len(answers.references):,} examples: {_describe(error)}",
                "a number",
                "mend the metric, or leave it out of --metrics",
            ) from error
        return {key: _as_measured(found.get(key, math.nan)) for key in self.keys}


def load_own_metrics(args: Arguments, labels: Sequence[str], *, multi_label: bool) -> list[OwnMetric]:
    """Load the modules of ``--metrics``, on every process, and try each on made-up answers.

    Args:
        args: ``measure.metrics``: each a path of a ``.py`` file, a name on the Hub, or an ``evaluate`` module; and
            ``data.trust_remote_code``: whether code from the Hub may run.
        labels: The class names.
        multi_label: Whether an image may have several labels.

    Raises:
        ArgumentError: One cannot be loaded, does not fit the labels, fails, returns no number or one whose name is
            taken.
    """
    trial = _make_trial(len(labels), multi_label=multi_label)
    found: list[OwnMetric] = []
    for spec in args.measure.metrics or []:
        check_metric_name(spec, trusts_code=args.data.trust_remote_code)
        module = _load(spec)
        name = spec if isinstance(spec, str) else module.name
        own = OwnMetric(name, module, _match_inputs(name, module, multi_label=multi_label))
        try:
            keys = tuple(own.compute(trial))
        except Exception as error:
            raise ArgumentError(
                f"metrics: {name} fails on {_TRIAL_EXAMPLES} made-up examples of {len(labels)} classes: "
                f"{_describe(error)}",
                "a module whose compute() needs nothing but " + " and ".join(own.inputs),
                "set what else it needs in a module of your own (docs/metrics.md shows one)",
            ) from error
        if not keys:
            raise ArgumentError(
                f"metrics: {name} returns no number", "a dict with at least one number", "return {'my_metric': value}"
            )
        _check_names(name, keys, [key for other in found for key in other.keys])
        found.append(OwnMetric(name, module, own.inputs, keys))
    if found:
        _check_selection(args, [key for metric in found for key in metric.keys])
    return found


def _check_selection(args: Arguments, keys: Sequence[str]) -> None:
    name = str(args.training.get("metric_for_best_model", "auto")).removeprefix("eval_")
    if name not in (*METRICS, *keys, "auto"):
        near = difflib.get_close_matches(name, keys, n=1)
        raise ArgumentError(
            f"metric_for_best_model is {name!r}, which no metric returns",
            f"a metric of the catalogue or one of yours: {', '.join(keys)}",
            f"did you mean {near[0]}?" if near else "correct the name",
        )


def estimate_own(
    metric: OwnMetric, answers: Answers, *, seed: int = 0, level: float = DEFAULT_LEVEL
) -> dict[str, Estimate]:
    """Measure a user's metric with an interval: percentiles of a bootstrap over the examples.

    Args:
        metric: From `load_own_metrics`.
        answers: Of a prediction table.
        seed: Of the bootstrap.
        level: Confidence level.

    Raises:
        DataError: The module fails.
    """
    n, measured = len(answers.references), metric.measure(answers)
    directly = _takes_arrays(metric, answers, measured)
    entries = answers.scores.size if answers.scores is not None and metric.needs_scores else answers.references.size
    draws = min(_MOST_DRAWS, _MOST_ENTRIES // entries) if directly else min(_MOST_COPIES, _MOST_COPIED // entries)
    if draws < _FEWEST_DRAWS or all(item.value is None for item in measured.values()):
        why = f"no interval: {n:,} examples are too many to measure them often"
        return {key: Estimate(item.value, None, None, n, "none", item.remark or why) for key, item in measured.items()}
    random = np.random.default_rng(seed)
    drawn: list[dict[str, float]] = []
    for _ in range(draws):
        try:
            drawn.append(metric.compute(answers.take(random.integers(0, n, n)), directly=directly))
        except Exception:  # a sample may lack what the metric needs, such as a class
            drawn.append({})
    return {
        key: _enclose(item, np.array([sample.get(key, math.nan) for sample in drawn]), n, level)
        for key, item in measured.items()
    }


def _takes_arrays(metric: OwnMetric, answers: Answers, measured: Mapping[str, Measured]) -> bool:
    """Whether a module's own function gives the same numbers of the arrays themselves."""
    try:
        found = metric.compute(answers, directly=True)
    except Exception:
        return False
    return all(item.value == _as_measured(found.get(key, math.nan)).value for key, item in measured.items())


def _enclose(item: Measured, drawn: FloatArray, n: int, level: float) -> Estimate:
    """Make an estimate of a value and what it was in bootstrap samples; NaN where it was not defined."""
    if item.value is None:
        return Estimate(None, None, None, n, "none", item.remark or "")
    known = drawn[np.isfinite(drawn)]
    if len(known) < _LEAST_DEFINED * len(drawn):
        remark = f"no interval: not defined in {len(drawn) - len(known)} of {len(drawn)} bootstrap samples"
        return Estimate(item.value, None, None, n, "none", remark)
    low, high = (float(end) for end in np.quantile(known, [(1 - level) / 2, (1 + level) / 2]))
    if low == high:
        remark = "no interval: the same in every bootstrap sample"
        return Estimate(item.value, None, None, n, "none", remark)
    return Estimate(item.value, min(low, item.value), max(high, item.value), n, "bootstrap")


def _load(spec: Any) -> Any:
    import evaluate

    if not isinstance(spec, str):
        if not isinstance(spec, evaluate.EvaluationModule):
            raise ArgumentError(
                f"metrics: {spec!r} is not an evaluate module",
                "an object of a class derived from evaluate.Metric, a path or a name",
                "pass an object, not its class" if isinstance(spec, type) else "derive its class from evaluate.Metric",
            )
        return spec
    try:
        path = find_metric_file(spec)
        module = evaluate.load(spec, keep_in_memory=True) if path is None else _load_file(path)
    except Exception as error:
        raise ArgumentError(
            f"metrics: {spec!r} cannot be loaded: {_describe(error)}",
            "a .py file with one class derived from evaluate.Metric, or a metric on the Hub",
            "correct the file or the name",
        ) from error
    module.seed = 0  # by default a number that differs from run to run
    return module


def _load_file(path: Path) -> Any:
    """Run a file, and make an object of the one module in it.

    ``evaluate.load`` would copy the file, and refuse ``import datasets, evaluate``: it reads imports line by line.
    """
    import evaluate

    spec = importlib.util.spec_from_file_location(f"own_metric_{path.stem}", path)
    assert spec is not None  # it is a .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, evaluate.EvaluationModule) and item.__module__ == spec.name
    ]
    if len(classes) != 1:
        raise TypeError(f"it has {len(classes)} classes derived from evaluate.Metric")
    return classes[0](keep_in_memory=True)


def _match_inputs(name: str, module: Any, *, multi_label: bool) -> dict[str, str]:
    """Return which input of a module is given what."""
    options = module.features if isinstance(module.features, list) else [module.features]
    for features in options:
        found = {key: _match_input(key, feature, multi_label=multi_label) for key, feature in features.items()}
        if all(found.values()) and REFERENCES in found.values():
            return {key: what for key, what in found.items() if what is not None}
    labels = "a vector of 0 and 1" if multi_label else "a class id"
    raise ArgumentError(
        f"metrics: {name} takes {dict(options[0])}",
        f"references and predictions that are {labels} per image, or a Sequence of floats for the scores",
        "write a module with these features (docs/metrics.md shows one)",
    )


def _match_input(key: str, feature: Any, *, multi_label: bool) -> str | None:
    """Return what fits one input of a module; None where nothing does."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    dtype = str(getattr(feature if inner is None else inner, "dtype", ""))
    if dtype.startswith("float"):
        return SCORES if inner is not None and key != REFERENCES else None
    if dtype.startswith(("int", "uint", "bool")) and (inner is not None) == multi_label:
        return REFERENCES if key == REFERENCES else PREDICTIONS
    return None


def _make_trial(num_labels: int, *, multi_label: bool) -> Answers:
    """Return made-up answers, some of them wrong."""
    random = np.random.default_rng(0)
    scores = random.random((_TRIAL_EXAMPLES, num_labels))
    if multi_label:
        targets = random.random(scores.shape) < 0.5
        return Answers(targets.astype(np.int64), (scores >= 0.5).astype(np.int64), scores)
    scores /= scores.sum(axis=1, keepdims=True)
    references = np.arange(_TRIAL_EXAMPLES) % num_labels
    predictions = scores.argmax(axis=1)
    predictions[::2] = references[::2]
    return Answers(references, predictions, scores)


def _check_names(name: str, keys: Iterable[str], earlier: Sequence[str]) -> None:
    for key in keys:
        owner = "the metrics of the catalogue" if key in METRICS or key in _TAKEN else "another of --metrics"
        if key in METRICS or key in _TAKEN or key in earlier:
            raise ArgumentError(
                f"metrics: {name} returns {key!r}, a name of {owner}", "a name of its own", f"call it my_{key}"
            )


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _as_measured(value: float) -> Measured:
    return Measured(value) if math.isfinite(value) else Measured(None, "the metric returned no finite number")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
