"""What a Python user hands to a run in addition to its arguments: a transform, a loss, callbacks, metrics, a model.

A recipe cannot hold code. The run's records therefore name each hook, and a run is repeated by the script that gave
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedModel, TrainerCallback

from hf_imgcls.data.own_transform import attempt
from hf_imgcls.errors import ArgumentError

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


@dataclass(frozen=True)
class Hooks:
    """Code of a user's own, called while a run trains.

    Attributes:
        train_transform: Called with each training batch after crop, flip and the operations of the augmentation policy,
            before normalization, MixUp and CutMix: uint8 ``(B, 3, H, W)`` in RGB on the CPU; returns the same shape and
            type. It runs where batches are loaded, i.e. in the worker processes if there are any. torch's random
            numbers are seeded for each call by the run's seed, the epoch and the batch, so that neither workers nor a
            resume change what is drawn; those of ``random`` and NumPy are not. ``augmentation="none"`` (the largest
            square in the middle of the image) leaves the transform in place of the policy. Validation and test images
            are prepared by the image processor alone.
        loss: ``loss(logits, labels, num_examples)`` returns a scalar tensor, the sum of the batch's losses divided by
            ``num_examples``, the number of images in the whole step (all micro-batches and processes). ``logits`` is
            ``(B, K)``. ``labels`` is int64 ``(B,)``; float ``(B, K)`` of 0 and 1 where an image may have several
            labels; and float ``(B, K)`` with rows that sum to 1 where MixUp or CutMix is on. Validation still reports
            the cross-entropy as ``eval_loss``.
        callbacks: ``transformers.TrainerCallback`` objects or classes.
        metrics: ``evaluate`` modules or their names, in addition to the run's own metrics.
        model: Trained instead of a model that the arguments name, see `hf_imgcls.fit.own_model.build_own_model`.
        processor: The image processor of ``model``; by default the one it was saved with, or a resize to a square.
    """

    train_transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    loss: OwnLoss | None = None
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = ()
    metrics: Sequence[Any] = ()
    model: nn.Module | None = None
    processor: Any = None

    def describe(self) -> dict[str, str]:
        """Return hook -> where its code is from, without the hooks that are not given."""
        given: dict[str, Sequence[Any]] = {
            "train_transform": [self.train_transform] if self.train_transform is not None else [],
            "loss": [self.loss] if self.loss is not None else [],
            "callbacks": self.callbacks,
            "metrics": [metric for metric in self.metrics if not isinstance(metric, (str, Path))],  # a recipe has names
            "model": [self.model] if self.model is not None else [],
        }
        return {name: ", ".join(map(_name, parts)) for name, parts in given.items() if parts}

    def record(self, args: Arguments) -> Arguments:
        """Check the hooks against the arguments, before anything is loaded, and return arguments that name them.

        With ``model`` they name no other model.

        Raises:
            ArgumentError: A hook is of the wrong type, or cannot be combined with an argument.
        """
        self._check_types()
        for hook, found, fix in self._find_conflicts(args):
            raise ArgumentError(f"the hook {hook} with {found}", "one of them", fix)
        fit = args.fit if self.model is None else dataclasses.replace(args.fit, model_name_or_path=None)
        return dataclasses.replace(args, fit=fit, hooks=self.describe())

    def _check_types(self) -> None:
        for name in ("train_transform", "loss"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ArgumentError(f"the hook {name} is {value!r}", "a function", f"pass a function as {name}")
        if not isinstance(self.callbacks, (list, tuple)):
            raise ArgumentError(f"the hook callbacks is {self.callbacks!r}", "a list", "pass callbacks=[...]")
        for callback in self.callbacks:
            is_class = isinstance(callback, type) and issubclass(callback, TrainerCallback)
            if not (is_class or isinstance(callback, TrainerCallback)):
                raise ArgumentError(
                    f"the hook callbacks has {callback!r}",
                    "objects or subclasses of transformers.TrainerCallback",
                    "derive the class from transformers.TrainerCallback",
                )
        if self.model is not None and not isinstance(self.model, nn.Module):
            raise ArgumentError(f"the hook model is {self.model!r}", "a torch.nn.Module", "name a model by a string")
        if self.processor is not None and self.model is None:
            raise ArgumentError("the hook processor without a model", "both", "pass the model that it belongs to")

    def _find_conflicts(self, args: Arguments) -> list[tuple[str, str, str]]:
        """Return hook, the argument it cannot be combined with, and what to do."""
        fit, found = args.fit, []
        if fit.adaptation == "probe":
            given = [name for name in ("train_transform", "loss", "callbacks") if getattr(self, name)]
            fix = "leave out the hook, or choose adaptation head, which trains the same weights in steps"
            found += [(name, "adaptation probe, which trains nothing in steps", fix) for name in given]
        if self.loss is not None:
            changed = {
                f"loss {fit.loss}": fit.loss != "auto",
                f"imbalance {fit.imbalance}": fit.imbalance not in ("none", "balanced_sampler"),
                "label_smoothing_factor": bool(args.training.get("label_smoothing_factor")),
                "teacher_model": fit.teacher_model is not None,
            }
            found += [("loss", name, f"leave out {name.split()[0]}") for name, is_set in changed.items() if is_set]
        if self.model is not None and (fit.model_type is not None or "model_name_or_path" in args.explicit):
            name = "model_type" if fit.model_type is not None else "model_name_or_path"
            found.append(("model", name, f"leave out {name}"))
        if self.model is not None and not is_transformers_classifier(self.model):
            # Nobody else can build the module from its files.
            asked = {"export_formats": args.publish.export_formats, "push_to_hub": args.training.get("push_to_hub")}
            fix = "leave out {}, or pass a model of AutoModelForImageClassification, which others can load"
            found += [("model", name, fix.format(name)) for name, value in asked.items() if value]
        return found


def is_transformers_classifier(module: Any) -> bool:
    """Whether ``AutoModelForImageClassification`` can build the module from its config."""
    is_known = type(getattr(module, "config", None)) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return isinstance(module, PreTrainedModel) and is_known


OwnLoss = Callable[[torch.Tensor, torch.Tensor, "int | torch.Tensor"], torch.Tensor]


def try_loss(loss: OwnLoss, num_labels: int, *, multi_label: bool, mixes: bool) -> None:
    """Call a user's loss with two examples, as training will.

    Args:
        loss: See `Hooks`.
        num_labels: K.
        multi_label: Whether an image may have several labels.
        mixes: Whether MixUp or CutMix makes shares of the labels.

    Raises:
        ArgumentError: It fails, or does not return a scalar that depends on the logits.
    """
    logits = torch.zeros(2, num_labels, requires_grad=True)
    if multi_label or mixes:
        labels = torch.full((2, num_labels), 0.0 if multi_label else 1 / num_labels)
    else:
        labels = torch.zeros(2, dtype=torch.int64)
    with torch.enable_grad():
        value = attempt("loss", loss, logits, labels, 2)
    if not isinstance(value, torch.Tensor) or value.dim() or not value.requires_grad:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise ArgumentError(
            f"the hook loss returned {shape} for logits (2, {num_labels})",
            "a scalar tensor that depends on the logits",
            "sum the losses of the images and divide by num_examples",
        )


def _name(hook: Any) -> str:
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"
