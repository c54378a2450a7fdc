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
    answer: torch.Tensor | None = None
    done: torch.cuda.Event | None = None


class FiniteWatch:
    """Collects a step's losses and gradient norm, and says whether all of them are finite.

    Asking a GPU for an answer makes the CPU wait for all work that it was given before. There, the answer about a step
    is therefore copied to the CPU behind the step's work, and looked at one step later.

    Args:
        device: Where the model is.
        gradients: Whether gradients are looked at. Not with a gradient scaler (fp16), which meets overflow by skipping
            the step, and not where a process holds a part of each gradient only.
    """

    def __init__(self, device: torch.device, *, gradients: bool) -> None:
        self._device = device
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

    def measure_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at gradients whose norm nobody else computes, when they are complete."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self._gradients:
            self._steps[-1].gradient_norm = nn.utils.get_total_norm(gradients)

    def end_step(self, gradient_norm: torch.Tensor | float | None) -> None:
        """End the current step.

        Args:
            gradient_norm: Of all gradients before they were clipped, where that is known.
        """
        step = self._steps[-1]
        if self._gradients and gradient_norm is not None:
            step.gradient_norm = torch.as_tensor(gradient_norm, device=self._device)
        finite = [torch.isfinite(losses).all() for losses in step.losses]
        if step.gradient_norm is not None:
            finite.append(torch.isfinite(step.gradient_norm))
        answer = torch.stack(finite).all()
        if self._device.type == "cuda":
            step.answer = torch.empty((), dtype=torch.bool, pin_memory=True)
            step.answer.copy_(answer, non_blocking=True)
            step.done = torch.cuda.Event()
            step.done.record()
        else:
            step.answer = answer

    def is_finite(self, *, wait: bool = False) -> bool:
        """Whether the steps were finite that can be answered for without waiting.

        Args:
            wait: Answer for the current step too.
        """
        lag = 0 if wait else self._lag
        while len(self._steps) > lag:
            step = self._steps[0]
            if step.done is not None:
                step.done.synchronize()
            if step.answer is not None and not step.answer.item():
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
