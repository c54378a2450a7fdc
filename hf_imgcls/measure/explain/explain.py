"""Explain examples: heat maps by several methods, each with the tests that say whether to believe it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from hf_imgcls.extras import require
from hf_imgcls.measure.explain.faithfulness import (
    MAX_RANDOM_CORRELATION,
    MIN_AGREEMENT,
    MIN_GAIN,
    MIN_RANDOM_RATIO,
    correlate_maps,
    draw_random_map,
    judge,
    measure_curves,
    randomize_weights,
)
from hf_imgcls.measure.explain.feature_layers import NotApplicableError
from hf_imgcls.measure.explain.heat_maps import METHODS, compute_heat_maps, compute_log_odds, evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

_SCORES = (
    "deletion_auc",
    "insertion_auc",
    "faithfulness",
    "random_map_faithfulness",
    "random_weights_faithfulness",
    "random_weights_correlation",
    "random_head_correlation",
    "agreement",
)
_NUM_RANDOM_MAPS = 3
_NUM_RANDOM_MODELS = 2
_NUM_STATISTICS_IMAGES = 16  # for the batch normalisation of random models
# Smaller pictures are enlarged, so that a contour line can be seen.
_MIN_OVERLAY_SIDE = 224


def explain_examples(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Sequence[Image.Image],
    targets: Sequence[int],
    *,
    methods: Sequence[str] = METHODS,
    device: str | torch.device | None = None,
    overlay_folder: str | Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Explain why a model gives images their classes, and say which explanations to believe.

    An image takes about 800 forward passes (the model's, and those of three copies with random weights): seconds on
    a GPU; on a CPU a few examples are enough.

    Args:
        model: From ``AutoModelForImageClassification``; left as it was.
        processor: Its image processor.
        images: RGB images, upright.
        targets: The class to explain in each image: class ids of the model.
        methods: Some of `METHODS`.
        device: Where to compute; ``None`` is where the model is. The model goes back afterwards.
        overlay_folder: An existing folder for the pictures, ``explanation_<position>_<method>.png``; ``None`` draws
            none.
        batch_size: Images per forward pass.
        seed: Of random maps and random weights.

    Returns:
        Plain data for ``ReportRecord.explanations``:

        - ``methods``: name -> ``applies`` (bool), ``verdict`` (``"trust"``, ``"do not trust"`` or
          ``"not applicable"``), ``reason``, ``num_examples``, ``num_trusted``, and the means of the scores below;
        - ``examples``: one dict for each image: ``position``, ``target``, ``target_label``, ``probability`` (of the
          target), ``predicted_label``, and ``methods``: name -> ``verdict``, ``reason``, ``overlay`` (file name or
          None) and the scores:

          - ``deletion_auc``, ``insertion_auc``, and ``faithfulness``, their difference;
          - ``random_map_faithfulness``: the mean of three random maps;
          - ``random_weights_faithfulness``: the method's largest on two models with random weights;
          - ``random_weights_correlation``: mean rank correlation with their maps;
          - ``random_head_correlation``: with the map of the model under a random head;
          - ``agreement``: the largest rank correlation with another method, and ``agreements``: with each;
        - ``thresholds``: what verdicts are made with, see `hf_imgcls.measure.explain.faithfulness`.

    Raises:
        MissingExtraError: captum is not installed.
    """
    require("explain")
    home = model.device
    if device is not None:
        model.to(device)
    try:
        folder = None if overlay_folder is None else Path(overlay_folder)
        some = images[:_NUM_STATISTICS_IMAGES]
        sample = torch.cat([_process(processor, image) for image in some]) if some else None
        explainer = _Explainer(model, methods, batch_size, seed, folder, sample)
        examples = []
        with evaluation_mode(model):
            for position, (image, target) in enumerate(zip(images, targets, strict=True)):
                pixel_values = _process(processor, image)
                examples.append(
                    explainer.explain(position, pixel_values, _show_pixels(processor, pixel_values), target)
                )
    finally:
        model.to(home)
    return {
        "methods": {method: explainer.summarize(method, examples) for method in methods},
        "examples": examples,
        "thresholds": {
            "min_gain": MIN_GAIN,
            "max_random_weights_correlation": MAX_RANDOM_CORRELATION,
            "min_random_weights_ratio": MIN_RANDOM_RATIO,
            "min_agreement": MIN_AGREEMENT,
        },
    }


class _Explainer:
    """Explains one image after the other, with the same random models.

    Args:
        model: In evaluation mode, where it is to compute.
        methods: Some of `METHODS`.
        batch_size: Images per forward pass.
        seed: Of random maps and random weights.
        overlay_folder: For the pictures; ``None`` draws none.
        sample: ``(B, C, H, W)``, images for the batch normalisation of random models.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        methods: Sequence[str],
        batch_size: int,
        seed: int,
        overlay_folder: Path | None,
        sample: torch.Tensor | None,
    ) -> None:
        self.model, self.methods, self.batch_size, self.seed = model, methods, batch_size, seed
        self.overlay_folder = overlay_folder
        self.random_head = randomize_weights(model, head_only=True, seed=seed)
        self.random_models = [
            randomize_weights(model, head_only=False, seed=seed + number, images=sample)
            for number in range(_NUM_RANDOM_MODELS)
        ]

    def explain(self, position: int, pixel_values: torch.Tensor, picture: Image.Image, target: int) -> dict[str, Any]:
        """One image, ``pixel_values`` ``(1, C, H, W)`` and what they look like, by all methods."""
        model, labels = self.model, self.model.config.id2label
        with torch.no_grad():
            pixels, classes = pixel_values.to(model.device, model.dtype), torch.tensor([target], device=model.device)
            probability = float(compute_log_odds(model, pixels, classes).sigmoid())
            predicted = int(model(pixel_values=pixels).logits[0].argmax())
        shape = tuple(pixel_values.shape[-2:])
        random_map = float(
            np.mean(
                [
                    self._measure(model, pixel_values, target, draw_random_map(shape, self.seed + number))[
                        "faithfulness"
                    ]
                    for number in range(_NUM_RANDOM_MAPS)
                ]
            )
        )
        maps: dict[str, NDArray[np.float32]] = {}
        found: dict[str, dict[str, Any]] = {}
        for method in self.methods:
            try:
                maps[method] = self._map(model, pixel_values, target, method)
            except NotApplicableError as error:
                found[method] = {"verdict": "not applicable", "reason": error.found}
        agreements: dict[str, dict[str, float | None]] = {method: {} for method in maps}
        for first, second in itertools.combinations(maps, 2):
            agreements[first][second] = agreements[second][first] = correlate_maps(maps[first], maps[second])
        for method, heat_map in maps.items():
            scores: dict[str, Any] = {"random_map_faithfulness": random_map}
            scores |= self._measure(model, pixel_values, target, heat_map)
            scores |= self._compare_with_random_weights(pixel_values, target, method, heat_map)
            known = [value for value in agreements[method].values() if value is not None]
            scores |= {"agreement": max(known, default=None), "agreements": agreements[method]}
            verdict, reason = judge(scores)
            overlay = None
            if self.overlay_folder is not None:
                overlay = f"explanation_{position}_{method}.png"
                draw_overlay(picture, heat_map).save(self.overlay_folder / overlay)
            found[method] = {"verdict": verdict, "reason": reason, "overlay": overlay, **scores}
        return {
            "position": position,
            "target": target,
            "target_label": labels[target],
            "probability": probability,
            "predicted_label": labels[predicted],
            "methods": {method: found[method] for method in self.methods},
        }

    def summarize(self, method: str, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A method's verdict over all images: its mean scores under the rules for one map."""
        found = [example["methods"][method] for example in examples]
        applied = [item for item in found if item["verdict"] != "not applicable"]
        summary: dict[str, Any] = {
            "applies": bool(applied),
            "num_examples": len(applied),
            "num_trusted": sum(item["verdict"] == "trust" for item in applied),
        }
        if not applied:
            reason = found[0]["reason"] if found else "there are no examples"
            return summary | {"verdict": "not applicable", "reason": reason}
        for name in _SCORES:
            values = [item[name] for item in applied if item[name] is not None]
            summary[name] = float(np.mean(values)) if values else None
        summary["verdict"], summary["reason"] = judge(summary)
        return summary

    def _map(self, model: PreTrainedModel, pixel_values: torch.Tensor, target: int, method: str) -> NDArray[np.float32]:
        return compute_heat_maps(model, pixel_values, torch.tensor([target]), method, batch_size=self.batch_size)[0]

    def _measure(
        self, model: PreTrainedModel, pixel_values: torch.Tensor, target: int, heat_map: NDArray[np.float32]
    ) -> dict[str, float | None]:
        if np.ptp(heat_map) == 0:
            return dict.fromkeys(("deletion_auc", "insertion_auc", "faithfulness"))
        deletion, insertion = measure_curves(model, pixel_values[0], target, heat_map, batch_size=self.batch_size)
        return {"deletion_auc": deletion, "insertion_auc": insertion, "faithfulness": insertion - deletion}

    def _compare_with_random_weights(
        self, pixel_values: torch.Tensor, target: int, method: str, heat_map: NDArray[np.float32]
    ) -> dict[str, float | None]:
        """The same method on models that have learned nothing, or lost their head."""
        of_head = self._map(self.random_head, pixel_values, target, method)
        correlations, gains = [], []
        for random_model in self.random_models:
            other = self._map(random_model, pixel_values, target, method)
            correlations.append(correlate_maps(heat_map, other))
            gains.append(self._measure(random_model, pixel_values, target, other)["faithfulness"] or 0.0)
        known = [value for value in correlations if value is not None]
        return {
            "random_weights_faithfulness": max(gains),
            "random_weights_correlation": float(np.mean(known)) if known else None,
            "random_head_correlation": correlate_maps(heat_map, of_head),
        }


def draw_overlay(picture: Image.Image, heat_map: NDArray[np.float32]) -> Image.Image:
    """Draw a heat map on a picture so that it can be read in colour, in grey, and by the colour-blind.

    The picture turns grey and dark; heat is drawn in a palette whose lightness rises with it, and a white line in black
    surrounds what is at least half as hot as the hottest place.

    Args:
        picture: What the model sees; enlarged when its shorter side has less than 224 pixels.
        heat_map: ``(H, W)`` from 0 to 1, of any size with the picture's proportions.

    Returns:
        RGB.
    """
    from matplotlib import colormaps

    factor = max(1, -(-_MIN_OVERLAY_SIDE // min(picture.size)))
    picture = picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    heat_image = Image.fromarray(heat_map.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(heat_image), 0, 1)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    opacity = 0.25 + 0.5 * heat[..., None]
    colors = colormaps["inferno"](heat)[..., :3].astype(np.float32) * 255
    drawn = 0.7 * grey * (1 - opacity) + colors * opacity

    hot = Image.fromarray(np.where(heat >= 0.5, 255, 0).astype(np.uint8))
    if heat.max() >= 0.5:
        wide, narrow = (
            np.asarray(hot.filter(ImageFilter.MaxFilter(2 * width + 1))) != np.asarray(hot) for width in (3, 1)
        )
        drawn[wide] = 0
        drawn[narrow] = 255
    return Image.fromarray(drawn.round().astype(np.uint8))


def _process(processor: BaseImageProcessor, image: Image.Image) -> torch.Tensor:
    return processor(image, return_tensors="pt")["pixel_values"]


def _show_pixels(processor: BaseImageProcessor, pixel_values: torch.Tensor) -> Image.Image:
    """What the model sees, ``(1, 3, H, W)``, as a picture: resized and cropped, the normalisation undone."""
    of_timm = getattr(processor, "data_config", {})
    mean = getattr(processor, "image_mean", None) or of_timm.get("mean")
    std = getattr(processor, "image_std", None) or of_timm.get("std")
    pixels = pixel_values[0].float().cpu()
    if mean is not None and std is not None and getattr(processor, "do_normalize", True):
        pixels = pixels * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    array = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)
