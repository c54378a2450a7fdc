"""Paths that do not exist, and the ones beside them that were probably meant."""

from __future__ import annotations

import difflib
from pathlib import Path


def suggest_path(path: Path, flag: str) -> str:
    """Say what to do about a path that does not exist: near names beside it, or the part that is missing."""
    if not path.parent.is_dir():
        return f"correct {flag}: the folder {path.parent} does not exist either"
    near = _near_names(path)
    return f"did you mean {' or '.join(near)}?" if near else f"correct {flag}"


def offer_folders(name: str) -> str:
    """Return the near names of a folder, in brackets, or nothing."""
    near = _near_names(Path(name)) if Path(name).parent.is_dir() else []
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _near_names(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)]
