"""Freezing and LoRA: what learns, what stays, and what a frozen backbone must not do."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY_CONFIGS
from transformers import AutoModelForImageClassification

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.head import head_parameter_names
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.adapt import adapt_model, merge_adapter
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.sampling import leaves_batch_of_one


def build(model_type, **fit):
    torch.manual_seed(0)
    fit = FitArguments(model_type=model_type, model_config=TINY_CONFIGS[model_type], **fit)
    model, _ = build_model(fit, DataArguments(image_size=32), ["a", "b", "c"])
    return adapt_model(model, fit), model


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def take_steps(model, steps=3):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model.train()  # as Trainer does before every step
        loss = torch.nn.functional.cross_entropy(
            model(pixel_values=torch.rand(4, 3, 32, 32)).logits, torch.tensor([0, 1, 2, 0])
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("model_type", sorted(TINY_CONFIGS))
def test_head_trains_the_head_alone(model_type):
    adapted, model = build(model_type, adaptation="head")
    assert trainable(adapted) == head_parameter_names(model.config)


@pytest.mark.parametrize("model_type", ["resnet", "mobilenet_v2"])
def test_a_frozen_backbone_keeps_its_batch_norm_statistics(model_type):
    adapted, model = build(model_type, adaptation="head")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_steps(adapted)
    after = model.state_dict()
    head = head_parameter_names(model.config)
    statistics = [name for name in after if "running" in name]
    assert statistics
    for name in after:
        assert torch.equal(before[name], after[name]) or name in head, name
    assert any(not torch.equal(before[name], after[name]) for name in head)


def test_a_backbone_that_trains_follows_its_batches():
    adapted, model = build("resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running_mean" in name}
    take_steps(adapted)
    assert before
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in before)


@pytest.mark.parametrize("model_type", ["vit", "convnext", "swin", "resnet"])
def test_freeze_layers_counts_blocks_from_the_input(model_type):
    sizes = []
    for frozen in range(3):
        adapted, _ = build(model_type, freeze_layers=frozen)
        sizes.append(len(trainable(adapted)))
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert not any("embeddings" in name for name in trainable(adapted))
    with pytest.raises(ModelError, match="2 blocks"):
        build(model_type, freeze_layers=3)


@pytest.mark.parametrize(
    ("model_type", "targets"),
    [("vit", {"query", "value", "q_proj", "v_proj"}), ("convnext", {"pwconv1", "pwconv2"})],
)
def test_lora_has_the_right_targets_and_the_merged_folder_is_the_model(model_type, targets, tmp_path):
    pytest.importorskip("peft")
    adapted, _ = build(model_type, adaptation="lora", lora_rank=4, lora_alpha=8.0)
    names = trainable(adapted)
    adapters = {name for name in names if "lora_" in name}
    head = {name for name in names if "classifier" in name}
    assert adapters | head == names
    assert head
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in adapters} <= targets
    take_steps(adapted)
    images = torch.rand(2, 3, 32, 32)
    expected = adapted.eval()(pixel_values=images).logits
    merge_adapter(adapted, tmp_path, should_save=True).save_pretrained(tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    merged = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(merged(images).logits, expected, atol=1e-5, rtol=1e-5)


def test_lora_settings_change_what_is_trained():
    pytest.importorskip("peft")
    small, _ = build("vit", adaptation="lora", lora_rank=2)
    large, _ = build("vit", adaptation="lora", lora_rank=4, lora_dropout=0.5, lora_alpha=4.0)
    other, _ = build("vit", adaptation="lora", lora_target_modules=["dense", "fc1"])
    assert sum(p.numel() for p in large.parameters()) > sum(p.numel() for p in small.parameters())
    assert trainable(other) != trainable(small)
    layers = [module for module in large.modules() if hasattr(module, "scaling") and hasattr(module, "lora_dropout")]
    assert layers
    assert all(layer.scaling["default"] == 1.0 for layer in layers)
    assert all(layer.lora_dropout["default"].p == 0.5 for layer in layers)


def test_lora_on_an_unknown_architecture_asks_for_targets():
    pytest.importorskip("peft")
    with pytest.raises(ModelError, match="resnet") as error:
        build("resnet", adaptation="lora")
    assert "--lora_target_modules" in error.value.fix


def test_batch_norm_learns_with_the_statistics_that_it_had():
    model, _ = build("resnet", adaptation="full", freeze_batch_norm=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    model.train()
    images = torch.rand(4, 3, 32, 32)
    trained = model(pixel_values=images).logits
    trained.sum().backward()
    assert len(before) > 4
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    torch.testing.assert_close(trained, model.eval()(pixel_values=images).logits)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)
    assert not leaves_batch_of_one(model, 5, 4)
    assert leaves_batch_of_one(build("resnet", adaptation="full")[0], 5, 4)
    with pytest.raises(ModelError, match="has no BatchNorm"):
        build("vit", adaptation="full", freeze_batch_norm=True)
