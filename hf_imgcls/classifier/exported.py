"""An exported model in the place of a PyTorch model: measured by the very code that measured the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.classifier.runtimes import Runtime, cannot_load, open_runtime, to_logits

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor


def load_exported(
    folder: str | Path, processor: BaseImageProcessor, *, is_trusted: bool = False, num_threads: int | None = None
) -> ExportedClassifier:
    """Load an exported model.

    Args:
        folder: Holds one exported model and its ``config.json``.
        processor: The folder's image processor.
        is_trusted: Whether files that run native code may be loaded.
        num_threads: Threads that one call may use; by default as many as torch uses.

    Raises:
        ModelError: There is no such model, it is damaged, refers to files outside its folder, or would run code.
        MissingExtraError: Its runtime is not installed.
    """
    from transformers import AutoConfig

    runtime = open_runtime(folder, num_threads or torch.get_num_threads(), is_trusted=is_trusted)
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise cannot_load(Path(folder), str(error)) from error
    return ExportedClassifier(runtime, config, processor)


class ExportedClassifier(torch.nn.Module):
    """An exported model that answers as a PyTorch model of transformers does.

    Args:
        runtime: Runs the file.
        config: Class names by id.
        processor: Its normalisation is undone for a model that normalises by itself.

    Attributes:
        runtime: As given.
        config: As given.
    """

    def __init__(self, runtime: Runtime, config: PretrainedConfig, processor: BaseImageProcessor) -> None:
        super().__init__()
        self.runtime = runtime
        self.config = config
        self._normalizer = Normalizer.from_processor(processor)

    # What pipeline() asks of a model.
    device = torch.device("cpu")
    dtype = torch.float32

    def can_generate(self) -> bool:
        """Whether it writes text."""
        return False

    def prepare(self, pixel_values: torch.Tensor) -> npt.NDArray[Any]:
        """What the runtime gets: float32 (B, 3, H, W), or uint8 (B, H, W, 3) where the preprocessing is folded in."""
        if self.runtime.takes_levels:
            return self._normalizer.restore_levels(pixel_values.cpu()).permute(0, 2, 3, 1).contiguous().numpy()
        return np.ascontiguousarray(pixel_values.cpu().numpy(), dtype=np.float32)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """``logits`` (B, K) float32 for normalised ``pixel_values`` (B, 3, H, W), on the same device."""
        from transformers.modeling_outputs import ImageClassifierOutput

        logits = to_logits(self.runtime, self.runtime.run(self.prepare(pixel_values)))
        return ImageClassifierOutput(logits=torch.from_numpy(logits).to(pixel_values.device))
