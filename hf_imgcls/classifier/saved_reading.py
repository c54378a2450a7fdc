"""How a saved model's images are read: a key of its config.json, which transformers ignores and servers find."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from hf_imgcls.classifier.reading import Reading, read_choices
from hf_imgcls.classifier.source import LOADING_ERRORS, find_commit
from hf_imgcls.errors import ModelError
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
    adopted.model_reading = read_choices(str(name), config.get(READING_KEY))
    return adopted
