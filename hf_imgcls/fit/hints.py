"""Hints: what a run looks like, what is likely to help then, and the flag that does it.

Two tables. `HINTS` are about a run that is about to begin, `REMEDIES` about one that was measured and is not better
than a baseline. A hint is given only where its figures say so, and each has a test that follows it on made-up data and
sees it help (``tests/fit/test_hints.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from hf_imgcls.arguments.small_configs import LARGEST_SMALL
from hf_imgcls.arguments.training_policy import Situation, choose_values

SituationT = TypeVar("SituationT")

_IMBALANCED, _RARE, _FEW, _VERY_FEW, _SMALL_VALIDATION = 10, 10, 1000, 100, 200
_TRANSFORMERS = ("vit", "deit")
_FOR_TRANSFORMERS = 60_000  # training images; nobody measured more
_ENLARGED = 3  # times the images' own side
_REDUCED = 0.75  # of the model's own side
_ENOUGH = 0.25  # of the steps that the policy takes
# Times the policy's learning rate, up and down. A network with LayerNorm that is fine-tuned bears a low one for longer.
_HIGH, _LOW, _LOW_FOR_LAYER_NORM = 5, 5, 20


@dataclass(frozen=True)
class Hint(Generic[SituationT]):
    """One row of a table of hints.

    Attributes:
        name: What tests call it.
        flags: The arguments that it names; none where only other data help.
        tell: Says what is likely to help, or ``""`` where the situation does not ask for it.
    """

    name: str
    flags: tuple[str, ...]
    tell: Callable[[SituationT], str]


@dataclass(frozen=True)
class RunPlan:
    """What is known of a run.

    Attributes:
        situation: What the training policy goes by.
        model_type: ``--model_type``; None for a pretrained model.
        adaptation: ``--adaptation``.
        is_adaptation_given: Whether the user chose it.
        imbalance: ``--imbalance``.
        multi_label: Whether an image may have several labels.
        class_counts: Class name -> training images; empty where they are not counted.
        num_validation: Validation images; None where there are none or they are not counted.
        metric: ``metric_for_best_model`` without ``eval_``.
        source_side: Median of the images' longer side in pixels; None for a stream, or where nobody looked.
        image_side: Longer side of the model's input in pixels.
        own_side: The same as the pretrained model has it by itself; None where it was left as it is.
        steps: Optimizer steps of the run; None where nobody knows.
        has_max_steps: Whether they come from ``--max_steps``.
        learning_rate: The user's or transformers'; None where it is the policy's, or the optimizer is none of Adam's.
    """

    situation: Situation
    model_type: str | None = None
    adaptation: str = "full"
    is_adaptation_given: bool = False
    imbalance: str = "none"
    multi_label: bool = False
    class_counts: Mapping[str, int] = field(default_factory=dict)
    num_validation: int | None = None
    metric: str = ""
    source_side: int | None = None
    image_side: int = 0
    own_side: int | None = None
    steps: int | None = None
    has_max_steps: bool = False
    learning_rate: float | None = None

    @property
    def is_scratch(self) -> bool:
        """Whether training begins with random weights."""
        return self.situation.is_scratch

    @property
    def typical(self) -> float | None:
        """Median number of training images of a class."""
        return float(np.median(list(self.class_counts.values()))) if self.class_counts else None


def _tell_rare(s: RunPlan) -> str:
    rare = [name for name, count in s.class_counts.items() if count < _RARE]
    if not rare:
        return ""
    named = ", ".join(map(repr, rare[:3])) + (" ..." if len(rare) > 3 else "")
    classes = "1 class has" if len(rare) == 1 else f"{len(rare)} classes have"
    return f"{classes} fewer than {_RARE} training images ({named}): collect more of them"


def _tell_imbalance(s: RunPlan) -> str:
    counts = list(s.class_counts.values())
    if not counts or max(counts) < _IMBALANCED * max(min(counts), 1) or s.imbalance != "none" or s.multi_label:
        return ""
    return (
        f"the largest class has {max(counts) / max(min(counts), 1):,.0f} times the images of the smallest: if all "
        "classes matter alike, --imbalance logit_adjust raises balanced_accuracy and macro_recall; it lowers accuracy "
        "(by 3 to 13 points on three sets)"
    )


def _tell_scratch(s: RunPlan) -> str:
    if not s.is_scratch or s.typical is None or s.typical >= _FEW:
        return ""
    return (
        f"{s.typical:,.0f} images a class are few to learn from scratch: a pretrained --model_name_or_path is likely "
        "to help more than anything else"
    )


def _tell_transformer(s: RunPlan) -> str:
    images = s.situation.num_images
    if (
        s.model_type not in _TRANSFORMERS
        or s.image_side > LARGEST_SMALL
        or images is None
        or images > _FOR_TRANSFORMERS
    ):
        return ""
    return (
        f"a {s.model_type} learns slowly from scratch: --model_type resnet reaches more in the same time (of "
        "2,000 Fashion-MNIST images, 0.85 in 57 s instead of 0.76 in 81 s)"
    )


def _tell_adaptation(s: RunPlan) -> str:
    is_full = s.adaptation == "full" and s.is_adaptation_given
    if s.is_scratch or not is_full or s.typical is None or s.typical >= _VERY_FEW:
        return ""
    return (
        f"{s.typical:,.0f} images a class are few to train all weights with: --adaptation auto tries a linear probe "
        "first and keeps it unless fine-tuning is better on validation"
    )


def _tell_validation(s: RunPlan) -> str:
    if not s.num_validation or s.num_validation >= _SMALL_VALIDATION:
        return ""
    points = 98 / np.sqrt(s.num_validation)
    is_fine = s.adaptation == "auto" or s.metric in ("log_loss", "loss")
    finer = "" if is_fine else "--metric_for_best_model log_loss, which is finer, or "
    return (
        f"{s.num_validation} validation images tell models apart that differ by {points:.0f} points or more: use "
        f"{finer}a larger --train_val_split"
    )


def _tell_enlarged(s: RunPlan) -> str:
    if not s.is_scratch or not s.source_side or s.image_side < _ENLARGED * s.source_side:
        return ""
    times = (s.image_side / s.source_side) ** 2
    return (
        f"images of {s.source_side} pixels are enlarged to {s.image_side}, which costs {times:.0f} times as much: from "
        "scratch a smaller --image_size and patch size learn as much in less time"
    )


def _tell_own_size(s: RunPlan) -> str:
    if s.own_side is None or s.image_side > _REDUCED * s.own_side:
        return ""
    return (
        f"the model was trained at {s.own_side} pixels and gets {s.image_side}: without --image_size it may gain, for "
        f"about {(s.own_side / s.image_side) ** 2:.0f} times the computation, even on small images (EfficientNet-Lite0 "
        "at 224 instead of 64 pixels: 5 and 12 points of accuracy more on two sets of 64-pixel images, in 5 to 7 times "
        "the time)"
    )


def _tell_steps(s: RunPlan) -> str:
    suited = choose_values(s.situation, set()).get("num_train_epochs")
    if not s.steps or suited is None or not s.situation.num_images:
        return ""
    per_epoch = math.ceil(s.situation.num_images / s.situation.images_per_step)
    enough = int(suited * per_epoch)
    if s.steps >= _ENOUGH * enough:
        return ""
    more = f"--max_steps {enough}" if s.has_max_steps else f"--num_train_epochs {suited:g} makes {enough:,}"
    what = "from scratch" if s.is_scratch else "to fine-tune with"
    return f"{s.steps:,} step{'s are' if s.steps > 1 else ' is'} few {what}: {more}"


def _tell_rate(s: RunPlan) -> str:
    suited = choose_values(s.situation, set())["learning_rate"]
    if s.learning_rate is None or s.adaptation == "probe":
        return ""
    bears = not s.is_scratch and s.situation.trained in ("full", "partial") and not s.situation.has_batch_norm
    times = s.learning_rate / suited
    if 1 / (_LOW_FOR_LAYER_NORM if bears else _LOW) < times < _HIGH:
        return ""
    figures = ""
    if times < 1 and s.situation.has_batch_norm and not s.is_scratch:
        figures = " (EfficientNet-Lite0, 3 epochs of 802 images: 0.404 at 5e-5, 0.784 at 1e-3)"
    return (
        f"a learning rate of {s.learning_rate:g} is {'low' if times < 1 else 'high'} for what is trained "
        f"here{figures}: --learning_rate {suited:g} is usual, and --find_lr looks for one"
    )


HINTS: tuple[Hint[RunPlan], ...] = (
    Hint("rare classes", (), _tell_rare),
    Hint("imbalanced classes", ("imbalance",), _tell_imbalance),
    Hint("few images from scratch", ("model_name_or_path",), _tell_scratch),
    Hint("transformer from scratch", ("model_type",), _tell_transformer),
    Hint("few images for all weights", ("adaptation",), _tell_adaptation),
    Hint("small validation split", ("metric_for_best_model", "train_val_split"), _tell_validation),
    Hint("enlarged images from scratch", ("image_size",), _tell_enlarged),
    Hint("below the model's own size", ("image_size",), _tell_own_size),
    Hint("few steps", ("num_train_epochs", "max_steps"), _tell_steps),
    Hint("learning rate far off", ("learning_rate", "find_lr"), _tell_rate),
)


@dataclass(frozen=True)
class Outcome:
    """What is known of a model that was measured and is not better than a baseline.

    Attributes:
        plan: What is known of its run.
        below_probe: The verdict on it beside the linear probe, where it is not better; or ``""``.
    """

    plan: RunPlan
    below_probe: str = ""


def _remedy_adaptation(o: Outcome) -> str:
    if o.plan.is_scratch or o.plan.adaptation in ("auto", "probe"):
        return ""
    if o.below_probe == "not distinguishable":
        return "--adaptation probe is as good as far as these images tell, and trains in seconds"
    return "--adaptation auto begins with a linear probe and keeps it unless fine-tuning is better on validation"


def _remedy_scratch(o: Outcome) -> str:
    return "begin with a pretrained --model_name_or_path" if o.plan.is_scratch else ""


REMEDIES: tuple[Hint[Outcome], ...] = (
    Hint("unbeaten: learning rate", ("learning_rate", "find_lr"), lambda o: _tell_rate(o.plan)),
    Hint("unbeaten: few steps", ("num_train_epochs", "max_steps"), lambda o: _tell_steps(o.plan)),
    Hint("unbeaten: pretrained", ("adaptation",), _remedy_adaptation),
    Hint("unbeaten: from scratch", ("model_name_or_path",), _remedy_scratch),
)


def give_hints(hints: Sequence[Hint[Any]], situation: Any) -> list[str]:
    """Return what a table of hints has to say about a situation, in its order."""
    return [text for hint in hints if (text := hint.tell(situation))]
