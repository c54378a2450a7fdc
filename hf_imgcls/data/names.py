"""Names of classes and files: their order, which are hidden, and how some of many are written out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key under which class ``"2"`` comes before ``"10"``, and ``"-1"`` before ``"0"``."""
    pattern = r"-?[0-9]+" if re.fullmatch(r"-?[0-9]+", name) else r"[0-9]+"
    parts = [part for part in re.split(f"({pattern})", name) if part]
    numbers_first = [(0, int(part), "") if re.fullmatch(pattern, part) else (1, 0, part.casefold()) for part in parts]
    return (numbers_first, name)


def is_hidden_name(name: str) -> bool:
    """Whether file managers and notebooks hide such a file or folder: ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith((".", "__"))


def list_some(names: Sequence[str], limit: int = 5) -> str:
    """Write out the first few names of a list that may be long."""
    text = ", ".join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
