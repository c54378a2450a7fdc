"""Load a saved classifier and let it answer (imports torch and transformers for models that need them alone)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.image_source import ImageSource
from hf_imgcls.classifier.labels import read_labels, read_thresholds
from hf_imgcls.classifier.reading import DEFAULT_READING, Reading, read_choices
from hf_imgcls.classifier.runtimes import Runtime, no_features, open_runtime, to_logits
from hf_imgcls.classifier.steps import Steps, load_steps
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.model_files import CONFIG_FILE
from hf_imgcls.records import MULTI_LABEL, READING_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.arrays import FloatArray

_ONE_IMAGE = (str, bytes, bytearray, memoryview, dict, os.PathLike, Image.Image)


class Engine(Protocol):
    """Runs a model.

    Attributes:
        model: A model of transformers, `hf_imgcls.classifier.exported.ExportedClassifier`, or, without torch, a
            `hf_imgcls.classifier.runtimes.Runtime`.
        processor: The image processor; without torch `hf_imgcls.classifier.steps.Steps`.
    """

    model: Any
    processor: Any

    def answer(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the logits (B, K) of RGB images."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the features (B, D) of RGB images."""
        ...


@dataclass
class Classifier:
    """A saved image classifier, from image files to the scores of named classes.

    Attributes:
        name: Its folder or Hub id.
        labels: K class names; the position is the logit.
        problem_type: ``problem_type`` of its config.json.
        engine: Runs it.
        thresholds: Multi-label: the score from which an image has each label, float64 ``(K,)``; None: 0.5 for all.
        reading: How image files become pixels.
        commit: The commit on the Hub that was loaded; None for a folder.
        batch_size: Images per forward pass.
    """

    name: str
    labels: list[str]
    problem_type: str | None
    engine: Engine
    thresholds: FloatArray | None = None
    reading: Reading = DEFAULT_READING
    commit: str | None = None
    batch_size: int = 32

    def __call__(self, images: ImageSource | Iterable[ImageSource], top_k: int = 5) -> Any:
        """Answer as ``pipeline("image-classification")`` does.

        Args:
            images: Paths, bytes of files, Pillow images, rows of a `datasets.Image(decode=False)` column (a dict of
                ``bytes`` and ``path``), or one of these.
            top_k: How many classes are named, the best first.

        Returns:
            For one image a list of ``{"label": str, "score": float}``; for several a list of such lists.

        Raises:
            DataError: An image cannot be read.
        """
        is_one = isinstance(images, _ONE_IMAGE)
        answers = [
            [{"label": self.labels[index], "score": float(scores[index])} for index in np.argsort(-scores)[:top_k]]
            for scores in self.scores(images)
        ]
        return answers[0] if is_one else answers

    def scores(self, images: ImageSource | Iterable[ImageSource]) -> NDArray[np.float32]:
        """Return the probability of each class: float32 ``(N, K)``, softmax; of multi-label models sigmoid.

        Args:
            images: As for a call.

        Raises:
            DataError: An image cannot be read.
        """
        logits = self.logits(images).astype(np.float64)
        if self.is_multi_label:
            return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)

    def logits(self, images: ImageSource | Iterable[ImageSource]) -> NDArray[np.float32]:
        """Return what the scores are made of: float32 ``(N, K)``. Arguments and errors are those of `scores`."""
        parts = [self.engine.answer(batch) for batch in self._decode(images)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def features(self, images: ImageSource | Iterable[ImageSource]) -> NDArray[np.float32]:
        """Return what the model's linear head is given: float32 ``(N, D)``.

        Args:
            images: As for a call; at least one.

        Raises:
            DataError: An image cannot be read.
            ModelError: The model is exported, or has another kind of head.
        """
        return np.concatenate([self.engine.embed(batch) for batch in self._decode(images)])

    def _decode(self, images: ImageSource | Iterable[ImageSource]) -> Iterator[list[Image.Image]]:
        sources: Iterator[Any] = iter([images] if isinstance(images, _ONE_IMAGE) else images)  # type: ignore[arg-type]
        while batch := [decode_image(source, self.reading) for source in itertools.islice(sources, self.batch_size)]:
            yield batch

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.problem_type == MULTI_LABEL

    @property
    def model(self) -> Any:
        """The model, see `Engine`."""
        return self.engine.model

    @property
    def processor(self) -> Any:
        """What prepares images for it, see `Engine`."""
        return self.engine.processor


def load_classifier(
    name_or_path: str | Path,
    revision: str = "main",
    *,
    data: DataArguments | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    without_torch: bool = False,
    trusts_programs: bool = False,
) -> Classifier:
    """Load a saved classifier: safetensors only, float32; or an exported model.

    Args:
        name_or_path: A folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        data: How the Hub is reached (``cache_dir``, ``token``, ``download_attempts``), ``trust_remote_code``, and how
            images are read, where it is not the model that says it.
        device: Where a PyTorch model computes, for example ``"cuda"``. Exported models run on the CPU.
        batch_size: Images per forward pass.
        without_torch: Run an exported ONNX, OpenVINO or LiteRT model with NumPy and Pillow around it: torch,
            transformers and datasets are not imported. Images are resized by Pillow, whose pixels differ from
            torchvision's by a grey level here and there: scores move by up to about 0.002.
        trusts_programs: Whether an exported model that runs native code may be loaded, whatever ``data`` says about
            code from elsewhere.

    Raises:
        ModelError: The model or its processor is missing or damaged, or cannot be run as asked.
        MissingExtraError: What runs an exported model is not installed.
    """
    if without_torch:
        return _load_without_torch(Path(name_or_path), data, device, batch_size)
    try:
        from hf_imgcls.classifier.torch_engine import load_engine
    except ImportError as error:
        raise ModelError(
            f"{str(name_or_path)!r} needs torch and transformers: {error}",
            "an environment with both, or an exported ONNX, OpenVINO or LiteRT model",
            "install them, or load the folder of an exported model with without_torch=True",
        ) from error
    engine, commit = load_engine(name_or_path, revision, data, device, trusts_programs=trusts_programs)
    return _build(str(name_or_path), engine.model.config.to_dict(), engine, data, commit, batch_size)


def _load_without_torch(folder: Path, data: DataArguments | None, device: str, batch_size: int) -> Classifier:
    if device != "cpu":
        raise ArgumentError(f"device {device!r} without torch", "cpu", "leave out one of device and without_torch")
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runtime = open_runtime(folder, num_cores)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return _build(str(folder), config, PlainEngine(runtime, load_steps(folder, config)), data, None, batch_size)


def _build(
    name: str, config: dict[str, Any], engine: Engine, data: DataArguments | None, commit: str | None, batch_size: int
) -> Classifier:
    labels = read_labels(config)
    own = read_choices(name, config.get(READING_KEY))
    reading = Reading.from_choices(own) if data is None else Reading.from_arguments(data, own)
    thresholds = read_thresholds(name, config, len(labels))
    return Classifier(name, labels, config.get("problem_type"), engine, thresholds, reading, commit, batch_size)


class PlainEngine:
    """An exported model with Pillow and NumPy around it.

    Args:
        runtime: Runs the file.
        steps: What is done to an image before.
    """

    def __init__(self, runtime: Runtime, steps: Steps) -> None:
        self.model, self.processor = runtime, steps

    def answer(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """See `Engine`."""
        pixels = np.stack([self.processor.cut(image) for image in images])
        batch = pixels if self.model.takes_levels else self.processor.normalize(pixels)
        return to_logits(self.model, self.model.run(batch))

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Raise: an exported model answers with logits alone."""
        raise no_features(self.model.name)
