"""Opening a dataset as streams: roles, labels and cuts are decided from footers and a few labels; no image is read."""

from __future__ import annotations

from itertools import islice

import numpy as np
from datasets import ClassLabel, Features

from hf_imgcls.arguments import DataArguments
from hf_imgcls.data.class_lists import (
    ClassLists,
    FileFeatures,
    describe_lost_names,
    match_class_lists,
    repeat_class_list,
)
from hf_imgcls.data.find_columns import describe_choice, find_image_column, find_label_column
from hf_imgcls.data.label_sets import resolve_feature
from hf_imgcls.data.labels import describe_names, suggest_twins
from hf_imgcls.data.load import ImageDataset
from hf_imgcls.data.names import list_some
from hf_imgcls.data.parquet import ParquetFiles, open_parquet, take_groups
from hf_imgcls.data.prepared import find_root
from hf_imgcls.data.ranges import RangeCache
from hf_imgcls.data.repository import list_splits, open_dataset, requested_splits
from hf_imgcls.data.sources import is_hub_layout
from hf_imgcls.data.splits import ROLES, assign_roles, check_not_empty, count_cuts, match_split_names
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import DataError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, DataRecord, SplitRecord

_PEEK_ROWS = 1000


def load_streaming(args: DataArguments) -> ImageDataset | None:
    """Open a dataset as streams; only footers and a few labels are read.

    Returns:
        The dataset, or ``None`` when its images are on this machine already, so that there is nothing to stream.

    Raises:
        DataError: The data is not parquet, or its labels are not a ``ClassLabel``.
    """
    if not is_hub_layout(args):
        return None
    opened = open_dataset(args)
    if opened.is_from_cache:
        return None
    name, builder = opened.name, opened.builder
    if opened.kind != "parquet":
        raise DataError(
            f"{name} consists of {opened.kind} files",
            "parquet files, for streaming",
            "pass --dataset_revision refs/convert/parquet, the Hub's own conversion, or leave --streaming out",
        )
    if args.label_separator is not None:
        raise DataError(
            "--label_separator with streaming",
            "classes that are known beforehand: a ClassLabel or a list of it",
            "leave --streaming out, or cast the column to a list of ClassLabel and save the dataset again",
        )
    notes = opened.notes
    found = match_split_names(list_splits(builder), requested_splits(args))
    urls = [url for split in found.values() for url in builder.config.data_files[split]]
    cache = RangeCache(find_root(args)) if any("://" in url for url in urls) else None
    files = {
        role: open_parquet(builder.config.data_files[split], args.token, attempts=args.download_attempts, cache=cache)
        for role, split in found.items()
    }
    check_not_empty(name, {split: len(files[role].groups) for role, split in found.items()})
    declared = {found[role]: part.read_features() for role, part in files.items()}
    features = {split: builder.info.features or parts[0].features for split, parts in declared.items()}
    image_column = find_image_column(next(iter(features.values())), args.image_column_name)
    label_column = find_label_column(next(iter(features.values())), args.label_column_name, image_column)
    if args.label_column_name is None:
        notes += describe_choice(next(iter(features.values())), label_column, image_column)
    lists = _match_files(features, declared, label_column, notes)
    several = _agree_on_kind({split: _is_list(features[split], label_column) for split in found.values()})
    names = {role: lists[split].names for role, split in found.items()}
    if several:
        notes.append(f"Several labels per image (column {label_column!r}): {len(next(iter(names.values())))} classes.")
    labels = names.get("train") or next(iter(names.values()))
    if len(labels) < 2:
        raise DataError(
            f"{name} has the single class {labels[0]!r}", "at least two classes", "check --label_column_name"
        )
    notes += describe_names(labels)
    hidden = {split for role, split in found.items() if role != "train" and _is_hidden(files[role], label_column)}
    explicit = args.validation_split_name is not None
    roles = assign_roles(found, hidden, explicit, notes)
    role_of = {split: role for role, split in found.items()}
    parts = _cut_groups(roles, {role: files[role_of[split]] for role, split in roles.items()}, explicit, args, notes)
    dataset = ImageDataset(
        {},
        labels,
        DataRecord(
            source=name,
            labels=labels,
            image_column=image_column,
            label_column=label_column,
            problem_type=MULTI_LABEL if several else SINGLE_LABEL,
            config=opened.config,
            revision=opened.revision,
            notes=notes,
        ),
    )
    for role, (origin, groups, text) in parts.items():
        source_role = role_of[roles[origin]]
        maximum = getattr(args, f"max_{'eval' if role == 'validation' else role}_samples")
        total = int(groups[:, 3].sum())
        if maximum is not None and maximum < total:
            groups, _ = take_groups(groups, maximum, (args.split_seed, 2 + ROLES.index(role)))
            text += f", {maximum} of {total} in row groups chosen at random, seed {args.split_seed}"
        dataset.splits[role] = StreamingSplit(
            files[source_role],
            groups,
            image_column,
            label_column,
            _match_names(lists[roles[origin]], labels, roles[origin], notes),
            labels,
            shuffle_buffer_size=args.shuffle_buffer_size if role == "train" else 0,
            seed=args.split_seed,
            multi_label=several,
        )
        dataset.record.splits[role] = SplitRecord(
            role,
            text,
            int(groups[:, 3].sum()),
            source_split=roles[origin],
            is_cut=role not in roles or (role == "train" and len(parts) > len(roles)),
            num_available=total,
        )
    return dataset


def _read_declaration(features: Features, label_column: str, split: str) -> ClassLabel:
    """Return the feature of one label of a split, whose class names must be known."""
    found = resolve_feature(features, label_column)
    if found is None or not isinstance(found.item, ClassLabel) or label_column not in features:
        raise DataError(
            f"the label column {label_column!r} of {split!r} is {features.get(label_column)}, so its classes are not "
            "known beforehand",
            "a ClassLabel or a list of it, for streaming",
            "leave --streaming out, or cast the column to a ClassLabel and save the dataset again",
        )
    return found.item


def _is_list(features: Features, label_column: str) -> bool:
    found = resolve_feature(features, label_column)
    return found is not None and found.is_list


def _match_files(
    features: dict[str, Features], files: dict[str, list[FileFeatures]], label_column: str, notes: list[str]
) -> dict[str, ClassLists]:
    """Bring the class lists of all files together; a file without one must not be guessed at."""
    first = resolve_feature(next(iter(features.values())), label_column)
    lists = match_class_lists(first.item if first is not None else None, files, label_column, notes)
    for part in lists.values():
        part.check_all_declared(label_column)
    declared = {split: _read_declaration(found, label_column, split) for split, found in features.items()}
    if lists:
        return lists
    notes += describe_lost_names(next(iter(declared.values())))
    return {split: repeat_class_list(feature, files[split]) for split, feature in declared.items()}


def _agree_on_kind(is_list: dict[str, bool]) -> bool:
    if len(set(is_list.values())) > 1:
        found = ", ".join(
            f"{'a list of labels' if kind else 'one label'} in {split!r}" for split, kind in is_list.items()
        )
        raise DataError(
            f"the splits have different kinds of label: {found}", "the same in all splits", "correct the dataset"
        )
    return next(iter(is_list.values()))


def _is_hidden(files: ParquetFiles, label_column: str) -> bool:
    """Whether the first labels of a split are all missing."""
    rows = islice(files.read_group(files.groups[0], 0, (label_column,)), _PEEK_ROWS)
    return all(row[label_column] in (None, -1, []) for _, row in rows)


def _match_names(lists: ClassLists, labels: list[str], split: str, notes: list[str]) -> np.ndarray:
    """Return the table from class ids in the files to the dataset's: int64 ``(F, C)``, -2 where there is no class."""
    unknown = [name for name in lists.names if name not in labels]
    if unknown:
        raise DataError(
            f"split {split!r} declares classes that training does not have: {list_some(unknown)}"
            + suggest_twins(unknown, labels),
            f"only the training split's {len(labels)} classes",
            "correct the ClassLabel of that split",
        )
    if lists.names != labels:
        notes.append(f"The list of class names of {split!r} differs from training's; its labels were matched by name.")
    own = np.array([labels.index(name) for name in lists.names], dtype=np.int64)
    return np.where(lists.table >= 0, own[lists.table], lists.table)


def _cut_groups(
    roles: dict[str, str], files: dict[str, ParquetFiles], explicit: bool, args: DataArguments, notes: list[str]
) -> dict[str, tuple[str, np.ndarray, str]]:
    """Cut missing splits from train as whole row groups: role -> (role it is cut from, row groups, in words)."""
    parts = {role: (role, part.groups, roles[role]) for role, part in files.items()}
    if "train" not in roles:
        return parts
    rest, total = files["train"].groups, int(files["train"].groups[:, 3].sum())
    counts = count_cuts(roles, total, args.train_val_split, args.test_split, explicit, notes)
    for role, count in counts.items():
        taken, rest = take_groups(rest, count, (args.split_seed, ROLES.index(role)))
        text = f"{count} of {total} examples of {roles['train']}, whole row groups, seed {args.split_seed}"
        parts[role] = ("train", taken, text)
        notes.append(f"{role} was cut from the stream as row groups chosen at random: it is not stratified by class.")
    if counts:
        size = int(rest[:, 3].sum())
        text = f"{size} of {total} examples of {roles['train']}, whole row groups, seed {args.split_seed}"
        parts["train"] = ("train", rest, text)
    return {role: parts[role] for role in ROLES if role in parts}
