"""What can be told about an image without knowing what it shows: light, sharpness and size, for automatic slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_imgcls.arrays import FloatArray, IntArray
from hf_imgcls.classifier.decode import EncodedImage, choose_reduction, name_sample
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.errors import DataError
from hf_imgcls.provenance import count_cores

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_imgcls.arguments.fields import DataArguments

STATISTICS = ("brightness", "contrast", "sharpness", "width", "height", "aspect_ratio", "file_bytes")

# Light and sharpness are those of a picture of this size, which is about what a classifier looks at.
_SHORTER_SIDE_PX = 256
_BATCH = 64
_WORTH_WORKERS = 512  # images; fewer are done before worker processes have started


def measure_images(split: Dataset, data: DataArguments, sample_index: IntArray) -> dict[str, FloatArray]:
    """Measure the images of a split, on all cores.

    Args:
        split: Rows with ``image`` (not decoded) and ``sample_index``; no stream.
        data: How images are decoded.
        sample_index: (N,) the examples wanted, as in the prediction table.

    Returns:
        (N,) float64 each, in the order of ``sample_index``:

        - ``brightness``: mean of the luma (ITU-R 601), 0 black to 1 white;
        - ``contrast``: its standard deviation, 0 to 0.5;
        - ``sharpness``: variance of its Laplacian over levels 0 to 255, small where blurred; NaN below 3 x 3 pixels;
        - ``width``, ``height`` in pixels, upright; ``aspect_ratio``: width / height;
        - ``file_bytes``: size of the encoded image; NaN where it is none.

        The first three are those of the picture scaled down to a shorter side of 256 pixels.

    Raises:
        DataError: An example is not in the split, or its image cannot be read.
    """
    from torch import Generator
    from torch.utils.data import DataLoader

    present = np.asarray(split.with_format(None)["sample_index"], dtype=np.int64)
    order = np.argsort(present, kind="stable")
    places = np.searchsorted(present[order], sample_index)
    found = places < len(present)
    found[found] = present[order][places[found]] == np.asarray(sample_index)[found]
    if not found.all():
        raise DataError(
            f"{int((~found).sum())} of {len(found)} predictions belong to no image of the split "
            f"(sample_index {np.asarray(sample_index)[~found][:5].tolist()})",
            "the split that was scored",
            "measure on the same data, revision and max_*_samples",
        )
    rows = order[places].tolist()
    cores = count_cores()
    loader = DataLoader(
        _ImageRuler(split, data),  # type: ignore[arg-type]
        batch_size=_BATCH,
        sampler=rows,
        num_workers=cores if cores > 1 and len(rows) > _WORTH_WORKERS else 0,
        collate_fn=np.asarray,
        generator=Generator(),  # its own, so that no random number of the run is used up
    )
    table = np.concatenate(list(loader)) if rows else np.empty((0, len(STATISTICS)))
    return {name: table[:, column] for column, name in enumerate(STATISTICS)}


class _ImageRuler:
    """Measures images; a map-style dataset for a `DataLoader`."""

    def __init__(self, split: Dataset, data: DataArguments) -> None:
        self._rows = split.select_columns(["image", "sample_index"]).with_format(None)
        self._reading = Reading.from_arguments(data)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, rows: Sequence[int]) -> list[list[float]]:
        batch = self._rows[list(rows)]
        return [self._measure(*row) for row in zip(batch["image"], batch["sample_index"], strict=True)]

    def _measure(self, source: Any, sample_index: int) -> list[float]:
        try:
            encoded = EncodedImage(source, self._reading)
            width, height = encoded.size
            enough = (_SHORTER_SIDE_PX, _SHORTER_SIDE_PX)
            image = encoded.read(choose_reduction(encoded.size, enough) if encoded.reducible else 1)
        except DataError as error:
            raise name_sample(error, sample_index) from error
        size = float(len(encoded.data)) if encoded.data else np.nan
        return [*_measure_light(image), width, height, width / height, size]


def _measure_light(image: Image.Image) -> tuple[float, float, float]:
    """Brightness, contrast and sharpness of an RGB image.

    Source:
        Sharpness: Pech-Pacheco et al. (2000), "Diatom autofocusing in brightfield microscopy: a comparative study",
        https://doi.org/10.1109/ICPR.2000.903548
    """
    luma = image.convert("L")
    if min(luma.size) > _SHORTER_SIDE_PX:
        scale = _SHORTER_SIDE_PX / min(luma.size)
        luma = luma.resize((round(luma.width * scale), round(luma.height * scale)), Image.Resampling.BILINEAR)
    levels = np.asarray(luma, dtype=np.float32)
    brightness, contrast = float(levels.mean(dtype=np.float64)) / 255, float(levels.std(dtype=np.float64)) / 255
    if min(levels.shape) < 3:
        return brightness, contrast, np.nan
    center = levels[1:-1, 1:-1]
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * center
    return brightness, contrast, float(laplacian.var(dtype=np.float64))
