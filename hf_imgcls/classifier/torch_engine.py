"""A saved classifier in torch: a model of transformers, or an exported one in the place of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.exported import ExportedClassifier, load_exported
from hf_imgcls.classifier.features import read_features
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.runtimes import find_exported_file, no_features
from hf_imgcls.classifier.source import find_commit, load_trained, pin_source
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor


class TorchEngine:
    """A model and its image processor, as `hf_imgcls.classifier.loading.Engine`.

    Args:
        model: In evaluation mode; it may be moved to another device afterwards.
        processor: Its image processor.
    """

    def __init__(self, model: PreTrainedModel | ExportedClassifier, processor: BaseImageProcessor) -> None:
        self.model, self.processor = model, processor

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """The processor taken apart, as evaluation uses it."""
        return Preprocessor(self.processor)

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """See `hf_imgcls.classifier.loading.Engine`."""
        return self.model(pixel_values=self._prepare(images)).logits.float().cpu().numpy()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """See `hf_imgcls.classifier.loading.Engine`."""
        if isinstance(self.model, ExportedClassifier):
            raise no_features(self.model.runtime.name)
        return read_features(self.model, find_linear_head(self.model), self._prepare(images)).float().cpu().numpy()

    def _prepare(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the model's input, float32 ``(B, 3, H, W)``, where the model is."""
        pixels = torch.stack([self.preprocessor.preprocess(np.array(image)) for image in images])
        return self.preprocessor.normalizer(pixels.to(self.model.device))


def load_engine(
    name_or_path: str | Path, revision: str, data: DataArguments | None, device: str, *, trusts_programs: bool
) -> tuple[TorchEngine, str | None]:
    """Load a model and its processor, see `hf_imgcls.classifier.loading.load_classifier`.

    Returns:
        The engine, and the commit on the Hub that was loaded; None for a folder.
    """
    data = data or DataArguments()
    if find_exported_file(name_or_path) is None:
        source = pin_source(name_or_path, data, revision, fetches_weights=True)
        model, processor = load_trained(name_or_path, source), load_image_processor(str(name_or_path), **source)
        check_forward(model, processor)
        model.to(device)
        return TorchEngine(model, processor), find_commit(name_or_path, data, revision)
    if device != "cpu":
        raise ArgumentError(f"device {device!r} for the exported model {name_or_path}", "cpu", "leave it out")
    processor = load_image_processor(str(name_or_path), trust_remote_code=data.trust_remote_code)
    exported = load_exported(name_or_path, processor, is_trusted=data.trust_remote_code or trusts_programs)
    return TorchEngine(exported, processor), None


class NamedLogits(torch.nn.Module):
    """A classifier whose logits are in the dataset's order.

    Args:
        model: Answers with ``logits`` (B, K).
        columns: The logits in the order wanted; ``None`` leaves them as they are.
    """

    def __init__(self, model: torch.nn.Module, columns: list[int] | None) -> None:
        super().__init__()
        self.model = model
        self.columns = columns

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """``logits`` (B, K) for ``pixel_values`` (B, 3, H, W)."""
        logits = self.model(pixel_values=pixel_values).logits
        return SimpleNamespace(logits=logits if self.columns is None else logits[:, self.columns])


@torch.no_grad()
def check_forward(model: PreTrainedModel, processor: BaseImageProcessor) -> None:
    """Send one grey image through processor and model, so that a misfit shows before any data is read.

    Raises:
        ModelError: The model does not take the processor's images, or does not answer with a logit for each class.
    """
    training = model.training
    pixel_values = processor(Image.new("RGB", (320, 240), "gray"), return_tensors="pt")["pixel_values"]
    try:
        logits = model.eval()(pixel_values=pixel_values).logits
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model does not accept the processor's images of shape {tuple(pixel_values.shape)}: {error}",
            "an image size that model and processor agree on",
            "pass --image_size, or another --image_processor_name",
        ) from error
    if logits.shape != (1, model.config.num_labels):
        raise ModelError(
            f"the model answers with shape {tuple(logits.shape)}",
            f"(1, {model.config.num_labels}), one logit for each class",
            "use an image classification model",
        )
    model.train(training)
