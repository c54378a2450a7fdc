"""The training policy: what a run does where the user has not said it, by what is trained and on how many images.

One table; each row has its evidence. `hf_imgcls.fit.resolve_policy` applies it once data and model are known, the
documentation shows it. Only the standard library is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hf_imgcls.arguments.small_configs import LARGEST_SMALL

AUTO_IMAGES = 20_000  # up to so many training images the default starts from a probe
_USUAL_BATCH = 32  # images a step that the learning rates were measured with
_LEAST_SCALING = 0.25
_CROPS = ("random_crop_scale", "random_crop_ratio")
SCHEDULES_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau")


@dataclass(frozen=True)
class Situation:
    """What the policy depends on.

    Attributes:
        trained: What optimizer steps train: ``"full"``, ``"partial"``, ``"lora"`` or ``"head"``.
        is_scratch: Whether the weights are random at first.
        has_batch_norm: Whether the network normalises over the batch (BatchNorm) and not over each example (LayerNorm).
        num_images: Training images; None for a stream of unknown length.
        images_per_step: Of all processes and micro-batches.
        image_size: The longer side of the model's input in pixels.
        starts_from_probe: Whether the head is solved for before anything is trained (``--adaptation auto``).
        schedule: ``lr_scheduler_type`` as the user gave it; None where it is the policy's.
    """

    trained: str
    is_scratch: bool
    has_batch_norm: bool
    num_images: int | None
    images_per_step: int
    image_size: int = 224
    starts_from_probe: bool = False
    schedule: str | None = None


@dataclass(frozen=True)
class PolicyRow:
    """One row of the table.

    Attributes:
        name: The argument.
        choose: Its value in a situation; ``None`` leaves it as it is.
        shown: The rule in words.
        evidence: What it rests on.
    """

    name: str
    choose: Callable[[Situation], Any]
    shown: str
    evidence: str


@dataclass(frozen=True)
class StepBudget:
    """How long a run is.

    Attributes:
        steps: Optimizer steps that epochs are added for.
        fewest: Epochs that every run has.
        most: Epochs that no run exceeds for the steps' sake.
    """

    steps: int
    fewest: int
    most: int

    def count_epochs(self, num_images: int, images_per_step: int) -> int:
        """Return the whole epochs that come to the budget."""
        per_epoch = math.ceil(num_images / images_per_step)
        return min(max(self.fewest, math.ceil(self.steps / per_epoch)), self.most)


FINETUNING_BUDGET = StepBudget(steps=300, fewest=3, most=30)
SCRATCH_BUDGET = StepBudget(steps=1000, fewest=8, most=100)
# For 32 images a step, and how many times more a larger step may have. BatchNorm networks stand close to an edge: from
# a probe, 2e-3 ruins EfficientNet-Lite0 on digits (validation log loss 2.30, at 1e-3 0.148, at 5e-4 0.091).
LEARNING_RATES = {
    "head": (5e-3, 4.0),
    "lora": (3e-3, 4.0),
    "batch_norm": (1e-3, 1.0),
    "batch_norm_from_probe": (5e-4, 2.0),
    "layer_norm": (2e-4, 4.0),
    "scratch": (1e-3, 4.0),
    "small_scratch": (2e-3, 4.0),
}


def _learning_rate(situation: Situation) -> float:
    if situation.is_scratch:
        kind = "small_scratch" if situation.image_size <= LARGEST_SMALL else "scratch"
    elif situation.trained in ("head", "lora"):
        kind = situation.trained
    else:
        kind = "batch_norm" if situation.has_batch_norm else "layer_norm"
        kind += "_from_probe" if _goes_on_from_probe(situation) else ""
    rate, most = LEARNING_RATES[kind]
    scaling = math.sqrt(situation.images_per_step / _USUAL_BATCH)
    return float(f"{rate * min(max(scaling, _LEAST_SCALING), most):.2g}")


def _epochs(situation: Situation) -> float | None:
    if situation.num_images is None:
        return None
    budget = SCRATCH_BUDGET if situation.is_scratch else FINETUNING_BUDGET
    return float(budget.count_epochs(max(situation.num_images, 1), situation.images_per_step))


def _goes_on_from_probe(situation: Situation) -> bool:
    """Whether all weights of a pretrained BatchNorm network are trained from a probe's head."""
    is_full = situation.trained == "full" and not situation.is_scratch
    return is_full and situation.has_batch_norm and situation.starts_from_probe


def _warmup_ratio(situation: Situation) -> float | None:
    return None if situation.schedule in SCHEDULES_WITHOUT_WARMUP else 0.1


def _on_small_images(value: list[float]) -> Callable[[Situation], list[float] | None]:
    def choose(situation: Situation) -> list[float] | None:
        return value if situation.is_scratch and situation.image_size <= LARGEST_SMALL else None

    return choose


POLICY = (
    PolicyRow(
        "learning_rate",
        _learning_rate,
        "full or partial: 1e-3 with BatchNorm, 5e-4 where that starts from a probe, 2e-4 with LayerNorm; LoRA: "
        f"3e-3; head: 5e-3; from scratch: 1e-3, 2e-3 at up to {LARGEST_SMALL} pixels; each times the square root "
        "of (images a step / 32), a quarter to 4 times (with BatchNorm to once, from a probe to twice)",
        "EfficientNet-Lite0: 600 Fashion-MNIST images, 10 epochs, 1e-3 0.816, 3e-4 0.764 test accuracy; from a "
        "probe, validation log loss at 2e-3, 1e-3, 5e-4: digits 2.30, 0.148, 0.091, Fashion-MNIST -, 0.585, "
        "0.619, emoji with averaged weights -, 0.642, 0.540; its head alone on digits at 5e-4, 5e-3, 2e-2: 0.829, "
        "0.434, 0.798. Small ViT of SimCLR: from a probe at 1e-4, 3e-4, 1e-3: digits 0.842, 0.703, 0.914, "
        "Fashion-MNIST 0.944, 1.015, 1.046; LoRA on digits at 5e-4, 1e-3, 3e-3: 1.689, 1.320, 0.835. Small "
        "ConvNeXt from scratch, 2,000 images, 15 epochs: 2e-3 0.860, 4e-3 0.855",
    ),
    PolicyRow(
        "num_train_epochs",
        _epochs,
        f"as many whole epochs as make {FINETUNING_BUDGET.steps} optimizer steps, {FINETUNING_BUDGET.fewest} to "
        f"{FINETUNING_BUDGET.most}; from scratch {SCRATCH_BUDGET.steps:,} steps, {SCRATCH_BUDGET.fewest} to "
        f"{SCRATCH_BUDGET.most} epochs",
        "EfficientNet-Lite0 from a probe at 1e-3, 510 letters in ten fonts: validation log loss 1.246 after a run of "
        "10 epochs, 0.721 after one of 19; small ConvNeXt from scratch, 2,000 images: 15 epochs 0.860 with log loss "
        "0.44, 30 epochs at 3e-3 0.850 with 0.52",
    ),
    PolicyRow(
        "lr_scheduler_type",
        lambda situation: "cosine",
        "cosine",
        "Loshchilov and Hutter 2017, 'SGDR' (arXiv:1608.03983); Kornblith et al. 2019 (arXiv:1805.08974), appendix A.4",
    ),
    PolicyRow(
        "warmup_ratio",
        _warmup_ratio,
        "0.1, except for schedules that have no warm-up",
        "Goyal et al. 2017, 'Accurate, Large Minibatch SGD' (arXiv:1706.02677), section 2.2",
    ),
    PolicyRow(
        "random_crop_scale",
        _on_small_images([0.85, 1.0]),
        f"from scratch at up to {LARGEST_SMALL} pixels: 0.85 to 1, and `random_crop_ratio` 0.9 to 1.11",
        "small ConvNeXt from scratch, 2,000 Fashion-MNIST images, 15 epochs: 0.860, without crops (at 3e-3) 0.843; "
        "with 0.35 to 1 the ConvNeXt of `benchmarks/ablate.txt` reached 0.768 instead of 0.836 in 5 epochs",
    ),
    PolicyRow(
        "random_crop_ratio",
        _on_small_images([0.9, 1.11]),
        f"from scratch at up to {LARGEST_SMALL} pixels: 0.9 to 1.11",
        "measured together with `random_crop_scale`",
    ),
    PolicyRow(
        "freeze_batch_norm",
        lambda situation: True if _goes_on_from_probe(situation) else None,
        "true for full fine-tuning from a probe, whose head was solved with the saved statistics",
        "EfficientNet-Lite0 from the probe at 1e-3, 8 to 10 epochs, validation log loss with saved statistics and "
        "with the batches': Fashion-MNIST 0.381, 0.628; digits 0.148, 0.623; emoji 0.546, 0.702; letters 1.246, "
        "1.319",
    ),
    PolicyRow(
        "ema_decay",
        lambda situation: 0.98 if _goes_on_from_probe(situation) else None,
        "0.98 for full fine-tuning from a probe with BatchNorm",
        "EfficientNet-Lite0 from the probe at 1e-3, validation log loss without and with it: digits 0.148, 0.098; "
        "Fashion-MNIST 0.585, 0.583; emoji 0.672, 0.642 (stopped after 11 of 14 epochs)",
    ),
)


def describe_rows() -> list[str]:
    """Return the table in Markdown, a line for each row."""
    return [f"| `{row.name}` | {row.shown} | {row.evidence} |" for row in POLICY]


def choose_values(situation: Situation, given: set[str]) -> dict[str, Any]:
    """Return what the policy fills in.

    Args:
        situation: What is trained, on what.
        given: The names that the user gave; they keep their values.
    """
    if "max_steps" in given:
        given = given | {"num_train_epochs"}
    if "warmup_steps" in given:
        given = given | {"warmup_ratio"}
    if given & {"augmentation", *_CROPS}:  # who says how images are cropped says all of it
        given = given.union(_CROPS)
    chosen = {row.name: row.choose(situation) for row in POLICY if row.name not in given}
    return {name: value for name, value in chosen.items() if value is not None}
