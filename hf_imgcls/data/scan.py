"""Images that cannot be read: found before training, and not hours later in the middle of it.

They are an error, or are left out (``--on_bad_image skip``). No other image takes their place, and no file is touched.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.formats import FORMATS
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.apart import compare_splits, describe_conflicts
from hf_imgcls.data.cache import write_atomically
from hf_imgcls.data.columns import COLUMNS
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.label_sets import LabelIds, count_classes, list_owners, read_label_ids
from hf_imgcls.data.load import record_labels
from hf_imgcls.data.manifest import Manifest, list_images
from hf_imgcls.data.names import list_some
from hf_imgcls.data.reading_hints import describe_reading
from hf_imgcls.data.survey import SplitSurvey, survey_splits
from hf_imgcls.errors import DataError, printable
from hf_imgcls.process import is_main_process
from hf_imgcls.records import DataRecord

logger = logging.getLogger(__name__)

_MAX_SHOWN = 20
_MAX_NAMED = 3
_MAX_FIRST_IMAGES = 200


def check_images(dataset: ImageDataset, args: DataArguments, report: Path | None = None) -> ImageDataset:
    """Decode every image, and stop at those that cannot be read, or leave them out.

    With ``--scan_images false`` the first image of each class is decoded (of up to 200 classes of a split). Streams are
    passed through as they are. Every process may call this: the first one does the work and the others find it done, or
    do it again where the cache cannot be written.

    Args:
        dataset: From `load_image_dataset`; it is not changed.
        args: ``scan_images``, ``on_bad_image``, ``cache_dir``, and what decoding depends on.
        report: Where the main process writes the table of bad images as CSV. Without bad images there is no such file
            afterwards.

    Returns:
        The dataset without images that cannot be read, with its manifest. Its record says what was left out and which
        images are in two splits, and has the images' modes and the splits' fingerprints.

    Raises:
        DataError: Images cannot be read under ``--on_bad_image error``; leaving them out would leave a split empty or
            training with a single class; every image of a split is also in another one.
        MachineError: A process that decoded images died.
        ArgumentError: The background is not a colour.
    """
    splits = {role: split for role, split in dataset.splits.items() if isinstance(split, Dataset)}
    if not splits:
        return dataset
    reading = Reading.from_arguments(args)
    tried = splits if args.scan_images else {role: _take_first_images(split) for role, split in splits.items()}
    surveys = survey_splits(tried, args, kept=args.scan_images)
    table = [row for role, split in tried.items() for row in _list_bad(role, split, surveys[role], dataset.labels)]
    _write_report(table, report)
    record = copy.deepcopy(dataset.record)
    if table:
        if args.on_bad_image == "error" or not args.scan_images:
            raise _describe_bad(table, surveys, args, report)
        splits = {role: _leave_out(split, surveys[role]) for role, split in splits.items()}
        loss = _find_hopeless(splits)
        if loss:
            raise _describe_bad(table, surveys, args, report, loss)
        logger.warning("%s", _format_table(table))
        for role, split in splits.items():
            _record_loss(record, role, split, [row for row in table if row.split == role], report)
    hints = describe_reading(surveys.values(), reading, range_is_given=args.intensity_range is not None)
    for hint in hints:
        logger.warning("%s", hint)
    if args.scan_images:
        record.notes += hints
    manifest = _record_contents(record, splits, surveys, args)
    return ImageDataset({**dataset.splits, **splits}, dataset.labels, record, manifest)


def _take_first_images(split: Dataset) -> Dataset:
    """The first image of each class, of up to 200 classes."""
    labels = read_label_ids(split)
    if isinstance(labels, np.ndarray):
        _, rows = np.unique(labels, return_index=True)
    else:  # examples without a label are a kind of their own
        _, first = np.unique(labels.indices, return_index=True)
        owner = list_owners(labels)
        rows = np.unique(np.concatenate([owner[first], np.flatnonzero(np.diff(labels.indptr) == 0)[:1]]))
    return split.select(rows[:: -(-len(rows) // _MAX_FIRST_IMAGES)])


def _read_column(split: Dataset, name: str) -> np.ndarray:
    """A column of integers: int64 ``(N,)``."""
    return split.select_columns(name).with_format("arrow")[:][name].to_numpy().astype(np.int64)


def _read_groups(split: Dataset, column: str | None) -> pa.ChunkedArray | None:
    """The column of ``--group_column``, which loading may have renamed."""
    if column is None:
        return None
    name = column if column not in COLUMNS else f"source_{column}"
    return split.select_columns(name).with_format("arrow")[:][name]


def _fingerprint(ids: LabelIds, sample_index: np.ndarray, labels: list[str], images: str | None) -> str:
    """Name the contents of a split: labels by name, sample indices and, where they were looked at, the images' files.

    It depends on nothing else: not on the machine, the place of the files, the order of the class list or a library.

    Args:
        ids: Labels of its N images, by id.
        sample_index: int64 ``(N,)``.
        labels: Class names by id.
        images: Digest of the images' files; without one the fingerprint equals none that has one.

    Returns:
        16 hexadecimal digits.
    """
    flat: np.ndarray = ids if isinstance(ids, np.ndarray) else ids.indices
    used, places = np.unique(flat, return_inverse=True)
    names = [labels[index] for index in used]
    rank_of = {name: rank for rank, name in enumerate(sorted(names))}
    ranks = np.array([rank_of[name] for name in names], dtype="<i8")
    digest = hashlib.blake2b(json.dumps({"images": images, "names": sorted(names)}).encode(), digest_size=8)
    if not isinstance(ids, np.ndarray):
        owner = list_owners(ids)
        places = places[np.lexsort((ranks[places], owner))]
        digest.update(np.diff(ids.indptr).astype("<i8").tobytes())
    digest.update(ranks[places].tobytes())
    digest.update(sample_index.astype("<i8").tobytes())
    return digest.hexdigest()


def _record_contents(
    record: DataRecord, splits: dict[str, Dataset], surveys: dict[str, SplitSurvey], args: DataArguments
) -> Manifest | None:
    """Write down the splits' fingerprints and, after a scan, all that it found; returns the manifest then."""
    rows = []
    for role, split in splits.items():
        ids, indices = read_label_ids(split), _read_column(split, "sample_index")
        images = surveys[role].digest if args.scan_images else None
        record.splits[role].fingerprint = _fingerprint(ids, indices, record.labels, images)
        if args.scan_images:
            groups = _read_groups(split, args.group_column)
            rows.append(list_images(role, surveys[role], ids, record.labels, indices, groups))
    if not args.scan_images:
        if len(splits) > 1:
            record.notes.append("Whether splits have images in common was not checked (--scan_images false).")
            logger.info("      %s", record.notes[-1])
        return None
    modes = sum((Counter(survey.modes) for survey in surveys.values()), Counter[str]())
    record.image_modes = dict(sorted(modes.items(), key=lambda item: (-item[1], item[0])))
    manifest = Manifest.join(rows)
    _record_identical(record, manifest, splits, surveys)
    return manifest


def _record_identical(
    record: DataRecord, manifest: Manifest, splits: dict[str, Dataset], surveys: dict[str, SplitSurvey]
) -> None:
    """Write down which images are in two splits, or have the pixels of one with other labels, and say so."""
    is_flat = {role: surveys[role].images["is_flat"].drop_null().to_numpy() for role in splits}
    record.identical_images = found = compare_splits(manifest, is_flat)
    record.manifest_hash = manifest.root_hash
    for item in found.shared:
        logger.warning("      %s.", item.describe())
    if found.num_conflicting:
        note = f"{found.num_conflicting:,} images have the same pixels as an image with other labels."
        record.notes.append(note)
        logger.warning("      %s", "\n        ".join([note, *describe_conflicts(manifest, splits)]))


# ------------------------------------------------------------------------------------------------ leaving out


def _leave_out(split: Dataset, survey: SplitSurvey) -> Dataset:
    """The readable images of a split, in its order."""
    if not survey.bad_images:
        return split
    return split.select(np.setdiff1d(np.arange(len(split)), list(survey.bad_images)))


def _find_hopeless(splits: dict[str, Dataset]) -> str:
    """Say what makes it senseless to go on with what is left; nothing if there is no such thing."""
    for role, split in splits.items():
        if not len(split):
            return f"{role} is empty"
        is_labelled = (
            len(split.features["label"].names) > 1 if isinstance(split.features["label"], ClassLabel) else True
        )
        if role == "train" and is_labelled and np.count_nonzero(count_classes(read_label_ids(split), 0)) < 2:
            return "train has a single class"
    return ""


def _record_loss(record: DataRecord, role: str, split: Dataset, table: list[TableRow], report: Path | None) -> None:
    """Write down what a split has lost and what it has now."""
    if not table:
        return
    names = ", ".join("/".join(Path(row.file).parts[-2:]) for row in table[:_MAX_NAMED])
    notes = [
        f"{len(table):,} of {len(table) + len(split):,} images of {role} cannot be read and were left out: {names}"
        + (f" and {len(table) - _MAX_NAMED:,} more" if len(table) > _MAX_NAMED else "")
        + (f", see {report.name}." if report is not None else ".")
    ]
    part = record.splits[role]
    before = part.class_counts or {}
    record_labels(part, read_label_ids(split), record.labels)
    now = part.class_counts or {}
    lost = [name for name in record.labels if before.get(name) and not now[name]]
    if lost:
        notes.append(f"No readable image is left in {role} of {len(lost)} classes: {list_some(lost)}.")
    part.num_examples = len(split)
    record.notes += notes
    for note in notes:
        logger.warning("      %s", note)


# ------------------------------------------------------------------------------------------------ telling


class TableRow(NamedTuple):
    """One line of the table of bad images; the names are the heads of its columns."""

    file: str
    split: str
    class_name: str
    sample_index: int
    reason: str


def _list_bad(role: str, split: Dataset, survey: SplitSurvey, labels: list[str]) -> list[TableRow]:
    if not survey.bad_images:
        return []
    indices = _read_column(split, "sample_index")
    rows = list(survey.bad_images)
    ids = split.select_columns("label").with_format(None)[rows]["label"]
    names = [", ".join(labels[index] for index in (own if isinstance(own, list) else [own])) for own in ids]
    return [
        TableRow(image.file, role, name, int(indices[row]), image.reason)
        for row, name, image in zip(rows, names, survey.bad_images.values(), strict=True)
    ]


def _write_report(table: list[TableRow], report: Path | None) -> None:
    if report is None or not is_main_process():
        return
    text = io.StringIO()
    rows = [[_as_text(cell) for cell in row] for row in table]
    csv.writer(text).writerows([TableRow._fields, *rows])
    try:
        if not table:
            report.unlink(missing_ok=True)
            return
        with write_atomically(report) as file:
            file.write(text.getvalue().encode("utf-8", "backslashreplace"))
    except OSError as error:
        logger.warning("%s, the table of bad images, cannot be written: %s", report, error)


def _as_text(cell: str | int) -> str | int:
    """Keep a spreadsheet from taking a name for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _format_table(table: list[TableRow]) -> str:
    """The first lines, in columns. What names hold must not break lines or steer a terminal."""
    lines = [TableRow._fields, *(map(str, row) for row in table[:_MAX_SHOWN])]
    shown = [[printable(cell).replace("\n", "\\n") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    text = "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown
    )
    return text if len(table) <= _MAX_SHOWN else f"{text}\n  and {len(table) - _MAX_SHOWN:,} more"


def _describe_bad(
    table: list[TableRow], surveys: dict[str, SplitSurvey], args: DataArguments, report: Path | None, loss: str = ""
) -> DataError:
    """The error that lists bad images.

    Args:
        table: All of them.
        surveys: Role -> what was found.
        args: What was asked for.
        report: Where the whole table is.
        loss: Why they cannot be left out, if so.
    """
    num_images = sum(survey.num_images for survey in surveys.values())
    why_not = f"; without them {loss}" if loss else ""
    place = f"\n  the whole table is in {report}" if report is not None else ""
    skip = "--on_bad_image skip" if args.scan_images else "--scan_images true --on_bad_image skip"
    return DataError(
        f"{len(table):,} of {num_images:,} images cannot be read{why_not}:\n{_format_table(table)}{place}",
        f"whole files of at most {args.max_image_pixels:,} pixels and "
        f"{Reading.from_arguments(args).max_bytes:,} bytes, in "
        f"one of the formats {', '.join(FORMATS)}",
        "repair or remove these files" + ("" if loss else f", or leave them out: {skip}"),
    )
