"""Images of the validation split for the Hub's widget, which shows a model's visitors what it takes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.publish.files import EXAMPLES_FOLDER
from hf_imgcls.publish.verify import RunData

_NUM_EXAMPLES = 3
_NUM_LOOKED_AT = 200
_MAX_SIZE_PX = 512


def write_examples(folder: Path, source: RunData) -> list[tuple[str, str]]:
    """Write the first validation image of each of three classes (or sets of them) into ``examples/``.

    Args:
        folder: The run's folder.
        source: The run's data; a stream, or a dataset without a validation split, has no examples.

    Returns:
        Path inside the folder and class names of each; none where there are no images to show.
    """
    shutil.rmtree(folder / EXAMPLES_FOLDER, ignore_errors=True)
    split: Any = source.dataset.splits.get("validation") if source.dataset is not None else None
    if source.dataset is None or source.data is None or not isinstance(split, Dataset):
        return []
    rows: dict[tuple[int, ...], dict[str, Any]] = {}
    for number in range(min(len(split), _NUM_LOOKED_AT)):
        row = split[number]
        rows.setdefault(tuple(np.atleast_1d(row["label"]).astype(int).tolist()), row)
        if len(rows) == _NUM_EXAMPLES:
            break
    (folder / EXAMPLES_FOLDER).mkdir()
    examples = []
    for number, (classes, row) in enumerate(rows.items(), 1):
        image = decode_image(row["image"], Reading.from_arguments(source.data))
        image.thumbnail((_MAX_SIZE_PX, _MAX_SIZE_PX))
        name = f"{EXAMPLES_FOLDER}/{number}.{'png' if max(image.size) <= 64 else 'jpg'}"
        image.save(folder / name, quality=90)
        examples.append((name, ", ".join(source.dataset.labels[index] for index in classes) or "none of the classes"))
    return examples


def describe_widget(examples: list[tuple[str, str]], repo_id: str) -> list[dict[str, str]]:
    """The metadata that makes the Hub's widget offer these images.

    Source: https://huggingface.co/docs/hub/models-widgets-examples#image-classification.
    """
    from huggingface_hub import hf_hub_url

    return [{"src": hf_hub_url(repo_id, name), "example_title": title} for name, title in examples]
