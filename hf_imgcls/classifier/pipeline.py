"""The consumer's side of a saved model: what a person who was given the folder writes to use it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from hf_imgcls.classifier.exported import ExportedClassifier, load_exported
from hf_imgcls.classifier.image_source import Picture
from hf_imgcls.classifier.runtimes import OnnxRuntime, OpenVino, find_exported_file
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.model_files import ADAPTER_CONFIG, refuse_adapter

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments


def load_pipeline(
    name_or_path: str | Path, *, is_trusted: bool = False, prefers_own: bool = False, **options: Any
) -> Any:
    """``pipeline("image-classification")`` with a saved model in it, and nothing of ours where that is possible.

    An ONNX or OpenVINO model comes in by Optimum's class for it, where Optimum is installed; otherwise, and for models
    with folded preprocessing and for other runtimes, which have no such class, by `hf_imgcls.classifier.exported`.

    Args:
        name_or_path: A folder or Hub id.
        is_trusted: Whether files that run native code may be loaded.
        prefers_own: Whether an exported model comes in by `hf_imgcls.classifier.exported` in any case.
        **options: Of ``pipeline()``; for an exported model they must not say where to compute.
    """
    from transformers import pipeline

    found = find_exported_file(name_or_path)
    if found is None:
        if (adapter := Path(name_or_path, ADAPTER_CONFIG)).exists():
            raise refuse_adapter(name_or_path, adapter)
        # Device and dtype are what such a consumer gets.
        return pipeline("image-classification", model=str(name_or_path), **options)
    folder = str(name_or_path)
    own = load_exported(folder, load_image_processor(folder), is_trusted=is_trusted)
    model: Any = own
    if not own.runtime.takes_levels and not prefers_own:
        model = _load_with_optimum(*found, own.config) or own
    # pipeline() says that a model of a class it does not know is not supported, and uses it all the same.
    logging.getLogger("transformers.pipelines.base").addFilter(_is_not_about_ours)
    return pipeline("image-classification", model=model, image_processor=folder)


def _is_not_about_ours(record: logging.LogRecord) -> bool:
    return "ExportedClassifier" not in record.getMessage()


def _load_with_optimum(path: Path, runtime: Any, config: Any) -> Any:
    if find_spec("optimum") is None:
        return None
    if runtime is OnnxRuntime and find_spec("optimum.onnxruntime"):
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTModelForImageClassification

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # what its latency is said to be measured with
        model = ORTModelForImageClassification.from_pretrained(
            path.parent, file_name=path.name, session_options=options
        )
    elif runtime is OpenVino and config.model_type != "timm_wrapper" and find_spec("optimum.intel"):
        from optimum.intel import OVModelForImageClassification

        model = OVModelForImageClassification.from_pretrained(
            str(path.parent),
            file_name=path.name,
            ov_config={
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            },
        )
    else:
        return None
    # Optimum reads a timm checkpoint's config with two classes (seen on optimum-onnx 0.1.0).
    model.config = config
    return model


class PipelineConsumer:
    """``pipeline("image-classification")`` in this process, of an exported model too.

    Args:
        model: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub; a folder has none.
        data: ``trust_remote_code``, and the token if one is given.
        prefers_own: Run an exported model without Optimum, whose classes take seconds to import.
    """

    def __init__(
        self, model: str | Path, revision: str | None, data: DataArguments, *, prefers_own: bool = False
    ) -> None:
        import transformers

        # Nothing but what a consumer writes; device and dtype are what such a consumer gets.
        options: dict[str, Any] = {}
        if revision is not None and not Path(model).exists():
            options |= {"revision": revision} | ({"token": data.token} if data.token else {})
        if data.trust_remote_code:
            options["trust_remote_code"] = True
        self.name = str(model)
        self.classifier = load_pipeline(model, is_trusted=data.trust_remote_code, prefers_own=prefers_own, **options)
        self.device_type: str = self.classifier.device.type
        runtime = _name_exported(self.classifier)
        self.is_exported = bool(runtime)
        self.description = f"pipeline of transformers {transformers.__version__} on {self.device_type}{runtime}"

    def answer(self, images: Iterator[Picture], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """See `Consumer`."""
        num_labels = self.classifier.model.config.num_labels
        # pipeline() takes paths and pictures; of a path it opens the file, as is done here with bytes.
        opened = (Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image for image in images)
        yield from self.classifier(opened, batch_size=batch_size, top_k=num_labels)


def _name_exported(classifier: Any) -> str:
    """What runs an exported model; nothing for a model of transformers."""
    name = type(classifier.model).__name__
    is_exported = name.startswith(("ORTModel", "OVModel")) or isinstance(classifier.model, ExportedClassifier)
    return f" with {name}" if is_exported else ""
