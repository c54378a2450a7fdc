"""Which training examples an epoch shows, and how often: as many of each class, or each one several times."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import FitArguments
    from hf_imgcls.data.transforms import BatchPlan


class EpochSampler(Sampler[int], ABC):
    """A sampler whose order is a function of (seed, epoch), the same on every process.

    Accelerate deals its batches out to the processes. Positions are those of `hf_imgcls.data.batches.BatchedSplit`: an
    example that comes again in an epoch is asked for as another repetition, and is augmented differently.

    Args:
        num_examples: N, also the length of an epoch.
        seed: The run's.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        self.num_examples, self.seed, self.epoch = num_examples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Accelerate calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        rows = self.draw(np.random.default_rng([self.seed, self.epoch]))
        # The how-manieth time it is that a row comes.
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        starts = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
        repetition = np.empty(len(rows), dtype=np.int64)
        repetition[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
        yield from (rows + repetition * self.num_examples).tolist()

    @abstractmethod
    def draw(self, random: np.random.Generator) -> np.ndarray:
        """The rows of an epoch in order: int64 ``(N,)``."""


class ClassBalancedSampler(EpochSampler):
    """As many examples of each class, up to one: rare ones come several times, frequent ones not all in one epoch.

    Each class's rows are shuffled and shown from the first on, again and again; epochs are as long as ever.

    Args:
        labels: Class id of each row.
        seed: The run's.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        super().__init__(len(labels), seed)
        ids = np.asarray(labels, dtype=np.int64)
        self._rows = [np.flatnonzero(ids == label) for label in np.unique(ids)]

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """See `EpochSampler.draw`."""
        shares = np.full(len(self._rows), self.num_examples // len(self._rows))
        shares[random.permutation(len(shares))[: self.num_examples % len(shares)]] += 1
        drawn = []
        for rows, share in zip(self._rows, shares, strict=True):
            rounds = [random.permutation(rows) for _ in range(-(-share // len(rows)))]
            drawn.append(np.concatenate(rounds)[:share])
        return random.permutation(np.concatenate(drawn))


class RepeatedSampler(EpochSampler):
    """Every example that an epoch shows, several times in a row; the epoch is as long as ever and shows fewer.

    Args:
        num_examples: N.
        seed: The run's.
        repeats: How often.

    Source:
        Hoffer et al. (2020), "Augment your batch", https://arxiv.org/abs/1901.09335; timm's ``RepeatAugSampler``.
    """

    def __init__(self, num_examples: int, seed: int, repeats: int) -> None:
        super().__init__(num_examples, seed)
        self.repeats = repeats

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """See `EpochSampler.draw`."""
        return np.repeat(random.permutation(self.num_examples), self.repeats)[: self.num_examples]


class ShuffledSampler(EpochSampler):
    """Every example once, in random order."""

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """See `EpochSampler.draw`."""
        return random.permutation(self.num_examples)


class WithoutLast(Sampler[int]):
    """The same order without its last example, another one in each epoch.

    Args:
        sampler: The order.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Accelerate calls it."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler) - 1

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), len(self))


def leaves_batch_of_one(model: nn.Module, num_examples: int, batch_size: int) -> bool:
    """Whether an epoch's last batch has one image, and BatchNorm would have to find its variance.

    Layers that do not learn, or keep their statistics, run in evaluation mode (`hf_imgcls.fit.adapt`) and take any
    batch.

    Args:
        model: As it is trained.
        num_examples: N.
        batch_size: Images per batch of the only process.
    """
    if batch_size < 2 or num_examples < 2 or num_examples % batch_size != 1:
        return False
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(
        all(parameter.requires_grad for parameter in norm.parameters())
        for norm in norms
        if not getattr(norm, "has_frozen_statistics", False)
    )


def choose_order_seed(args: TrainingArguments) -> int:
    """Return the seed of the examples' order: ``data_seed``, as in transformers, or else the run's."""
    return args.seed if args.data_seed is None else args.data_seed


def build_sampler(fit: FitArguments, batches: BatchPlan, seed: int) -> EpochSampler | None:
    """The sampler that a run asks for; ``None``: every example once, in random order.

    Args:
        fit: ``imbalance``.
        batches: The training split, and ``augmentation_repeats``.
        seed: Of the order.
    """
    repeats = batches.augmentation.augmentation_repeats
    if batches.train is None or (fit.imbalance != "balanced_sampler" and repeats == 1):
        return None
    if fit.imbalance == "balanced_sampler":
        return ClassBalancedSampler(batches.train.read_labels(), seed)
    return RepeatedSampler(len(batches.train), seed, repeats)
