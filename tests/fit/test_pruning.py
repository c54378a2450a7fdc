"""Pruning: what is left is a smaller model of the same kind, made of the stronger channels of the larger one."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import TINY_CONFIGS
from transformers import AutoModelForImageClassification

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.pruning import prune_model

pytest.importorskip("torch_pruning")

DATA = DataArguments(dataset_name="digits", image_size=32)
CONFIGS = {
    "vit": TINY_CONFIGS["vit"],
    "deit": TINY_CONFIGS["deit"],
    "beit": TINY_CONFIGS["beit"],
    "convnext": {**TINY_CONFIGS["convnext"], "hidden_sizes": [32, 64], "depths": [2, 1]},
}


def make_model(family):
    torch.manual_seed(0)
    config = CONFIGS.get(family) or TINY_CONFIGS[family]
    return build_model(FitArguments(model_type=family, model_config=config), DATA, list("abcde"))[0]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_what_is_left_is_a_smaller_model_that_a_folder_holds(family, tmp_path):
    model = make_model(family)
    smaller = prune_model(model, 0.5, (32, 32))
    assert type(smaller) is type(model)
    assert smaller.training
    assert smaller.num_parameters() < 0.9 * model.num_parameters()
    if family == "convnext":
        assert smaller.config.hidden_sizes == [16, 32]
        assert model.config.hidden_sizes == [32, 64]
    else:
        assert (smaller.config.intermediate_size, model.config.intermediate_size) == (32, 64)
    smaller.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images = torch.randn(3, 3, 32, 32)
    answer = smaller(pixel_values=images).logits
    assert answer.shape == (3, 5)
    assert torch.equal(loaded(pixel_values=images).logits, answer)
    answer.sum().backward()
    assert all(parameter.requires_grad for parameter in smaller.parameters())


def test_channels_that_do_nothing_go_first_and_change_nothing():
    """Half of the hidden units of each block are dead: without them the answers are the same."""
    model = make_model("vit").eval()
    torch.manual_seed(1)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    pairs = [(first, last) for first, last in itertools.pairwise(linear) if first.out_features == 64]
    assert len(pairs) == 2
    with torch.no_grad():
        for first, last in pairs:
            dead = torch.randperm(64)[:32]
            first.weight[dead] = first.bias[dead] = 0
            last.weight[:, dead] = 0
    images = torch.randn(3, 3, 32, 32)
    expected = model(pixel_values=images).logits
    torch.testing.assert_close(prune_model(model, 0.5, (32, 32))(pixel_values=images).logits, expected)


def test_stages_lose_the_channels_that_do_least():
    """All that touches a channel is kept or taken together: what was strong is found in the smaller model."""
    model = make_model("convnext").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[parameter.shape[0] // 2 :] *= 1e-3  # the second half of each layer's outputs, and of its inputs
            if parameter.dim() > 1:
                parameter[:, parameter.shape[1] // 2 :] *= 1e-3
    smaller = prune_model(model, 0.5, (32, 32))
    large, small = (part.convnext.embeddings.patch_embeddings.weight for part in (model, smaller))
    assert torch.equal(small, large[:16])
    large, small = (part.convnext.encoder.stages[0].layers[0].pwconv1.weight for part in (model, smaller))
    assert torch.equal(small, large[:64, :16])


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(ModelError, match="SwinForImageClassification cannot be pruned"):
        prune_model(make_model("swin"), 0.5, (32, 32))
    with pytest.raises(ModelError, match="takes nothing out"):
        prune_model(make_model("vit"), 0.01, (32, 32))
    with pytest.raises(ArgumentError, match="a trained model"):
        parse_arguments(["--dataset_name", "digits", "--model_type", "vit", "--prune_ratio", "0.3"])
