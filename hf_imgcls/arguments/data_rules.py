"""What a source of data and its pixels must be, as far as arguments and file names tell."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.near_paths import suggest_path
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments

_FOLDERS = ("train_dir", "validation_dir", "test_dir")
_FILES = ("train_file", "validation_file", "test_file")


def check_source(data: DataArguments, is_needed: bool) -> Iterator[ArgumentError]:
    """Find more than one source of data, or none, and settings that it cannot have.

    Args:
        data: The arguments.
        is_needed: Whether a source has to be named.
    """
    kinds = (("dataset_name",), _FOLDERS, _FILES, ("unlabelled_dir",))
    given = [names for kind in kinds if (names := _list_given(data, kind))]
    if len(given) > 1:
        yield ArgumentError(
            f"the data comes from {' and from '.join(', '.join(names) for names in given)}",
            "one source: a dataset, folders (--train_dir ...) or files (--train_file ...)",
            "keep one of them; `--NAME null` unsets what a file has set",
        )
    if not given and is_needed:
        yield ArgumentError(
            "no dataset is named",
            "--dataset_name, or folders (--train_dir ...) or files (--train_file ...)",
            "try the built-in sample: --dataset_name digits",
        )
    if data.dataset_revision and os.path.isdir(os.path.expanduser(str(data.dataset_name))):
        found = f"dataset_revision {data.dataset_revision} with the folder {data.dataset_name}"
        yield ArgumentError(found, "a dataset on the Hub: a folder has no revisions", "leave dataset_revision out")
    if data.image_suffix is not None and not re.fullmatch(r"\.?[A-Za-z0-9]+", data.image_suffix):
        yield ArgumentError(f"image_suffix is {data.image_suffix!r}", "a suffix such as .jpg", "correct it")
    for name in ("train_val_split", "test_split"):
        share = getattr(data, name)
        if isinstance(share, float) and share >= 1:
            expected = "a fraction below 1, or a whole number of examples"
            yield ArgumentError(f"{name} is {share}", expected, "write it without a decimal point")


def check_paths(data: DataArguments) -> Iterator[ArgumentError]:
    """Find folders and files that are not there, and splits that are the same one."""
    folders = (*_FOLDERS, "unlabelled_dir", "image_folder")
    for names, exists, word in ((folders, os.path.isdir, "folder"), (_FILES, os.path.isfile, "file")):
        paths = {name: os.path.expanduser(getattr(data, name)) for name in _list_given(data, names)}
        for name, path in paths.items():
            if not exists(path):
                found = f"{name} is {getattr(data, name)!r}: there is no such {word}"
                yield ArgumentError(found, f"an existing {word}", suggest_path(Path(path), "the path"))
        places = {name: os.path.realpath(path) for name, path in paths.items() if exists(path)}
        for name, other in combinations(places, 2):
            if places[name] == places[other]:
                yield ArgumentError(
                    f"{name} and {other} are both {getattr(data, name)!r}",
                    "different images in each split: otherwise the model is judged on images it has learned from",
                    f"name other images, or leave out {other}: where it is needed, it is cut from train",
                )


def check_pixels(data: DataArguments) -> Iterator[ArgumentError]:
    """Find sizes, colours and ranges that no image can have."""
    for name in ("image_mean", "image_std"):
        value = getattr(data, name)
        if value not in (None, "dataset") and len(value) != 3:
            yield ArgumentError(f"{name} has {len(value)} values", "3: red, green, blue", "give three numbers")
    if data.image_size is not None and data.image_size**2 > data.max_image_pixels:
        yield ArgumentError(
            f"image_size {data.image_size} makes images of {data.image_size**2:,} pixels",
            f"at most max_image_pixels, {data.max_image_pixels:,}",
            "give the side of the model's input in pixels, such as 224",
        )
    if data.alpha_background is not None and not re.fullmatch(r"[A-Za-z]+|#[0-9A-Fa-f]{6}", data.alpha_background):
        found = f"alpha_background is {data.alpha_background!r}"
        yield ArgumentError(found, "drop, a colour's name or #rrggbb", "try white or '#808080'")
    low_high = data.intensity_range
    if low_high is not None and (len(low_high) != 2 or not -math.inf < low_high[0] < low_high[1] < math.inf):
        yield ArgumentError(
            f"intensity_range is {low_high}",
            "2 numbers: the value that becomes black, and a larger one that becomes white",
            "for example --intensity_range 0 4095",
        )
    for name in ("random_crop_scale", "random_crop_ratio"):
        value = getattr(data, name)
        if value is not None and (len(value) != 2 or value[0] > value[1]):
            yield ArgumentError(f"{name} is {value}", "2 numbers: smallest, largest", "give two numbers in this order")
    jitter = data.color_jitter
    if jitter is not None and (len(jitter) != 4 or jitter[3] > 0.5):
        expected = "4 numbers: brightness, contrast, saturation, and hue of at most 0.5"
        yield ArgumentError(f"color_jitter is {jitter}", expected, "for example --color_jitter 0.2 0.2 0.2 0.05")


def _list_given(data: DataArguments, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(data, name) is not None]
