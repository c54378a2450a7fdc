"""Judge a saved model: score it on a split, write that down, hold it against ``pipeline()``, report, compare."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.digests import recording
from hf_imgcls.errors import ArgumentError, printable
from hf_imgcls.layout import COMPARISON_FILE
from hf_imgcls.measure.baselines import describe_baseline, find_baselines
from hf_imgcls.measure.final_model import score_classifier, score_validation
from hf_imgcls.measure.offered import describe_agreement, describe_plain
from hf_imgcls.measure.parity import PARITY_FILE, check_parity, draw_rows
from hf_imgcls.measure.report.assemble import report_table
from hf_imgcls.measure.report.goals import check_goals, parse_goals
from hf_imgcls.measure.results import write_results
from hf_imgcls.measure.score import Score, open_classifier
from hf_imgcls.measure.scored_answers import build_scored
from hf_imgcls.measure.tables import PREDICTIONS_FILE, Table
from hf_imgcls.measure.unseen import describe_unseen, measure_unseen

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments, MeasureArguments
    from hf_imgcls.classifier.loading import Classifier
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.records import ParityRecord


def wants_report(args: MeasureArguments) -> bool:
    """Whether a report is asked for, or ``auto`` and what draws it is installed."""
    if args.report == "auto":
        return bool(args.goals) or all(find_spec(name) for name in ("matplotlib", "jinja2"))
    return args.report == "true"


def check_measuring(args: MeasureArguments, dataset: ImageDataset) -> None:
    """Refuse what the data's kind of labels has no answer to, before anything is trained.

    Raises:
        ArgumentError: A goal is about another kind of labels, or explanations are asked for with several per image.
    """
    check_goals(parse_goals(args.goals or []), multi_label=dataset.is_multi_label)
    if dataset.is_multi_label and args.explain_samples:
        raise ArgumentError(
            "explain_samples with several labels per image",
            "one label per image: heat maps explain the first answer",
            "leave out --explain_samples",
        )


def measure_saved_model(
    model: str | Path,
    dataset: ImageDataset,
    split: str,
    args: Arguments,
    training_args: TrainingArguments,
    score: Score | None = None,
) -> Score | None:
    """Score a split through the saved model, write the results, and check that a consumer gets the same answers.

    Args:
        model: The run's folder, any saved folder, or a Hub id.
        dataset: Has the split, or the numbers are "not measured".
        split: ``validation`` or ``test``.
        args: ``max_parity_samples``, and how images are decoded.
        training_args: Where the results go (``output_dir``), batch size and loader processes.
        score: Of this model on this split, where it has been scored already.

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
    score = score or score_classifier(classifier, dataset, split, args, training_args)
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


def report_score(
    model: str | Path,
    score: Score | None,
    dataset: ImageDataset,
    args: Arguments,
    training_args: TrainingArguments,
    validation: Score | None = None,
) -> list[dict[str, Any]]:
    """Report on what was scored; temperature and thresholds are judged by the scores of the validation split.

    Called on every process; the main one writes ``report/`` and the tables into ``output_dir``.

    Args:
        model: What was scored.
        score: From `measure_saved_model`; None where the split is not there.
        dataset: Has the split, and where there is one the validation split.
        args: The arguments of the group ``measure``.
        training_args: ``output_dir``, batch size and loader processes.
        validation: The same model's score on the validation split; it is scored here where that has not been done.

    Returns:
        What became of ``--goals``, see `hf_imgcls.measure.report.goals.judge`; nothing on other processes.
    """
    if score is None or not wants_report(args.measure):
        return []
    if score.split == "validation" or "validation" not in dataset.splits:
        validation = None
    elif validation is None:
        validation = score_validation(model, dataset, args, training_args)
    if score.table is None:
        return []
    folder, beside = Path(training_args.output_dir), validation.table if validation is not None else None
    with recording(folder):
        if beside is not None:
            beside.save(folder / PREDICTIONS_FILE.format(split="validation"))
        return report_table(score.table, beside, dataset, args, folder)


def find_tables(path: str | Path, split: str) -> tuple[Table, Table | None]:
    """Read a prediction table and the validation table beside it.

    Args:
        path: A run's folder, or a parquet file.
        split: Which split's table of a folder is meant.

    Returns:
        The table, and that of the validation split where it is another one and is there.

    Raises:
        DataError: There is no such table, or it cannot be read.
    """
    path = Path(path)
    file = path / PREDICTIONS_FILE.format(split=split) if path.is_dir() else path
    table = Table.load(file)
    beside = file.with_name(PREDICTIONS_FILE.format(split="validation"))
    other = Table.load(beside) if table.split != "validation" and beside.exists() else None
    return table, other


def compare_runs(paths: Sequence[str], split: str, folder: Path, seed: int) -> None:
    """Compare two runs on the same examples; the verdict is printed and written with a picture.

    Args:
        paths: Two run folders or prediction tables: the one there was, the one that may take its place.
        split: Which split's table of a folder is meant.
        folder: Gets ``comparison.json`` and ``comparison.png``.
        seed: Of the bootstrap.

    Raises:
        DataError: A table is missing, or the two are about other data.
    """
    from hf_imgcls.measure.compare import compare_tables, describe_comparison

    a, b = (find_tables(path, split)[0] for path in paths)
    record = compare_tables(a, b, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder / COMPARISON_FILE)
    print(printable(describe_comparison(record)))
    for entry in record.per_class:
        if entry["verdict"] != "not distinguishable":
            print(printable(f"  {entry['class']}: recall {entry['a']:.4f} -> {entry['b']:.4f}, {entry['verdict']}"))
    for note in record.notes:
        print(printable(f"  note: {note}"))
    if find_spec("matplotlib"):
        from hf_imgcls.measure.report.drawing import PRINT, encode_png
        from hf_imgcls.measure.report.row_plots import draw_comparison

        (folder / "comparison.png").write_bytes(encode_png(draw_comparison(record.to_json(), PRINT)))
    print(f"  written to            {folder}")
