"""Where images come from: the Hub, a folder in Hub layout, class folders, annotation files, the built-in sample.

Each reader returns a ``Source``: the splits under their own names, as they are. What the splits are used for, which
columns matter and which ids the classes get is decided afterwards, in one place, for all of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_from_disk

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.arguments.first_word import BUILT_IN_SAMPLE
from hf_imgcls.arguments.near_paths import suggest_path
from hf_imgcls.data.annotation import AnnotatedImages, read_annotation_file
from hf_imgcls.data.archives import extract_archive, extract_archives, is_archive
from hf_imgcls.data.builders import HubUnreachableError, describe_failure, list_splits, read_parquet
from hf_imgcls.data.class_lists import FileFeatures, read_file_features, read_prepared_features
from hf_imgcls.data.file_names import ImageNames
from hf_imgcls.data.find_columns import find_image_column, find_label_column, holds_images
from hf_imgcls.data.folders import build_dataset, describe_hidden, holds_plain_images, read_class_folder
from hf_imgcls.data.local_paths import make_plain_path
from hf_imgcls.data.repository import open_dataset, prepare_splits
from hf_imgcls.data.split_folders import find_split_folders
from hf_imgcls.data.splits import ROLES, check_not_empty, match_split_names, requested_splits
from hf_imgcls.errors import DataError
from hf_imgcls.retries import call_hub


@dataclass
class Source:
    """A dataset as its source has it.

    Attributes:
        name: Hub id, or the folder or file as the user named it.
        splits: Role (``train``, ``validation``, ``test``) -> rows, for the roles that the source has.
        split_names: Role -> the source's own name of the split.
        config: The configuration's name.
        revision: The commit that was read.
        image_column: The image column, where the source fixes it.
        label_column: The label column, where the source fixes it.
        validation_is_explicit: The user said which data is validation.
        notes: What is worth telling.
        files: Split name -> the data files that it consists of, where they declare features of their own.
    """

    name: str
    splits: dict[str, Dataset]
    split_names: dict[str, str]
    config: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    validation_is_explicit: bool = False
    notes: list[str] = field(default_factory=list)
    files: dict[str, list[FileFeatures]] = field(default_factory=dict)


def open_source(args: DataArguments) -> Source:
    """Open the dataset that the arguments name.

    Raises:
        DataError: Nothing or more than one kind of source is named, or the source cannot be read.
    """
    folders = {role: getattr(args, f"{role}_dir") for role in ROLES if getattr(args, f"{role}_dir")}
    files = {role: getattr(args, f"{role}_file") for role in ROLES if getattr(args, f"{role}_file")}
    given = [
        text
        for text, value in (
            (f"--dataset_name {args.dataset_name}", args.dataset_name),
            (", ".join(f"--{role}_dir" for role in folders), folders),
            (", ".join(f"--{role}_file" for role in files), files),
        )
        if value
    ]
    if len(given) != 1:
        raise DataError(
            f"{len(given)} kinds of data source are given" + (f": {'; '.join(given)}" if given else ""),
            "one of --dataset_name, --train_dir or --train_file",
            "pass one of them, for example --dataset_name digits for the built-in sample",
        )
    if folders:
        return read_class_folders({role: _check_folder(path, f"--{role}_dir", args) for role, path in folders.items()})
    if files:
        return _read_annotation_files(args, files)
    if args.dataset_name == BUILT_IN_SAMPLE:
        return read_digits()
    name = str(args.dataset_name)
    path = Path(name).expanduser()
    if is_archive(path):
        return read_class_folders({"train": extract_archive(path, args)}, name)
    if path.is_file():
        raise DataError(
            f"--dataset_name {name} is a file",
            "a Hub id or a folder",
            "pass the folder that holds the file, or the file (CSV, JSON lines, parquet) as --train_file",
        )
    if path.is_dir():
        if _is_saved(path):
            return _read_saved(args, path, name)
        if holds_plain_images(path):
            return read_class_folders({"train": path}, name)
    return read_prepared(args)


def is_hub_layout(args: DataArguments) -> bool:
    """Whether the arguments name what ``read_prepared`` reads: the Hub, or a folder of data files."""
    if args.dataset_name in (None, BUILT_IN_SAMPLE):
        return False
    path = Path(str(args.dataset_name)).expanduser()
    return not path.is_file() and not (path.is_dir() and (_is_saved(path) or holds_plain_images(path)))


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _check_folder(value: str, flag: str, args: DataArguments) -> Path:
    path = Path(value).expanduser()
    if is_archive(path):
        return extract_archive(path, args)
    if path.is_file():
        raise DataError(
            f"{flag} {value} is a file", "a folder that holds one folder per class", f"pass it as {flag[:-4]}_file"
        )
    if not path.is_dir():
        raise DataError(
            f"{flag} {value} does not exist", "a folder that holds one folder per class", suggest_path(path, flag)
        )
    return path


def _check_file(value: str, flag: str) -> Path:
    path = Path(value).expanduser()
    if path.is_dir():
        raise DataError(
            f"{flag} {value} is a folder",
            "a CSV, JSON-lines or parquet file",
            f"pass a folder of classes as {flag[:-5]}_dir",
        )
    if not path.is_file():
        raise DataError(f"{flag} {value} does not exist", "a CSV, JSON-lines or parquet file", suggest_path(path, flag))
    return path


def read_digits() -> Source:
    """Read scikit-learn's 1,797 real handwritten digits, 8x8 pixels, as grayscale PNG images.

    Values 0..16 become 0..255. Works offline.
    """
    import numpy as np
    import PIL.Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        # Uncompressed, so that every build of zlib writes the same bytes.
        PIL.Image.fromarray(image).save(buffer, format="PNG", compress_level=0)
        encoded.append(buffer.getvalue())
    names = [str(name) for name in digits.target_names]
    images = pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.nulls(len(encoded), pa.string())], names=["bytes", "path"]
    )
    # The encoder's bytes may differ between releases of Pillow, the pixels do not: the fingerprint is theirs.
    fingerprint = hashlib.sha256(pixels.tobytes() + digits.target.astype("<i8").tobytes()).hexdigest()[:16]
    dataset = build_dataset(images, pa.array(digits.target, pa.int64()), names, fingerprint)
    source = Source(BUILT_IN_SAMPLE, {"train": dataset}, {"train": "train"}, image_column="image", label_column="label")
    if Path(BUILT_IN_SAMPLE).is_dir():
        source.notes.append("The built-in sample 'digits' is used; pass ./digits for the folder of that name.")
    return source


def name_splits(paths: Mapping[str, Path]) -> dict[str, str]:
    """Name the splits after their folders or files: role -> a name that no other split has."""
    for names in ({role: path.name for role, path in paths.items()}, {role: str(path) for role, path in paths.items()}):
        if "" not in names.values() and len(set(names.values())) == len(names):
            return names
    return {role: f"{role} ({path})" for role, path in paths.items()}


def _read_annotation_files(args: DataArguments, files: dict[str, str]) -> Source:
    paths = {role: _check_file(value, f"--{role}_file") for role, value in files.items()}
    source = Source(
        files.get("train") or next(iter(files.values())),
        {},
        name_splits(paths),
        validation_is_explicit="validation" in files,
    )
    for role, path in paths.items():
        flag = f"--{role}_file"
        dataset, image_column, label_column = _read_rows(path, args, flag, source.notes)
        source.splits[role] = dataset
        several = label_column not in dataset.column_names  # columns of 0 and 1, or a path into one: named by the user
        if source.image_column not in (None, image_column) or (
            source.label_column not in (None, label_column) and not several
        ):
            renames = {image_column: source.image_column, label_column: source.label_column}
            source.splits[role] = dataset.rename_columns(
                {old: new for old, new in renames.items() if old != new and new}
            )
            source.notes.append(
                f"{path.name} names its columns {image_column!r} and {label_column!r}; they were renamed."
            )
            continue
        source.image_column, source.label_column = image_column, label_column
    return source


def _read_rows(path: Path, args: DataArguments, flag: str, notes: list[str]) -> AnnotatedImages:
    """Read one file of rows: with the names of image files, or, for a parquet file, with images."""
    images = ImageNames(args.image_folder, args.image_suffix)
    if path.suffix.lower() == ".parquet":
        try:
            declared = read_file_features(str(path))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}", "a whole parquet file", f"check {flag}") from error
        if declared is not None and holds_images(declared.features):
            dataset = read_parquet(path, args)
            image_column = find_image_column(dataset.features, args.image_column_name)
            label_column = find_label_column(dataset.features, args.label_column_name, image_column)
            return AnnotatedImages(dataset, image_column, label_column)
    return read_annotation_file(path, args.image_column_name, args.label_column_name, images, flag, notes)


def read_class_folders(folders: dict[str, Path], name: str | None = None) -> Source:
    """Read folders that hold one folder per class.

    Only image files count; hidden files and folders, ``__MACOSX`` and the like are passed over. Images deeper inside a
    class's folder belong to that class. A training folder whose own subfolders are ``train``, ``val``, ``test`` is
    read as these splits.

    Args:
        folders: Role -> folder.
        name: What to call the dataset; by default the training folder as given.

    Raises:
        DataError: A folder has no class folders or no images.
    """
    notes: list[str] = []
    name = name or str(folders.get("train") or next(iter(folders.values())))
    explicit = "validation" in folders
    nested = find_split_folders(folders["train"], notes) if "train" in folders else {}
    if nested:
        notes += describe_hidden(folders["train"])
        folders = {**nested, **{role: path for role, path in folders.items() if role != "train"}}
    splits = {role: read_class_folder(path, notes) for role, path in folders.items()}
    return Source(
        name,
        splits,
        name_splits(folders),
        image_column="image",
        label_column="label",
        validation_is_explicit=explicit,
        notes=notes,
    )


def _read_saved(args: DataArguments, path: Path, name: str) -> Source:
    """Read a folder that ``save_to_disk`` wrote."""
    try:
        saved = load_from_disk(str(make_plain_path(path, args.cache_dir)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "a folder written by save_to_disk", "write it again, whole"
        ) from error
    available = dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    names = match_split_names(list(available), requested_splits(args))
    return Source(
        name,
        {role: available[split] for role, split in names.items()},
        names,
        validation_is_explicit=args.validation_split_name is not None,
    )


def read_prepared(args: DataArguments) -> Source:
    """Read a Hub dataset, or a folder in Hub layout, through the ``datasets`` library and its cache.

    Only the splits that are needed are downloaded.

    Raises:
        DataError: As ``open_dataset``; or a file of the dataset is broken.
    """
    name = str(args.dataset_name)
    opened = open_dataset(args)
    names = match_split_names(list_splits(opened.builder), requested_splits(args))
    if folders := extract_archives(opened, names, args):
        source = read_class_folders(folders, name)
        source.config, source.revision, source.notes = opened.config, opened.revision, opened.notes + source.notes
        source.validation_is_explicit = args.validation_split_name is not None
        source.split_names |= {role: names[role] for role in source.split_names if role in names}
        return source
    source = Source(
        name,
        {},
        names,
        config=opened.config,
        revision=opened.revision,
        validation_is_explicit=args.validation_split_name is not None,
        notes=opened.notes,
    )
    try:
        builder = prepare_splits(opened, set(names.values()), args)
        check_not_empty(name, {split: builder.info.splits[split].num_examples for split in names.values()})
        source.splits = {role: builder.as_dataset(split) for role, split in names.items()}
        source.files = call_hub(
            lambda: read_prepared_features(builder, set(names.values()), args.token),
            f"read the class lists of {name}",
            args.download_attempts,
            HubUnreachableError,
        )
    except DataError:
        raise
    except Exception as error:  # A broken file, a full disk and a lost connection each have types of their own.
        raise describe_failure(name, error) from error
    return source
