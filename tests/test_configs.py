"""Every shipped config parses and builds its model; every header says what a reader needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from hf_imgcls.arguments.configs import CONFIGS as PACKAGED
from hf_imgcls.arguments.parse import parse_arguments

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
CONFIGS = sorted(PACKAGED.glob("*.yaml"))
EXPECTED = {
    "cifar100_convnext_tiny", "cifar10_convnext_tiny", "cifar10_vit_base", "cifar10_vit_base_lora", "digits_vit_tiny",
    "fashion_mnist_convnext", "fashion_mnist_convnext_wide", "fashion_mnist_vit", "imagenet1k_convnext_tiny",
    "imagenet1k_vit_base",
}  # fmt: skip
# Number of classes of each dataset, and what the pretrained checkpoints are, as far as a config tells: both have the
# architecture's default configuration. Parameters in millions, without a checkpoint's pooler.
NUM_LABELS = {"cifar10": 10, "cifar100": 100, "digits": 10, "fashion": 10, "imagenet1k": 1000}
PRETRAINED = {"google/vit-base-patch16-224-in21k": "vit", "facebook/convnext-tiny-224": "convnext"}
MILLIONS = {
    "cifar100_convnext_tiny": 27.9, "cifar10_convnext_tiny": 27.8, "cifar10_vit_base": 85.8,
    "cifar10_vit_base_lora": 85.8, "digits_vit_tiny": 0.31, "fashion_mnist_convnext": 0.91,
    "fashion_mnist_convnext_wide": 2.85, "fashion_mnist_vit": 0.81, "imagenet1k_convnext_tiny": 28.6,
    "imagenet1k_vit_base": 86.6,
}  # fmt: skip


def test_the_promised_configs_are_there():
    assert {path.stem for path in CONFIGS} >= EXPECTED


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_parses_and_its_model_is_built(path):
    from transformers import AutoConfig, AutoModelForImageClassification

    from hf_imgcls.fit.adapt import adapt_model
    from hf_imgcls.fit.model import check_model
    from hf_imgcls.fit.training_arguments import build_training_arguments

    args = parse_arguments(["--config", str(path), "--use_cpu", "true"])
    assert args.training["output_dir"] == f"outputs/{path.stem}"
    build_training_arguments(args.training)
    model_type = args.fit.model_type or PRETRAINED[args.fit.model_name_or_path]
    values = dict(args.fit.model_config or {}, num_labels=NUM_LABELS[path.stem.split("_")[0]])
    if args.data.image_size:
        values["image_size"] = args.data.image_size
    if args.fit.model_type:
        check_model(args.fit, args.data)
    config = AutoConfig.for_model(model_type, **values)
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    assert model.num_parameters() / 1e6 == pytest.approx(MILLIONS[path.stem], rel=0.02)
    adapted = adapt_model(model, args.fit)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained < 0.004 * model.num_parameters() if args.fit.adaptation == "lora" else trained > 3e5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_header_says_command_hardware_and_what_to_expect(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(header)
    for word in ("Command:", "Hardware:", "Expected:", f"--config {path.stem}"):
        assert word in text
    assert "PENDING" not in text


@pytest.mark.parametrize(
    "path", [RECIPES.parent / "accelerate_config.yaml", *sorted((RECIPES / "accelerate_configs").glob("*.yaml"))],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_launch_configs_are_read_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.distributed_type.value == yaml.safe_load(path.read_text())["distributed_type"]
