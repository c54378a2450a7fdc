"""The last changes to a saved model: a temperature in its head and thresholds; and its numbers on validation then."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from hf_imgcls.classifier.head import fold_temperature
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.errors import DataError
from hf_imgcls.measure.metrics.evaluation import measure_own
from hf_imgcls.measure.metrics.own import load_own_metrics
from hf_imgcls.measure.metrics.single import read_measured
from hf_imgcls.measure.score import open_classifier, score_folder
from hf_imgcls.measure.statistics.thresholds import MIN_POSITIVES, tune_thresholds
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import task_of
from hf_imgcls.records import THRESHOLDS_KEY

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments, DataArguments
    from hf_imgcls.classifier.loading import Classifier
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.measure.score import Score

logger = logging.getLogger(__name__)


def finish_saved_model(folder: Path, dataset: ImageDataset, args: Arguments, training_args: TrainingArguments) -> Score:
    """Calibrate the saved model and choose its thresholds, as asked for, and score the validation split with it.

    The split is scored once, and once more where a temperature has changed the weights. Thresholds only decide about
    scores that there are already. Called on every process.

    Args:
        folder: The saved model.
        dataset: Has the validation split.
        args: ``calibrate``, and how images are decoded.
        training_args: Batch size and loader processes.

    Returns:
        The score of the model as it is now.

    Raises:
        DataError: Only the best scores of each example are kept, or no temperature fits.
        ModelError: The head cannot be divided.
    """
    score = score_validation(folder, dataset, args, training_args)
    if args.measure.calibrate:
        calibrate_saved_model(folder, score.table, args.data)
        score = score_validation(folder, dataset, args, training_args)
    if dataset.is_multi_label:
        score = set_saved_thresholds(folder, score, args.data)
        _add_own_metrics(score, dataset, args)
    return score


def calibrate_saved_model(folder: Path, table: Table | None, data: DataArguments) -> float | None:
    """Fit a temperature on the validation split and fold it into the saved head.

    The answers stay the same; the scores of plain ``pipeline()`` become calibrated. Called on every process.

    Args:
        folder: The saved model.
        table: What it answered on the validation split; ``None`` on all processes but the main one.
        data: How models are loaded.

    Returns:
        The temperature, on the main process.

    Raises:
        DataError: Only the best scores of each example are kept, or no temperature fits.
        ModelError: The head cannot be divided.
    """
    temperature = None
    if table is not None:
        temperature = _fit_table(table)
        model = load_classifier(folder, data=data).model
        fold_temperature(model, temperature)
        model.save_pretrained(folder)
        logger.info(
            "Temperature %.3f, fitted on %d validation examples, is in the saved head.", temperature, len(table)
        )
    PartialState().wait_for_everyone()  # nobody is to read the old weights
    return temperature


def _fit_table(table: Table) -> float:
    if not table.is_complete:
        raise DataError(
            f"calibrate with {len(table.labels):,} classes",
            "at most 1,000 classes, whose scores are all kept",
            "leave out --calibrate",
        )
    return task_of(table).fit_temperature(table)


def set_saved_thresholds(folder: Path, score: Score, data: DataArguments) -> Score:
    """Choose on the validation split from which score on an image has a label, and write it into config.json.

    After `calibrate_saved_model`, which moves the scores. Called on every process.

    Args:
        folder: The saved model.
        score: Of the validation split, whose images may have several labels.
        data: How models are loaded.

    Returns:
        The score with what follows from the thresholds.
    """
    from transformers import AutoConfig

    state = PartialState()
    examples: Any = score.examples
    choice = tune_thresholds(examples.scores, examples.targets)
    if state.is_main_process:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=data.trust_remote_code)
        setattr(config, THRESHOLDS_KEY, choice.thresholds.tolist())
        config.save_pretrained(folder)
        logger.info(
            "Thresholds for the highest F1 on %d validation examples are in config.json (%s), for %d of %d classes; "
            "one with fewer than %d examples keeps 0.5.",
            len(examples), THRESHOLDS_KEY, int(choice.is_tuned.sum()), len(score.labels), MIN_POSITIVES,
        )  # fmt: skip
    state.wait_for_everyone()
    return score.decide(choice.thresholds)


def score_validation(
    model: str | Path, dataset: ImageDataset, args: Arguments, training_args: TrainingArguments
) -> Score:
    """Score the validation split through a saved model, see `hf_imgcls.measure.score.score_folder`."""
    return score_classifier(open_classifier(model, args), dataset, "validation", args, training_args)


def score_classifier(
    classifier: Classifier, dataset: ImageDataset, split: str, args: Arguments, training_args: TrainingArguments
) -> Score:
    """Score a split, and measure the user's own metrics on it; called on every process.

    Args:
        classifier: From `hf_imgcls.measure.score.open_classifier`.
        dataset: Has the split.
        split: ``train``, ``validation`` or ``test``.
        args: ``metrics``, and how images are decoded.
        training_args: Batch size and loader processes.
    """
    score = score_folder(
        classifier,
        dataset,
        args.data,
        split=split,
        batch_size=training_args.per_device_eval_batch_size,
        num_workers=training_args.dataloader_num_workers,
    )
    _add_own_metrics(score, dataset, args)
    return score


def _add_own_metrics(score: Score, dataset: ImageDataset, args: Arguments) -> None:
    """Measure the user's metrics by what is in a score, in place; called on every process."""
    own = load_own_metrics(args, dataset.labels, multi_label=dataset.is_multi_label)
    values, reasons, _ = read_measured(measure_own(own, score.table))
    score.metrics |= values
    score.reasons |= reasons
