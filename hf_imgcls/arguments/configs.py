"""The configs that come with the package, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
_EARLIER = ("recipes", "configs")  # where they were in a checkout


def find_config(name: str) -> Path:
    """Return the file that ``--config`` names.

    A file of that path comes first. Otherwise ``NAME``, ``NAME.yaml`` and ``recipes/configs/NAME.yaml`` are the
    packaged config of that name.
    """
    path = Path(name)
    if path.exists() or path.suffix not in ("", ".yaml") or path.parts[:-1][-2:] not in ((), _EARLIER):
        return path
    packaged = CONFIGS / f"{path.stem}.yaml"
    return packaged if packaged.is_file() else path


def suggest_config(name: str) -> str:
    """Say how to mend the name of a config that is not there."""
    close = difflib.get_close_matches(Path(name).stem, [path.stem for path in CONFIGS.glob("*.yaml")], n=1)
    return f"did you mean {close[0]}?" if close else "correct the file or its name"
