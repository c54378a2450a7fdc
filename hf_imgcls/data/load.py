"""From whatever the user has to one shape of thing: train, validation and test with one image and one label column.

Sources differ (``sources``); from here on they do not. Roles are given to the splits and missing ones are cut from
train (``splits``), labels get the ids of one map, by name (``labels``), and what was done is written down.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from datasets import Dataset

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.class_lists import drop_conflicting
from hf_imgcls.data.columns import agree_on_column, check_fixed_columns, unify_columns
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.find_columns import describe_choice
from hf_imgcls.data.folders import read_loose_folder
from hf_imgcls.data.groups import cut_groups, read_groups, record_groups
from hf_imgcls.data.hub_names import read_hub_name
from hf_imgcls.data.iterative_stratification import cut_iteratively
from hf_imgcls.data.label_columns import RawLabels, read_raw_labels
from hf_imgcls.data.label_hints import hint_typing_errors
from hf_imgcls.data.label_sets import LabelIds, count_classes, describe_sets, is_multi_label
from hf_imgcls.data.labels import build_label_map, encode_labels, hint_separator
from hf_imgcls.data.names import list_some
from hf_imgcls.data.row_names import check_image_texts, locate_row
from hf_imgcls.data.sources import Source, open_source
from hf_imgcls.data.splits import (
    ROLES,
    assign_roles,
    check_not_empty,
    choose_shots,
    choose_subset,
    count_cuts,
    cut_stratified,
)
from hf_imgcls.errors import DataError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, DataRecord, SplitRecord

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


def load_image_dataset(args: DataArguments) -> ImageDataset:
    """Load an image classification dataset.

    Args:
        args: Which one, and how it is split; see ``DataArguments``.

    Returns:
        Its splits, class names and record. Without a split to train on, only what is there is returned.

    Raises:
        DataError: Anything about the data that stands in the way of training, before any training.
    """
    dataset = _load(read_hub_name(args))
    record = dataset.record
    counts = ", ".join(f"{name} {split.num_examples:,}" for name, split in record.splits.items() if split.num_examples)
    found = f"{len(record.labels)} classes in column {record.label_column!r}"
    logger.info("Data: %s, %s; %s", record.source, found, counts)
    for note in record.notes:
        logger.info("      %s", note)
    return dataset


def load_unlabelled(args: DataArguments) -> ImageDataset:
    """Load a folder of images without labels.

    Args:
        args: ``unlabelled_dir``, ``max_train_samples``.

    Returns:
        A training split whose only class is "unlabelled".

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    folder = Path(str(args.unlabelled_dir)).expanduser()
    if not folder.is_dir():
        raise DataError(f"--unlabelled_dir {folder} is no folder", "a folder of images", "correct the path")
    notes: list[str] = []
    split = read_loose_folder(folder, notes)
    names = split.features["label"].names
    ids = np.zeros(len(split), dtype=np.int64)
    split = unify_columns(split, "image", "label", ids, names)
    rows = choose_subset(len(split), args.max_train_samples, args.split_seed, "train")
    if rows is not None:
        split, ids = split.select(rows), ids[rows]
    record = DataRecord(str(folder), names, "image", "label", SINGLE_LABEL, notes=notes)
    record.splits["train"] = SplitRecord("train", folder.name, len(split), source_split=folder.name)
    record_labels(record.splits["train"], ids, names)
    logger.info("Data: %s, %s images without labels", folder, f"{len(split):,}")
    for note in notes:
        logger.info("      %s", note)
    return ImageDataset({"train": split}, names, record)


def _load(args: DataArguments) -> ImageDataset:
    if args.streaming:
        from hf_imgcls.data.stream_source import load_streaming

        streamed = load_streaming(args)
        if streamed is not None:
            return streamed
    source = open_source(args)
    if args.streaming:
        source.notes.append("The images are on this machine already and are read when needed: no streaming.")
    return _assemble(source, args)


def _assemble(source: Source, args: DataArguments) -> ImageDataset:
    """Bring the splits of a source into our shape."""
    notes = source.notes
    check_not_empty(source.name, {source.split_names[role]: len(split) for role, split in source.splits.items()})
    check_fixed_columns(source, args)
    image_column = source.image_column or agree_on_column(source, args.image_column_name, None)
    label_column = source.label_column or agree_on_column(source, args.label_column_name, image_column)
    if source.label_column is None and args.label_column_name is None:
        notes += describe_choice(next(iter(source.splits.values())).features, label_column, image_column)
    read = _read_labels(source, image_column, label_column, args)
    roles, splits, names, ids = read.roles, read.splits, read.names, read.ids
    groups = read_groups(splits, args.group_column, (image_column, *label_column.split(",")))
    splits = {
        role: unify_columns(split, image_column, label_column, ids[role], names) for role, split in splits.items()
    }
    multi_label = any(map(is_multi_label, ids.values()))
    if multi_label:
        notes += describe_sets(ids, label_column, len(names))
    elif not read.declared:
        notes += hint_separator(names)
    parts = _cut_missing_splits(roles, ids, source.validation_is_explicit, args, notes, groups.get("train"))
    record = DataRecord(
        source=source.name,
        labels=names,
        image_column=image_column,
        label_column=label_column,
        problem_type=MULTI_LABEL if multi_label else SINGLE_LABEL,
        config=source.config,
        revision=source.revision,
        notes=notes,
    )
    dataset = ImageDataset({}, names, record)
    used_groups: dict[str, np.ndarray] = {}
    for role, (origin, rows, text) in parts.items():
        split_ids = ids[origin] if rows is None else ids[origin][rows]
        maximum = getattr(args, f"max_{'eval' if role == 'validation' else role}_samples")
        num_available, is_cut = split_ids.shape[0], rows is not None
        subset = choose_subset(num_available, maximum, args.split_seed, role)
        if role == "train" and args.shots_per_class is not None:
            subset = _choose_shots(split_ids, args, names, notes)
            text += f", {len(subset)} of {num_available} chosen at random, {args.shots_per_class} of each class, "
            text += f"seed {args.shots_seed}"
        elif subset is not None:
            text += f", {len(subset)} of {num_available} chosen at random, seed {args.split_seed}"
        if subset is not None:
            rows = subset if rows is None else rows[subset]
            split_ids = split_ids[subset]
        split = splits[origin] if rows is None else splits[origin].select(rows)
        dataset.splits[role] = split
        record.splits[role] = SplitRecord(
            role, text, len(split), source_split=roles[origin], is_cut=is_cut, num_available=num_available
        )
        record_labels(record.splits[role], split_ids, names)
        if groups:
            used_groups[role] = groups[origin] if rows is None else groups[origin][rows]
    record.groups = record_groups(args.group_column, used_groups, notes)
    notes += _find_absent_classes(record)
    return dataset


class _Labelled(NamedTuple):
    """Splits in their roles, and their labels.

    Attributes:
        roles: Role -> the source's name of the split.
        splits: Role -> rows.
        names: Class names.
        ids: Role -> class ids.
        declared: Whether the dataset lists its class names.
    """

    roles: dict[str, str]
    splits: dict[str, Dataset]
    names: list[str]
    ids: dict[str, LabelIds]
    declared: bool


def _read_labels(source: Source, image_column: str, label_column: str, args: DataArguments) -> _Labelled:
    """Read the labels of all splits, decide what each split is for, and give the classes their ids."""
    notes = source.notes
    named = {source.split_names[role]: split for role, split in source.splits.items()}
    labels_of = read_raw_labels(named, label_column, args.label_separator, source.files, notes)
    raw = {role: labels_of[name] for role, name in source.split_names.items()}
    roles = assign_roles(
        source.split_names,
        {source.split_names[role] for role, labels in raw.items() if labels.is_hidden and role != "train"},
        source.validation_is_explicit,
        notes,
    )
    role_of = {name: role for role, name in source.split_names.items()}
    splits = {role: source.splits[role_of[name]] for role, name in roles.items()}
    splits = drop_conflicting(splits, source.files, (image_column, *label_column.split(",")), notes)
    used: dict[str, RawLabels] = {role: raw[role_of[name]] for role, name in roles.items()}
    for role, split in splits.items():
        check_image_texts(split, image_column, roles[role])

    def locate(role: str, row: int) -> str:
        return locate_row(splits[role], image_column, row)

    names = build_label_map(used, notes, locate)
    ids = {role: encode_labels(labels, names, role, roles[role], notes, locate) for role, labels in used.items()}
    notes += hint_typing_errors(used, locate)
    return _Labelled(roles, splits, names, ids, all(labels.declared for labels in used.values()))


def _choose_shots(ids: LabelIds, args: DataArguments, names: list[str], notes: list[str]) -> np.ndarray:
    """Rows of train for ``--shots_per_class``; what was done is told in ``notes``."""
    shots = args.shots_per_class or 0
    if not isinstance(ids, np.ndarray):
        raise DataError(
            f"--shots_per_class {shots}, and an image may have several labels",
            "one label per image: else each image is a shot of several classes",
            "use --max_train_samples",
        )
    counts = count_classes(ids, len(names))
    note = f"train has {shots} examples of each class, drawn at random from {len(ids)}, seed {args.shots_seed}"
    if few := [name for name, count in zip(names, counts, strict=True) if count < shots]:
        note += f"; fewer of {list_some(few)}, which have no more"
    notes.append(f"{note}.")
    return choose_shots(ids, shots, args.shots_seed)


def record_labels(record: SplitRecord, labels: LabelIds, names: list[str]) -> None:
    """Write down what labels a split has.

    Args:
        record: Of the split.
        labels: Of its examples.
        names: Class names by id.
    """
    counts = count_classes(labels, len(names))
    record.class_counts = {name: int(count) for name, count in zip(names, counts, strict=True)}
    if is_multi_label(labels) and labels.shape[0]:
        sizes = labels.sum(axis=1)
        record.label_cardinality = round(float(sizes.mean()), 4)
        record.num_without_label = int((sizes == 0).sum())


def _find_absent_classes(record: DataRecord) -> list[str]:
    """Say which classes that are trained cannot be judged: one sentence for each split that lacks some."""
    counts = {role: split.class_counts or {} for role, split in record.splits.items()}
    trained = [name for name, count in counts.get("train", {}).items() if count]
    absent = {role: [name for name in trained if not counts[role][name]] for role in counts}
    return [
        f"{len(names)} of {len(trained)} classes that train has are absent from {role}: {list_some(names)}."
        for role, names in absent.items()
        if names
    ]


def _cut_missing_splits(
    roles: dict[str, str],
    ids: dict[str, LabelIds],
    validation_is_explicit: bool,
    args: DataArguments,
    notes: list[str],
    groups: np.ndarray | None = None,
) -> dict[str, tuple[str, np.ndarray | None, str]]:
    """Decide the rows of each final split.

    Returns:
        Role -> (the role whose rows it takes, the rows or ``None`` for all, and that in words).
    """
    parts: dict[str, tuple[str, np.ndarray | None, str]] = {
        role: (role, None, name) for role, name in roles.items() if role != "train"
    }
    if "train" not in roles:
        return parts
    labels, name = ids["train"], roles["train"]
    num_examples, multi_label = labels.shape[0], is_multi_label(labels)
    counts = count_cuts(roles, num_examples, args.train_val_split, args.test_split, validation_is_explicit, notes)
    if not counts:
        return {"train": ("train", None, name), **parts}
    if groups is not None:
        rows = cut_groups(labels, groups, counts, args.split_seed)
        how = f"whole groups of {args.group_column!r}, stratified"
    else:
        rows = (cut_iteratively if multi_label else cut_stratified)(labels, counts, args.split_seed)
        how = "iteratively stratified" if multi_label else "stratified"
    for role, part in rows.items():
        text = f"{len(part)} of {num_examples} examples of {name}, {how}, seed {args.split_seed}"
        parts[role] = ("train", part, text)
    kind = "split_name" if args.dataset_name else "file" if args.train_file else "dir"
    for role, count in counts.items():
        if not len(rows[role]):
            raise DataError(
                f"no example can be cut for {role}: every class has one example",
                "at least two examples in some class",
                f"name held-out data with --{role}_{kind}",
            )
        if groups is not None and len(rows[role]) != count:
            notes.append(f"{role} has {len(rows[role])} examples, not {count}: groups stay whole.")
        elif len(rows[role]) < count:
            notes.append(f"{role} has {len(rows[role])} examples, not {count}: every class keeps one for training.")
    num_single = int((count_classes(labels, 0) == 1).sum())
    if num_single and groups is None:
        notes.append(f"{num_single} classes have a single example, which stays in train.")
    return {role: parts[role] for role in ROLES if role in parts}
