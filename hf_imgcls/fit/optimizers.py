"""Optimizers and their settings: what ``--optim_args`` names reaches the optimizer, or is refused.

transformers reads ``optim_args`` for some optimizers and drops them in silence for the others (AdamW and Adafactor on
both lines; SGD, Adagrad and RMSprop on 4.57). Here every setting goes by the optimizer's own signature.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments

from hf_imgcls.arguments.defaults import SGD_MOMENTUM
from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.training_arguments import refuse_arguments

if TYPE_CHECKING:
    from torch import nn

# What transformers itself reads from optim_args and passes on under another name or in a parameter group.
_READ_BY_TRANSFORMERS = {
    "ademamix": ("beta1", "beta2", "beta3", "eps"),
    "galore": ("rank", "update_proj_gap", "scale", "proj_type"),
    "apollo": ("rank", "proj", "scale_type", "update_proj_gap", "scale", "proj_type"),
}
_NEEDS_MODEL = ("galore", "apollo", "lomo", "adalomo")
# Settings that have an argument of their own; Trainer sets them, for each group of parameters or for all.
_OWN_ARGUMENTS = {"lr": "learning_rate", "weight_decay": "weight_decay", "betas": "adam_beta1 and --adam_beta2"}
_NOT_SETTINGS = ("params", "model", "optimizer_dict", "maximize", "differentiable", "capturable")


def choose_optimizer(args: TrainingArguments, model: nn.Module | None = None) -> tuple[Any, dict[str, Any]]:
    """Return the optimizer's class and keyword arguments: transformers' choice, with all of ``optim_args``.

    SGD has a momentum of 0.9 unless ``optim_args`` names another one.

    Args:
        args: ``optim``, ``optim_args`` and the arguments that transformers passes on.
        model: Needed by optimizers that treat layers differently (GaLore, APOLLO, LOMO).

    Raises:
        ArgumentError: ``optim_args`` has a setting that this optimizer does not have, or a value of another type; or
            an Adam argument was changed that this optimizer does not read.
    """
    given, name = _parse(args.optim_args), _name(args)
    elsewhere = next((keys for family, keys in _READ_BY_TRANSFORMERS.items() if family in name), ())
    seen = copy.copy(args)
    seen.optim_args = ",".join(f"{key}={text}" for key, text in given.items() if key in elsewhere) or None
    try:
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(seen, model)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise refuse_arguments(error, describe_optimizer(args)) from error
    _check_adam_arguments(args, settings)
    defaults = _read_defaults(optimizer)
    own = {**_OWN_ARGUMENTS, **({"eps": "adam_epsilon"} if "eps" in settings else {})}
    known = sorted({*defaults, *elsewhere}.difference(set(own).difference(elsewhere)))
    for key, text in given.items():
        if key not in known:
            raise _refuse(name, key, known, own)
        if key not in elsewhere:
            settings[key] = _convert(key, text, defaults[key])
    if name == "sgd":
        settings.setdefault("momentum", SGD_MOMENTUM)
    return optimizer, settings


def check_optimizer(args: TrainingArguments) -> None:
    """Refuse an optimizer's settings before data are loaded, where that needs no model; see `choose_optimizer`."""
    if not _name(args).startswith(_NEEDS_MODEL):
        choose_optimizer(args)


def describe_optimizer(args: TrainingArguments) -> str:
    """Return the two arguments that name an optimizer, for a message."""
    return f"--optim {_name(args)} with --optim_args {args.optim_args}"


def _name(args: TrainingArguments) -> str:
    return str(getattr(args.optim, "value", args.optim))


def _parse(text: str | None) -> dict[str, str]:
    """Split ``"momentum=0.9,nesterov=true"`` into names and values."""
    pairs = [pair.split("=") for pair in (text or "").replace(" ", "").split(",") if pair]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ArgumentError(f"--optim_args {text}", "NAME=VALUE,NAME=VALUE", "for example momentum=0.9,nesterov=true")
    return dict(pairs)


def _read_defaults(optimizer: Any) -> dict[str, Any]:
    """Return the settings that can be written as one word, with their default values."""
    parameters = inspect.signature(optimizer).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
        and not isinstance(parameter.default, tuple)
        and parameter.name not in _NOT_SETTINGS
    }


def _check_adam_arguments(args: TrainingArguments, settings: dict[str, Any]) -> None:
    groups = settings.get("params", ())
    read = set(settings).union(*groups)
    for name, key in (("adam_beta1", "betas"), ("adam_beta2", "betas"), ("adam_epsilon", "eps")):
        value = getattr(args, name)
        if key not in read and value != TrainingArguments.__dataclass_fields__[name].default:
            raise ArgumentError(
                f"--{name} {value} with --optim {_name(args)}",
                "an optimizer that reads it, such as adamw_torch",
                f"leave out --{name}; other settings of this optimizer go into --optim_args",
            )


def _refuse(optim: str, key: str, known: list[str], own: dict[str, str]) -> ArgumentError:
    if key in own:
        fix = f"use --{own[key]}" if key != "betas" or optim.startswith("adam") else f"leave out {key}"
    else:
        near = difflib.get_close_matches(key, known, n=1)
        fix = f"did you mean {near[0]}?" if near else "leave it out"
    expected = f"settings of this optimizer: {', '.join(known)}" if known else "none: this optimizer has no settings"
    return ArgumentError(f"--optim_args has {key!r} for --optim {optim}", expected, fix)


def _convert(key: str, text: str, default: Any) -> Any:
    """Convert a value to the type of the setting's default; ``None`` takes any word."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(default, bool):
        if text.lower() in words:
            return words[text.lower()]
        raise ArgumentError(f"--optim_args {key}={text}", "true or false", "correct the value")
    if default is None and text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if isinstance(default, (int, float)):
        raise ArgumentError(f"--optim_args {key}={text}", "a number", "correct the value")
    return text
