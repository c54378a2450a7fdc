"""A split's scored predictions, and how a consumer's answers compare with them: by class name, scores included."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.examples import ExampleTable, MultiLabelExamples
from hf_imgcls.measure.metrics.multi_label import DEFAULT_THRESHOLD

# What a consumer says about an image: ``label`` and ``score`` of every class, the best first.
Answer = list[dict[str, Any]]


class Disagreement(NamedTuple):
    """One image that the served model answers differently.

    Attributes:
        sample_index: The image's position in its source split.
        label: The class whose scores tell it.
        scored: Its score when the split was scored.
        served: Its score in the consumer's answer.
        remark: What else must be known to see that the answers differ.
    """

    sample_index: int
    label: str
    scored: float
    served: float
    remark: str

    def __str__(self) -> str:
        return (
            f"sample_index {self.sample_index}: {self.label!r} scored {self.scored:.4f}, served {self.served:.4f}; "
            f"{self.remark}"
        )


class Tolerance(NamedTuple):
    """Which differences are float noise.

    Attributes:
        tie: Two classes whose scores differ by at most this may change places.
        score: A score may change by this, as long as the labels stay the same.
    """

    tie: float
    score: float


class Outcome(NamedTuple):
    """How an image's two answers compare: the difference of probabilities, whether it is a tie, what is wrong."""

    difference: float
    is_tie: bool = False
    disagreement: Disagreement | None = None


class ScoredAnswers(Protocol):
    """The scored predictions of a split.

    Attributes:
        metric: The metric that counts an image as right or wrong.
    """

    metric: str

    def find(self, sample_index: int) -> int:
        """Return the row of an image.

        Raises:
            DataError: It was not scored.
        """
        ...

    def compare(self, row: int, answer: Answer, tolerance: Tolerance) -> Outcome:
        """Compare a row with a consumer's answer."""
        ...

    def is_right(self, row: int, answer: Answer | None = None) -> bool:
        """Return whether an answer (without one: the scored prediction) is what the row's reference says."""
        ...


class ScoredClasses:
    """Where an image has one label; arguments as for `build_scored`."""

    metric = "accuracy"

    def __init__(self, examples: ExampleTable, labels: list[str]) -> None:
        self.examples, self.labels = examples, labels

    def find(self, sample_index: int) -> int:
        """See `ScoredAnswers`."""
        return _find(sample_index, self.examples.sample_index)

    def compare(self, row: int, answer: Answer, tolerance: Tolerance) -> Outcome:
        """Compare the best class and its probability with the consumer's, and all others where they are at hand."""
        name, probability = self.labels[self.examples.prediction[row]], float(self.examples.probability[row])
        # Two classes may share a name (imagenet-1k has "crane" twice): the better one is what a reader would see.
        own = max((item["score"] for item in answer if item["label"] == name), default=0.0)
        difference = abs(own - probability)
        is_same = answer[0]["label"] == name
        if self.examples.scores is not None and is_same and difference <= tolerance.score:
            # Names that were swapped of classes that are seldom the best show in their scores alone.
            name, probability, own = self._find_worst(self.examples.scores[row], answer)
            difference = abs(own - probability)
        if difference <= tolerance.score and (is_same or answer[0]["score"] - own <= tolerance.tie):
            return Outcome(difference, is_tie=not is_same)
        index, remark = int(self.examples.sample_index[row]), "served as {label!r} ({score:.4f})".format(**answer[0])
        return Outcome(difference, disagreement=Disagreement(index, name, probability, own, remark))

    def _find_worst(self, scores: npt.NDArray[np.float64], answer: Answer) -> tuple[str, float, float]:
        """Return the name whose score differs most, with what was scored and served; equal names count together."""
        totals = {name: [0.0, 0.0] for name in (*self.labels, *(item["label"] for item in answer))}
        for name, score in zip(self.labels, scores.tolist(), strict=True):
            totals[name][0] += score
        for item in answer:
            totals[item["label"]][1] += item["score"]
        name, (scored, served) = max(totals.items(), key=lambda entry: abs(entry[1][0] - entry[1][1]))
        return name, scored, served

    def is_right(self, row: int, answer: Answer | None = None) -> bool:
        """See `ScoredAnswers`."""
        given = self.labels[self.examples.prediction[row]] if answer is None else answer[0]["label"]
        return bool(given == self.labels[self.examples.label[row]])


class ScoredSets:
    """Where an image may have several labels; arguments as for `build_scored`."""

    metric = "subset_accuracy"

    def __init__(self, examples: MultiLabelExamples, labels: list[str], thresholds: npt.ArrayLike | None) -> None:
        self.examples, self.labels = examples, labels
        self.thresholds = np.full(len(labels), DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)

    def find(self, sample_index: int) -> int:
        """See `ScoredAnswers`."""
        return _find(sample_index, self.examples.sample_index)

    def compare(self, row: int, answer: Answer, tolerance: Tolerance) -> Outcome:
        """Hold the scores of all classes, and the labels that they give, against the consumer's."""
        served, scored = self._read(answer), self.examples.scores[row].astype(np.float64)
        differences = np.abs(served - scored)
        changed = (served >= self.thresholds) != (scored >= self.thresholds)
        difference = float(differences.max())
        if difference <= tolerance.score and (not changed.any() or differences[changed].max() <= tolerance.tie):
            return Outcome(difference, is_tie=bool(changed.any()))
        worst = int(np.where(changed, 1.0 + differences, differences).argmax())
        index, remark = int(self.examples.sample_index[row]), f"its threshold is {self.thresholds[worst]:.4f}"
        found = Disagreement(index, self.labels[worst], float(scored[worst]), float(served[worst]), remark)
        return Outcome(difference, disagreement=found)

    def is_right(self, row: int, answer: Answer | None = None) -> bool:
        """See `ScoredAnswers`."""
        scores = self.examples.scores[row] if answer is None else self._read(answer)
        return bool(np.array_equal(scores >= self.thresholds, self.examples.targets[row]))

    def _read(self, answer: Answer) -> npt.NDArray[np.float64]:
        by_name = {item["label"]: item["score"] for item in answer}
        # A consumer that has renamed a class has no score for it.
        return np.array([by_name.get(name, 0.0) for name in self.labels])


def build_scored(
    examples: ExampleTable | MultiLabelExamples, labels: list[str], thresholds: npt.ArrayLike | None = None
) -> ScoredAnswers:
    """Wrap scored predictions.

    Args:
        examples: One per row of the split, ordered by sample_index.
        labels: Class names; the position is the class id of ``examples``.
        thresholds: Where an image may have several labels: from which score on it has each; 0.5 by default.
    """
    if isinstance(examples, MultiLabelExamples):
        return ScoredSets(examples, labels, thresholds)
    return ScoredClasses(examples, labels)


def _find(sample_index: int, all_indices: npt.NDArray[np.int64]) -> int:
    row = int(np.searchsorted(all_indices, sample_index))
    if row == len(all_indices) or all_indices[row] != sample_index:
        raise DataError(
            f"an image was not scored (sample_index {sample_index})",
            "the split that was scored",
            "compare on the same split, revision and max_test_samples",
        )
    return row
