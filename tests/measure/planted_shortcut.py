"""Images with a planted shortcut, and tiny models that have learned it: what a right explanation points at is known.

A red or blue patch in one of the corners decides the class; without it, it is "none". Everything else is grey texture,
and other corners have black or white patches, which draw the eye as much and mean nothing. Only the coloured classes
are explained: for "none" there is no place to point at. A quarter of "none" is plain: what covering leaves.

Nothing is exactly grey: a region that is covered by the image's mean colour keeps a trace of the patch, and in images
without any other colour a network may decide by that trace (a ConvNeXt does, whose first LayerNorm divides by it).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.fit.model import build_model

SIDE, PATCH = 32, 8
AREA = (PATCH / SIDE) ** 2
TINT = 12.0  # standard deviation
LABELS = ["none", "red", "blue"]
_COLORS = {1: (220, 40, 40), 2: (40, 60, 220)}
CONFIGS = TINY_CONFIGS | {
    "vit": TINY_CONFIGS["vit"] | {"num_hidden_layers": 1},
    # A feature map of 8 x 8 places.
    "resnet": TINY_CONFIGS["resnet"] | {"embedding_size": 16, "hidden_sizes": [32], "depths": [1]},
    # The same, and layer scales that begin small, as they do by default: with 1 the last block's kernel of 7 x 7
    # spreads what it finds over the whole map, and Grad-CAM shows just that.
    "convnext": TINY_CONFIGS["convnext"] | {"patch_size": 2, "layer_scale_init_value": 1e-6},
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
    of_image = rng.normal(0, TINT, size=(number, 1, 1, 3))
    of_block = rng.normal(0, TINT, size=(number, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = texture + of_image + of_block + rng.normal(0, 8, size=(number, SIDE, SIDE, 1))
    masks = np.zeros((number, SIDE, SIDE), dtype=bool)
    for image, mask, label, tint in zip(pixels, masks, labels, of_image, strict=True):
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
            image[:] = rng.uniform(90, 165) + tint
    return Planted([Image.fromarray(array) for array in pixels.clip(0, 255).astype(np.uint8)], labels, masks)


def build_untrained(model_type: str, seed: int = 0, **config: Any) -> tuple[Any, Any]:
    """A tiny model with random weights, in evaluation mode, and its processor."""
    torch.manual_seed(seed)
    fit = FitArguments(model_type=model_type, model_config={**CONFIGS[model_type], **config})
    model, processor = build_model(fit, DataArguments(image_size=SIDE), LABELS)
    return model.eval(), processor


@functools.cache
def find_trained(model_type: str) -> tuple[Any, Any]:
    """A tiny model that has learned the shortcut, and its processor; not to be changed.

    It learns until it knows, because the number of steps that this takes differs from machine to machine.
    """
    model, processor = build_untrained(model_type)
    planted = draw_images(4096, seed=1, with_none=True)
    pixel_values = processor(planted.images, return_tensors="pt")["pixel_values"]
    labels = torch.from_numpy(planted.labels)
    # At a higher rate some of the ViTs never tell red from blue.
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3 if model_type == "vit" else 3e-3)
    average = 1.0
    for step in range(1000):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        loss = torch.nn.functional.cross_entropy(model(pixel_values=pixel_values[rows]).logits, labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average = 0.95 * average + 0.05 * float(loss.detach())
        if average < 0.02:
            return model.eval(), processor
    raise AssertionError(f"{model_type} has not learned the shortcut: loss {average:.3f}")
