"""Every number of a card, held against the records that it was made of."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from hf_imgcls.catalogue import METRICS

_NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)*(?:e[+-]?\d+)?(?![\w])")
_IN_TEXT = re.compile(r"\d+(?:\.\d+)*(?:e[+-]?\d+)?")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_URL = re.compile(r"\]\([^)]*\)|https?://\S+")
# What is said in other units: per cent, millions, minutes, hours.
_UNITS = (1.0, 100.0, 1e-6, 1 / 60, 1 / 3600)
_FEW = 30


class Numbers:
    """The numbers of a run's records: as such, inside texts, and as counts of what is in a list."""

    def __init__(self, folder: Path) -> None:
        self.values: set[float] = set()
        self.texts: set[str] = set()
        self.words: list[str] = [str(metric) for metric in METRICS.values()]
        for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
            self._add(json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("*.yaml"):
            self._add(yaml.safe_load(path.read_text(encoding="utf-8")))
        for word in self.words:
            self.texts |= {match.replace(",", "") for match in _IN_TEXT.findall(word.replace(",", ""))}
        self._add_derived(folder)

    def _add(self, content: Any) -> None:
        if isinstance(content, bool) or content is None:
            return
        if isinstance(content, (int, float)):
            self.values.add(float(content))
        elif isinstance(content, str):
            self.words.append(content)
        elif isinstance(content, dict):
            self.values.add(float(len(content)))
            for key, value in content.items():
                self.words.append(str(key))
                self._add(value)
        elif isinstance(content, list):
            self.values.add(float(len(content)))
            for kind in ("status", "verdict"):  # how many goals are met, how many groups were judged
                counted = Counter(item[kind] for item in content if isinstance(item, dict) and kind in item)
                self.values |= {float(count) for count in counted.values()}
                self.values.add(float(sum(counted.values()) - counted["too few samples"]))
            for value in content:
                self._add(value)

    def _add_derived(self, folder: Path) -> None:
        """The few numbers that a card counts or multiplies itself, done here once more."""
        data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        self.values.add(float(len(data["labels"]) - 10))  # "and 990 more"
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.values.add(
            float(run["world_size"] * run["per_device_train_batch_size"] * run["gradient_accumulation_steps"])
        )
        path = folder / "report" / "report.json"
        if path.is_file():
            classes = json.loads(path.read_text(encoding="utf-8"))["per_class"].values()
            self.values.add(
                float(sum(item["recall"]["n"] < _FEW for item in classes if item["recall"]["value"] is not None))
            )

    def explain(self, token: str) -> bool:
        """Whether a number as it is printed comes from a record."""
        plain = token.replace(",", "")
        if plain in self.texts or plain.rstrip(".") in self.texts:
            return True
        decimals = len(plain.partition(".")[2])
        for value in self.values:
            for unit in _UNITS:
                shown = value * unit
                if f"{shown:.{decimals}f}" == plain or f"{shown:.3g}" == plain or f"{shown:.2g}" == plain:
                    return True
        return False


def find_foreign_numbers(card: str, folder: Path) -> list[str]:
    """The numbers in a card's text that no record holds, with what stands around them."""
    numbers = Numbers(folder)
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    body = html.unescape(_URL.sub("]", _FENCE.sub("", body))).replace("\\", "")
    foreign = []
    found = list(_NUMBER.finditer(body))
    assert len(found) > 20
    for match in found:
        if not numbers.explain(match.group()):
            foreign.append(f"{match.group()} in {body[max(match.start() - 40, 0) : match.end() + 20]!r}")
    return foreign


def find_foreign_metadata(metadata: dict[str, Any], folder: Path) -> list[Any]:
    """Values of ``model-index`` that no record holds."""
    numbers = Numbers(folder)
    values = [m["value"] for entry in metadata["model-index"] for r in entry["results"] for m in r["metrics"]]
    assert values
    return [value for value in values if not numbers.explain(f"{value}")]
