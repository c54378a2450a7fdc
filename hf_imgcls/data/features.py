"""Compute the features of a split once, and keep them on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_imgcls.classifier.features import CHUNK, Features, digest_backbone, read_features
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.data.batches import BatchedSplit
from hf_imgcls.data.cache import fingerprint_files, write_atomically
from hf_imgcls.data.collate import collate_batch
from hf_imgcls.data.label_sets import read_label_ids
from hf_imgcls.errors import DataError, NumericsError

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_imgcls.data.image_transforms import EvalTransform

_LAYOUT = "1"  # part of the key: raise it when the features or their file change
_BAR_AFTER_S = 5


def compute_features(
    model: nn.Module,
    split: Dataset,
    transform: EvalTransform,
    folder: Path,
    *,
    name: str = "images",
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> Features:
    """Return what a model's head is given for each image of a split, from the disk if it was computed before.

    Args:
        model: A classifier with one linear head, on any device; it is left in evaluation mode and, where something was
            computed, in the memory format ``channels_last``.
        split: Columns ``image``, ``label``, ``sample_index``.
        transform: Prepares its images.
        folder: The cache, see `hf_imgcls.data.cache.find_cache_folder`.
        name: What errors and the progress bar call the split.
        batch_size: Images per forward pass.
        num_workers: Loader processes.
        progress: Show a bar.

    Raises:
        ModelError: The head is not one linear layer.
        DataError: The features cannot be kept.
        NumericsError: A feature is NaN or infinite.
    """
    head = find_linear_head(model)
    ids = read_label_ids(split)
    labels = ids if isinstance(ids, np.ndarray) else ids.toarray().astype(np.float64)
    options = {
        "weights": digest_backbone(model, head),
        "processor": json.dumps(transform.preprocessor.processor.to_dict(), sort_keys=True, default=str),
        **transform.reading.key,
    }
    path = folder / f"features-{fingerprint_files(split, f'features {_LAYOUT}', options)}.npy"
    started, seconds = time.perf_counter(), 0.0
    if not path.exists():
        device = next(model.parameters()).device
        loader = DataLoader(
            BatchedSplit(split, transform),
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            collate_fn=collate_batch,
            generator=torch.Generator(),  # the random state of whoever trains stays as it is
        )
        bar = tqdm(
            total=len(split), desc=f"features of {name}", unit=" images", delay=_BAR_AFTER_S, disable=not progress
        )
        try:
            with bar:
                _write(path, (len(split), head.in_features), _extract(model, head, loader, transform, bar))
        except OSError as error:
            raise DataError(
                f"the features cannot be kept: {error}",
                f"{len(split) * head.in_features * 4 / 2**20:,.0f} MiB of room in {path.parent}",
                "free some space, or choose another --cache_dir",
            ) from error
        seconds = time.perf_counter() - started
    values = np.load(path, mmap_mode="r")
    for start in range(0, len(values), CHUNK):
        if not np.isfinite(values[start : start + CHUNK]).all():
            raise NumericsError(f"features of {name} are not finite", "finite numbers", "look for NaN in the weights")
    return Features(values, labels, seconds)


@torch.no_grad()  # not inference_mode, which the model's weights, moved here, would remember
def _extract(
    model: nn.Module, head: nn.Linear, loader: DataLoader, transform: EvalTransform, bar: tqdm
) -> Iterator[torch.Tensor]:
    """Yield the head's inputs, batch by batch: float32 ``(B, D)``. In float32, as the model will be served."""
    device = next(model.parameters()).device
    # On a CPU an EfficientNet answers 1.7 times as fast so.
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in loader:
        pixels = transform.preprocessor.normalizer(batch["pixel_values"].to(device, non_blocking=True))
        values = read_features(model, head, pixels.contiguous(memory_format=torch.channels_last))
        bar.update(len(values))
        yield values.float().cpu()


def _write(path: Path, shape: tuple[int, int], batches: Iterator[torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for values in batches:
            file.write(values.numpy().tobytes())
