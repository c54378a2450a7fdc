"""hf_imgcls: fine-tune, judge and ship image classifiers on the Hugging Face stack.

Importing the package imports neither torch nor transformers; the public names below load what they need when they are
first used.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from hf_imgcls import telemetry

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.arguments.parse import parse_arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.transforms import attach_transforms
    from hf_imgcls.fit.model import build_model
    from hf_imgcls.fit.trainer import ImageClassificationTrainer
    from hf_imgcls.measure.score import score_folder

telemetry.turn_off()

__version__ = metadata.version("hf_imgcls")

_MODULE_OF = {
    "Arguments": "hf_imgcls.arguments.fields",
    "ImageClassificationTrainer": "hf_imgcls.fit.trainer",
    "ImageDataset": "hf_imgcls.data.load",
    "attach_transforms": "hf_imgcls.data.transforms",
    "build_model": "hf_imgcls.fit.model",
    "load_image_dataset": "hf_imgcls.data.load",
    "parse_arguments": "hf_imgcls.arguments.fields",
    "score_folder": "hf_imgcls.measure.score",
}

__all__ = [
    "Arguments",
    "ImageClassificationTrainer",
    "ImageDataset",
    "attach_transforms",
    "build_model",
    "load_image_dataset",
    "parse_arguments",
    "score_folder",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
