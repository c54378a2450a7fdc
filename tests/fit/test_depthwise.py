"""The weights' gradient of large depthwise convolutions: the same numbers, and the convolution itself untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification

from hf_imgcls.fit.depthwise import DepthwiseConv2d, correlate, speed_up_depthwise


def differentiate(convolution, images, weight_of_output):
    images = images.clone().requires_grad_()
    output = convolution(images)
    (output * weight_of_output).sum().backward()
    return [output.detach(), images.grad, *(parameter.grad for parameter in convolution.parameters())]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 5), (8, 8), (3, 9), (7, 7), (5, 13), (14, 14), (11, 9), (40, 33)]
)
@pytest.mark.parametrize(("kernel", "padding", "bias"), [((7, 7), 3, True), ((5, 9), "same", False)])
def test_outputs_and_gradients_are_those_of_the_convolution(kernel, padding, bias, height, width, memory_format):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, padding=padding, groups=6, bias=bias).double()
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up_depthwise(fast)
    assert type(fast[0]) is DepthwiseConv2d
    images = torch.randn(4, 6, height, width, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight_of_output = torch.randn(4, 6, height, width, dtype=torch.float64)
    expected, found = (differentiate(each, images, weight_of_output) for each in (plain, fast))
    assert len(found) == len(expected) == (4 if bias else 3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [9, 14])  # smaller maps are multiplied whole
def test_many_channels_are_taken_in_blocks(size, monkeypatch):
    grad, maps = torch.randn(2, 3, 10, size, size, dtype=torch.float64)
    whole = correlate(grad, maps, (5, 5))
    four_channels = 4 * 3 * (size + 2) * (2 * size + 4)
    monkeypatch.setattr("hf_imgcls.fit.depthwise._BLOCK", four_channels)  # and two that are left
    torch.testing.assert_close(correlate(grad, maps, (5, 5)), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [7, 14])
def test_in_bfloat16_the_gradient_is_as_good_as_the_convolutions_own(size):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 7, padding=3, groups=16)
    fast = nn.Sequential(copy.deepcopy(plain))
    speed_up_depthwise(fast)
    images, weight_of_output = torch.randn(2, 8, 16, size, size)
    exact = differentiate(plain, images, weight_of_output)
    for parameter in plain.parameters():
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        rounded, found = (differentiate(each, images, weight_of_output) for each in (plain, fast))
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], rounded[0])
    assert len(found) == len(exact) == 4
    for one, other, true in zip(found[1:], rounded[1:], exact[1:], strict=True):
        assert one.dtype == torch.float32
        assert (one - true).norm() <= 1.5 * (other - true).norm() + 1e-3 * true.norm()


def test_only_what_is_asked_for_is_computed(monkeypatch):
    convolution = nn.Sequential(nn.Conv2d(4, 4, 7, padding=3, groups=4))
    speed_up_depthwise(convolution)
    images = torch.randn(2, 4, 9, 9, requires_grad=True)
    convolution.requires_grad_(False)
    with monkeypatch.context() as patched:
        patched.setattr("hf_imgcls.fit.depthwise.correlate", None)
        convolution(images).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in convolution.parameters())
    convolution.requires_grad_(True)
    convolution(images.detach()).sum().backward()
    assert all(parameter.grad is not None for parameter in convolution.parameters())


def test_only_large_depthwise_convolutions_that_keep_the_size_are_turned():
    others = [
        nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 8, 5, padding=2, groups=4), nn.Conv2d(4, 4, 5, groups=4),
        nn.Conv2d(4, 4, 5, padding=2, stride=2, groups=4), nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4),
        nn.Conv2d(4, 4, 6, padding="same", groups=4), nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, (5, 3), padding="same", groups=4),
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
    assert sum(type(module) is DepthwiseConv2d for module in fast.modules()) == 3
    assert fast.state_dict().keys() == plain.state_dict().keys()
    pixels, labels = torch.randn(5, 3, 28, 28), torch.tensor([0, 1, 2, 0, 1])
    for model in (plain, fast):
        model(pixels, labels=labels).loss.backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    with torch.no_grad():
        assert torch.equal(fast.eval()(pixels).logits, plain.eval()(pixels).logits)
