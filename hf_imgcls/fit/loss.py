"""The one loss path: a loss of each sample, divided exactly once.

Every loss takes the same targets: class ids (B,), or (B, K) floats where an image may have several labels. What a user
can choose by ``--loss`` stands in `LOSSES`, and only there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_imgcls.errors import ArgumentError

# Ridnik et al. (2021), section 4.2: what they use throughout.
_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _MARGIN = 4.0, 1.0, 0.05

SampleLoss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def _binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """A yes-or-no question for each class; the mean over classes.

    Source: for one label per image Wightman et al. (2021), "ResNet strikes back", https://arxiv.org/abs/2110.00476,
    section 2.3; the mean over classes as in timm's ``BinaryCrossEntropy``.
    """
    targets = _spread_targets(labels, logits.shape[1], smoothing)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def _asymmetric(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Binary cross-entropy that looks away from negatives that are easy; the mean over classes.

    Most classes are absent from most images, and their many small losses drown the few positives. Negatives are
    therefore focused more than positives, and those below a probability of 0.05 are left out. As in the source the
    focusing weights get no gradient.

    Source: Ridnik et al. (2021), "Asymmetric Loss For Multi-Label Classification",
        https://arxiv.org/abs/2009.14119, equations 4 to 7.
    """
    targets = _spread_targets(labels, logits.shape[1], smoothing)
    positive = torch.sigmoid(logits)
    negative = (1 - positive + _MARGIN).clamp(max=1)
    # The logarithm of a sigmoid is exact where the sigmoid has rounded to 0; that of the shifted one is 0.05 at least.
    losses = -(targets * nn.functional.logsigmoid(logits) + (1 - targets) * torch.log(negative))
    with torch.no_grad():
        confidence = positive * targets + negative * (1 - targets)
        gamma = _GAMMA_POSITIVE * targets + _GAMMA_NEGATIVE * (1 - targets)
        weights = (1 - confidence) ** gamma
    return (losses * weights).mean(dim=1)


def _spread_targets(labels: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
    """Targets of yes-or-no questions: float ``(B, K)``.

    One label per image is smoothed as a distribution over the classes, as timm does; of several labels each is a
    question of its own, whose two answers are smoothed.
    """
    if labels.dim() == 1:
        targets = nn.functional.one_hot(labels, num_classes).float()
        return targets * (1 - smoothing) + smoothing / num_classes
    return labels.float() * (1 - smoothing) + smoothing / 2


LOSSES: dict[str, SampleLoss] = {
    "cross_entropy": _cross_entropy,
    "bce": _binary_cross_entropy,
    "asymmetric": _asymmetric,
}


def choose_loss(name: str, *, multi_label: bool) -> SampleLoss:
    """Resolve ``--loss``.

    Args:
        name: Of `LOSSES`, or ``"auto"``: cross-entropy, and with several labels per image binary cross-entropy.
        multi_label: Whether an image may have several labels.

    Raises:
        ArgumentError: The loss makes classes exclude each other.
    """
    if name == "auto":
        name = "bce" if multi_label else "cross_entropy"
    if multi_label and name == "cross_entropy":
        raise ArgumentError(
            "loss cross_entropy with several labels per image",
            "a loss that asks about each class by itself: bce or asymmetric",
            "leave out --loss, or choose one of these",
        )
    return LOSSES[name]


def compute_classification_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    loss: SampleLoss = _cross_entropy,
) -> torch.Tensor:
    """A loss, divided exactly once.

    Most image heads of transformers ignore ``num_items_in_batch`` and return a mean per micro-batch, which ``Trainer``
    then does not divide by the number of accumulated micro-batches: gradients come out N times too large
    (https://github.com/huggingface/transformers/issues/37766). Here the sum over the micro-batch is divided by the
    number of examples in the whole accumulated batch, over all processes.

    Args:
        outputs: Model output with ``logits`` of shape ``(B, K)``.
        labels: ``(B,)`` int64 class ids, or ``(B, K)`` floats in [0, 1].
        num_items_in_batch: Labels in the whole accumulated batch, as ``Trainer`` counts them: entries of ``labels``.
            ``None`` means this micro-batch is all of it.
        label_smoothing: In [0, 1): probability mass spread evenly over all classes; with several labels per image over
            the two answers for each class.
        loss: From `choose_loss`; cross-entropy by default.

    Returns:
        A scalar float32 tensor.
    """
    losses = compute_sample_losses(outputs, labels, label_smoothing, loss)
    return divide_losses(losses, num_items_in_batch, labels)


def compute_sample_losses(
    outputs: Any, labels: torch.Tensor, label_smoothing: float = 0.0, loss: SampleLoss = _cross_entropy
) -> torch.Tensor:
    """The loss of each sample, float32 ``(B,)``; arguments as for `compute_classification_loss`."""
    return loss(outputs.logits.float(), labels, label_smoothing)


def divide_losses(
    losses: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum ``(B,)`` losses and divide them by the examples of the whole accumulated batch; ``None`` means ``B``.

    ``Trainer`` counts every entry of ``labels`` that is not -100, so ``(B, K)`` of them count K times too often.
    """
    if num_items_in_batch is None:
        return losses.sum() / len(losses)
    per_example = 1 if labels is None or labels.dim() == 1 else labels.shape[1]
    return losses.sum() * per_example / num_items_in_batch
