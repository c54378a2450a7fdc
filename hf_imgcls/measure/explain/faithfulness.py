"""Whether a heat map may be believed: tests on the model itself, because a plausible picture proves nothing.

A method is trusted when its maps pass all of these, else not, with the first reason that holds:

1. *It marks something.* An empty or even map is no explanation.
2. *What it marks matters* (deletion and insertion, Petsiuk et al. 2018, arXiv:1806.07421): the answer falls faster when
   pixels are covered from the hottest on, and rises faster when they are uncovered in that order, than in a random
   order. ``faithfulness`` is the insertion area minus the deletion area, from -1 to 1; it must exceed that of random
   maps by `MIN_GAIN` = 0.05 of probability. On six untrained networks (tiny ViT and ResNet) none reached 0.03.
3. *It depends on what was learned* (Adebayo et al. 2018, arXiv:1810.03292): with all weights drawn anew, the map must
   change; a mean rank correlation above `MAX_RANDOM_CORRELATION` = 0.5 says that it shows the image (edges, colours)
   and not the model. The sign counts, because a map holds only what speaks for the class. With only the head drawn anew
   the correlation is reported and judges nothing: attention rollout knows no head by its definition.
4. *The model has learned something to explain*: ``faithfulness`` must be at least `MIN_RANDOM_RATIO` = 2 times that on
   models with random weights: a model that was never trained is one of them. A random head on trained layers is not,
   because what it picks at random may well be one thing in the image, and rightly shown.
5. *Methods agree*: with at least one other method the rank correlation must reach `MIN_AGREEMENT` = 0.2. Methods that
   fail in different ways rarely fail alike.

The numbers of one image are noisy; those of a method over all images are means, and are judged by the same rules.

The bounds are conventions, tried on networks of a few thousand parameters with a planted shortcut and on untrained ones
(tests/measure/test_explain.py), not on large trained models. A verdict therefore never stands alone: the report gives
every number and bound that it is made of. "Do not trust" means that a test was failed, not that the map is wrong.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_imgcls.classifier.head import head_parameter_names
from hf_imgcls.measure.explain.heat_maps import compute_log_odds, cover_color, evaluation_mode

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

MIN_GAIN = 0.05
MAX_RANDOM_CORRELATION = 0.5
MIN_RANDOM_RATIO = 2.0
MIN_AGREEMENT = 0.2
# Points of a deletion or insertion curve.
_NUM_STEPS = 16
# Maps are compared on so many places a side: finer differences are of the methods' making, not of the model's.
_COMPARED_SIDE = 14
_RANDOM_MAP_SIDE = 7


def measure_curves(
    model: PreTrainedModel, pixel_values: torch.Tensor, target: int, heat_map: NDArray[np.float32], *, batch_size: int
) -> tuple[float, float]:
    """Areas under the deletion and the insertion curve.

    Covered pixels get the image's mean colour in both. Petsiuk et al. insert into a blurred image; a colour survives
    any blur, so that there a model that decides by colour would know its answer before the first pixel.

    Args:
        model: Any image classifier.
        pixel_values: ``(C, H, W)``.
        target: The class whose probability makes the curve.
        heat_map: ``(H, W)``; only its order counts. Equal places are ordered at random (the same each time).
        batch_size: Images per forward pass.

    Returns:
        Mean probability while the hottest pixels are covered first (lower is better), and while they are uncovered
        first (higher is better); both from 0 to 1.
    """
    image = pixel_values.to(model.device, model.dtype)[None]
    # lexsort orders by its last key first.
    order = np.lexsort((np.random.default_rng(0).permutation(heat_map.size), -heat_map.ravel()))
    rank = torch.empty(heat_map.size, dtype=torch.int64)
    rank[torch.from_numpy(order)] = torch.arange(heat_map.size)
    rank = rank.reshape(heat_map.shape).to(image.device)
    covered = cover_color(image)
    curves = []
    with evaluation_mode(model), torch.no_grad():
        for hottest, others in ((covered, image), (image, covered)):
            numbers = torch.linspace(0, heat_map.size, _NUM_STEPS + 1, device=image.device).round()
            probabilities = []
            for some in numbers.split(batch_size):
                batch = torch.where(rank < some[:, None, None, None], hottest, others)
                classes = torch.full((len(batch),), target, device=image.device)
                probabilities.append(compute_log_odds(model, batch, classes).sigmoid())
            curves.append(torch.cat(probabilities).double())
    deletion, insertion = (float(torch.trapezoid(curve) / _NUM_STEPS) for curve in curves)
    return deletion, insertion


def draw_random_map(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """A map that knows nothing, as smooth as a real one: 7 x 7 random numbers, interpolated to ``(H, W)``."""
    values = torch.rand((1, 1, _RANDOM_MAP_SIDE, _RANDOM_MAP_SIDE), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(values, shape, mode="bilinear")[0, 0].numpy()


def correlate_maps(first: NDArray[np.float32], second: NDArray[np.float32]) -> float | None:
    """Spearman's rank correlation of two ``(H, W)`` maps on at most 14 x 14 places; ``None`` when one is even."""
    from scipy.stats import spearmanr

    coarse = []
    for heat_map in (first, second):
        shape = [min(side, _COMPARED_SIDE) for side in heat_map.shape]
        places = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(heat_map)[None], shape)
        coarse.append(places.numpy().ravel())
    if any(np.ptp(places) < 1e-6 for places in coarse):
        return None
    return float(spearmanr(*coarse).statistic)


def randomize_weights(
    model: PreTrainedModel, *, head_only: bool, seed: int, images: torch.Tensor | None = None
) -> PreTrainedModel:
    """The same architecture with weights drawn anew by its own initialisation, on the model's device.

    Batch normalisation gets the statistics that ``images`` have under the new weights, as it would in the first step of
    training. With those that it begins with, mean 0 and variance 1, signals grow or vanish from layer to layer: a
    ResNet-50 that knows nothing is sure of itself (0.999 in ten classes), and a MobileNetV2 sees no image at all.

    Args:
        model: Stays as it is.
        head_only: Keep everything but the parameters whose shape depends on the number of classes.
        seed: Of the draw; the global random state stays as it is.
        images: ``(B, C, H, W)``; None leaves the statistics as they begin.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config))
    if head_only:
        head = head_parameter_names(model.config)
        fresh.load_state_dict(
            {name: value for name, value in model.state_dict().items() if name not in head}, strict=False
        )
    fresh.to(model.device, model.dtype).eval()
    layers = [layer for layer in fresh.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    if layers and images is not None and not head_only:
        for layer in layers:
            layer.momentum = None  # the statistics are those of this one batch
            layer.train()
        pixel_values = images.to(fresh.device, fresh.dtype)
        with torch.no_grad():
            fresh(pixel_values=torch.cat([pixel_values, pixel_values.flip(-1)]))  # one value has no variance
        fresh.eval()
    return fresh


def judge(scores: dict[str, Any]) -> tuple[str, str]:
    """The verdict on one map, or on a method by the means over its maps.

    Args:
        scores: ``faithfulness``, ``random_map_faithfulness``, ``random_weights_faithfulness``,
            ``random_weights_correlation`` and ``agreement``, see
            `hf_imgcls.measure.explain.explain`; ``None`` where there is no such number.

    Returns:
        ``"trust"`` or ``"do not trust"``, and why.
    """
    no = "do not trust"
    faithfulness, random_map = scores["faithfulness"], scores["random_map_faithfulness"]
    if faithfulness is None:
        return no, "the map is empty: no place speaks for the class"
    if faithfulness - random_map < MIN_GAIN:
        return no, (
            f"what it marks hardly matters: covering and uncovering in its order moves the probability by "
            f"{faithfulness:.2f}, a random order by {random_map:.2f}, and at least {MIN_GAIN:.2f} more is asked for"
        )
    correlation = scores["random_weights_correlation"]
    if correlation is not None and correlation > MAX_RANDOM_CORRELATION:
        return no, (
            f"it shows the image rather than the model: with random weights the map stays much the same "
            f"(rank correlation {correlation:.2f}, at most {MAX_RANDOM_CORRELATION:.2f} is allowed)"
        )
    random_weights = scores["random_weights_faithfulness"]
    if faithfulness < MIN_RANDOM_RATIO * random_weights:
        return no, (
            f"it explains models with random weights about as well ({random_weights:.2f} against {faithfulness:.2f}, "
            f"at least {MIN_RANDOM_RATIO:g} times as much is asked for): the model may have learned nothing"
        )
    agreement = scores["agreement"]
    if agreement is not None and agreement < MIN_AGREEMENT:
        return no, (
            f"no other method marks the same places (rank correlation at most {agreement:.2f}, "
            f"{MIN_AGREEMENT:.2f} is asked for)"
        )
    alone = "; no other method could confirm it" if agreement is None else ""
    return "trust", (
        f"what it marks matters ({faithfulness:.2f} against {random_map:.2f} in a random order) and depends on what "
        f"the model has learned ({random_weights:.2f} with random weights){alone}"
    )
