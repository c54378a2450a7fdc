"""What ``--imbalance`` does about rare classes: weights in the loss, priors in the logits, or other examples.

All of it follows from the number of training examples of each class and is the same on every process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_imgcls.arguments.fields import FitArguments
from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.loss import SampleLoss, choose_loss

if TYPE_CHECKING:
    from hf_imgcls.records import SplitRecord

_EXCLUSIVE_ONLY = ("balanced_sampler", "logit_adjust")


def build_loss(fit: FitArguments, labels: Sequence[str], train: SplitRecord | None, *, multi_label: bool) -> SampleLoss:
    """The loss that a run asks for.

    Args:
        fit: ``loss``, ``focal_gamma``, ``imbalance`` and ``effective_number_beta``.
        labels: Class names by id.
        train: The training split; what ``imbalance`` does follows from its counts.
        multi_label: Whether an image may have several labels.

    Raises:
        ArgumentError: The method needs classes that exclude each other and they do not, or their counts are not known.
    """
    if multi_label and fit.imbalance in _EXCLUSIVE_ONLY:
        raise ArgumentError(
            f"imbalance {fit.imbalance} with several labels per image",
            "a method that looks at each class by itself: weights, effective_number or focal",
            "choose one of these",
        )
    loss = choose_loss("focal" if fit.imbalance == "focal" else fit.loss, multi_label=multi_label)
    loss = dataclasses.replace(loss, focal_gamma=fit.focal_gamma)
    if fit.imbalance in ("none", "focal", "balanced_sampler"):
        return loss
    if train is None or train.class_counts is None or train.num_examples is None:
        raise ArgumentError(
            f"imbalance {fit.imbalance}, and the training examples of each class are not known",
            "a dataset that is not streamed",
            "leave out --imbalance, or use focal",
        )
    counts, num_examples = train.class_counts, train.num_examples
    per_class = torch.tensor([counts.get(name, 0) for name in labels], dtype=torch.float64)
    if fit.imbalance == "logit_adjust":
        return dataclasses.replace(loss, log_prior=compute_log_prior(per_class))
    beta = fit.effective_number_beta if fit.imbalance == "effective_number" else None
    return dataclasses.replace(loss, class_weights=compute_class_weights(per_class, num_examples, beta, multi_label))


def describe_effect(
    recipe: Mapping[str, Any], counts: Mapping[str, int], num_examples: int, *, multi_label: bool
) -> tuple[str, dict[str, float]] | None:
    """What ``--imbalance`` did for each class, for people to read.

    Args:
        recipe: Of the run: ``imbalance`` and ``effective_number_beta``, where they are not the defaults.
        counts: Class name -> training examples.
        num_examples: Of the training split.
        multi_label: Whether an image may have several labels.

    Returns:
        What it is in words, and class name -> how much of it; ``None`` where nothing was done, or nothing that
        belongs to a class (focal).
    """
    method = recipe.get("imbalance", "none")
    per_class = torch.tensor(list(counts.values()), dtype=torch.float64)
    if method in ("weights", "effective_number"):
        beta = (
            recipe.get("effective_number_beta", FitArguments.effective_number_beta)
            if method == "effective_number"
            else None
        )
        what = "weight of a yes in the loss" if multi_label else "weight of an image in the loss"
        values = compute_class_weights(per_class, num_examples, beta, multi_label)
    elif method == "balanced_sampler":
        what = "times an image is shown in an epoch"
        values = num_examples / ((per_class > 0).sum() * per_class.clamp(min=1))
    elif method == "logit_adjust":
        what, values = "added to the logit in training", compute_log_prior(per_class)
    else:
        return None
    return what, dict(zip(counts, values.tolist(), strict=True))


def compute_class_weights(
    counts: torch.Tensor, num_examples: int, beta: float | None = None, multi_label: bool = False
) -> torch.Tensor:
    """Weights of the classes in the loss.

    With one label per image the mean weight of an example is 1, so that the learning rate keeps its meaning: by
    frequency N / (K n), scikit-learn's "balanced". With several, the weight of a class's yes against its no is by
    frequency (N - n) / n, the ``pos_weight`` that PyTorch's documentation advises.

    Args:
        counts: float64 ``(K,)``: examples of each class. One without any has weight 1, which nothing multiplies.
        num_examples: N.
        beta: By effective number instead, (1 - beta) / (1 - beta^n), in [0, 1): all alike at 0, by frequency towards 1.
        multi_label: Whether an image may have several labels.

    Returns:
        float32 ``(K,)``.

    Source:
        Cui et al. (2019), "Class-Balanced Loss Based on Effective Number of Samples",
        https://arxiv.org/abs/1901.05555, equation 4.
    """
    there = counts > 0
    if beta is None:
        weights = (num_examples - counts) / counts if multi_label else num_examples / (there.sum() * counts)
    else:
        weights = (1 - beta) / (1 - beta**counts)
        weights = weights * counts.sum() / (weights * counts)[there].sum()
    return torch.where(there, weights, 1.0).float()


def compute_log_prior(counts: torch.Tensor) -> torch.Tensor:
    """The logarithm of each class's share of the training examples, float32 ``(K,)``.

    Added to the logits in training only, it takes the frequency of a class upon itself: what the model learns answers
    as if all classes were as frequent. A class without examples counts as one example.

    Source:
        Menon et al. (2021), "Long-tail learning via logit adjustment", https://arxiv.org/abs/2007.07314, equation 10.
    """
    counts = counts.clamp(min=1)
    return (counts / counts.sum()).log().float()
