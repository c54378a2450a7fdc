"""The one loss path: a loss of each sample, divided exactly once.

Targets are class ids (B,); or (B, K) floats, which are shares of one image where images are mixed, and yes or no for
each class where an image may have several labels. What ``--imbalance`` does to a loss comes from
`hf_imgcls.fit.imbalance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from hf_imgcls.errors import ArgumentError

# Ridnik et al. (2021), section 4.2: what they use throughout.
_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _MARGIN = 4.0, 1.0, 0.05


class LossFunction(Protocol):
    """What the Trainer asks of a loss: ``(B,)`` of a batch's logits and labels."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """The loss of each sample."""


@dataclass
class SampleLoss:
    """The loss of each sample.

    Attributes:
        name: ``cross_entropy``, ``bce``, ``focal`` or ``asymmetric``.
        multi_label: Whether an image may have several labels.
        focal_gamma: Exponent of the focal loss.
        class_weights: float32 ``(K,)``, or None. One label per image: the loss of an example is multiplied by its
            class's weight (a mixed one by the mean of its classes'). Several: the loss of each yes is.
        log_prior: float32 ``(K,)`` added to the logits, or None; see `hf_imgcls.fit.imbalance`.
    """

    name: str = "cross_entropy"
    multi_label: bool = False
    focal_gamma: float = 2.0
    class_weights: torch.Tensor | None = None
    log_prior: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """The losses of a batch.

        Args:
            logits: ``(B, K)``.
            labels: ``(B,)`` int64 class ids, or ``(B, K)`` floats in [0, 1].
            smoothing: In [0, 1): probability mass spread evenly over all classes; with several labels per image over
                the two answers for each class.

        Returns:
            float32 ``(B,)``; the mean over the classes for losses that ask about each class by itself.
        """
        logits = logits.float()
        if self.log_prior is not None:
            self.log_prior = self.log_prior.to(logits.device)
            logits = logits + self.log_prior
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(logits.device)
        if not self.multi_label and self.name in ("cross_entropy", "focal"):
            losses = self._exclusive(logits, labels, smoothing)
        else:
            entries = self._by_class(logits, self._spread_targets(labels, logits.shape[1], smoothing))
            if self.multi_label and self.class_weights is not None:
                entries = entries * (1 + labels * (self.class_weights - 1))
            losses = entries.mean(dim=1)
        if self.class_weights is None or self.multi_label:
            return losses
        return losses * (self.class_weights[labels] if labels.dim() == 1 else labels.float() @ self.class_weights)

    def _exclusive(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Cross-entropy, and the focal loss: its terms, less of those that are answered well.

        Source: Lin et al. (2017), "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002, equation
        4, with the softmax in place of the sigmoid.
        """
        if self.name == "cross_entropy":
            return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        log_probabilities = logits.log_softmax(dim=1)
        targets = self._spread_targets(labels, logits.shape[1], smoothing)
        focus = (1 - log_probabilities.exp()) ** self.focal_gamma
        return -(targets * focus * log_probabilities).sum(dim=1)

    def _by_class(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """A yes-or-no question for each class: ``(B, K)``.

        Source: for one label per image Wightman et al. (2021), "ResNet strikes back",
        https://arxiv.org/abs/2110.00476, section 2.3, and timm's ``BinaryCrossEntropy``.
        """
        if self.name == "asymmetric":
            return _measure_asymmetric(logits, targets)
        if self.name == "focal":
            return sigmoid_focal_loss(logits, targets, alpha=-1, gamma=self.focal_gamma)
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def _spread_targets(self, labels: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
        """Smoothed targets, float ``(B, K)``.

        One label per image is smoothed as a distribution over the classes, as timm does; of several labels each is a
        question of its own, whose two answers are smoothed.
        """
        targets = nn.functional.one_hot(labels, num_classes).float() if labels.dim() == 1 else labels.float()
        return targets * (1 - smoothing) + smoothing / (2 if self.multi_label else num_classes)


def _measure_asymmetric(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy that looks away from negatives that are easy, ``(B, K)``.

    Most classes are absent from most images, and their many small losses drown the few positives. Negatives are
    therefore focused more than positives, and those below a probability of 0.05 are left out. As in the source the
    focusing weights get no gradient.

    Source: Ridnik et al. (2021), "Asymmetric Loss For Multi-Label Classification",
        https://arxiv.org/abs/2009.14119, equations 4 to 7.
    """
    positive = torch.sigmoid(logits)
    negative = (1 - positive + _MARGIN).clamp(max=1)
    # The logarithm of a sigmoid is exact where the sigmoid has rounded to 0; that of the shifted one is 0.05 at least.
    losses = -(targets * nn.functional.logsigmoid(logits) + (1 - targets) * torch.log(negative))
    with torch.no_grad():
        confidence = positive * targets + negative * (1 - targets)
        gamma = _GAMMA_POSITIVE * targets + _GAMMA_NEGATIVE * (1 - targets)
        weights = (1 - confidence) ** gamma
    return losses * weights


def choose_loss(name: str, *, multi_label: bool, focal_gamma: float = 2.0) -> SampleLoss:
    """Resolve ``--loss``.

    Args:
        name: As for `SampleLoss`, or ``"auto"``: cross-entropy, and with several labels per image binary cross-entropy.
        multi_label: Whether an image may have several labels.
        focal_gamma: Exponent of the focal loss.

    Raises:
        ArgumentError: The loss makes classes exclude each other.
    """
    if name == "auto":
        name = "bce" if multi_label else "cross_entropy"
    if multi_label and name == "cross_entropy":
        raise ArgumentError(
            "loss cross_entropy with several labels per image",
            "a loss that asks about each class by itself: bce, focal or asymmetric",
            "leave out --loss, or choose one of these",
        )
    return SampleLoss(name, multi_label, focal_gamma)


def divide_losses(
    losses: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, entries_per_example: int = 1
) -> torch.Tensor:
    """Sum ``(B,)`` losses and divide them by the examples of the whole accumulated batch, exactly once.

    Most image heads of transformers ignore ``num_items_in_batch`` and return a mean per micro-batch, which ``Trainer``
    then does not divide by the number of accumulated micro-batches: gradients come out N times too large
    (https://github.com/huggingface/transformers/issues/37766).

    Weights of classes do not change what is divided by: their mean over the training examples is 1, and a batch with
    rare classes has its larger part in a step, whichever micro-batch or process it falls to.

    Args:
        losses: ``(B,)``.
        num_items_in_batch: Entries of the labels over all micro-batches and processes, as ``Trainer`` counts them
            before a batch is finished on the device. ``None`` means that this micro-batch is all of it.
        entries_per_example: What an example has of them: K with several labels per image, else 1.
    """
    if num_items_in_batch is None:
        return losses.sum() / len(losses)
    return losses.sum() * entries_per_example / num_items_in_batch
