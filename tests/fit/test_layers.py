"""Layers in order: how fast each learns, when each joins in, and that a resumed run does the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from fit.test_adapt import build, trainable
from fit.test_trainer import DATA, digits, make_trainer  # noqa: F401 (a fixture)
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments.fields import Arguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.classifier.head import find_head_modules, head_parameter_names
from hf_imgcls.errors import ModelError, OutputError
from hf_imgcls.fit.checkpoints import Inspection, check_same_run
from hf_imgcls.fit.layers import GradualUnfreezing, decay_learning_rates, number_layers
from hf_imgcls.fit.same_run import describe_run
from hf_imgcls.records import CheckpointRecord


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_layers_are_numbered_from_the_image_to_the_head(family):
    _, model = build(family)
    numbers = number_layers(model)
    assert numbers.keys() == dict(model.named_parameters()).keys()
    head = {numbers[name] for name in head_parameter_names(model.config)}
    assert head == {max(numbers.values())}
    first = next(name for name, _ in model.named_parameters())
    assert numbers[first] == 0
    assert set(numbers.values()) == set(range(max(numbers.values()) + 1))


def test_layers_of_a_timm_model():
    pytest.importorskip("timm")
    from hf_imgcls.arguments.fields import DataArguments, FitArguments
    from hf_imgcls.fit.model import build_model

    fit = FitArguments(model_type="timm_wrapper", model_config={"architecture": "test_vit"})
    model, _ = build_model(fit, DataArguments(), ["a", "b"])
    numbers = number_layers(model)
    assert numbers["timm_model.patch_embed.proj.weight"] == numbers["timm_model.pos_embed"] == 0
    assert numbers["timm_model.head.weight"] == numbers["timm_model.norm.weight"] == max(numbers.values())
    assert {numbers[name] for name in numbers if ".blocks.1." in name} == {2}


@pytest.mark.parametrize("family", ["vit", "convnext", "resnet", "swin"])
def test_each_layer_learns_slower_than_the_one_behind_it(family):
    _, model = build(family)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1.0
    )
    decay_learning_rates(optimizer, model, 0.5)
    numbers = number_layers(model)
    last = max(numbers.values())
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert len(settings) == len(list(model.parameters())) == sum(len(g["params"]) for g in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        assert settings[id(parameter)] == (0.5 ** (last - numbers[name]), 0.1 if parameter.dim() > 1 else 0.0), name
    assert optimizer.param_groups[0]["lr"] == 1.0  # what Trainer logs


def rates_and_decays(trainer):
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_weight_decay_is_given_as_trainer_gives_it(digits, tmp_path):  # noqa: F811
    even = rates_and_decays(make_trainer(digits, tmp_path, weight_decay=0.1))
    layered = rates_and_decays(make_trainer(digits, tmp_path, weight_decay=0.1, fit={"layer_lr_decay": 0.5}))
    assert {name: decay for name, (_, decay) in layered.items()} == {name: decay for name, (_, decay) in even.items()}
    assert {decay for _, decay in layered.values()} == {0.0, 0.1}
    assert {rate for rate, _ in even.values()} == {1e-2}
    assert {rate for rate, _ in layered.values()} == {1e-2, 5e-3, 2.5e-3, 1.25e-3}  # head, two blocks, embeddings


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("fit", [{"layer_lr_decay": 0.5}, {"unfreeze_epochs": 1}, {"head_dropout": 0.5}])
def test_a_resumed_run_is_the_run(fit, digits, tmp_path):  # noqa: F811
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5, "seed": 3}  # 4 steps an epoch
    whole = make_trainer(digits, tmp_path / "a", fit=fit, **options)
    whole.train()
    resumed = make_trainer(digits, tmp_path / "a", fit=fit, **options)
    resumed.train(str(tmp_path / "a" / "checkpoint-5"))
    other = make_trainer(digits, tmp_path / "b", **options)
    other.train()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(whole).items())


def test_a_checkpoint_of_other_optimizer_groups_is_not_gone_on_with(digits, tmp_path):  # noqa: F811
    trainer = make_trainer(digits, tmp_path)

    def describe(**fit):
        parts = (DATA, FitArguments(model_type="vit", **fit), MeasureArguments(), PublishArguments(), {})
        return describe_run(trainer.model, trainer.args, None, Arguments(*parts))

    record = CheckpointRecord(5, describe(layer_lr_decay=0.5))
    check_same_run(Inspection(tmp_path, record), describe(layer_lr_decay=0.6))
    with pytest.raises(OutputError, match="layer_lr_decay: true then, null now"):
        check_same_run(Inspection(tmp_path, record), describe())


@pytest.mark.parametrize("adaptation", ["partial", "lora"])
def test_gradient_checkpointing_behind_frozen_layers_changes_nothing(adaptation, digits, tmp_path):  # noqa: F811
    if adaptation == "lora":
        pytest.importorskip("peft")
    trainers = [
        make_trainer(
            digits, tmp_path, fit={"adaptation": adaptation}, max_steps=1, gradient_checkpointing=checkpointing
        )
        for checkpointing in (False, True)
    ]
    before = weights(trainers[1])
    for trainer in trainers:
        trainer.train()
    learnt = [weights(trainer) for trainer in trainers]
    for name in trainable(trainers[1].model) - {name for name in before if "lora_A" in name}:
        assert not torch.equal(learnt[1][name], before[name]), name  # the first step of lora_A is zero
        torch.testing.assert_close(learnt[0][name], learnt[1][name], msg=name)


def test_gradient_checkpointing_where_there_is_none_is_an_error(digits, tmp_path):  # noqa: F811
    with pytest.raises(ModelError, match="has no gradient checkpointing"):
        make_trainer(digits, tmp_path, "convnext", gradient_checkpointing=True)


def test_layers_join_in_from_the_head_on(digits, tmp_path):  # noqa: F811
    seen = []

    class Watch(GradualUnfreezing):
        def on_epoch_begin(self, args, state, control, **kwargs):
            seen.append((trainable(trainer.model), weights(trainer)))

    trainer = make_trainer(digits, tmp_path, fit={"unfreeze_epochs": 1}, max_steps=16, weight_decay=0.1)
    trainer.add_callback(Watch(trainer.model, 1))
    trainer.train()
    numbers = number_layers(trainer.model)
    assert [min(numbers[name] for name in names) for names, _ in seen] == [3, 2, 1, 0]
    for (names, before), (_, after) in pairwise(seen):
        # Weights that do not learn do not decay either.
        assert {name for name in numbers if not torch.equal(before[name], after[name])} == names


def test_norm_layers_follow_their_batches_once_they_learn():
    model, _ = build("resnet", unfreeze_epochs=1)
    callback = GradualUnfreezing(model, 1)

    def moved(epoch):
        callback.on_epoch_begin(None, type("State", (), {"epoch": float(epoch)})(), None)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running_mean" in name}
        model.train()
        model(pixel_values=torch.rand(4, 3, 32, 32))
        return {name for name, tensor in before.items() if not torch.equal(tensor, model.state_dict()[name])}

    assert moved(0) == set()
    assert {name.split("stages.")[1][0] for name in moved(1)} == {"1"}
    assert any("embedder" in name for name in moved(9))


def test_dropout_before_the_head_is_for_training_alone(tmp_path):
    model, _ = build("vit", head_dropout=0.5)
    images = torch.rand(2, 3, 32, 32)
    plain, _ = build("vit")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images).logits, plain.eval()(images).logits)
        assert not torch.equal(model.train()(images).logits, model(images).logits)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_dropout_reaches_the_head_that_lora_trains():
    pytest.importorskip("peft")
    model, _ = build("vit", adaptation="lora", head_dropout=0.5)
    (head,) = find_head_modules(model)
    assert head.weight.requires_grad
    assert len(head._forward_pre_hooks) == 1


@pytest.mark.parametrize("family", ["vit", "convnext", "swin", "resnet"])
def test_partial_trains_the_last_layers(family):
    model, _ = build(family, adaptation="partial", train_layers=1)
    numbers = number_layers(model)
    assert trainable(model) == {name for name, number in numbers.items() if number >= max(numbers.values()) - 1}
    with pytest.raises(ModelError, match="has 2 blocks") as error:
        build(family, adaptation="partial", train_layers=2)
    assert "--adaptation full" in error.value.fix
