"""The Hub's own conversion of a dataset to parquet, where each configuration is a folder with one folder per split.

The ``datasets`` library knows nothing of these folders: it would mix all configurations into each split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# CONFIG/SPLIT/0000.parquet; of a large dataset only the first part is converted: CONFIG/partial-SPLIT/0000.parquet.
_FILE = re.compile(r"(?P<config>[^/]+)/(?P<partial>partial-)?(?P<split>[^/]+)/\d{4,}\.parquet")
# Before 2023-06: CONFIG/NAME-SPLIT.parquet and CONFIG/NAME-SPLIT-00000-of-00002.parquet.
_OLD_FILE = re.compile(r"(?P<config>[^/]+)/[^/]*?(?P<partial>partial-)?(?P<split>[^/-]+)(?:-\d{5}-of-\d{5})?\.parquet")
_IGNORED = (".gitattributes", "README.md")


class Conversion:
    """The files of a conversion.

    Args:
        files: Paths in the repository.

    Attributes:
        configs: Configuration -> split -> paths, as sorted by the repository.
        partial: Configuration -> splits that were converted only in part.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.configs: dict[str, dict[str, list[str]]] = {}
        self.partial: dict[str, list[str]] = {}
        for path in sorted(files):
            match = _FILE.fullmatch(path) or _OLD_FILE.fullmatch(path)
            if match is None:
                continue
            config, split = match["config"], match["split"]
            self.configs.setdefault(config, {}).setdefault(split, []).append(path)
            if match["partial"] and split not in self.partial.setdefault(config, []):
                self.partial[config].append(split)


def is_conversion(files: Iterable[str]) -> bool:
    """Return whether a revision has the layout of a conversion: nothing but ``CONFIG/SPLIT/0000.parquet``, no card."""
    names = list(files)
    data = [path for path in names if path not in _IGNORED]
    return "README.md" not in names and bool(data) and all(_FILE.fullmatch(path) for path in data)
