"""How a user names an ``evaluate`` module, and which code may run for it. Standard library only."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.catalogue import EVALUATION, TRAINING, list_metrics
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


def check_metrics(arguments: Arguments) -> list[ArgumentError]:
    """Return what is wrong with the user's own metrics, as far as their names go, and with what chooses the best."""
    problems: list[ArgumentError] = []
    own = arguments.measure.metrics or []
    for spec in own:
        try:
            check_metric_name(spec, trusts_code=arguments.data.trust_remote_code)
        except ArgumentError as problem:
            problems.append(problem)
    name = str(arguments.training["metric_for_best_model"]).removeprefix("eval_")
    known = ("auto", *list_metrics(TRAINING, EVALUATION))
    if name in known:
        return problems
    if not own:
        near = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean {near[0]}?" if near else "choose one of these, or name your own module with --metrics"
        problems.append(ArgumentError(f"metric_for_best_model is {name!r}", "one of " + ", ".join(known), fix))
    elif "greater_is_better" not in arguments.explicit:
        found = f"metric_for_best_model is {name!r} without greater_is_better"
        expected = "both, where the metric is your own"
        problems.append(ArgumentError(found, expected, "add --greater_is_better true, or false"))
    return problems


def check_metric_name(spec: Any, *, trusts_code: bool) -> None:
    """Refuse a name of ``--metrics`` that cannot be loaded. What is not text is an object, which was loaded already.

    A file on this machine is the user's own code. A name means the Hub, and code from there runs only if it is trusted.

    Args:
        spec: The path of a ``.py`` file or of a folder with one, or a name on the Hub.
        trusts_code: ``trust_remote_code``.

    Raises:
        ArgumentError: There is no such file, or it is code from the Hub that may not run.
    """
    if not isinstance(spec, str):
        return
    path = find_metric_file(spec)
    if path is not None and not path.is_file():
        raise ArgumentError(f"metrics: there is no file {str(path)!r}", "a Python file", "correct the path")
    if path is None and not trusts_code:
        raise ArgumentError(
            f"metrics: {spec!r} is not a file here, so it is code from the Hub, and trust_remote_code is false",
            "the path of a .py file, or code that you trust",
            "read the code on the Hub, then add --trust_remote_code true",
        )


def find_metric_file(spec: str) -> Path | None:
    """Return the file that a name of ``--metrics`` means: itself, or ``NAME/NAME.py``; None for one on the Hub."""
    path = Path(spec).expanduser()
    return path if path.suffix == ".py" else path / f"{path.name}.py" if path.is_dir() else None
