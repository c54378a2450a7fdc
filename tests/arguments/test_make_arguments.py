"""Arguments as Python keywords: the checks, defaults and messages of the command line."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_imgcls.arguments.parse import make_arguments, parse_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.errors import ArgumentError


class Schedule(enum.StrEnum):
    COSINE = "cosine"


def message(**names: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        make_arguments(**names)
    return str(caught.value)


def test_keywords_give_what_the_same_flags_give(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    made = make_arguments(
        train_dir=tmp_path / "photos", learning_rate=1e-4, adaptation="lora", lora_rank=np.int64(4),
        lora_target_modules=("query", "value"), image_mean=(0.5, 0.5, np.float32(0.5)), no_cuda=True, report=True,
        lr_scheduler_type=Schedule.COSINE, model_type="vit", model_config={"depths": (1, 2)},
        image_size="64", weight_decay=None,
    )  # fmt: skip
    parsed = parse_arguments([
        "--train_dir", str(tmp_path / "photos"), "--learning_rate", "1e-4", "--adaptation", "lora", "--lora_rank", "4",
        "--lora_target_modules", "query", "value", "--image_mean", "0.5", "0.5", "0.5", "--no_cuda", "--report", "true",
        "--lr_scheduler_type", "cosine", "--model_type", "vit", "--model_config", "{depths: [1, 2]}",
        "--image_size", "64",
    ])  # fmt: skip
    assert made == parsed
    assert (made.explicit, made.notes) == (parsed.explicit, parsed.notes)
    assert len(made.notes) == 1  # the small network's configuration
    save_recipe(made, tmp_path / "recipe.yaml")
    assert make_arguments(config=tmp_path / "recipe.yaml") == made


def test_every_mistake_is_told_at_once_by_keyword() -> None:
    text = message(
        dataset_name="digits", augmentation="heavyy", lora_rank=-3, on_bad_image="nonsense", learning_rat=1, lr=1
    )
    assert text.startswith("5 problems were found:")
    for part in (
        "augmentation is 'heavyy'\n  expected: one of none, light, medium",
        "did you mean heavy?",
        "lora_rank is -3",
        "on_bad_image is 'nonsense'\n  expected: one of error, skip",
        "did you mean learning_rate",
        "here it is learning_rate",
    ):
        assert part in text, part
    assert "--" not in text.replace("--help", "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"learning_rate": "fast"}, "learning_rate is 'fast' (str)\n  expected: a number"),
        ({"run_name": 1.5}, "run_name is 1.5 (float)\n  expected: a string or null\n  to fix:   put it in quotes"),
        ({"dataset_name": object()}, "(object)\n  expected: a string"),
        ({"focal_gamma": 1.0}, "to fix:   add loss='focal'"),
        ({"tune_space": {"learning_rate": [1, 2]}}, "to fix:   add tune, or leave tune_space out"),
        ({"train_layers": 2}, "add adaptation='partial'"),
        ({"on_bad_image": "skip", "scan_images": False}, "use on_bad_image='error', or leave scan_images out"),
        ({"evaluation_strategy": "no", "eval_strategy": "no"}, "both given"),
        ({"model_type": "vit", "model_name_or_path": "x"}, "`NAME=None` unsets"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml cannot be read: No such file"),
        ({"config": 5}, "config is 5"),
        ({"repeats": 3}, "repeats is not an argument of this command"),
        ({"qqqq": 1}, "a name that the command's --help lists"),
    ],
)
def test_messages_name_keywords(names: dict[str, Any], expected: str) -> None:
    text = message(**{"dataset_name": "digits", **names})
    assert expected in text
    assert "problems were found" not in text


def test_a_value_that_looks_like_a_flag_is_shown_as_it_is() -> None:
    assert "train_dir is 'photos --loss focal'" in message(train_dir="photos --loss focal")


def test_tokens_are_not_shown() -> None:
    assert make_arguments(dataset_name="digits", hub_token="hf_x").hub_token == "hf_x"
    assert "hf_secret" not in message(dataset_name="digits", hub_token=["hf_secret", "hf_secret"])


def test_data_is_needed_where_it_can_be_named() -> None:
    assert "no dataset is named" in message(learning_rate=1e-3)
    assert make_arguments(groups=("measure",), goals=["ece<=0.1"]).measure.goals == ["ece<=0.1"]


def test_groups_are_those_of_the_command() -> None:
    data = make_arguments(groups=("data", "pixels"), dataset_name="digits", image_size=32)
    assert (data.data.image_size, data.training) == (32, {})
    text = message(groups=("data",), also=("split",), dataset_name="digits", split="tests", seed=1)
    assert "split is 'tests'" in text
    assert "seed is not an argument of this command" in text
