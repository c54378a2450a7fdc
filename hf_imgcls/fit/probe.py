"""A linear probe: the frozen backbone looks at each image once, and the head is solved for instead of trained.

The features, which are what the head is given, are kept on disk. Head and loss make a convex problem with one answer,
which L-BFGS finds in seconds; how strongly weights are held down is chosen on the validation split. What comes out is
the ordinary model with another head.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.trainer_utils import TrainOutput

from hf_imgcls.arguments.fit_rules import find_probe_obstacles
from hf_imgcls.classifier.features import Features, read_features
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.cache import find_cache_folder
from hf_imgcls.data.features import compute_features
from hf_imgcls.data.image_transforms import EvalTransform
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.solve_head import solve_head

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)


def train_probe(
    trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments
) -> TrainOutput:
    """Replace the head of the Trainer's model by the best one for its features.

    Args:
        trainer: Its model's head is changed in place, and it keeps the solution as ``probe``; nothing else changes.
        dataset: The splits as loaded; they name the features.
        batches: The same splits with transforms; training images are taken as in evaluation, without augmentation.
        args: The group ``pixels``, and ``cache_dir``.

    Returns:
        As of ``Trainer.train``: no optimiser step, and ``train_penalty`` among the metrics.

    Raises:
        ModelError: The head is not one linear layer.
        DataError: The features cannot be kept.
        NumericsError: A feature is NaN or infinite.
    """
    started = time.perf_counter()
    train, validation = (role_features(trainer, dataset, batches, args, role) for role in ("train", "validation"))
    trainer.probe = solution = solve_head(train, validation, len(dataset.labels), trainer.args.device)
    head = find_linear_head(trainer.model)
    with torch.no_grad():
        head.weight.copy_(solution.weight)
        head.bias.copy_(solution.bias)
    seconds = time.perf_counter() - started
    logger.info(
        "Probe: %d features of %s images in %s, the head in %.1f s; penalty %.3g, loss %.4f (train), %.4f (validation)",
        train.values.shape[1], f"{len(train) + len(validation):,}",
        f"{train.seconds + validation.seconds:.1f} s" if train.seconds else "an earlier run",
        seconds - train.seconds - validation.seconds, solution.penalty, solution.train_loss, solution.validation_loss,
    )  # fmt: skip
    metrics = {
        "train_runtime": round(seconds, 4),
        "train_features_runtime": round(train.seconds + validation.seconds, 4),
        "train_samples_per_second": round(len(train) / seconds, 3),
        "train_loss": solution.train_loss,
        "train_penalty": solution.penalty,
    }
    return TrainOutput(0, solution.train_loss, metrics)


@torch.no_grad()
def explain_no_probe(model: nn.Module, args: Arguments, image_size: tuple[int, int]) -> str | None:
    """Say what stands in the way of a probe, for a run that was not asked for one.

    Args:
        model: As it was built, on any device.
        args: Of the run.
        image_size: Height and width of the model's input in pixels.

    Returns:
        The reason, a phrase for the log; ``None`` where nothing does.
    """
    if obstacles := find_probe_obstacles(args, "a probe"):
        return obstacles[0].found
    training, device = model.training, next(model.parameters()).device
    try:
        read_features(model.eval(), find_linear_head(model), torch.zeros(1, 3, *image_size, device=device))
    except ModelError as error:
        return error.found
    finally:
        model.train(training)
    return None


def role_features(
    trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments, role: str
) -> Features:
    """Compute the features of one of a run's splits, see `hf_imgcls.data.features.compute_features`.

    Args:
        trainer: Gives model, device and loader settings; the model's memory format stays.
        dataset: Has the split as loaded.
        batches: Has it with transforms; training images are taken as in evaluation, without augmentation.
        args: ``cache_dir`` and, for training images, how images are read.
        role: ``train``, ``validation`` or ``test``.
    """
    train = batches.train_transform
    transform: EvalTransform = (
        EvalTransform(train.preprocessor, Reading.from_arguments(args.data), train.cache, train.num_labels)
        if role == "train"
        else batches.splits[role].transform
    )
    model: nn.Module = trainer.model
    try:
        return compute_features(
            model, dataset.splits[role], transform, find_cache_folder(args.data),
            name=role, batch_size=trainer.args.eval_batch_size, num_workers=trainer.args.dataloader_num_workers,
            progress=not trainer.args.disable_tqdm,
        )  # fmt: skip
    finally:
        model.to(memory_format=trainer.memory_format)  # type: ignore[call-overload]
