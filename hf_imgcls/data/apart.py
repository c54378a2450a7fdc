"""Splits that are apart: no image is to be judged that training or selection has seen.

The scan knows every image by its decoded pixels, so a copy is found under another name and in another format. An edited
one (mirrored, cropped, compressed again) is another image.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from hf_imgcls.classifier.image_source import describe_source
from hf_imgcls.data.manifest import Manifest
from hf_imgcls.errors import DataError, printable
from hf_imgcls.layout import MANIFEST_FILE, RUN_FILE
from hf_imgcls.process import is_main_process
from hf_imgcls.records import IdenticalImages, RunRecord, SharedImages

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

_PAIRS = (("test", "train"), ("test", "validation"), ("validation", "train"))
_MAX_GROUPS, _MAX_FILES = 5, 3


def compare_splits(manifest: Manifest, is_flat: Mapping[str, NDArray[np.bool_]]) -> IdenticalImages:
    """Count the images that several splits have, and those whose labels contradict each other.

    Args:
        manifest: All images.
        is_flat: Split -> bool ``(N,)``, whether an image has a single colour. Such images do not make splits equal:
            blank pictures are alike without being the same.

    Raises:
        DataError: Every image of a split is also in another one.
    """
    shared = []
    for split, other in _PAIRS:
        if not {split, other} <= set(manifest.splits):
            continue
        mine, theirs = manifest.find_shared(split, other), manifest.find_shared(other, split)
        _refuse_contained(split, other, mine[~is_flat[split]], theirs[~is_flat[other]])
        if mine.any():
            shared.append(SharedImages(split, other, int(mine.sum()), len(mine)))
    return IdenticalImages(shared, sum(map(len, find_conflicts(manifest))))


def _refuse_contained(split: str, other: str, mine: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> None:
    """Raise where all images of one of two splits are in the other."""
    is_mine, is_theirs = (len(found) > 0 and bool(found.all()) for found in (mine, theirs))
    if not is_mine and not is_theirs:
        return
    if is_mine and is_theirs:
        found = f"{split} and {other} hold the same {len(mine):,} images"
    else:
        inner, outer, count = (split, other, len(mine)) if is_mine else (other, split, len(theirs))
        found = f"every image of {inner} ({count:,}) is also in {outer}"
    if other == "train":
        expected = f"a {split} split of images that are not trained on"
        fix = f"pass other images as {split}, or leave it out: then it is cut from train"
    else:
        expected = "a test split of images that the model is not selected on"
        fix = "pass other images as one of them, or only a test split: then validation is cut from train"
    raise DataError(found, expected, fix)


def find_conflicts(manifest: Manifest) -> list[NDArray[np.int64]]:
    """Find pictures that carry different labels.

    Returns:
        For each such picture the rows of the manifest that hold it, in the order of their first rows.
    """
    codes = manifest.images["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows = np.flatnonzero(np.bincount(codes)[codes] > 1)
    if not len(rows):
        return []
    rows = rows[np.argsort(codes[rows], kind="stable")]
    labels = manifest.images["label"].take(rows).to_pylist()
    labels = [tuple(sorted(label)) if isinstance(label, list) else label for label in labels]
    ends = np.flatnonzero(np.diff(codes[rows], append=-1)) + 1
    pictures = zip([0, *ends[:-1]], ends, strict=True)
    return [rows[start:end] for start, end in pictures if len(set(labels[start:end])) > 1]


def describe_conflicts(manifest: Manifest, splits: Mapping[str, Dataset]) -> list[str]:
    """Name the files of the first pictures that carry different labels, one line for each picture."""
    starts = {role: int(pc.index(manifest.images["split"], role).as_py()) for role in splits}
    lines = []
    groups = find_conflicts(manifest)
    for rows in groups[:_MAX_GROUPS]:
        told: list[str] = []
        for item in manifest.images.take(rows[:_MAX_FILES]).to_pylist():
            row = int(rows[len(told)]) - starts[item["split"]]
            name = describe_source(splits[item["split"]].select_columns("image").with_format(None)[row]["image"])
            label = ", ".join(item["label"]) if isinstance(item["label"], list) else item["label"]
            told.append(f"{name} ({item['split']}, sample_index {item['sample_index']}): {label!r}")
        more = f" and {len(rows) - _MAX_FILES:,} more" if len(rows) > _MAX_FILES else ""
        lines.append("; ".join(told) + more)
    if len(groups) > _MAX_GROUPS:
        lines.append(f"and {len(groups) - _MAX_GROUPS:,} more pictures")
    return [printable(line) for line in lines]


def count_seen(dataset: ImageDataset, manifest: Path | None, whose: str) -> ImageDataset:
    """Count the held-out images that a model has seen.

    Args:
        dataset: From `hf_imgcls.data.scan.check_images`; it is not changed.
        manifest: Of that model, from `hf_imgcls.classifier.source.find_manifest`; None where there is none.
        whose: ``"base"``, the model that a run starts from; ``"teacher"``, one that it learns from; or ``"model"``, the
            one that is measured.

    Returns:
        The dataset. Its record tells how many of its images the model has seen; its manifest also names what the
        model has been trained on and selected by.

    Raises:
        DataError: The model's manifest is damaged.
    """
    if dataset.manifest is None or manifest is None:
        return dataset
    joined = dataset.manifest.add_origin(load_origin(manifest), whose)
    record = copy.deepcopy(dataset.record)
    known = record.identical_images or IdenticalImages()
    found = []
    for split in filter(dataset.splits.__contains__, ("test", "validation")):
        for other in joined.list_sharing(split):
            if other.startswith(whose) and (mine := joined.find_shared(split, other)).any():
                found.append(SharedImages(split, other, int(mine.sum()), len(mine)))
    record.identical_images = replace(known, shared=[*found, *known.shared])
    record.manifest_hash = joined.root_hash
    for item in found:
        logger.warning("      %s.", item.describe())
    return replace(dataset, record=record, manifest=joined)


def load_origin(path: str | Path) -> Manifest:
    """Read the manifest of another run, and say where it is not the one that the run wrote.

    Raises:
        DataError: It is damaged.
    """
    manifest, run = Manifest.load(path), Path(path).parent / RUN_FILE
    recorded = RunRecord.load(run).data_manifest if run.is_file() and Path(path).name == MANIFEST_FILE else None
    if recorded not in (None, manifest.root_hash):
        logger.warning("      %s is not the file that the run wrote, by the hash in its %s.", path, RUN_FILE)
    return manifest


def save_manifest(dataset: ImageDataset, folder: Path) -> None:
    """Write the dataset's manifest into a run's folder; without a scan there is none, and none of an earlier start."""
    if not is_main_process():
        return
    if dataset.manifest is None:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
    else:
        dataset.manifest.save(folder)
