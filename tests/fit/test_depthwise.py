"""Small maps are convolved by matrix products: the same numbers, only where it is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification

from hf_imgcls.fit.depthwise import SmallMapConv2d, speed_up_depthwise


def differentiate(convolution, images, weight_of_output):
    images = images.clone().requires_grad_()
    output = convolution(images)
    (output * weight_of_output).sum().backward()
    return [output.detach(), images.grad, *(parameter.grad for parameter in convolution.parameters())]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (2, 5), (6, 6), (3, 9), (7, 7)])
@pytest.mark.parametrize(("kernel", "padding", "bias"), [((7, 7), 3, True), ((5, 3), "same", False)])
def test_outputs_and_gradients_are_those_of_the_convolution(kernel, padding, bias, height, width, memory_format):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, padding=padding, groups=6, bias=bias).double()
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up_depthwise(fast)
    assert type(fast[0]) is SmallMapConv2d
    images = torch.randn(4, 6, height, width, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight_of_output = torch.randn(4, 6, height, width, dtype=torch.float64)
    expected, found = (differentiate(each, images, weight_of_output) for each in (plain, fast))
    assert len(found) == len(expected) == (4 if bias else 3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_convolution_is_left_out_only_in_training_on_small_maps(monkeypatch):
    convolved = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, images: convolved.append(1) or plain(self, images))
    model = nn.Sequential(nn.Conv2d(4, 4, 7, padding=3, groups=4))
    speed_up_depthwise(model)
    model(torch.randn(2, 4, 3, 3))
    assert not convolved
    model(torch.randn(2, 4, 7, 7))
    with torch.no_grad():
        model(torch.randn(2, 4, 3, 3))
    assert len(convolved) == 2


def test_only_depthwise_convolutions_that_keep_the_size_are_turned():
    others = [
        nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 4, padding="same", groups=4), nn.Conv2d(4, 4, 9, padding=4, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"), nn.Conv2d(4, 4, 1, groups=4),
    ]  # fmt: skip
    model = nn.Sequential(*others)
    speed_up_depthwise(model)
    assert {type(module) for module in model} == {nn.Conv2d}


def test_a_convnext_trains_the_same_and_is_saved_the_same():
    torch.manual_seed(0)
    config = ConvNextConfig(num_stages=3, depths=[1, 1, 1], hidden_sizes=[8, 16, 24], patch_size=2, num_labels=3)
    plain = ConvNextForImageClassification(config)
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    assert sum(type(module) is SmallMapConv2d for module in fast.modules()) == 3
    assert fast.state_dict().keys() == plain.state_dict().keys()
    pixels, labels = torch.randn(5, 3, 28, 28), torch.tensor([0, 1, 2, 0, 1])
    for model in (plain, fast):
        model(pixels, labels=labels).loss.backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    with torch.no_grad():
        assert torch.equal(fast.eval()(pixels).logits, plain.eval()(pixels).logits)
