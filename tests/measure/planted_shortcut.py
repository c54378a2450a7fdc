"""Images with a planted shortcut, and tiny models that have learned it: what a right explanation points at is known.

A red or blue patch in one of the corners decides the class; without it, it is "none". Everything else is grey texture,
and other corners have black or white patches, which draw the eye as much and mean nothing. Only the coloured classes
are explained: for "none" there is no place to point at. A quarter of "none" is plain grey: what covering leaves.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments import DataArguments, FitArguments
from hf_imgcls.fit.model import build_model

SIDE, PATCH = 32, 8
AREA = (PATCH / SIDE) ** 2
LABELS = ["none", "red", "blue"]
_COLORS = {1: (220, 40, 40), 2: (40, 60, 220)}
CONFIGS = TINY_CONFIGS | {
    "vit": TINY_CONFIGS["vit"] | {"num_hidden_layers": 1},
    # A feature map of 8 x 8 places.
    "resnet": TINY_CONFIGS["resnet"] | {"embedding_size": 16, "hidden_sizes": [32], "depths": [1]},
}


class Planted(NamedTuple):
    """Images, their classes, and ``(N, H, W)`` bool masks of the patch that decides."""

    images: list[Image.Image]
    labels: np.ndarray
    masks: np.ndarray


def draw_images(number: int, seed: int, *, with_none: bool = False) -> Planted:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0 if with_none else 1, len(LABELS), size=number)
    texture = rng.uniform(40, 215, size=(number, 8, 8, 1)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.repeat(texture + rng.normal(0, 8, size=(number, SIDE, SIDE, 1)), 3, axis=3)
    masks = np.zeros((number, SIDE, SIDE), dtype=bool)
    for image, mask, label in zip(pixels, masks, labels, strict=True):
        shortcut, decoy = (
            np.s_[corner // 2 * (SIDE - PATCH) :, corner % 2 * (SIDE - PATCH) :] for corner in rng.permutation(4)[:2]
        )
        for corner in (shortcut, decoy):
            if rng.integers(2):  # so that their number says nothing
                image[corner][:PATCH, :PATCH] = 255 * rng.integers(2)
        if label:
            image[shortcut][:PATCH, :PATCH] = _COLORS[label]
        mask[shortcut][:PATCH, :PATCH] = True
        if label == 0 and rng.integers(4) == 0:
            image[:] = rng.uniform(90, 165)
    return Planted([Image.fromarray(array) for array in pixels.clip(0, 255).astype(np.uint8)], labels, masks)


def build_untrained(model_type: str, seed: int = 0, **config: Any) -> tuple[Any, Any]:
    """A tiny model with random weights, in evaluation mode, and its processor."""
    torch.manual_seed(seed)
    fit = FitArguments(model_type=model_type, model_config={**CONFIGS[model_type], **config})
    model, processor = build_model(fit, DataArguments(image_size=SIDE), LABELS)
    return model.eval(), processor


@functools.cache
def find_trained(model_type: str) -> tuple[Any, Any]:
    """A tiny model that has learned the shortcut, and its processor; not to be changed."""
    model, processor = build_untrained(model_type)
    planted = draw_images(512, seed=1, with_none=True)
    pixel_values = processor(planted.images, return_tensors="pt")["pixel_values"]
    labels = torch.from_numpy(planted.labels)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for step in range(150):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        torch.nn.functional.cross_entropy(model(pixel_values=pixel_values[rows]).logits, labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), processor
