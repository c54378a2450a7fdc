"""Where the weights of a model come from: one commit of a repository, and no pickles."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.errors import ModelError

if TYPE_CHECKING:
    from hf_imgcls.arguments import DataArguments


def find_commit(name: str | Path, data: DataArguments, revision: str) -> str | None:
    """The commit that a revision of a Hub model stands for, the same throughout a process; None for a folder.

    Raises:
        ModelError: There is no model of that name.
    """
    return _find_commit(str(name), data.cache_dir, data.token, revision)


@cache
def _find_commit(name: str, cache_dir: str | None, token: str | bool | None, revision: str) -> str | None:
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        path = cached_file(
            name, "config.json", cache_dir=cache_dir, token=token, revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no model could be loaded from {name!r}: {error}",
            "a folder with config.json, or the id of a model on the Hub",
            "check the name, --model_revision, and that you are logged in if the model is private",
        ) from error
    return None if Path(name).is_dir() else extract_commit_hash(path, None)
