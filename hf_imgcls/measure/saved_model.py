"""The last step of a run: score the saved model on a split, write it down, and hold it against ``pipeline()``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.digests import recording
from hf_imgcls.errors import printable
from hf_imgcls.measure.baselines import describe_baseline, find_baselines
from hf_imgcls.measure.final_model import score_classifier
from hf_imgcls.measure.offered import describe_agreement, describe_plain
from hf_imgcls.measure.parity import PARITY_FILE, check_parity, draw_rows
from hf_imgcls.measure.results import write_results
from hf_imgcls.measure.score import Score, open_classifier
from hf_imgcls.measure.scored_answers import build_scored
from hf_imgcls.measure.tables import PREDICTIONS_FILE
from hf_imgcls.measure.unseen import describe_unseen, measure_unseen

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.classifier.loading import Classifier
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.records import ParityRecord


def measure_saved_model(
    model: str | Path, dataset: ImageDataset, split: str, args: Arguments, training_args: TrainingArguments
) -> Score | None:
    """Score a split through the saved model, write the results, and check that a consumer gets the same answers.

    Args:
        model: The run's folder, any saved folder, or a Hub id.
        dataset: Has the split, or the numbers are "not measured".
        split: ``validation`` or ``test``.
        args: ``max_parity_samples``, and how images are decoded.
        training_args: Where the results go (``output_dir``), batch size and loader processes.

    Returns:
        The score, or ``None`` when the dataset has no such split.

    Raises:
        ParityError: The served model answers differently; the results are written nevertheless.
    """
    state = PartialState()
    if split not in dataset.splits:
        state.print(f"\n{split}: not measured, the dataset has no {split} split (see --test_split, --{split}_dir)")
        return None
    classifier = open_classifier(model, args)
    score = score_classifier(classifier, dataset, split, args, training_args)
    if not state.is_main_process:
        return score
    folder = Path(training_args.output_dir)
    with recording(folder):
        _write(score, classifier, dataset, args, training_args)
    return score


def _write(
    score: Score,
    classifier: Classifier,
    dataset: ImageDataset,
    args: Arguments,
    training_args: TrainingArguments,
) -> None:
    """Write results and predictions, and compare these with the consumer's."""
    folder, split = Path(training_args.output_dir), score.split
    if score.table is not None:
        score.unseen = measure_unseen(score.table, dataset.manifest)
        score.baselines = find_baselines(score.table, folder)
    write_results(folder, score)
    if score.table is not None:
        score.table.save(folder / PREDICTIONS_FILE.format(split=split))
    print_score(score)
    (folder / PARITY_FILE).unlink(missing_ok=True)  # an earlier agreement does not speak for this model
    parity = check_served(score, classifier, dataset, args, training_args.per_device_eval_batch_size)
    parity.save(folder / PARITY_FILE)
    print_parity(parity)


def check_served(
    score: Score, classifier: Classifier, dataset: ImageDataset, args: Arguments, batch_size: int
) -> ParityRecord:
    """Compare what was scored with what a consumer of the saved model answers to the same images.

    Args:
        score: What ``classifier`` answered, on the main process.
        classifier: What was scored.
        dataset: Has the split.
        args: ``max_parity_samples``, and how the Hub is reached.
        batch_size: Images per forward pass of the consumer.

    Raises:
        ParityError: The consumer answers differently.
    """
    thresholds = score.table.thresholds if score.table is not None else None
    parity = check_parity(
        PipelineConsumer(classifier.name, classifier.commit, args.data),
        draw_rows(dataset.splits[score.split], args.measure.max_parity_samples, args.data.split_seed),
        build_scored(score.examples, score.labels, thresholds),
        reading=classifier.reading,
        batch_size=batch_size,
        are_files=dataset.are_files,
    )
    parity.split = score.split
    return parity


def print_parity(parity: ParityRecord) -> None:
    """Print whether a consumer answers as was scored and, where a plain ``pipeline()`` does not, what it scores."""
    print(f"  served = scored       {describe_agreement(parity, f'{parity.top1_agreement:.2%}')}, {parity.consumer}")
    if plain := describe_plain(parity):
        print(f"  plain pipeline()      {plain}")


def print_score(score: Score) -> None:
    """Print the numbers a person looks at first, what they leave out, and why others are missing.

    Where the model is not better than a baseline, that comes first.
    """
    if score.baselines is not None and score.baselines.shortfall:
        print(printable(f"\n{score.baselines.shortfall}"))
    print(f"\n{score.split} split, {score.metrics['num_examples']} examples")
    for name, value in score.metrics.items():
        if name in ("num_examples", "loss", "runtime", "samples_per_second"):
            continue
        number = f"not measured: {score.reasons[name]}" if value is None else f"{value:.4f}"
        remark = f"   ({score.remarks[name]})" if name in score.remarks else ""
        print(printable(f"  {name:<21} {number}{remark}"))
    if score.unseen is not None:
        print(f"  {describe_unseen(score.unseen, score.metrics)}")
    for baseline in score.baselines.compared if score.baselines else ():
        print(printable(f"  {baseline.name:<21} {describe_baseline(baseline)}"))
