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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from scipy.optimize import minimize
from torch import nn
from tqdm.auto import tqdm
from transformers.trainer_utils import TrainOutput

from hf_imgcls.argument_checks import find_probe_obstacles
from hf_imgcls.data.batches import BatchedSplit
from hf_imgcls.data.cache import find_cache_folder, fingerprint_files, write_atomically
from hf_imgcls.data.label_sets import read_label_ids
from hf_imgcls.data.reading import Reading
from hf_imgcls.data.transforms import EvalTransform
from hf_imgcls.errors import DataError, ModelError, NumericsError
from hf_imgcls.fit.evaluation import build_eval_dataloader
from hf_imgcls.fit.layers import find_head_modules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.arguments import Arguments
    from hf_imgcls.data.load import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

_LAYOUT = "1"  # part of the key: raise it when the features or their file change
_CHUNK = 8192  # rows that are float64 at a time
_KEPT_BYTES = 2**29  # of features that stay float64 as long as they are solved for
# From heavy to hardly any, each solution the start of the next one; the path ends where validation gets worse.
_PENALTIES = tuple(10.0**power for power in range(2, -7, -1))
_LBFGS = {"maxiter": 200, "maxcor": 20}
_TOLERANCES = 5e-3, 5e-4  # shares of the largest slope of a head of zeros: to choose the penalty, for the solution
_BAR_AFTER_S = 5


@dataclass(frozen=True)
class Features:
    """What the head is given for the examples of a split.

    Attributes:
        values: float32 ``(N, D)``, mapped from a file.
        labels: int64 ``(N,)`` class ids; or float64 ``(N, K)`` of 0 and 1 where an image may have several.
        seconds: What computing them took; 0 if they were there.
    """

    values: NDArray[np.float32]
    labels: NDArray[Any]
    seconds: float

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Values (float64) and labels, some thousand examples at a time."""
        for start in range(0, len(self), _CHUNK):
            rows = slice(start, start + _CHUNK)
            values = torch.from_numpy(self.values[rows].astype(np.float64))
            yield values.to(device), torch.from_numpy(self.labels[rows]).to(device)


@dataclass(frozen=True)
class Solution:
    """A head that was solved for.

    Attributes:
        weight: float64 ``(K, D)``, for features as the backbone gives them.
        bias: float64 ``(K,)``.
        penalty: What the squared weights were held down with.
        train_loss: Mean loss of the training split, without the penalty.
        validation_loss: The same of the validation split, which chose the penalty.
        num_train: Training examples.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    train_loss: float
    validation_loss: float
    num_train: int

    def answer(self, features: Features) -> NDArray[np.float64]:
        """Return the logits ``(N, K)``."""
        weight, bias = self.weight.cpu().numpy(), self.bias.cpu().numpy()
        return np.concatenate(
            [features.values[rows : rows + _CHUNK] @ weight.T + bias for rows in range(0, len(features), _CHUNK)]
        )


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


def find_linear_head(model: nn.Module) -> nn.Linear:
    """The one linear layer that the head consists of.

    Raises:
        ModelError: The head is something else.
    """
    modules = find_head_modules(model)
    if len(modules) != 1 or not isinstance(modules[0], nn.Linear) or modules[0].bias is None:
        found = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(
            f"the head of {type(model).__name__} consists of: {found}",
            "one linear layer with a bias, which can be solved for",
            "use --adaptation head, which trains any head",
        )
    return modules[0]


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
            preprocessor.processor,
            args.data,
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
    for start in range(0, len(values), _CHUNK):
        if not np.isfinite(values[start : start + _CHUNK]).all():
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
            pixels = trainer.eval_device_transform(batch)["pixel_values"].contiguous(memory_format=torch.channels_last)
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


def solve_head(train: Features, validation: Features, num_classes: int, device: torch.device) -> Solution:
    """The linear head with the least loss on validation, over a path of penalties on the squared weights.

    The loss is cross-entropy, or with several labels per image the sum of a binary one for each class. The training
    split's mean is subtracted from the features, and all of them are divided by one number, so that one path of
    penalties suits every backbone; both are folded into the weights. A deviation for each feature would blow up those
    that hardly vary: noise by itself, and in training, which changes the features, weights that answer by hundreds.

    Args:
        train: Solved on.
        validation: Chooses the penalty.
        num_classes: K.
        device: Where the sums are made, in float64.

    Source: Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?" (arXiv:1805.08974), appendix A.4, and
        Radford et al. 2021, "CLIP" (arXiv:2103.00020), appendix A.3: L-BFGS and a sweep of penalties.
    """
    mean, scale = _measure_scale(train, device)
    examples = [_Scaled(split, mean, scale) for split in (train, validation)]
    best: tuple[NDArray[np.float64], float, float] | None = None

    def solve(start: NDArray[np.float64], penalty: float, tolerance: float) -> tuple[NDArray[np.float64], list[float]]:
        def evaluate(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = _unpack(flat, mean)
            loss, slopes, offsets = _measure_loss(examples[0], weight, bias)
            total = loss + penalty / 2 * float((weight**2).sum())
            return total, torch.cat([(slopes + penalty * weight).reshape(-1), offsets]).cpu().numpy()

        options = {**_LBFGS, "gtol": tolerance * steepest}
        flat = minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options).x
        return flat, [_measure_loss(split, *_unpack(flat, mean))[0] for split in examples]

    flat = np.zeros(num_classes * (len(mean) + 1))
    # It shrinks with the number of classes.
    steepest = max(float(slopes.abs().max()) for slopes in _measure_loss(examples[0], *_unpack(flat, mean))[1:])
    for penalty in _PENALTIES:
        flat, losses = solve(flat, penalty, _TOLERANCES[0])
        if best is not None and losses[1] > best[2]:
            break
        best = flat, penalty, losses[1]
    assert best is not None
    flat, losses = solve(best[0], best[1], _TOLERANCES[1])
    weight, bias = _unpack(flat, mean)
    folded = weight / scale
    return Solution(folded, bias - folded @ mean, best[1], losses[0], losses[1], len(train))


class _Scaled:
    """A split's centred features on one scale, float64, and its labels; read anew each time if they are many."""

    def __init__(self, features: Features, mean: torch.Tensor, scale: float) -> None:
        self._features, self._mean, self._scale = features, mean, scale
        self._kept = list(self._read()) if 2 * features.values.nbytes <= _KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self._features)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._read() if self._kept is None else iter(self._kept)

    def _read(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for values, labels in self._features.chunks(self._mean.device):
            yield (values - self._mean) / self._scale, labels


def _unpack(flat: NDArray[np.float64], mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``(K, D)`` and bias ``(K,)``, where the features' mean is."""
    values, width = torch.from_numpy(flat).to(mean.device), len(mean)
    num_classes = len(values) // (width + 1)
    return values[: num_classes * width].reshape(num_classes, width), values[num_classes * width :]


def _measure_loss(
    examples: _Scaled, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Mean loss, and its gradients by ``weight`` ``(K, D)`` and ``bias`` ``(K,)``, all float64."""
    loss, slopes, offsets = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
    for values, labels in examples:
        logits = values @ weight.T + bias
        if labels.dim() == 1:
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            errors = logits.softmax(1)
            errors[torch.arange(len(labels)), labels] -= 1
        else:
            loss += float(nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum"))
            errors = logits.sigmoid() - labels
        slopes += errors.T @ values
        offsets += errors.sum(0)
    return loss / len(examples), slopes / len(examples), offsets / len(examples)


def _measure_scale(features: Features, device: torch.device) -> tuple[torch.Tensor, float]:
    """Mean of each feature, float64 ``(D,)``, and the root of the mean of their variances; 1 if all are constant."""
    total: Any = sum(values.sum(0) for values, _ in features.chunks(device))
    mean = total / len(features)
    squares = sum(float(((values - mean) ** 2).sum()) for values, _ in features.chunks(device))
    scale = (squares / features.values.size) ** 0.5
    return mean, scale if scale > 1e-6 * max(float(mean.abs().max()), 1e-6) else 1.0
