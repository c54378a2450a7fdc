"""Whether the records of a run agree: every number of a card stands in several of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_imgcls.errors import CardError
from hf_imgcls.layout import REPORT_FOLDER
from hf_imgcls.measure.results import ALL_RESULTS_FILE, RESULT_PREFIXES
from hf_imgcls.records import ReportRecord

# Those that a card may be about, the best one first.
SPLITS = ("test", "validation")
# The table that a report is made of keeps probabilities in single precision.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


def check_records(folder: Path, report: ReportRecord | None) -> None:
    """Compare a run's results with its prediction tables, its report and all results together.

    Args:
        folder: The run's folder; what is missing contradicts nothing.
        report: ``report/report.json``.

    Raises:
        CardError: Two records give different values for the same number: all of them are named.
    """
    found: list[str] = []
    everything = read_json(folder / ALL_RESULTS_FILE)
    for split in SPLITS:
        prefix = RESULT_PREFIXES[split]
        name = f"{prefix}_results.json"
        results = read_json(folder / name)
        found += _compare(name, results, ALL_RESULTS_FILE, everything)
        # Results of training's own evaluation lack this number, and are not those of the saved model.
        if f"{prefix}_num_examples" not in results:
            continue
        found += _compare(name, results, f"predictions_{split}.parquet", _read_table(folder, split, prefix))
        if report is not None and report.split == split:
            values = {f"{prefix}_{metric}": estimate.value for metric, estimate in report.metrics.items()}
            values[f"{prefix}_num_examples"] = report.num_examples
            found += _compare(name, results, f"{REPORT_FOLDER}/report.json", values)
    if found:
        raise CardError(
            f"the records in {folder} contradict each other:\n  - " + "\n  - ".join(found),
            "one value for each number",
            "measure the run again: hf-imgcls measure RUN --output_dir RUN",
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file's mapping; nothing where there is no such file.

    Raises:
        CardError: It is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CardError(f"{path} cannot be read: {error}", "JSON", "run the stage that writes it again") from error
    return content if isinstance(content, dict) else {}


def _read_table(folder: Path, split: str, prefix: str) -> dict[str, float]:
    """The numbers of a prediction table that need no more than a mean."""
    path = folder / f"predictions_{split}.parquet"
    if not path.is_file():
        return {}
    from hf_imgcls.measure.tables import Table

    table = Table.load(path)
    means = {"num_examples": len(table), table.share_name: table.correct.mean(), "log_loss": table.log_loss.mean()}
    return {f"{prefix}_{name}": float(value) for name, value in means.items()}


def _compare(name: str, values: Mapping[str, Any], other: str, others: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if not (_is_number(value) and _is_number(others.get(key))):
            continue
        if not math.isclose(value, others[key], rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
            yield f"{key} is {value:g} in {name} and {others[key]:g} in {other}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
