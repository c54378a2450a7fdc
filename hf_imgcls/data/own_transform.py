"""A user's own transform of training batches, with random numbers that depend on nothing but seed, epoch and batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_imgcls.data.augment import hash_uniforms
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STREAM = 2  # of random numbers: crops have 0, operations on single images 1


class OwnTransform:
    """Calls a user's function, which is tried out first on two grey images.

    Args:
        transform: Takes uint8 ``(B, 3, H, W)`` and returns the same shape and type.
        image_size: Height and width of the trial's images in pixels.

    Raises:
        ArgumentError: The function fails, or returns something else.
    """

    def __init__(self, transform: Callable[[torch.Tensor], torch.Tensor], image_size: tuple[int, int]) -> None:
        self.transform = transform
        batch = torch.full((2, 3, *image_size), 127, dtype=torch.uint8)
        with seeded(0):
            _check(attempt("train_transform", transform, batch.clone()), batch)

    def __call__(self, pixel_values: torch.Tensor, seed: int, epoch: int, draws: NDArray[np.int64]) -> torch.Tensor:
        """Transform a batch.

        Args:
            pixel_values: uint8 ``(B, 3, H, W)``; may be changed in place.
            seed: The run's.
            epoch: From 0.
            draws: int64 ``(B,)``: the batch's examples. The first one stands for the batch.

        Raises:
            ArgumentError: The function returned another shape or type.
        """
        with seeded(int(hash_uniforms(seed, epoch, draws[:1], 1, stream=_STREAM)[0, 0] * 2**53)):
            changed = self.transform(pixel_values)
        _check(changed, pixel_values)
        return changed


@contextlib.contextmanager
def seeded(number: int) -> Iterator[None]:
    """Context in which torch's random numbers on the CPU follow from a seed; those outside go on as if it were not.

    The generator itself is seeded: ``torch.manual_seed`` would set those of the GPUs too.
    """
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(number)
        yield
    finally:
        generator.set_state(state)


def attempt(name: str, hook: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function on a trial batch.

    Raises:
        ArgumentError: It fails, with whatever exception.
    """
    try:
        return hook(*args)
    except Exception as error:  # it may raise anything
        raise ArgumentError(
            f"the hook {name} failed on a trial batch with {type(error).__name__}: {error}",
            "a function that takes batches as the documentation of Hooks describes them",
            f"call {name} on such a batch, and correct it",
        ) from error


def _check(changed: Any, batch: torch.Tensor) -> None:
    if isinstance(changed, torch.Tensor) and changed.shape == batch.shape and changed.dtype == torch.uint8:
        return
    found = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, torch.Tensor) else type(changed).__name__
    raise ArgumentError(
        f"the hook train_transform returned {found} for a batch uint8 {tuple(batch.shape)}",
        "a tensor of the same shape and type",
        "leave normalization to the run, and convert back with .clamp(0, 255).to(torch.uint8)",
    )
