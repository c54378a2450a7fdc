"""Which layers a quantised model keeps in float, so that its accuracy stays within the budget."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_imgcls.classifier.exported import ExportedClassifier
from hf_imgcls.classifier.runtimes import find_exported_file
from hf_imgcls.errors import ParityError
from hf_imgcls.measure.report.goals import MET, NOT_DISTINGUISHABLE, NOT_MEASURED, NOT_MET
from hf_imgcls.measure.statistics.differences import estimate_paired_difference

if TYPE_CHECKING:
    from hf_imgcls.publish.export.exporter import ExportSource
    from hf_imgcls.records import Estimate

logger = logging.getLogger(__name__)

Quantize = Callable[[Sequence[str], Path], None]
# Images that one layer's error is measured on: it only has to rank the layers.
_NUM_RANKING_BATCHES = 4


def exceeds_budget(drop: Estimate, budget: float) -> bool:
    """Whether a model has lost more accuracy than it may; ``drop`` is its accuracy minus the original's."""
    return drop.value is not None and drop.value < -budget - 1e-12


def exceeds_budget_perhaps(drop: Estimate, budget: float) -> bool:
    """Whether it cannot be ruled out that a model has lost more accuracy than it may."""
    return drop.low is None or drop.low < -budget


def judge_budget(drop: Estimate, budget: float) -> str:
    """What the interval says about the budget, in the words of `hf_imgcls.measure.report.goals`."""
    if drop.value is None or drop.low is None or drop.high is None:
        return NOT_MEASURED
    if drop.low >= -budget:
        return MET
    return NOT_MET if drop.high < -budget else NOT_DISTINGUISHABLE


def find_float_layers(layers: Sequence[str], quantize: Quantize, source: ExportSource, folder: Path) -> list[str]:
    """Quantise as much as the budget allows, and leave the result in ``folder``.

    Everything is quantised first. If that loses too much accuracy on the validation split, each layer is quantised
    alone and the layers are ranked by how much that moves the probabilities; then the fewest of the worst layers are
    sought that must stay in float, by doubling and halving, until the whole interval of the loss lies within the
    budget: the best of several attempts looks better than it is. (Where the images are too few for that whatever the
    model, the loss itself must.) The test split is not looked at.

    Args:
        layers: Names of the layers that can stay in float.
        quantize: Writes the model into a folder, quantised but for the layers that it is given.
        source: Its ``measure_drop``, calibration images and ``max_accuracy_drop`` are used.
        folder: Gets the result.

    Returns:
        The layers that stay in float, the most sensitive first.

    Raises:
        ParityError: Even with all but one layer in float too much accuracy is lost.
    """
    budget, measure = source.options.max_accuracy_drop, source.measure_drop
    quantize([], folder)
    if measure is None:
        return []
    drop = measure(folder)
    if not exceeds_budget(drop, budget):
        return []
    logger.info(
        "All %d layers in INT8 lose %.2f points of validation accuracy; looking for those to keep in float.",
        len(layers),
        -100 * (drop.value or 0.0),
    )
    ranked = _rank_layers(layers, quantize, source)
    n = drop.n or 0
    _, surest, _ = estimate_paired_difference(n, 0, 0, 0)  # of a model that answers the same everywhere
    is_too_much = exceeds_budget if n == 0 or surest < -budget else exceeds_budget_perhaps

    def is_enough(count: int) -> bool:
        _clear(folder)
        quantize(ranked[:count], folder)
        drop = measure(folder)
        logger.info("  %d of %d layers in float: %+.2f points", count, len(layers), 100 * (drop.value or 0.0))
        return not is_too_much(drop, budget)

    few, enough = 0, 1
    while enough < len(ranked) and not is_enough(enough):
        few, enough = enough, 2 * enough
    if enough >= len(ranked):
        enough = len(ranked) - 1
        if enough <= few or not is_enough(enough):
            raise ParityError(
                f"with all layers but one in float the quantised model still loses more than {100 * budget:g} points "
                "of validation accuracy",
                f"a loss within max_accuracy_drop {budget:g}",
                "export without quantisation, or raise --max_accuracy_drop",
            )
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if is_enough(middle) else (middle, enough)
    _clear(folder)
    quantize(ranked[:enough], folder)
    return ranked[:enough]


def _rank_layers(layers: Sequence[str], quantize: Quantize, source: ExportSource) -> list[str]:
    """The layers, those first that do most harm when only they are quantised."""
    batches = [batch for batch, _ in zip(source.read_calibration(), range(_NUM_RANKING_BATCHES), strict=False)]
    with torch.inference_mode():
        expected = [source.model(pixel_values=torch.from_numpy(batch)).logits.softmax(-1).numpy() for batch in batches]
    harm = {}
    folder = source.work / "one_layer"
    for layer in layers:
        folder.mkdir()
        quantize([other for other in layers if other != layer], folder)
        answers = _predict(folder, source, batches)
        harm[layer] = float(np.mean([np.abs(a - b).mean() for a, b in zip(answers, expected, strict=True)]))
        shutil.rmtree(folder)
    return sorted(harm, key=lambda layer: -harm[layer])


def _predict(folder: Path, source: ExportSource, batches: list[np.ndarray]) -> list[np.ndarray]:
    found = find_exported_file(folder)
    assert found is not None  # it has just been written
    path, runtime = found
    model = ExportedClassifier(runtime(path, torch.get_num_threads()), source.model.config, source.processor)
    return [model(torch.from_numpy(batch)).logits.softmax(-1).numpy() for batch in batches]


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
