"""The training policy: one table that fills in what is left open, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from places import REPOSITORY

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.reading import RECIPE_HEADER
from hf_imgcls.arguments.training_policy import POLICY, Situation, StepBudget, choose_values, describe_rows
from hf_imgcls.fit.adapt import choose_finetuning
from hf_imgcls.records import read_finetuning

FULL = Situation(trained="full", is_scratch=False, has_batch_norm=True, num_images=802, images_per_step=32)


@pytest.mark.parametrize("num_images", [1, 31, 600, 802, 5_000, 60_000, 1_281_167])
@pytest.mark.parametrize("images_per_step", [8, 32, 1024])
def test_epochs_come_to_the_budget(num_images, images_per_step):
    budget = StepBudget(steps=300, fewest=3, most=30)
    epochs = budget.count_epochs(num_images, images_per_step)
    per_epoch = -(-num_images // images_per_step)
    assert 3 <= epochs <= 30
    assert epochs == 30 or epochs * per_epoch >= 300
    assert epochs == 3 or (epochs - 1) * per_epoch < 300


def test_what_was_given_is_never_filled_in():
    assert POLICY
    chosen = choose_values(FULL, set())
    assert set(chosen) <= {row.name for row in POLICY}
    for name in chosen:
        assert choose_values(FULL, {name}) == {key: value for key, value in chosen.items() if key != name}
    assert "num_train_epochs" not in choose_values(FULL, {"max_steps"})
    assert "warmup_ratio" not in choose_values(FULL, {"warmup_steps"})
    constant = dataclasses.replace(FULL, schedule="constant")
    assert "warmup_ratio" not in choose_values(constant, {"lr_scheduler_type"})


def test_the_rate_follows_what_is_trained_and_the_batch():
    def rate(**changes):
        return choose_values(dataclasses.replace(FULL, **changes), set())["learning_rate"]

    assert rate(is_scratch=True) >= 1e-3
    assert rate(has_batch_norm=True) > rate(has_batch_norm=False)
    assert rate(trained="head") > rate(trained="full")
    assert rate(images_per_step=8) == pytest.approx(rate() / 2, rel=0.05)
    assert rate(images_per_step=128) == rate()  # twice the rate ruins networks with BatchNorm
    by_layer = {n: rate(images_per_step=n, has_batch_norm=False) for n in (32, 128, 10**6, 10**7)}
    assert by_layer[128] == pytest.approx(2 * by_layer[32], rel=0.05)
    assert by_layer[10**6] == by_layer[10**7]  # no batch makes it grow without bounds


def test_small_images_from_scratch_are_cropped_less_unless_crops_were_given():
    small = dataclasses.replace(FULL, is_scratch=True, image_size=28)
    chosen = choose_values(small, set())
    assert 0.35 < chosen["random_crop_scale"][0] < chosen["random_crop_scale"][1] == 1
    assert chosen["random_crop_ratio"][0] < 1 < chosen["random_crop_ratio"][1]
    for situation, given in (
        (dataclasses.replace(small, image_size=224), set()),
        (dataclasses.replace(small, is_scratch=False), set()),
        (small, {"augmentation"}),
        (small, {"random_crop_scale"}),
        (small, {"random_crop_ratio"}),
    ):
        assert not choose_values(situation, given).keys() & {"random_crop_scale", "random_crop_ratio"}


def test_statistics_are_kept_where_a_probe_was_solved_with_them():
    def keeps(**changes):
        return choose_values(dataclasses.replace(FULL, **changes), set()).get("freeze_batch_norm", False)

    assert keeps(starts_from_probe=True)
    assert not keeps()
    assert not keeps(starts_from_probe=True, has_batch_norm=False)
    assert not keeps(starts_from_probe=True, trained="lora")
    assert not keeps(starts_from_probe=True, is_scratch=True)


def test_a_stream_of_unknown_length_has_no_epochs():
    assert "num_train_epochs" not in choose_values(dataclasses.replace(FULL, num_images=None), set())


def test_every_row_has_its_evidence_and_stands_in_the_documentation():
    assert all(row.evidence for row in POLICY)
    text = (REPOSITORY / "docs" / "training.md").read_text()
    for line in describe_rows():
        assert line in text, (
            "docs/training.md and hf_imgcls.arguments.training_policy differ: print(*describe_rows(), sep='\\n')"
        )


def test_a_batch_norm_network_goes_on_gently_from_a_probe():
    from_probe = choose_values(dataclasses.replace(FULL, starts_from_probe=True), set())
    fresh = choose_values(FULL, set())
    assert from_probe["learning_rate"] < fresh["learning_rate"]
    assert (from_probe["freeze_batch_norm"], from_probe["ema_decay"]) == (True, 0.98)
    assert not {"freeze_batch_norm", "ema_decay"} & fresh.keys()
    by_layer = dataclasses.replace(FULL, starts_from_probe=True, has_batch_norm=False)
    assert not {"freeze_batch_norm", "ema_decay"} & choose_values(by_layer, set()).keys()


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, "full"),
        ({"adaptation": "lora", "training_policy": "none"}, "lora"),
        ({"adaptation": "auto", "training_policy": "none"}, "full"),
        ({"adaptation": "auto", "auto_finetune": "lora", "training_policy": "none"}, "lora"),
        ({"adaptation": "auto"}, "lora"),  # of a release without a policy
    ],
)
def test_what_was_trained_is_read_as_the_release_meant_it(recipe, expected, tmp_path):
    assert read_finetuning(recipe) == expected
    if recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"{RECIPE_HEADER}\ndataset_name: digits\n{yaml.safe_dump(recipe)}")
        fit = parse_arguments(["--config", str(path)]).fit
        assert choose_finetuning(fit) == expected
        assert fit.training_policy == "none"
