"""Solve for a linear head on features: a convex problem with one answer, which L-BFGS finds in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from hf_imgcls.classifier.features import CHUNK, Features

if TYPE_CHECKING:
    from numpy.typing import NDArray


_KEPT_BYTES = 2**29  # of features that stay float64 as long as they are solved for

# From heavy to hardly any, each solution the start of the next one; the path ends where validation gets worse.
_PENALTIES = tuple(10.0**power for power in range(2, -7, -1))

_LBFGS = {"maxiter": 200, "maxcor": 20}

_TOLERANCES = 5e-3, 5e-4  # shares of the largest slope of a head of zeros: to choose the penalty, for the solution


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
            [features.values[rows : rows + CHUNK] @ weight.T + bias for rows in range(0, len(features), CHUNK)]
        )


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
