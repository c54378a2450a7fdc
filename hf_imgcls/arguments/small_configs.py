"""Configs for training from scratch on small images, where ``--model_type`` alone would mean a network for 224 pixels.

The library's own configs have 28 to 86 million parameters and cut 28 x 28 pixels into one or four patches, or refuse
them. Only the standard library is imported: the config is part of the arguments, so that ``recipe.yaml`` holds it.
"""

from __future__ import annotations

import math
from typing import Any

# Chosen on 2,000 images of Fashion-MNIST at 28 pixels, batches of 32, AdamW, one thread: accuracy and log loss of 3,000
# images that were held out (+- 0.006), CPU seconds on a busy machine. A plain network of two convolutions, trained with
# Adam, had 0.847 after 12 s, 0.865 and 0.47 at its best after 24 s, 0.861 and 0.63 after 36 s.
# - ConvNeXt of widths 32, 64, 128 with a patch of 2, 15 epochs: 0.860 and 0.44 in 37 s; widths 64, 128 with a patch of
#   4: 0.844 and 0.49 in 36 s.
# - ResNet of widths 64, 128, 256, 12 epochs: 0.860 and 0.41 in 39 s; widths 64, 128, 15 epochs: 0.854 and 0.42 in 30 s.
# - ViT of 4 layers of 96 with patches of 4, 12 epochs at 1e-3: 0.761 and 0.64 in 55 s. No ViT came near the others, and
#   `hf_imgcls.fit.hints` says so.
# Larger images keep the size of the maps: patches grow with them. A ResNet's stem divides by 4 and cannot be set.

LARGEST_SMALL = 96  # pixels; above it a model type alone is the library's config
_WIDTHS = ("hidden_size", "hidden_sizes")  # whoever names one of them has a network of their own in mind
_CONVNEXT = {
    "num_stages": 3,
    "depths": [1, 1, 1],
    "hidden_sizes": [32, 64, 128],
    "drop_path_rate": 0.0,
    "initializer_range": 0.1,  # about 1 / sqrt(width); 0.02 is for ImageNet's widths
}
_VIT = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.1,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "convnext": {**_CONVNEXT, "layer_scale_init_value": 1.0},  # 1e-6 is for networks that train a hundred times longer
    "convnextv2": _CONVNEXT,
    "resnet": {"embedding_size": 64, "hidden_sizes": [64, 128, 256], "depths": [1, 1, 1], "layer_type": "basic"},
    "vit": _VIT,
    "deit": _VIT,
}
_GRID = 8  # patches of a ViT along a side


def choose_small_config(model_type: str | None, image_size: int | None, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the config of a network for small images, or ``None`` where the library's own applies.

    Args:
        model_type: As in ``--model_type``.
        image_size: ``--image_size`` in pixels; ``None`` leaves it to ``given`` or the library.
        given: ``--model_config``: its values replace those here, key by key. One that names the width is taken as a
            config of its own.

    Returns:
        Everything that is to be passed to the config class, ``given`` included.
    """
    size = image_size if image_size is not None else given.get("image_size")
    if not isinstance(size, int) or not 0 < size <= LARGEST_SMALL:
        return None
    if model_type not in _CONFIGS or any(key in given for key in _WIDTHS):
        return None
    config = dict(_CONFIGS[model_type])
    if model_type in ("convnext", "convnextv2"):
        config["patch_size"] = 2 if size <= 40 else 4
    elif model_type in ("vit", "deit"):
        config["patch_size"] = _choose_patch(size)
    return {**config, **given}


def _choose_patch(size: int) -> int:
    """The side of patches that divide an image into about 8 x 8; where none does, one that the model will refuse."""
    divisors = [
        patch for patch in range(1, size + 1) if size % patch == 0 and _GRID <= 2 * (size // patch) <= 4 * _GRID
    ]
    if not divisors:
        return max(1, round(size / _GRID))
    return min(divisors, key=lambda patch: abs(math.log(size / patch / _GRID)))
