"""The linear probe that a fine-tuned model is held against: solved for before training, answering after it.

It costs one look at some thousand images. Before training, while the Trainer's model still is the one that was loaded,
the head is solved for on its features of the training split; the penalty is chosen on validation. The test split is
not touched then. When the trained model is measured, the backbone is loaded once more, since training has changed the
Trainer's, and gives its features of the same test images; both are kept in the cache, so a repeated run pays nothing.
The answers are left as a prediction table beside the model's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset

from hf_imgcls.arguments.fit_rules import find_probe_obstacles
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.data.batches import BatchedSplit
from hf_imgcls.errors import UserError
from hf_imgcls.fit.probe import role_features
from hf_imgcls.fit.solve_head import Solution, solve_head
from hf_imgcls.measure.baselines import PROBE_FILE, PROBE_KEY
from hf_imgcls.measure.learning import is_probe
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import PROBE

if TYPE_CHECKING:
    from torch import nn

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

# Images of a split that the probe looks at, evenly spaced: a probe of more is better by a point or two and no longer
# a matter of seconds. A tenth of a second for each on a slow CPU makes some minutes, beside hours of training.
MOST_IMAGES = {"train": 2000, "validation": 1000, "test": 2000}
MOST_CLASSES = 100  # 2,000 images teach no more, and solving takes time in proportion


def solve_probe(
    trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments
) -> None:
    """Solve for the probe before training, and log what it scores on validation.

    Nothing is done from scratch, and where a probe is a step of the run itself (``--adaptation probe`` and ``auto``).

    Args:
        trainer: Before training. It keeps the solution as ``probe``; nothing else changes, random state included.
        dataset: The splits as loaded.
        batches: The same splits with transforms.
        args: Group ``fit``, which says whether a probe tells anything; what `role_features` reads.
    """
    if args.fit.model_type is not None or args.fit.adaptation in ("probe", "auto"):
        return
    if (reason := _find_obstacle(dataset, args)) is None:
        try:
            trainer.probe = _solve(trainer, dataset, batches, args)
            return
        except UserError as error:  # the run goes on without it
            reason = error.found
    logger.info("Baseline: a linear probe is not measured: %s", reason)


def answer_with_probe(
    build: Callable[[], tuple[nn.Module, Any]],
    trainer: ImageClassificationTrainer,
    dataset: ImageDataset,
    batches: BatchPlan,
    args: Arguments,
    folder: Path,
    split: str = "test",
) -> None:
    """Write the probe's answers on a split into the run's folder, for `hf_imgcls.measure.baselines.find_baselines`.

    Args:
        build: Builds the model that training began with.
        trainer: Has the probe, device and loader settings; its model stays. Without a probe nothing is written.
        dataset: The splits as loaded; without the split nothing is written.
        batches: The same splits with transforms.
        args: As of `solve_probe`.
        folder: The run's folder; where its model is the probe itself, nothing is written.
        split: The split to answer.
    """
    probe, own = trainer.probe, trainer.model
    if probe is None or split not in dataset.splits or is_probe(folder):
        return
    if args.fit.model_type is not None or _is_changed(args):  # it cannot be built again
        return
    part, plan = _take(dataset, batches, split)
    try:
        with torch.random.fork_rng(), _quietly("hf_imgcls.fit.model"):  # what it says was said at the start
            trainer.model = build()[0].to(trainer.args.device)
        features = role_features(trainer, part, plan, args, split)
    except UserError as error:
        logger.info("Baseline: the linear probe is not measured on %s: %s", split, error.found)
        return
    finally:
        trainer.model = own
    task = task_of(dataset)
    recorder = task.new_recorder(len(dataset.labels), None)
    index = np.asarray(part.splits[split]["sample_index"][:], dtype=np.int64)
    recorder.update(*map(torch.from_numpy, (probe.answer(features), features.labels, index)))
    record = dataset.record.splits.get(split)
    fingerprint = record.fingerprint if record else None
    source = {"model": PROBE, "fingerprint": fingerprint, PROBE_KEY: probe.num_train}
    table = task.collect_table(recorder, PartialState(), split=split, labels=dataset.labels, source=source)
    table.save(folder / PROBE_FILE.format(split=split))


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    own = logging.getLogger(name)
    level = own.level
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        own.setLevel(level)


def _find_obstacle(dataset: ImageDataset, args: Arguments) -> str | None:
    """Say why there is no probe beside this run."""
    if obstacles := find_probe_obstacles(args, "a probe"):
        return obstacles[0].found
    if not all(isinstance(dataset.splits.get(role), Dataset) for role in ("train", "validation")):
        return "there is no validation split"
    if _is_changed(args):
        return "the model was changed before training"
    if len(dataset.labels) > MOST_CLASSES:
        return f"{MOST_IMAGES['train']:,} images are few for {len(dataset.labels):,} classes"
    return None


def _is_changed(args: Arguments) -> bool:
    return bool(args.fit.prune_ratio or args.fit.quantization_aware_training)


def _solve(trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments) -> Solution:
    started = time.perf_counter()
    find_linear_head(trainer.model)
    part, plan = _take(dataset, batches, "train", "validation")
    train, validation = (role_features(trainer, part, plan, args, role) for role in ("train", "validation"))
    solution = solve_head(train, validation, len(dataset.labels), trainer.args.device)
    right = None if dataset.is_multi_label else solution.answer(validation).argmax(1) == validation.labels
    logger.info(
        "Baseline: a linear probe of %s images, made in %.1f s, has a validation loss of %.4f%s",
        f"{len(train):,}", time.perf_counter() - started, solution.validation_loss,
        "" if right is None else f" and an accuracy of {right.mean():.4f} ({len(right):,} images)",
    )  # fmt: skip
    return solution


def _take(dataset: ImageDataset, batches: BatchPlan, *roles: str) -> tuple[ImageDataset, BatchPlan]:
    """Evenly spaced examples of some splits, as many as `MOST_IMAGES` allows, and the same with transforms."""
    splits = {}
    for role in roles:
        split: Any = dataset.splits[role]
        most = MOST_IMAGES[role]
        if len(split) > most:
            split = split.select(np.linspace(0, len(split) - 1, most).astype(int))
        splits[role] = split
    plans = {role: BatchedSplit(split, batches.splits[role].transform) for role, split in splits.items()}
    return replace(dataset, splits=splits), replace(batches, splits=plans)
