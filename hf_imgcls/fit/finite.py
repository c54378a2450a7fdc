"""Watches that losses and gradients stay numbers, without waiting for the GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

_MOST_NAMED = 20


@dataclass
class _Step:
    """What one optimiser step has shown; tensors stay where they are."""

    number: int
    losses: list[torch.Tensor] = field(default_factory=list)
    sample_index: list[torch.Tensor] = field(default_factory=list)
    gradient_norm: torch.Tensor | None = None
    is_finite: torch.Tensor | None = None


class FiniteWatch:
    """Collects a step's losses and gradient norm, and says whether all of them are finite.

    Asking a GPU for an answer makes the CPU wait until all work before it is done. The answer about a step is therefore
    asked for one step later there, when it has long been computed.

    Args:
        device: Where the model is.
        gradients: Whether gradients are looked at. Not with a gradient scaler (fp16), which meets overflow by skipping
            the step, and not where a process holds a part of each gradient only.
    """

    def __init__(self, device: torch.device, *, gradients: bool) -> None:
        self._lag = 0 if device.type == "cpu" else 1
        self._gradients = gradients
        self._steps: list[_Step] = []

    def begin_step(self, number: int) -> None:
        """Begin an optimiser step.

        Args:
            number: Steps done, this one included.
        """
        self._steps.append(_Step(number))

    def add(self, losses: torch.Tensor, sample_index: torch.Tensor) -> None:
        """Add a micro-batch of the current step.

        Args:
            losses: ``(B,)``, one per sample.
            sample_index: int64 ``(B,)``.
        """
        self._steps[-1].losses.append(losses.detach())
        self._steps[-1].sample_index.append(sample_index)

    def end_backward(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at the step's gradients, after they were summed over micro-batches and processes."""
        step = self._steps[-1]
        finite = [torch.isfinite(losses).all() for losses in step.losses]
        if self._gradients:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            step.gradient_norm = nn.utils.get_total_norm(gradients)
            finite.append(torch.isfinite(step.gradient_norm))
        step.is_finite = torch.stack(finite).all()

    def is_finite(self, *, wait: bool = False) -> bool:
        """Whether the steps were finite that can be answered for without waiting.

        Args:
            wait: Answer for the current step too.
        """
        lag = 0 if wait else self._lag
        while len(self._steps) > lag:
            answer = self._steps[0].is_finite
            if answer is not None and not answer.item():
                return False
            self._steps.pop(0)
        return True

    def describe(self) -> tuple[int, list[str]] | None:
        """Name what is not finite on this process.

        Returns:
            The step, and what was found in it, as sentences without a full stop; None if everything is finite.
        """
        for step in self._steps:
            found = []
            losses, samples = torch.cat(step.losses).float().cpu(), torch.cat(step.sample_index).cpu()
            wrong = ~torch.isfinite(losses)
            if wrong.any():
                named = ", ".join(str(index) for index in samples[wrong].tolist()[:_MOST_NAMED])
                more = f" and {int(wrong.sum()) - _MOST_NAMED} more" if wrong.sum() > _MOST_NAMED else ""
                found.append(f"the loss of sample_index {named}{more} is {losses[wrong][0].item()}")
            norm = step.gradient_norm
            if norm is not None and not torch.isfinite(norm).item():
                named = "" if found else " of sample_index " + ", ".join(map(str, samples.tolist()[:_MOST_NAMED]))
                found.append(f"the gradient norm{named} is {norm.item()}")
            if found:
                return step.number, found
        return None
