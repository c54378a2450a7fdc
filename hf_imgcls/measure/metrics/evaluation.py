"""An evaluation while a model trains: the metrics of the catalogue and a user's own, from batches of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hf_imgcls.errors import UserError
from hf_imgcls.measure.metrics.accumulate import Accumulator
from hf_imgcls.measure.metrics.examples import Answers
from hf_imgcls.measure.metrics.own import OwnMetric
from hf_imgcls.measure.metrics.single import Measured, read_measured


class Evaluation:
    """Collects a split batch by batch, on one process or merged from many, and calls the `evaluate` modules.

    Args:
        accumulator: Empty.
        own: A user's metrics.
        multi_label: Whether an image may have several labels.

    Attributes:
        accumulator: What the batches are added to.
        reasons: After `compute`: metric name -> why its value is ``None``.
    """

    def __init__(self, accumulator: Accumulator[Any], own: Sequence[OwnMetric] = (), *, multi_label: bool) -> None:
        self.accumulator, self.own, self.multi_label = accumulator, own, multi_label
        self.reasons: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to other processes."""
        return {"accumulator": self.accumulator}

    @property
    def num_examples(self) -> int:
        """Number of examples so far."""
        return self.accumulator.num_examples

    def update(self, logits: Any, labels: Any, sample_index: Any = None) -> None:
        """Add a batch."""
        self.accumulator.update(logits, labels, sample_index)

    def merge(self, other: Evaluation) -> None:
        """Add the examples of another process."""
        self.accumulator.merge(other.accumulator)

    def collect_examples(self) -> Any:
        """Return one row per example."""
        return self.accumulator.collect_examples()

    def compute(self) -> dict[str, float | None]:
        """Compute every metric; every process has to call this where there are metrics of a user.

        Returns:
            Name -> value, ``None`` where it is not defined.
        """
        from hf_imgcls.measure.metrics.modules import CatalogueMetrics

        module = CatalogueMetrics(multi_label=self.multi_label, accumulator=self.accumulator)
        found = module.compute()
        own, reasons, _ = read_measured(measure_own(self.own, self))
        self.reasons = self.accumulator.reasons | reasons
        return {name: found[name] for name in module.names} | own

    def read_answers(self) -> Answers:
        """Return references and predictions, and the scores of every class where they are kept."""
        return self.accumulator.collect_examples().read_answers(getattr(self.accumulator, "thresholds", None))


class Answered(Protocol):
    """A prediction table, or an evaluation."""

    def read_answers(self) -> Answers:
        """Return references and predictions."""
        ...


def measure_own(own: Sequence[OwnMetric], answered: Answered | None) -> dict[str, Measured]:
    """Measure a user's metrics on the main process, with the same result on every process.

    Args:
        own: From `hf_imgcls.measure.metrics.own.load_own_metrics`; the same on every process.
        answered: What was answered; on other processes than the main one it may be ``None``.

    Raises:
        UserError: A metric fails; on every process.
    """
    if not own:
        return {}
    from accelerate import PartialState

    state = PartialState()
    found: dict[str, Measured] = {}
    problem: UserError | None = None
    if state.is_main_process and answered is not None:
        try:
            answers = answered.read_answers()
            for metric in own:
                found |= metric.measure(answers)
        except UserError as error:
            problem = error
    if state.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        found, problem = broadcast_object_list([found, problem])
    if problem is not None:
        raise problem
    return found
