"""What a model's folder must not say: values that no classifier has, each refused in one sentence before it is loaded.

Loaders take most of them: a gap among the class names is a KeyError at the first answer, a deviation of 0 makes every
pixel infinite, and 10^12 classes fill the memory. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_imgcls.errors import ModelError

CONFIG_FILE = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_MAX_CLASSES = 1_000_000
_MAX_PIXELS = 16_384  # a side of an image
_FILTERS = range(6)  # PIL.Image.Resampling


def check_config(name: str | Path, path: Path) -> None:
    """Look at a model's configuration before anything is built from it.

    Args:
        name: How the user calls the model.
        path: Its ``config.json``.

    Raises:
        ModelError: It is no mapping, or holds a value that no image classifier has.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(name, CONFIG_FILE, f"cannot be read: {error}", "a JSON object") from error
    if not isinstance(config, dict):
        raise _refuse(name, CONFIG_FILE, f"holds a {type(config).__name__}", "a JSON object")
    for problem in (*_check_classes(config), *_check_input(config)):
        raise _refuse(name, CONFIG_FILE, *problem)


def check_processor(name: str | Path, processor: Any) -> None:
    """Look at a loaded image processor.

    Args:
        name: How the user calls the model that it feeds.
        processor: The image processor; what it does not do is not looked at.

    Raises:
        ModelError: Its settings are none that an image can be prepared with.
    """
    for problem in _check_settings(processor):
        raise _refuse(name, "preprocessor_config.json", *problem)


def refuse_adapter(name: str | Path, path: Path | None = None) -> ModelError:
    """The error for a folder or repository with an adapter at its top: transformers would load the adapter's base.

    ``from_pretrained`` and ``pipeline()`` follow ``adapter_config.json`` to whatever model it names, whether or not
    weights lie beside it, and open ``adapter_model.bin``, a pickle
    (https://github.com/huggingface/transformers/blob/main/src/transformers/utils/peft_utils.py).

    Args:
        name: How the user calls the model.
        path: The adapter's configuration, which names its base; None if it is not at hand.
    """
    base = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        base = repr(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]) if path else ""
    return ModelError(
        f"{str(name)!r} has {ADAPTER_CONFIG}: in the place of its own weights transformers would load the adapter's "
        f"base model{' ' if base else ''}{base}, unpinned",
        "a whole model, without an adapter at its top",
        "name the folder of the merged model (of a run: the one around adapter/), or merge the adapter with peft's "
        f"merge_and_unload() and save_pretrained(FOLDER); if {ADAPTER_CONFIG} is not meant to be there, delete it",
    )


def _check_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    number = config.get("num_labels")
    if number is not None and not (isinstance(number, int) and 1 <= number <= _MAX_CLASSES):
        yield f"has num_labels {_show(number)}", f"1 to {_MAX_CLASSES:,} classes"
    names = config.get("id2label")
    if names is None:
        return
    if not isinstance(names, dict) or not names:
        yield f"has id2label {_show(names)}", "a mapping from class ids to names"
        return
    ids = {str(key) for key in names}
    missing = [index for index in range(len(names)) if str(index) not in ids]
    if missing:
        others = sorted(ids - {str(index) for index in range(len(names))})
        yield (
            f"has {len(names)} names in id2label, and none for class {missing[0]} (but for {', '.join(others[:3])})",
            f"a name for every class from 0 to {len(names) - 1}",
        )


def _check_input(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("image_size", "patch_size", "num_channels"):
        value = config.get(key)
        sides = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        for side in sides:
            if side is not None and not _is_side(side):
                yield f"has {key} {_show(value)}", f"whole numbers from 1 to {_MAX_PIXELS:,}"
    timm = config.get("pretrained_cfg")
    if isinstance(timm, dict):
        size = timm.get("input_size")
        if size is not None and not (isinstance(size, list) and len(size) == 3 and all(map(_is_side, size))):
            yield f"has input_size {_show(size)} in pretrained_cfg", f"channels, height, width up to {_MAX_PIXELS:,}"
        yield from _check_normalization(timm.get("mean"), timm.get("std"), "mean", "std")


def _check_settings(processor: Any) -> Iterator[tuple[str, str]]:
    for key, is_used in (("size", "do_resize"), ("crop_size", "do_center_crop")):
        value = getattr(processor, key, None)
        if value is None or not getattr(processor, is_used, False):
            continue
        size = {name: side for name, side in dict(value).items() if side is not None}
        if not size or not all(map(_is_side, size.values())):
            yield f"has {key} {_show(size)}", f"whole numbers from 1 to {_MAX_PIXELS:,}"
    resample = getattr(processor, "resample", None)
    if isinstance(resample, int) and getattr(processor, "do_resize", False) and int(resample) not in _FILTERS:
        yield f"has resample {_show(resample)}", "0 to 5, a filter of PIL.Image.Resampling"
    factor = getattr(processor, "rescale_factor", None)
    if factor is not None and getattr(processor, "do_rescale", False) and not (_is_number(factor) and factor > 0):
        yield f"has rescale_factor {_show(factor)}", "a positive number, 1/255 for most models"
    if getattr(processor, "do_normalize", False):
        mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
        yield from _check_normalization(mean, std, "image_mean", "image_std")


def _check_normalization(mean: Any, std: Any, mean_name: str, std_name: str) -> Iterator[tuple[str, str]]:
    means, stds = (value if isinstance(value, Sequence) else [value] for value in (mean, std))
    if mean is not None and not all(map(_is_number, means)):
        yield f"has {mean_name} {_show(mean)}", "a number for each channel"
    if std is not None and not all(_is_number(value) and value > 0 for value in stds):
        yield f"has {std_name} {_show(std)}", "a positive number for each channel"


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_PIXELS


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def _refuse(name: str | Path, file: str, found: str, expected: str) -> ModelError:
    return ModelError(f"{file} of {str(name)!r} {found}", expected, "correct it, or take the file of another copy")
