"""An exponential moving average of the weights, which is what is evaluated, saved and served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hf_imgcls.errors import ArgumentError

_COUNT = "num_averaged"


class WeightAverage:
    """The average beside the weights that are trained.

    The decay is less at first, min(decay, (1 + t) / (10 + t)) after t updates, or the first, random weights would weigh
    for long. Buffers, such as the statistics of BatchNorm, are those of the trained model.

    Args:
        model: As it is trained.
        decay: Share of the average that stays at an update.

    Source:
        Tan and Le (2019), "EfficientNet", section 5.2, for image classification; the start from TensorFlow's
        ``ExponentialMovingAverage(num_updates)``.
    """

    FILE = "training_weights.safetensors"

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count: torch.Tensor) -> None:
            step = int(self._averaged.n_averaged)  # not the count that is given, which may lie on a GPU
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + step) / (10 + step)))

        self._averaged = AveragedModel(model, multi_avg_fn=average)
        # Counted on the CPU: reading it does not wait for a GPU.
        self._averaged.n_averaged = self._averaged.n_averaged.cpu()

    def update(self, model: nn.Module) -> None:
        """Take the weights in, after a step of the optimiser."""
        self._averaged.update_parameters(model)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights; the trained ones wait. Nothing is copied."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def settle(self, model: nn.Module) -> None:
        """Give the averaged weights to the model for good."""
        with torch.no_grad():
            for parameter, averaged in self._pairs(model):
                parameter.copy_(averaged)

    def save(self, folder: Path, model: nn.Module) -> None:
        """Write what a resumed run needs besides the averaged weights: the trained ones.

        Raises:
            OSError, SafetensorError: It cannot be written.
        """
        # Tied weights share memory, which a file of tensors does not allow: by number, each once.
        weights = {str(number): parameter.detach().contiguous() for number, parameter in enumerate(model.parameters())}
        save_file({**weights, _COUNT: self._averaged.n_averaged}, folder / self.FILE)

    def load(self, folder: Path, model: nn.Module) -> None:
        """Go on from a checkpoint, whose averaged weights the model has already.

        Raises:
            ArgumentError: The checkpoint was saved without an average.
        """
        path = folder / self.FILE
        if not path.exists():
            raise ArgumentError(
                f"{folder} has no {self.FILE}: it was saved without --ema_decay",
                "a checkpoint of this run",
                "leave out --ema_decay, or begin anew with --resume_from_checkpoint false",
            )
        trained = load_file(path)
        self._averaged.n_averaged = trained.pop(_COUNT)
        with torch.no_grad():
            for number, (parameter, averaged) in enumerate(self._pairs(model)):
                averaged.copy_(parameter)
                parameter.copy_(trained[str(number)])

    def _swap(self, model: nn.Module) -> None:
        for parameter, averaged in self._pairs(model):
            parameter.data, averaged.data = averaged.data, parameter.data

    def _pairs(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        return zip(model.parameters(), self._averaged.module.parameters(), strict=True)
