"""Experiment trackers: one run per training, which ends after the test split was scored and knows all arguments.

transformers' callbacks end a tracker's run with the last step. What is evaluated after that opens a second run (MLflow,
trackio), or gives the last step a second value (TensorBoard), and no test result is ever seen.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK


class Tracker:
    """A tracker's callback, open from the first step until `finish`; from the last step on it logs nothing else.

    Args:
        callback: transformers' own; every other event goes to it as it comes.
        recipe: Shown beside the ``TrainingArguments``: dataset, adaptation, augmentation and so on.
    """

    def __init__(self, callback: Any, recipe: dict[str, Any]) -> None:
        self._callback, self._recipe = callback, recipe
        self._has_begun = self._has_ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback, name)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run, unless one is open."""
        if not self._has_begun:
            self._callback.on_train_begin(_add_recipe(args, self._recipe), state, control, **kwargs)
        self._has_begun, self._has_ended = True, False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log what training says."""
        if self._has_begun and not self._has_ended:
            self._callback.on_log(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the run open for the test result."""
        self._has_ended = True

    def finish(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], model: Any
    ) -> None:
        """Log the test result and close the run; one that took no steps is opened for it."""
        self.on_train_begin(args, state, control, model=model)
        if logs:
            self._callback.on_log(args, state, control, logs=logs, model=model)
        self._callback.on_train_end(args, state, control, model=model)
        self._has_begun = False


def wrap_trackers(callbacks: list[Any], recipe: dict[str, Any]) -> list[Any]:
    """Return the same callbacks with each tracker's in a `Tracker`."""
    known = tuple(INTEGRATION_TO_CALLBACK.values())
    return [Tracker(callback, recipe) if isinstance(callback, known) else callback for callback in callbacks]


def _add_recipe(args: TrainingArguments, recipe: dict[str, Any]) -> TrainingArguments:
    """Return arguments that tell a tracker, by whatever method it asks them, the recipe as well."""

    class Recipe(type(args)):  # type: ignore[misc]
        def to_dict(self) -> dict[str, Any]:
            return {**recipe, **super().to_dict()}

    told = copy.copy(args)
    told.__class__ = Recipe
    return told
