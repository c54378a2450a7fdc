"""Knowledge distillation: the student learns what a teacher thinks of each class, besides the label.

Source: Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from hf_imgcls.classifier.preprocess import Normalizer, Preprocessor
from hf_imgcls.classifier.source import load_trained, pin_source
from hf_imgcls.classifier.torch_engine import check_forward
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments, FitArguments


class Distiller:
    """A frozen teacher, and its part of the loss.

    The teacher sees the student's own crops, at its own size and with its own normalisation, in evaluation mode.

    Args:
        teacher: Answers with ``logits``.
        columns: The teacher's logits in the order of the student's classes; classes that only the teacher knows are
            left out, and the others share what it gave to them.
        student_normalizer: Undone, to get back to pixels.
        teacher_normalizer: Applied to them.
        image_size: Height and width of the teacher's input in pixels.
        temperature: Divides both models' logits: above 1 the teacher tells more of what it holds for similar.
        weight: Share of the teacher in the loss, in (0, 1]; the labels have the rest.
    """

    def __init__(
        self,
        teacher: nn.Module,
        columns: Sequence[int],
        student_normalizer: Normalizer,
        teacher_normalizer: Normalizer,
        image_size: tuple[int, int],
        temperature: float,
        weight: float,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature, self.weight = temperature, weight
        self._columns = list(columns)
        self._student_normalizer, self._teacher_normalizer = student_normalizer, teacher_normalizer
        self._image_size = image_size
        self._targets = torch.empty(0)

    @torch.no_grad()
    def look(self, pixel_values: torch.Tensor) -> None:
        """Let the teacher answer to a batch, for the next `mix`.

        Args:
            pixel_values: (B, 3, H, W) float, as the student gets them.
        """
        levels = self._student_normalizer.restore_floats(pixel_values.float())
        if levels.shape[-2:] != self._image_size:
            levels = F.interpolate(levels, self._image_size, mode="bicubic", antialias=True, align_corners=False)
        self.teacher.to(pixel_values.device)
        logits = self.teacher(pixel_values=self._teacher_normalizer.normalize_(levels.clamp(0, 255))).logits
        self._targets = (logits[:, self._columns].float() / self.temperature).log_softmax(-1)

    def mix(self, losses: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Mix the losses of a batch with the distance to the teacher's answers.

        Args:
            losses: (B,) cross-entropy with the labels.
            logits: (B, K) the student's, for the batch that the teacher looked at last.

        Returns:
            (B,): ``(1 - weight) * losses + weight * T^2 * KL(teacher || student)``, both at temperature T. The square
            keeps the gradients' size, which falls with it (section 2 of the source).
        """
        answers = (logits.float() / self.temperature).log_softmax(-1)
        divergence = F.kl_div(answers, self._targets, reduction="none", log_target=True).sum(-1)
        return (1 - self.weight) * losses + self.weight * self.temperature**2 * divergence


def build_distiller(
    fit: FitArguments, data: DataArguments, labels: Sequence[str], processor: Any, *, multi_label: bool = False
) -> Distiller | None:
    """Load the teacher that a run asks for.

    Args:
        fit: ``teacher_model``, ``distillation_temperature`` and ``distillation_weight``.
        data: How the Hub is reached.
        labels: The student's class names by id.
        processor: The student's image processor.
        multi_label: Whether an image may have several labels.

    Returns:
        None if no teacher is asked for.

    Raises:
        ArgumentError: Images have several labels: what a teacher thinks of each is a distribution over the classes.
        ModelError: The teacher cannot be loaded, or does not know all of the classes by name.
    """
    if fit.teacher_model is None:
        return None
    if multi_label:
        raise ArgumentError("teacher_model with several labels per image", "one label per image", "leave it out")
    source = pin_source(fit.teacher_model, data, "main", fetches_weights=True)
    teacher = load_trained(fit.teacher_model, source)
    teacher_processor = load_image_processor(fit.teacher_model, **source)
    check_forward(teacher, teacher_processor)
    preprocessor = Preprocessor(teacher_processor)
    return Distiller(
        teacher,
        _find_columns(fit.teacher_model, [str(name) for _, name in sorted(teacher.config.id2label.items())], labels),
        Normalizer.from_processor(processor),
        preprocessor.normalizer,
        preprocessor.target_size,
        fit.distillation_temperature,
        fit.distillation_weight,
    )


def _find_columns(teacher: str, known: Sequence[str], labels: Sequence[str]) -> list[int]:
    if list(known) == list(labels):
        return list(range(len(labels)))
    if unknown := [name for name in labels if name not in known]:
        raise ModelError(
            f"the teacher {teacher!r} does not know {len(unknown)} of {len(labels)} classes: {', '.join(unknown[:5])}",
            "a teacher of the same classes; it may know others besides",
            "fine-tune it on this dataset first",
        )
    if repeated := [name for name, times in (Counter(known) + Counter(labels)).items() if times > 2]:
        raise ModelError(
            f"two classes are called {repeated[0]!r}, and teacher and data order their classes differently",
            "unique class names",
            "make the names unique",
        )
    return [known.index(name) for name in labels]
