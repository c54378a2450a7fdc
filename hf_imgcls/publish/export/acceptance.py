"""The gate: an exported model is let through when it answers as the PyTorch model does, on real images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from hf_imgcls.classifier.exported import load_exported
from hf_imgcls.errors import ParityError
from hf_imgcls.measure.compare import compare_tables
from hf_imgcls.measure.latency import measure_size_mb, name_device, summarize_timings, time_calls
from hf_imgcls.measure.statistics.intervals import wilson
from hf_imgcls.provenance import list_versions
from hf_imgcls.publish.export.description import describe_steps
from hf_imgcls.publish.export.exclusion import exceeds_budget, judge_budget
from hf_imgcls.records import Estimate, ExportRecord

if TYPE_CHECKING:
    from hf_imgcls.classifier.exported import ExportedClassifier
    from hf_imgcls.measure.tables import PredictionTable
    from hf_imgcls.publish.export.exporter import Exporter, ExportSource, Written

_NUM_ROUNDS = 10
_RUNS_PER_ROUND = 10
THROUGHPUT_BATCH_SIZE = 32
_NUM_THROUGHPUT_ROUNDS = 5
_NUM_NAMED = 5


class Difference(NamedTuple):
    """How the answers of two models differ on the same images.

    Attributes:
        num_examples: N.
        others: Positions of the images with another first class that is no tie.
        num_ties: Images with another first class that is as probable within the tolerance.
        max_probability: Largest absolute difference of a probability.
    """

    num_examples: int
    others: list[int]
    num_ties: int
    max_probability: float


def compare_answers(reference: PredictionTable, exported: PredictionTable, tie_tolerance: float) -> Difference:
    """Hold two models' answers on the same split against each other.

    Args:
        reference: The PyTorch model's.
        exported: The exported model's; the same images in the same order, and the same class ids.
        tie_tolerance: Two classes tie where the exported model's probabilities of them differ by at most this.
    """
    rows = np.arange(len(reference))
    first, second = reference.scores_by_class(), exported.scores_by_class()
    # What the exported model gives the class that the PyTorch model chose.
    if second is not None:
        given = second[reference.prediction, rows]
    else:
        is_chosen = exported.top_classes == reference.prediction[:, None]
        given = np.where(is_chosen, exported.top_probabilities, 0).sum(axis=1)
    if first is not None and second is not None:
        difference = float(np.abs(first - second).max())
    else:
        difference = float(np.abs(given - reference.top_probabilities[:, 0]).max())
    differs = exported.prediction != reference.prediction
    ties = differs & (exported.top_probabilities[:, 0] - given <= tie_tolerance)
    return Difference(len(rows), np.flatnonzero(differs & ~ties).tolist(), int(ties.sum()), difference)


def measure_export(
    name: str,
    folder: Path,
    written: Written,
    exporter: Exporter,
    source: ExportSource,
    reference: PredictionTable,
    exported: PredictionTable,
    pixels: torch.Tensor,
) -> ExportRecord:
    """Compare an exported model with the original, and time both.

    Args:
        name: The format.
        folder: Holds the exported model.
        written: What the exporter says about it.
        exporter: Which differences it may have.
        source: The original.
        reference: The original's predictions on the evaluation split.
        exported: The exported model's.
        pixels: Real images as the model gets them, (B, 3, H, W), for the timings.

    Raises:
        ParityError: It answers otherwise than it may.
    """
    difference = compare_answers(reference, exported, exporter.tie_tolerance)
    drop = compare_accuracy(reference, exported)
    budget = source.options.max_accuracy_drop if exporter.is_quantized else None
    _check(name, difference, drop, exporter, budget, reference, exported)
    correct, n = int(exported.correct.sum()), len(exported)
    low, high = (float(end) for end in wilson(correct, n))
    classifier = load_exported(folder, source.processor, is_trusted=True)
    height, width = source.image_size
    notes = list(written.notes)
    verdict = "" if budget is None else judge_budget(drop, budget)
    if verdict == "not distinguishable":
        notes.append(f"{n} images are too few to be sure that no more than {100 * (budget or 0):g} points were lost.")
    if written.float_layers and exported.split == "validation":
        notes.append(
            "The layers in float were chosen on the same validation images, so the loss looks smaller than it is."
        )
    latency, throughput = time_both(source.model, classifier, pixels)
    return ExportRecord(
        format=name,
        path=written.file,
        runtime=classifier.runtime.name,
        precision=written.precision,
        hints=classifier.runtime.hints,
        input=(
            f"image: uint8 (batch, {height}, {width}, 3), resized as the image processor does; gives probabilities"
            if classifier.runtime.takes_levels
            else f"pixel_values: float32 (batch, 3, {height}, {width}), from the image processor; gives logits"
        ),
        opset=written.opset,
        float_layers=written.float_layers,
        size_mb=measure_size_mb(folder) or 0.0,
        split=exported.split,
        num_examples=n,
        top1_agreement=1 - len(difference.others) / n,
        num_ties=difference.num_ties,
        tie_tolerance=exporter.tie_tolerance,
        max_probability_difference=difference.max_probability,
        accuracy=Estimate(correct / n, low, high, n, "wilson"),
        accuracy_difference=drop,
        max_accuracy_drop=budget,
        budget=verdict,
        latency=latency,
        throughput=throughput,
        device=name_device(torch.device("cpu")),
        threads=torch.get_num_threads(),
        versions=list_versions(),
        preprocessing=describe_steps(source),
        notes=notes,
    )


def compare_accuracy(reference: PredictionTable, exported: PredictionTable) -> Estimate:
    """Accuracy of the exported model minus the original's, with the paired interval of ``measure.py --compare``."""
    return compare_tables(reference, exported, metrics=["accuracy"]).metrics["accuracy"].difference


def time_both(model: torch.nn.Module, exported: ExportedClassifier, pixels: torch.Tensor) -> tuple[dict, dict]:
    """Latency and throughput of two models, in turn, so that whatever else the machine does meets both.

    Args:
        model: Eager PyTorch, on the CPU.
        exported: The same model, exported. It is timed from what its runtime gets to what that answers.
        pixels: Real images, (B, 3, H, W).

    Returns:
        ``latency`` and ``throughput`` of `hf_imgcls.records.ExportRecord`.
    """
    batch = pixels[torch.arange(THROUGHPUT_BATCH_SIZE) % len(pixels)]

    def call(prefix: str, images: torch.Tensor) -> Callable[[], Any]:
        if prefix:
            return partial(model, pixel_values=images)
        return partial(exported.runtime.run, exported.prepare(images))

    prefixes = ("", "pytorch_")
    single: dict[str, list[Any]] = {prefix: [] for prefix in prefixes}
    many: dict[str, list[Any]] = {prefix: [] for prefix in prefixes}
    with torch.inference_mode():
        for round_number in range(_NUM_ROUNDS):
            one = pixels[round_number % len(pixels)][None]
            for prefix in prefixes:
                single[prefix].append(time_calls(call(prefix, one), runs=_RUNS_PER_ROUND, warmup=2))
        for _ in range(_NUM_THROUGHPUT_ROUNDS):
            for prefix in prefixes:
                many[prefix].append(time_calls(call(prefix, batch), runs=1, warmup=1))
    summary, pytorch = (summarize_timings(np.concatenate(single[prefix])) for prefix in prefixes)
    latency = {
        "batch_size": 1,
        **summary,
        "pytorch_p50_ms": pytorch["p50_ms"],
        "pytorch_p95_ms": pytorch["p95_ms"],
        "speedup": pytorch["p50_ms"] / summary["p50_ms"],
    }
    throughput = {"batch_size": THROUGHPUT_BATCH_SIZE} | {
        f"{prefix}images_per_s": THROUGHPUT_BATCH_SIZE * 1000 / float(np.median(np.concatenate(many[prefix])))
        for prefix in prefixes
    }
    return latency, throughput


def _check(
    name: str,
    difference: Difference,
    drop: Estimate,
    exporter: Exporter,
    budget: float | None,
    reference: PredictionTable,
    exported: PredictionTable,
) -> None:
    if budget is not None:
        if exceeds_budget(drop, budget):
            raise ParityError(
                f"{name} loses {-100 * (drop.value or 0):.2f} points of accuracy on {difference.num_examples} images "
                f"of {exported.split} ({100 * (drop.low or 0):+.2f} to {100 * (drop.high or 0):+.2f})",
                f"a loss of at most {100 * budget:g} points (--max_accuracy_drop)",
                "try another format, other images or another method of calibration, or raise the budget",
            )
        return
    limit = exporter.max_probability_difference
    if difference.others:
        named = "\n".join(
            f"    sample_index {reference.sample_index[row]}: "
            f"{reference.labels[reference.prediction[row]]!r} ({reference.confidence[row]:.4f}), exported "
            f"{exported.labels[exported.prediction[row]]!r} ({exported.confidence[row]:.4f})"
            for row in difference.others[:_NUM_NAMED]
        )
        raise ParityError(
            f"{name} answers otherwise than the PyTorch model on {len(difference.others)} of "
            f"{difference.num_examples} images of {exported.split}:\n{named}",
            f"the same class for every image (probabilities within {exporter.tie_tolerance:g} are ties)",
            "this export must not be used; try another format or another release of its backend",
        )
    if limit is not None and difference.max_probability > limit:
        raise ParityError(
            f"{name} gives probabilities up to {difference.max_probability:.4f} away from the PyTorch model's",
            f"at most {limit:g}, which its rounding explains",
            "this export must not be used; try another format or another release of its backend",
        )
