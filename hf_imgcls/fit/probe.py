"""A linear probe: the frozen backbone looks at each image once, and the head is solved for instead of trained.

The features, which are what the head is given, are kept on disk. Head and loss make a convex problem with one answer,
which L-BFGS finds in seconds; how strongly weights are held down is chosen on the validation split. What comes out is
the ordinary model with another head.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from tqdm.auto import tqdm
from transformers.trainer_utils import TrainOutput

from hf_imgcls.arguments.rules import find_probe_obstacles
from hf_imgcls.classifier.features import CHUNK, Features
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.batches import BatchedSplit
from hf_imgcls.data.cache import find_cache_folder, fingerprint_files, write_atomically
from hf_imgcls.data.image_transforms import EvalTransform
from hf_imgcls.data.label_sets import read_label_ids
from hf_imgcls.errors import DataError, ModelError, NumericsError
from hf_imgcls.fit.evaluation import build_eval_dataloader
from hf_imgcls.fit.solve_head import solve_head

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

_LAYOUT = "1"  # part of the key: raise it when the features or their file change
_BAR_AFTER_S = 5


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
    train, validation = (compute_features(trainer, dataset, batches, args, role) for role in ("train", "validation"))
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
        _read_inputs(model.eval(), find_linear_head(model), torch.zeros(1, 3, *image_size, device=device))
    except ModelError as error:
        return error.found
    finally:
        model.train(training)
    return None


# ------------------------------------------------------------------------------------------------ features


def compute_features(
    trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments, role: str
) -> Features:
    """What the head is given for a split, from the disk if it was computed before.

    Args:
        trainer: Gives model, device and loader settings.
        dataset: Has the split as loaded.
        batches: Has it with transforms.
        args: The group ``pixels``, and ``cache_dir``.
        role: ``train`` or ``validation``.
    """
    head = find_linear_head(trainer.model)
    raw, ids = dataset.splits[role], read_label_ids(dataset.splits[role])
    labels = ids if isinstance(ids, np.ndarray) else ids.toarray().astype(np.float64)
    preprocessor = batches.train_transform.preprocessor
    options = {
        "weights": digest_backbone(trainer.model, head),
        "processor": json.dumps(preprocessor.processor.to_dict(), sort_keys=True, default=str),
        **Reading.from_arguments(args.data).key,
    }
    path = find_cache_folder(args.data) / f"features-{fingerprint_files(raw, f'features {_LAYOUT}', options)}.npy"
    started, seconds = time.perf_counter(), 0.0
    if not path.exists():
        transform = EvalTransform(
            preprocessor,
            Reading.from_arguments(args.data),
            batches.train_transform.cache if role == "train" else None,
            batches.train_transform.num_labels,
        )
        split = BatchedSplit(dataset.splits[role], transform) if role == "train" else batches.splits[role]
        try:
            _write(path, (len(split), head.in_features), _extract(trainer, head, split, role))
        except OSError as error:
            raise DataError(
                f"the features cannot be kept: {error}",
                f"{len(split) * head.in_features * 4 / 2**20:,.0f} MiB of room in {path.parent}",
                "free some space, or choose another --cache_dir",
            ) from error
        seconds = time.perf_counter() - started
    values = np.load(path, mmap_mode="r")
    for start in range(0, len(values), CHUNK):
        if not np.isfinite(values[start : start + CHUNK]).all():
            raise NumericsError(f"features of {role} are not finite", "finite numbers", "look for NaN in the weights")
    return Features(values, labels, seconds)


def digest_backbone(model: nn.Module, head: nn.Module) -> str:
    """Name the weights that features depend on: every tensor but the head's and an untrained adapter's."""
    own = {id(tensor) for tensor in head.parameters()}
    config = getattr(model, "config", None)
    digest = hashlib.sha256(json.dumps(config.to_dict() if config else {}, default=str, sort_keys=True).encode())
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in own and "lora_" not in name and ".original_module." not in name:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()  # not inference_mode, which the model's weights, moved here, would remember
def _extract(trainer: ImageClassificationTrainer, head: nn.Linear, split: Any, role: str) -> Iterator[torch.Tensor]:
    """The head's inputs, batch by batch: float32 ``(B, D)``. In float32, as the model will be served."""
    model = trainer.model
    loader = build_eval_dataloader(
        split,
        trainer.args.eval_batch_size,
        PartialState(),
        num_workers=trainer.args.dataloader_num_workers,
        pin_memory=trainer.args.dataloader_pin_memory,
    )
    # On a CPU an EfficientNet answers 1.7 times as fast so.
    model.eval().to(memory_format=torch.channels_last)
    quiet = trainer.args.disable_tqdm
    bar = tqdm(total=len(split), desc=f"features of {role}", unit=" images", delay=_BAR_AFTER_S, disable=quiet)
    try:
        for rows in loader:
            batch = {name: value.to(trainer.args.device, non_blocking=True) for name, value in rows.items()}
            pixels = trainer.plan.eval_device_transform(batch)["pixel_values"].contiguous(
                memory_format=torch.channels_last
            )
            values = _read_inputs(model, head, pixels)
            bar.update(len(values))
            yield values.float().cpu()
    finally:
        bar.close()
        model.to(memory_format=trainer.memory_format)


def _read_inputs(model: nn.Module, head: nn.Linear, pixels: torch.Tensor) -> torch.Tensor:
    """What the head is given for images: ``(B, D)``.

    Raises:
        ModelError: The logits are made of something else.
    """
    given: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        logits = model(pixel_values=pixels).logits
    finally:
        hook.remove()
    if len(given) != 1 or given[0].shape != (len(logits), head.in_features) or (
        not torch.allclose(nn.functional.linear(given[0], head.weight, head.bias), logits, atol=1e-4)
    ):  # fmt: skip
        raise ModelError(
            f"the logits of {type(model).__name__} are not what its linear head makes of one vector per image",
            "a head that is called once and answers last",
            "use --adaptation head, which trains any head",
        )
    return given[0]


def _write(path: Path, shape: tuple[int, int], batches: Iterator[torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for values in batches:
            file.write(values.numpy().tobytes())


# ------------------------------------------------------------------------------------------------ the head
