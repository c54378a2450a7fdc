"""From a prediction table to a report that a person can decide on: everything about one model on one split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

from hf_imgcls.arguments.recall import find_run
from hf_imgcls.catalogue import get_primary
from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.exported import ExportedClassifier
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.digests import describe_changes, find_changes
from hf_imgcls.errors import printable
from hf_imgcls.fit.imbalance import describe_effect
from hf_imgcls.layout import DATA_FILE, REPORT_FOLDER, RUN_FILE
from hf_imgcls.measure.baselines import find_baselines
from hf_imgcls.measure.learning import read_learning
from hf_imgcls.measure.metrics.own import estimate_own, load_own_metrics
from hf_imgcls.measure.offered import describe_plain
from hf_imgcls.measure.parity import PARITY_FILE
from hf_imgcls.measure.report.gallery import find_rows
from hf_imgcls.measure.report.goals import check_goals, describe_judgement, judge, parse_goals
from hf_imgcls.measure.report.image_statistics import measure_images
from hf_imgcls.measure.report.slices import build_slices, find_identifiers, relate_support_to_recall
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.report.write import REPORT_FILE, read_report, write_report
from hf_imgcls.measure.tables import PredictionTable, Table
from hf_imgcls.measure.task import task_of
from hf_imgcls.measure.unseen import describe_unseen, measure_unseen
from hf_imgcls.records import MULTI_LABEL, DataRecord, ParityRecord, RunRecord

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments, DataArguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.records import ReportRecord

logger = logging.getLogger(__name__)


def report_table(
    table: Table,
    validation: Table | None,
    dataset: ImageDataset | None,
    args: Arguments,
    folder: Path,
) -> list[dict[str, Any]]:
    """Write the report on a prediction table, and say what became of the goals.

    Args:
        table: What was predicted.
        validation: The same model's predictions on the validation split.
        dataset: For pictures and what is measured on them; None leaves them out.
        args: The arguments of the group ``measure``.
        folder: Gets ``report/``.

    Returns:
        One dict for each of ``--goals``, see `hf_imgcls.measure.report.goals.judge`.
    """
    measure = args.measure
    goals = parse_goals(measure.goals or [])
    task = task_of(table)
    check_goals(goals, multi_label=not task.is_exclusive)
    record = summarise(table, seed=args.data.split_seed, validation=validation)
    for metric in load_own_metrics(args, table.labels, multi_label=not task.is_exclusive):
        record.metrics |= estimate_own(metric, table.read_answers(), seed=args.data.split_seed)
    split = dataset.splits.get(table.split) if dataset is not None else None
    train = dataset.splits.get("train") if dataset is not None else None
    split, train = (None if isinstance(rows, IterableDataset) else rows for rows in (split, train))
    statistics = None if split is None else measure_images(split, args.data, table.sample_index)
    record.notes += find_identifiers(table, measure.slice_columns or []).values()
    record.slices = build_slices(table, measure.slice_columns or [], statistics)
    trained = dataset.record.splits.get("train") if dataset is not None else None
    if dataset is not None and trained is not None and trained.class_counts:
        effect = _find_effect(table, dataset.record)
        record.imbalance = relate_support_to_recall(table, trained.class_counts, effect=effect)
    if split is not None and (
        measure.measure_latency or any("latency" in g.metric or g.metric == "size_mb" for g in goals)
    ):
        from hf_imgcls.measure.latency import measure_latency

        image = decode_image(split[0]["image"], Reading.from_arguments(args.data))
        revision = table.source.get("model_revision")
        record.latency = measure_latency(
            table.source["model"], image, model_revision=revision, is_trusted=args.data.trust_remote_code
        )
    if split is not None and measure.explain_samples and isinstance(table, PredictionTable):
        record.explanations = _explain_mistakes(table, split, args.data, measure.explain_samples, folder)
    record.notes += _note_plain(folder, table.split)
    if dataset is not None and (unseen := measure_unseen(table, dataset.manifest)) is not None:
        values = {name: estimate.value for name, estimate in record.metrics.items()}
        record.notes = [describe_unseen(unseen, values), *record.notes]
    record.goals = [judge(goal, record) for goal in goals]
    record.exports = _keep_exports(record, folder)
    run = find_run(str(table.source.get("model", "")))
    record.baselines = find_baselines(table, folder)
    record.learning = read_learning(run if (run / RUN_FILE).is_file() else folder)
    changes = find_changes(run)
    if run.resolve() == folder.resolve():  # where the report is about to be replaced
        changes = {name: change for name, change in changes.items() if not name.startswith(f"{REPORT_FOLDER}/")}
    if changes:
        record.notes.append(describe_changes(changes))
    write_report(
        record, folder, table=table, dataset=split, train=train,
        reading=Reading.from_arguments(args.data),
    )  # fmt: skip
    _print_report(record, folder)
    return record.goals


def _note_plain(folder: Path, split: str) -> list[str]:
    """Return what a plain ``pipeline()`` scores on the split's files, where it reads them otherwise."""
    if not (folder / PARITY_FILE).is_file():
        return []
    parity = ParityRecord.load(folder / PARITY_FILE)
    plain = describe_plain(parity) if parity.split == split else ""
    return (
        [f"A plain pipeline() reads some files differently from how they were read for scoring: {plain}."]
        if plain
        else []
    )


def _find_effect(table: Table, data: DataRecord) -> tuple[str, dict[str, float]] | None:
    """What the run did about rare classes, as its records say; None for a model that is no run's or knows others."""
    run = find_run(str(table.source.get("model", "")))
    if not (run / RUN_FILE).is_file() or not (run / DATA_FILE).is_file():
        return None
    trained = DataRecord.load(run / DATA_FILE)
    train = trained.splits.get("train")
    if train is None or not train.class_counts or not train.num_examples or trained.labels != data.labels:
        return None
    multi_label = trained.problem_type == MULTI_LABEL
    recipe = RunRecord.load(run / RUN_FILE).recipe
    return describe_effect(recipe, train.class_counts, train.num_examples, multi_label=multi_label)


def _keep_exports(record: ReportRecord, folder: Path) -> list[dict[str, Any]]:
    """The rows of an earlier report on the same model and split."""
    if not (folder / REPORT_FOLDER / REPORT_FILE).is_file():
        return []
    earlier = read_report(folder)
    return earlier.exports if (earlier.model, earlier.split) == (record.model, record.split) else []


def _explain_mistakes(
    table: PredictionTable, split: Any, data: DataArguments, count: int, folder: Path
) -> dict[str, Any] | None:
    """Heat maps for the mistakes with the largest loss: why the model gave the answer that it gave."""
    from hf_imgcls.measure.explain.explain import explain_examples

    wrong = np.flatnonzero(~table.correct)
    chosen = wrong[np.argsort(-table.log_loss[wrong], kind="stable")][:count]
    if not len(chosen):
        return None
    revision = table.source.get("model_revision") or "main"
    classifier = load_classifier(table.source["model"], revision, data=data)
    if isinstance(classifier.model, ExportedClassifier):
        logger.warning("No explanations: an exported model has no gradients. Ask for them on the PyTorch model.")
        return None
    images_folder = folder / REPORT_FOLDER / "images"
    images_folder.mkdir(parents=True, exist_ok=True)
    rows = find_rows(split, table.sample_index[chosen].tolist())
    images = [decode_image(rows[index], classifier.reading) for index in table.sample_index[chosen].tolist()]
    ids = {name: index for index, name in enumerate(classifier.labels)}
    targets = [ids[table.labels[table.prediction[row]]] for row in chosen]
    explained = explain_examples(classifier.model, classifier.processor, images, targets, overlay_folder=images_folder)
    for example, row in zip(explained["examples"], chosen, strict=True):
        example["sample_index"] = int(table.sample_index[row])
        example["label"] = table.labels[table.label[row]]
    return explained


def _print_report(record: ReportRecord, folder: Path) -> None:
    name = get_primary(multi_label=record.multi_label is not None)
    first = record.metrics[name]
    if first.low is not None and first.high is not None:
        shown = name.replace("_", " ")
        print(f"  {shown} is {first.low:.4f} to {first.high:.4f} ({record.confidence_level:.0%} interval)")
    worse = [entry for entry in record.slices if entry["verdict"] == "worse"]
    for entry in worse[:3]:
        group, share = f"{entry['column']} {entry['group']}", f"{entry['value']:.4f} of {entry['n']}"
        print(printable(f"  worse on {group}: {share} against {entry['rest']:.4f} of the others"))
    for note in record.notes:
        if note.startswith("The column "):
            print(printable(f"  {note}"))
    for judgement in record.goals:
        print(printable(f"  goal {describe_judgement(judgement)}"))
    print(f"  report                {folder / REPORT_FOLDER / 'report.html'}")
