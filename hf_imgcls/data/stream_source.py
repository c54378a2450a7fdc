"""Opening a dataset as streams: roles, labels and cuts are decided from footers and labels; no image is read."""

from __future__ import annotations

import numpy as np

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.builders import list_splits
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.find_columns import describe_choice, find_image_column, find_label_column
from hf_imgcls.data.parquet import ParquetFiles, open_parquet, take_groups
from hf_imgcls.data.prepared import find_root
from hf_imgcls.data.ranges import RangeCache
from hf_imgcls.data.repository import OpenedDataset, open_dataset
from hf_imgcls.data.sources import is_hub_layout
from hf_imgcls.data.splits import ROLES, assign_roles, check_not_empty, count_cuts, match_split_names, requested_splits
from hf_imgcls.data.stream_labels import LabelledFiles, label_streams
from hf_imgcls.data.streaming import StreamingSplit
from hf_imgcls.errors import DataError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL, DataRecord, SplitRecord


def load_streaming(args: DataArguments) -> ImageDataset | None:
    """Open a dataset as streams; only footers and labels are read.

    Returns:
        The dataset, or ``None`` when its images are on this machine already, so that there is nothing to stream.

    Raises:
        DataError: The data is not parquet, or its labels are no classes.
    """
    if not is_hub_layout(args):
        return None
    opened = open_dataset(args)
    if opened.is_from_cache:
        return None
    notes = opened.notes
    found, files = _open_files(opened, args)
    declared = {found[role]: part.read_features() for role, part in files.items()}
    features = {split: opened.builder.info.features or parts[0].features for split, parts in declared.items()}
    image_column = find_image_column(next(iter(features.values())), args.image_column_name)
    label_column = find_label_column(next(iter(features.values())), args.label_column_name, image_column)
    if args.label_column_name is None:
        notes += describe_choice(next(iter(features.values())), label_column, image_column)
    labels = label_streams(LabelledFiles(files, found, features, declared, label_column), args.label_separator, notes)
    explicit = args.validation_split_name is not None
    roles = assign_roles(found, labels.hidden, explicit, notes)
    role_of = {split: role for role, split in found.items()}
    parts = _cut_groups(roles, {role: files[role_of[split]] for role, split in roles.items()}, explicit, args, notes)
    dataset = ImageDataset(
        {},
        labels.names,
        DataRecord(
            source=opened.name,
            labels=labels.names,
            image_column=image_column,
            label_column=label_column,
            problem_type=MULTI_LABEL if labels.is_multi_label else SINGLE_LABEL,
            config=opened.config,
            revision=opened.revision,
            notes=notes,
        ),
    )
    for role, (origin, groups, text) in parts.items():
        total = int(groups[:, 3].sum())
        groups, text = _limit_groups(role, groups, text, args)
        dataset.splits[role] = StreamingSplit(
            files[role_of[roles[origin]]],
            groups,
            image_column,
            labels.sources[roles[origin]],
            labels.names,
            shuffle_buffer_size=args.shuffle_buffer_size if role == "train" else 0,
            seed=args.split_seed,
            multi_label=labels.is_multi_label,
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


def _open_files(opened: OpenedDataset, args: DataArguments) -> tuple[dict[str, str], dict[str, ParquetFiles]]:
    """Read the footers: role -> name of its split in the source, and role -> its files."""
    if opened.kind != "parquet":
        raise DataError(
            f"{opened.name} consists of {opened.kind} files",
            "parquet files, for streaming",
            "pass --dataset_revision refs/convert/parquet, the Hub's own conversion, or leave --streaming out",
        )
    found = match_split_names(list_splits(opened.builder), requested_splits(args))
    urls = {role: opened.builder.config.data_files[split] for role, split in found.items()}
    cache = RangeCache(find_root(args)) if any("://" in url for part in urls.values() for url in part) else None
    files = {
        role: open_parquet(part, args.token, attempts=args.download_attempts, cache=cache)
        for role, part in urls.items()
    }
    check_not_empty(opened.name, {split: len(files[role].groups) for role, split in found.items()})
    return found, files


def _limit_groups(role: str, groups: np.ndarray, text: str, args: DataArguments) -> tuple[np.ndarray, str]:
    """Take as many row groups as ``max_train_samples`` and its like ask for, and add that to the text."""
    maximum = getattr(args, f"max_{'eval' if role == 'validation' else role}_samples")
    total = int(groups[:, 3].sum())
    if maximum is None or maximum >= total:
        return groups, text
    taken, _ = take_groups(groups, maximum, (args.split_seed, 2 + ROLES.index(role)))
    return taken, f"{text}, {maximum} of {total} in row groups chosen at random, seed {args.split_seed}"


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
