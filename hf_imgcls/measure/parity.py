"""Served = scored: a plain ``pipeline()`` on the saved folder must predict what was scored.

The consumer's side is exactly ``pipeline("image-classification", model=FOLDER)`` with nothing of ours in it (for an
exported model see `hf_imgcls.measure.consumer`). What it is given are the split's own images, decoded and upright.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset

from hf_imgcls.data.decode import decode_image
from hf_imgcls.errors import DataError, ParityError
from hf_imgcls.measure.consumer import load_pipeline
from hf_imgcls.measure.exported_model import ExportedClassifier
from hf_imgcls.measure.metrics import ExampleTable
from hf_imgcls.measure.multilabel_formulas import DEFAULT_THRESHOLD
from hf_imgcls.measure.multilabel_metrics import MultiLabelExamples
from hf_imgcls.records import ParityRecord

if TYPE_CHECKING:
    from hf_imgcls.arguments import DataArguments

logger = logging.getLogger(__name__)

PARITY_FILE = "parity.json"
# Two classes whose scores are closer than this may change places through float noise alone: the same weights in
# batches of another size differ by about 1e-6 in float32, and by up to 1e-3 where a GPU convolves in TF32 (10 bits).
TIE_TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
# A larger change of the top-1 probability is no float noise even when the top-1 class stays the same.
_NOTABLE_PROBABILITY_DIFFERENCE = 0.01
_NUM_NAMED = 5


class Disagreement(NamedTuple):
    """One image that the served model answers differently.

    Attributes:
        sample_index: The image's position in its source split.
        scored: Class name and probability of the scored prediction.
        served: Class name and score of the consumer's first answer.
        served_score: What the consumer gives the scored class.
    """

    sample_index: int
    scored: tuple[str, float]
    served: tuple[str, float]
    served_score: float

    def __str__(self) -> str:
        return (
            f"sample_index {self.sample_index}: scored {self.scored[0]!r} ({self.scored[1]:.4f}), "
            f"served {self.served[0]!r} ({self.served[1]:.4f}; {self.scored[0]!r} has {self.served_score:.4f})"
        )


class Consumer(Protocol):
    """Whoever serves a published model.

    Attributes:
        description: What it is, with version and device.
        device_type: ``"cpu"``, ``"cuda"`` and so on.
    """

    @property
    def description(self) -> str: ...

    @property
    def device_type(self) -> str: ...

    def answer(self, images: Iterator[Any], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """For each image (``PIL.Image``) ``label`` and ``score`` of every class, the best first."""
        ...


class PipelineConsumer:
    """``pipeline("image-classification")`` in this process, of an exported model too.

    Args:
        model: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub; a folder has none.
        data: ``trust_remote_code``, and the token if one is given.
    """

    def __init__(self, model: str | Path, revision: str | None, data: DataArguments) -> None:
        import transformers

        # Nothing but what a consumer writes; device and dtype are what such a consumer gets.
        options: dict[str, Any] = {}
        if revision is not None and not Path(model).exists():
            options |= {"revision": revision} | ({"token": data.token} if data.token else {})
        if data.trust_remote_code:
            options["trust_remote_code"] = True
        self.classifier = load_pipeline(model, is_trusted=data.trust_remote_code, **options)
        self.device_type: str = self.classifier.device.type
        runtime = _name_exported(self.classifier)
        self.description = f"pipeline of transformers {transformers.__version__} on {self.device_type}{runtime}"

    def answer(self, images: Iterator[Any], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """See `Consumer`."""
        num_labels = self.classifier.model.config.num_labels
        yield from self.classifier(images, batch_size=batch_size, top_k=num_labels)


class SetDisagreement(NamedTuple):
    """One image that the served model gives other labels, or other scores.

    Attributes:
        sample_index: The image's position in its source split.
        label: The class whose score differs most.
        threshold: From which score on it is answered.
        scored: Its score when the split was scored.
        served: The consumer's score.
    """

    sample_index: int
    label: str
    threshold: float
    scored: float
    served: float

    def __str__(self) -> str:
        return (
            f"sample_index {self.sample_index}: {self.label!r} scored {self.scored:.4f}, served {self.served:.4f}; its "
            f"threshold is {self.threshold:.4f}"
        )


class _Outcome(NamedTuple):
    """How an image's two answers compare: the difference of probabilities, whether it is a tie, what is wrong."""

    difference: float
    is_tie: bool = False
    disagreement: Disagreement | SetDisagreement | None = None


def check_parity(
    folder: str | Path,
    dataset: Any,
    examples: ExampleTable | MultiLabelExamples,
    labels: list[str],
    data: DataArguments,
    *,
    revision: str | None = None,
    thresholds: npt.ArrayLike | None = None,
    max_samples: int | None = 1000,
    seed: int = 0,
    batch_size: int = 32,
    tie_tolerance: float | None = None,
    consumer: Consumer | None = None,
) -> ParityRecord:
    """Compare scored predictions with the consumer's, by class name.

    Args:
        folder: The saved model: a folder, or a Hub id.
        dataset: The split that was scored, without any transform: rows with ``image`` (bytes or path) and
            ``sample_index`` (int). Of a stream, only this process's share is compared.
        examples: The scored predictions, one per row of the split; matched by ``sample_index``.
        labels: Class names; the position is the class id of ``examples``.
        data: How images are decoded, as in scoring.
        revision: Branch, tag or commit of a model on the Hub.
        thresholds: Where an image may have several labels: from which score on it has each; 0.5 by default.
        max_samples: Compare at most so many images, drawn at random (of a stream: the first ones); ``None`` compares
            all.
        seed: Seed of that draw.
        batch_size: Images per forward pass of the consumer.
        tie_tolerance: Two classes whose scores differ by at most this count as tied; by default `TIE_TOLERANCE` of
            the consumer's device.
        consumer: Who serves ``folder``; by default `PipelineConsumer`.

    Returns:
        The record, with an agreement of 1.

    Raises:
        ParityError: An image that is no tie has another top-1 class, or other labels, where it may have several; the
            first ones are named. With several labels a score that is off by more than float noise is an error too: a
            softmax in place of a sigmoid may leave the labels as they are.
        DataError: An image of the split was not scored.
    """
    consumer = consumer or PipelineConsumer(folder, revision, data)
    positions: list[int] = []  # in `examples`, of the images read so far

    def read_images() -> Iterator[Any]:
        for row in _draw_rows(dataset, max_samples, seed):
            positions.append(_find_scored(row["sample_index"], examples))
            yield decode_image(row["image"], background=data.alpha_background, max_pixels=data.max_image_pixels)

    outcomes = []
    for number, answer in enumerate(consumer.answer(read_images(), batch_size)):
        if tie_tolerance is None:
            tie_tolerance = TIE_TOLERANCE.get(consumer.device_type, TIE_TOLERANCE["cuda"])
        position = positions[number]
        if isinstance(examples, MultiLabelExamples):
            limits = np.full(len(labels), DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
            outcomes.append(_compare_labels(examples, position, labels, limits, answer, tie_tolerance))
        else:
            outcomes.append(_compare_best(examples, position, labels, answer, tie_tolerance))
    num_ties = sum(outcome.is_tie for outcome in outcomes)
    disagreements = [outcome.disagreement for outcome in outcomes if outcome.disagreement is not None]

    if not positions or tie_tolerance is None:
        raise DataError("a split without images", "at least one image to compare", "check the split")
    record = ParityRecord(
        num_examples=len(positions),
        num_agreeing=len(positions) - len(disagreements),
        num_ties=num_ties,
        top1_agreement=(len(positions) - len(disagreements)) / len(positions),
        max_probability_difference=max(outcome.difference for outcome in outcomes),
        tie_tolerance=tie_tolerance,
        consumer=consumer.description,
    )
    if disagreements:
        raise _parity_error(folder, record, disagreements)
    if record.max_probability_difference > _NOTABLE_PROBABILITY_DIFFERENCE:
        logger.warning(
            "Served and scored agree on every top-1 class, but their probabilities differ by up to %.3f.",
            record.max_probability_difference,
        )
    return record


def _compare_best(
    examples: ExampleTable, position: int, labels: list[str], answer: list[dict[str, Any]], tie_tolerance: float
) -> _Outcome:
    """Hold the best class against the consumer's first answer."""
    name, probability = labels[examples.prediction[position]], float(examples.probability[position])
    # Two classes may share a name (imagenet-1k has "crane" twice): the better one is what a reader would see.
    own = max((item["score"] for item in answer if item["label"] == name), default=0.0)
    difference = abs(own - probability)
    if answer[0]["label"] == name:
        return _Outcome(difference)
    if answer[0]["score"] - own <= tie_tolerance:
        return _Outcome(difference, is_tie=True)
    served = (answer[0]["label"], answer[0]["score"])
    index = int(examples.sample_index[position])
    return _Outcome(difference, disagreement=Disagreement(index, (name, probability), served, own))


def _compare_labels(
    examples: MultiLabelExamples,
    position: int,
    labels: list[str],
    thresholds: npt.NDArray[Any],
    answer: list[dict[str, Any]],
    tie_tolerance: float,
) -> _Outcome:
    """Hold the scores of all classes, and the labels that they give, against the consumer's."""
    by_name = {item["label"]: item["score"] for item in answer}
    served = np.array([by_name[name] for name in labels])
    scored = examples.scores[position].astype(np.float64)
    differences = np.abs(served - scored)
    changed = (served >= thresholds) != (scored >= thresholds)
    worst = int(np.where(changed, 1.0 + differences, differences).argmax())
    difference = float(differences.max())
    if not changed.any() and difference <= _NOTABLE_PROBABILITY_DIFFERENCE:
        return _Outcome(difference)
    if difference <= _NOTABLE_PROBABILITY_DIFFERENCE and differences[changed].max() <= tie_tolerance:
        return _Outcome(difference, is_tie=True)
    index = int(examples.sample_index[position])
    limits = float(thresholds[worst]), float(scored[worst]), float(served[worst])
    return _Outcome(difference, disagreement=SetDisagreement(index, labels[worst], *limits))


def _name_exported(classifier: Any) -> str:
    """What runs an exported model; nothing for a model of transformers."""
    name = type(classifier.model).__name__
    is_exported = name.startswith(("ORTModel", "OVModel")) or isinstance(classifier.model, ExportedClassifier)
    return f" with {name}" if is_exported else ""


def _draw_rows(dataset: Any, max_samples: int | None, seed: int) -> Iterator[dict[str, Any]]:
    if isinstance(dataset, IterableDataset):
        return itertools.islice(dataset, max_samples)
    numbers = np.arange(len(dataset))
    if max_samples is not None and max_samples < len(dataset):
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, size=max_samples, replace=False))
    return (dataset[int(number)] for number in numbers)


def _find_scored(sample_index: int, examples: ExampleTable | MultiLabelExamples) -> int:
    """Row of ``examples``, which are ordered by sample_index."""
    position = int(np.searchsorted(examples.sample_index, sample_index))
    if position == len(examples) or examples.sample_index[position] != sample_index:
        raise DataError(
            f"an image was not scored (sample_index {sample_index})",
            "the split that was scored",
            "compare on the same split, revision and max_test_samples",
        )
    return position


def _parity_error(
    folder: str | Path, record: ParityRecord, disagreements: Sequence[Disagreement | SetDisagreement]
) -> ParityError:
    listed = "\n".join(f"    {item}" for item in disagreements[:_NUM_NAMED])
    return ParityError(
        f"the served model disagrees with the scored one on {len(disagreements)} of {record.num_examples} images, "
        f"{record.num_ties} ties not counted:\n{listed}",
        "the same labels and scores for every image"
        if isinstance(disagreements[0], SetDisagreement)
        else f"the same top-1 class for every image (scores within {record.tie_tolerance:g} are ties)",
        f"compare config.json (id2label, problem_type) and preprocessor_config.json in {folder} with those of the "
        "training run",
    )
