"""The one loss: cross-entropy, divided exactly once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compute_classification_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy, divided exactly once.

    Most image heads of transformers ignore ``num_items_in_batch`` and return a mean per micro-batch, which ``Trainer``
    then does not divide by the number of accumulated micro-batches: gradients come out N times too large
    (https://github.com/huggingface/transformers/issues/37766). Here the sum over the micro-batch is divided by the
    number of examples in the whole accumulated batch, over all processes.

    Args:
        outputs: Model output with ``logits`` of shape ``(B, K)``.
        labels: ``(B,)`` int64 class ids.
        num_items_in_batch: Examples in the whole accumulated batch; ``None`` means this micro-batch is all of it.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1).

    Returns:
        A scalar float32 tensor.
    """
    return divide_losses(compute_sample_losses(outputs, labels, label_smoothing), num_items_in_batch)


def compute_sample_losses(outputs: Any, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of each sample, float32 ``(B,)``; arguments as for `compute_classification_loss`."""
    return nn.functional.cross_entropy(
        outputs.logits.float(), labels, reduction="none", label_smoothing=label_smoothing
    )


def divide_losses(losses: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """Sum ``(B,)`` losses and divide them by the examples of the whole accumulated batch; ``None`` means ``B``."""
    return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
