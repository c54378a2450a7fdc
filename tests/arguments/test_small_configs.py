"""Networks for small images: a model type and a size are enough, and what the user says of the config is kept."""

from __future__ import annotations

import pytest
import torch
import yaml
from faults.processes import REPOSITORY, Run
from PIL import Image
from transformers import AutoConfig, pipeline

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.model import build_model

FAMILIES = ("convnext", "convnextv2", "resnet", "vit", "deit")
LABELS = ["ant", "bee", "cat"]


def read(*flags):
    return parse_arguments(["--dataset_name", "digits", *map(str, flags)])


def build(args):
    torch.manual_seed(0)
    return build_model(args.fit, args.data, LABELS)


@pytest.mark.parametrize("size", [28, 32, 48, 64])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_type_and_a_size_are_enough(model_type, size, tmp_path):
    args = read("--model_type", model_type, "--image_size", size)
    assert any(model_type in note and "--model_config" in note for note in args.notes)
    model, processor = build(args)
    assert model.num_parameters() < 2e6
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(6, 3, size, size), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(3):
        loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert 0.5 < losses[0] < 2.5, "a new head is not far from chance, 1.1"
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path))(Image.new("RGB", (40, 50), "red"))
    assert {answer["label"] for answer in answers} == set(LABELS)


def test_values_of_the_user_win_one_by_one():
    small = read("--model_type", "vit", "--image_size", 28).fit.model_config
    given = read("--model_type", "vit", "--image_size", 28, "--model_config", "{patch_size: 7, num_hidden_layers: 2}")
    assert given.fit.model_config == {**small, "patch_size": 7, "num_hidden_layers": 2}
    model, _ = build(given)
    assert (model.config.patch_size, model.config.num_hidden_layers) == (7, 2)
    assert model.config.hidden_size == small["hidden_size"]


@pytest.mark.parametrize(
    ("model_type", "config"),
    [("vit", "{hidden_size: 96}"), ("convnext", "{hidden_sizes: [8, 16], depths: [1, 1], num_stages: 2}")],
)
def test_a_config_that_names_the_width_is_one_of_its_own(model_type, config):
    args = read("--model_type", model_type, "--image_size", 28, "--model_config", config)
    assert not [note for note in args.notes if "model_config" in note]
    assert args.fit.model_config.keys() <= {"hidden_size", "hidden_sizes", "depths", "num_stages"}


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("size", [(), ("--image_size", "224"), ("--image_size", "97")])
def test_larger_images_keep_the_config_of_the_library(model_type, size):
    args = read("--model_type", model_type, *size)
    assert args.fit.model_config is None
    assert not args.notes


def test_other_families_keep_theirs():
    assert read("--model_type", "swin", "--image_size", 32).fit.model_config is None


def test_without_a_policy_and_in_recipes_of_earlier_releases_it_is_the_library_s_config(tmp_path):
    flags = ("--model_type", "vit", "--image_size", 32)
    assert read(*flags, "--training_policy", "none").fit.model_config is None
    recipe = tmp_path / "recipe.yaml"
    save_recipe(read(*flags, "--training_policy", "none"), recipe)
    recipe.write_text("".join(line for line in recipe.open() if "training_policy" not in line))
    assert parse_arguments(["--config", str(recipe)]).fit.model_config is None


def test_the_size_may_stand_in_the_config():
    args = read("--model_type", "vit", "--model_config", "{image_size: 28}")
    assert build(args)[0].config.hidden_size < AutoConfig.for_model("vit").hidden_size


def test_no_patch_divides_a_prime(tmp_path):
    with pytest.raises(ModelError, match="--image_size 32"):
        build(read("--model_type", "vit", "--image_size", 31))


def test_a_recipe_has_the_config_and_repeats_it(tmp_path):
    args = read("--model_type", "convnext", "--image_size", 32)
    save_recipe(args, tmp_path / "recipe.yaml")
    again = parse_arguments(["--config", str(tmp_path / "recipe.yaml")])
    assert again.fit.model_config == args.fit.model_config
    assert args.fit.model_config["patch_size"] == 2
    assert not again.notes, "nothing was chosen this time"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune.py", "pretrain.py"])
def test_recipes_take_a_model_type_and_a_size(recipe, tmp_path):
    if recipe == "pretrain.py":
        pytest.importorskip("lightly")
    flags = ("--dataset_name", "digits", "--model_type", "convnext", "--image_size", "28", "--max_steps", "2")
    few = ("--max_train_samples", "64", "--max_eval_samples", "61", "--disable_tqdm", "true", "--use_cpu")
    few += ("--max_test_samples", "30", "--report", "false") if recipe == "finetune.py" else ()
    run = Run(*flags, *few, folder=tmp_path / "run", recipe=REPOSITORY / "recipes" / recipe)
    assert run.wait() == 0, run.output
    assert "convnext for small images: model_config is" in run.output
    recorded = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recorded["model_config"]["patch_size"] == 2
    if recipe == "finetune.py":
        assert recorded["random_crop_scale"][0] > 0.35
        assert "random_crop_scale [" in run.output, "the line of the policy says it"
    else:
        assert "random_crop_scale" not in recorded, "views of an image are another matter"
