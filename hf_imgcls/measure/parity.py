"""Served = scored: a plain ``pipeline()`` on the saved folder must predict what was scored.

The consumer's side is exactly ``pipeline("image-classification", model=FOLDER)`` with nothing of ours in it (for an
exported model see `hf_imgcls.classifier.pipeline`). It is given the split's own files, and reads them itself. Files
that it reads otherwise than they were scored, for a known reason (`hf_imgcls.measure.offered`), are given to it twice:
converted, which must give the scored answer, and as they are, which gives the second number of the record.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import IterableDataset

from hf_imgcls.classifier.image_source import Picture
from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.classifier.reading import DEFAULT_READING, Reading
from hf_imgcls.errors import DataError, ParityError
from hf_imgcls.measure.offered import offer
from hf_imgcls.measure.scored_answers import Disagreement, ScoredAnswers, Tolerance
from hf_imgcls.records import ParityRecord

PARITY_FILE = "parity.json"
# Two classes whose scores are closer than this may change places through float noise alone: the same weights in
# batches of another size differ by about 1e-6 in float32, and by up to 1e-3 where a GPU convolves in TF32 (10 bits).
TIE_TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
# A larger change of a probability is not float noise even when the labels stay the same. Of exported models some round
# the activations of a batch together (dynamic INT8), so that scores depend on what else is in it.
SCORE_TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2, "exported": 5e-2}
_NUM_NAMED = 5


class Consumer(Protocol):
    """Whoever serves a published model.

    Attributes:
        name: What errors call the model that it serves.
        description: What it is, with version and device.
        device_type: ``"cpu"``, ``"cuda"`` and so on.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def device_type(self) -> str: ...

    def answer(self, images: Iterator[Picture], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """For each image (a path, the bytes of a file, or a picture) ``label`` and ``score`` of every class, the best
        first.
        """
        ...


def check_parity(
    consumer: Consumer,
    rows: Iterable[dict[str, Any]],
    scored: ScoredAnswers,
    *,
    reading: Reading = DEFAULT_READING,
    batch_size: int = 32,
    tie_tolerance: float | None = None,
    are_files: bool = True,
) -> ParityRecord:
    """Compare scored predictions with the consumer's, by class name.

    Args:
        consumer: Who serves the saved model: `PipelineConsumer`, or another.
        rows: What is compared of the split that was scored, without any transform: ``image`` (bytes or path) and
            ``sample_index`` (int); see `draw_rows`.
        scored: The scored predictions; matched by ``sample_index``.
        reading: How images were read when they were scored.
        batch_size: Images per forward pass of the consumer.
        tie_tolerance: Two classes whose scores differ by at most this count as tied; by default `TIE_TOLERANCE` of
            the consumer's device.
        are_files: Whether what the rows hold are files of the user's, and not pictures that were made of arrays.

    Returns:
        The record, with an agreement of 1.

    Raises:
        ParityError: An image that is no tie has another top-1 class, other labels, where it may have several, or a
            score that is off by more than float noise (`SCORE_TOLERANCE`): a softmax in place of a sigmoid may leave
            the labels as they are. The first such images are named. Files that are known to be read otherwise count
            by their converted picture.
        DataError: An image was not scored, or there are no images.
    """
    questions = _Questions(scored, reading)
    outcomes, num_plain_right = [], 0
    answers = consumer.answer(questions.ask(rows), batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow says to a consumer about odd files
        for number, answer in enumerate(answers):
            row, is_plain = questions.asked[number]
            if is_plain:
                num_plain_right += scored.is_right(row, answer)
            else:
                outcomes.append(scored.compare(row, answer, _choose_tolerance(consumer, tie_tolerance)))
                num_plain_right += scored.is_right(row, answer) and row not in questions.converted
    if not outcomes:
        raise DataError("a split without images", "at least one image to compare", "check the split")
    disagreements = [outcome.disagreement for outcome in outcomes if outcome.disagreement is not None]
    n = len(outcomes)
    record = ParityRecord(
        num_examples=n,
        num_agreeing=n - len(disagreements),
        num_ties=sum(outcome.is_tie for outcome in outcomes),
        top1_agreement=(n - len(disagreements)) / n,
        max_probability_difference=max(outcome.difference for outcome in outcomes),
        tie_tolerance=_choose_tolerance(consumer, tie_tolerance).tie,
        consumer=consumer.description,
        num_files=questions.num_files if are_files else 0,
        read_otherwise=dict(questions.reasons.most_common()),
        metric=scored.metric,
        scored_value=sum(scored.is_right(row) for row, is_plain in questions.asked if not is_plain) / n,
        plain_value=num_plain_right / n,
    )
    if disagreements:
        raise _parity_error(consumer.name, record, disagreements)
    return record


class _Questions:
    """What a consumer is asked, in order, and why.

    Attributes:
        asked: For each question the row of the scored predictions, and whether it is a file that the consumer is known
            to read otherwise.
        converted: Rows of such files.
        reasons: Why they are read otherwise -> how many.
        num_files: Images that are files.
    """

    def __init__(self, scored: ScoredAnswers, reading: Reading) -> None:
        self._scored, self._reading = scored, reading
        self.asked: list[tuple[int, bool]] = []
        self.converted: set[int] = set()
        self.reasons: Counter[str] = Counter()
        self.num_files = 0

    def ask(self, rows: Iterable[dict[str, Any]]) -> Iterator[Picture]:
        """Give each image once, or twice if it has to be converted to give what was scored."""
        for row in rows:
            place = self._scored.find(row["sample_index"])
            offered = offer(row["image"], self._reading)
            self.num_files += offered.is_file
            if offered.converted is not None:
                self.reasons[offered.reason] += 1
                self.converted.add(place)
                self.asked.append((place, False))
                yield offered.converted
            if offered.original is not None:
                self.asked.append((place, offered.converted is not None))
                yield offered.original


def _choose_tolerance(consumer: Consumer, tie: float | None) -> Tolerance:
    """Return what is float noise on the consumer's device, which is known once it has answered."""
    device = consumer.device_type if consumer.device_type in TIE_TOLERANCE else "cuda"
    noise = "exported" if isinstance(consumer, PipelineConsumer) and consumer.is_exported else device
    return Tolerance(TIE_TOLERANCE[device] if tie is None else tie, SCORE_TOLERANCE[noise])


def draw_rows(split: Any, max_samples: int | None = 1000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield rows of a split for `check_parity`, without any transform.

    Args:
        split: The split that was scored. Of a stream, only this process's share is compared.
        max_samples: At most so many, drawn at random (of a stream: the first ones); None: all.
        seed: Of that draw.
    """
    if isinstance(split, IterableDataset):
        return itertools.islice(split, max_samples)
    numbers = np.arange(len(split))
    if max_samples is not None and max_samples < len(split):
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, size=max_samples, replace=False))
    return (split[int(number)] for number in numbers)


def _parity_error(name: str, record: ParityRecord, disagreements: Sequence[Disagreement]) -> ParityError:
    listed = "\n".join(f"    {item}" for item in disagreements[:_NUM_NAMED])
    return ParityError(
        f"the served model disagrees with the scored one on {len(disagreements)} of {record.num_examples} images, "
        f"{record.num_ties} ties not counted:\n{listed}",
        "the same labels and scores for every image"
        + f" (classes within {record.tie_tolerance:g} of each other are ties)",
        f"compare config.json (id2label, problem_type) and preprocessor_config.json of {name} with those of the "
        "training run",
    )
