"""How a saved model's images are read: a key of its config.json, which transformers ignores and servers find."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from hf_imgcls.classifier.reading import DROP, Reading, parse_background
from hf_imgcls.classifier.source import LOADING_ERRORS, find_commit
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.records import READING_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

    from hf_imgcls.arguments.fields import DataArguments


def save_reading(config: PretrainedConfig, data: DataArguments) -> None:
    """Write into a model's config how its images are read; nothing where that is the default."""
    if hasattr(config, READING_KEY):
        delattr(config, READING_KEY)
    if chosen := Reading.from_arguments(data).choices:
        setattr(config, READING_KEY, chosen)


def adopt_reading(data: DataArguments, name: str | Path, revision: str = "main") -> DataArguments:
    """Let the arguments that were not given be a saved model's own.

    Args:
        data: Is not changed.
        name: The model's folder or Hub id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        A copy.

    Raises:
        ModelError: There is no model of that name, or what its config says cannot be meant.
    """
    from transformers import PretrainedConfig

    source = {"revision": find_commit(name, data, revision) or revision, "cache_dir": data.cache_dir}
    try:
        config, _ = PretrainedConfig.get_config_dict(str(name), token=data.token, **source)
    except LOADING_ERRORS as error:
        raise ModelError(
            f"the config.json of {str(name)!r} cannot be read: {error}", "a model's config.json", "check the name"
        ) from error
    adopted = copy.copy(data)
    adopted.model_reading = _check(name, config.get(READING_KEY))
    return adopted


def _check(name: str | Path, value: Any) -> dict[str, Any]:
    """Return what a config says, if it makes sense."""
    if value is None:
        return {}
    try:
        background, low_high = value.get("alpha_background", DROP), value.get("intensity_range")
        if background != DROP:
            parse_background(background)
        if low_high is not None:
            low, high = low_high
            if not -math.inf < low < high < math.inf:
                raise ValueError
    except (ArgumentError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{READING_KEY} in the config.json of {str(name)!r} is {value!r}",
            "alpha_background (a colour) and intensity_range (two numbers, the lower first)",
            "correct or remove it",
        ) from error
    return {"alpha_background": background, "intensity_range": low_high}
