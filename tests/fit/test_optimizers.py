"""Every setting of an optimizer reaches it, or is refused before training."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.optimizers import check_optimizer, choose_optimizer
from hf_imgcls.fit.trainer import ImageClassificationTrainer


def choose(optim, optim_args=None, **arguments):
    arguments = {"output_dir": "unused", "report_to": "none", "use_cpu": True, **arguments}
    return choose_optimizer(TrainingArguments(optim=optim, optim_args=optim_args, **arguments))


def build(optim, optim_args=None, **arguments):
    optimizer, settings = choose(optim, optim_args, **arguments)
    return optimizer([torch.nn.Parameter(torch.zeros(2, 2))], **settings)


def list_buildable():
    """The optimizers that this environment can build on a CPU."""
    names = []
    for name in OptimizerNames:
        try:
            build(name.value)
        except (ArgumentError, RuntimeError):
            continue
        names.append(name.value)
    return names


BUILDABLE = list_buildable()
_MAIN = {
    "sgd": {"momentum", "nesterov", "dampening"},
    "rmsprop": {"momentum", "alpha", "eps", "centered"},
    "adagrad": {"lr_decay", "eps", "initial_accumulator_value"},
    "adamw_torch": {"amsgrad"},
    "adafactor": {"clip_threshold", "decay_rate", "beta1", "scale_parameter"},
}
_OTHER = {"nesterov": "nesterov=true,momentum=0.8", "dampening": "dampening=0.2", "beta1": "beta1=0.9"}


def test_the_usual_optimizers_can_be_built_here():
    assert {"adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor"} <= set(BUILDABLE)


@pytest.mark.parametrize("optim", BUILDABLE)
def test_each_setting_changes_the_optimizer_or_is_refused(optim):
    before = build(optim).defaults
    assert before
    changed = set()
    for key, default in before.items():
        if isinstance(default, bool):
            text = f"{key}={not default}"
        elif isinstance(default, (int, float)):
            text = f"{key}={default / 2 + 0.1}"
        else:
            text = f"{key}=true" if default is None else f"{key}=1"
        try:
            after = build(optim, _OTHER.get(key) or text).defaults
        except (ArgumentError, ValueError, RuntimeError):
            continue  # refused, by us with a sentence or by torch where settings exclude each other
        changed.add(key)
        assert after[key] != default, f"{optim}: {key} does nothing"
    assert changed >= _MAIN.get(optim, set())


@pytest.mark.parametrize("optim", BUILDABLE)
def test_settings_that_an_optimizer_does_not_have_are_refused(optim):
    with pytest.raises(ArgumentError, match="'wombat'"):
        choose(optim, "wombat=1")
    with pytest.raises(ArgumentError) as error:
        choose(optim, "weight_decay=0.1")
    assert "--weight_decay" in error.value.fix


def test_sgd_has_a_momentum_and_follows_its_settings():
    assert build("sgd").defaults["momentum"] == 0.9
    assert build("sgd", "nesterov=true").defaults["nesterov"] is True
    assert build("sgd", "momentum=0").defaults["momentum"] == 0
    settings = build("sgd", "momentum=0.5, dampening=0.1").defaults
    assert (settings["momentum"], settings["dampening"]) == (0.5, 0.1)


def test_a_near_name_and_a_wrong_value_are_named():
    with pytest.raises(ArgumentError) as error:
        choose("sgd", "momentun=0.9")
    assert error.value.fix == "did you mean momentum?"
    for optim, text in (("sgd", "momentum=much"), ("sgd", "nesterov=2"), ("sgd", "momentum"), ("sgd", "a=1=2")):
        with pytest.raises(ArgumentError, match=text.split("=")[0]):
            choose(optim, text)


def test_arguments_of_adam_are_refused_where_they_would_do_nothing():
    for arguments in ({"adam_beta1": 0.8}, {"adam_beta2": 0.9}, {"adam_epsilon": 1e-6}):
        assert choose("adamw_torch", **arguments)
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            choose("sgd", **arguments)
    with pytest.raises(ArgumentError) as error:
        choose("adamw_torch", "eps=1e-6")
    assert "--adam_epsilon" in error.value.fix
    assert build("rmsprop", "eps=1e-6").defaults["eps"] == 1e-6  # which has no argument of its own


def test_the_trainer_builds_what_was_chosen_and_the_check_needs_no_model():
    arguments = TrainingArguments(output_dir="unused", report_to="none", use_cpu=True, optim="galore_adamw")
    check_optimizer(arguments)
    arguments = TrainingArguments(output_dir="unused", report_to="none", use_cpu=True, optim="sgd")
    assert ImageClassificationTrainer.get_optimizer_cls_and_kwargs(arguments)[1]["momentum"] == 0.9
