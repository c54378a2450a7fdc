"""What a model scores on those images of a split that neither training nor selection has seen.

A split may share images with another one, or with what trained the base model. They stay in the split's own numbers,
which anyone can compute again; these stand beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_imgcls.catalogue import get_primary, has_several_labels
from hf_imgcls.measure.task import task_of

if TYPE_CHECKING:
    from hf_imgcls.data.manifest import Manifest
    from hf_imgcls.measure.tables import Table


def measure_unseen(table: Table, manifest: Manifest | None) -> dict[str, Any] | None:
    """Measure a split without the images that training or selection has seen.

    Args:
        table: What was predicted.
        manifest: The dataset's; None where not every image was looked at.

    Returns:
        ``num_seen`` and ``num_examples``, the images that were left out and those that were not, and each metric that
        is defined on the latter; None where nothing is left out.
    """
    if manifest is None or table.split not in manifest.splits:
        return None
    is_seen = np.isin(table.sample_index, manifest.find_seen(table.split))
    if not is_seen.any():
        return None
    rows = np.flatnonzero(~is_seen)
    found: dict[str, Any] = {"num_seen": int(is_seen.sum()), "num_examples": len(rows)}
    if not len(rows):
        return found
    measured = task_of(table).measure_rows(table, rows)
    return found | {name: item.value for name, item in measured.items() if item.value is not None}


def describe_unseen(unseen: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Say in one sentence what the images that were seen change.

    Args:
        unseen: From `measure_unseen`.
        metrics: Of the whole split: name -> number.
    """
    count = f"{unseen['num_seen']:,} image{'s' if unseen['num_seen'] > 1 else ''}"
    if not unseen["num_examples"]:
        return f"Training or selection has seen all {count}: none is left to judge the model by."
    name = get_primary(multi_label=has_several_labels(metrics))
    values = (unseen.get(name), metrics.get(name))
    numbers = ["not defined" if value is None else f"{value:.4f}" for value in values]
    return (
        f"Without the {count} that training or selection has seen, {name.replace('_', ' ')} is {numbers[0]} "
        f"({unseen['num_examples']:,} images); with them it is {numbers[1]}."
    )
