"""What a run does that is given a model and data and nothing else: the training policy, from the command line."""

from __future__ import annotations

import json

import pytest
import yaml
from lifecycle.command_lines import TINY_VIT
from safetensors.numpy import load_file

from hf_imgcls.arguments.training_policy import FINETUNING_BUDGET

DATA = (
    "--dataset_name", "digits", "--image_size", "16", "--max_train_samples", "64", "--max_eval_samples", "32",
    "--max_test_samples", "32", "--disable_tqdm", "true", "--use_cpu", "--report", "false",
)  # fmt: skip


def read(folder, name="run.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture
def base(run_recipe, tmp_path):
    """A small model that was trained before, for two steps."""
    steps = ("--max_steps", "2", "--learning_rate", "1e-3", "--lr_scheduler_type", "linear", "--warmup_ratio", "0")
    steps += ("--augmentation", "light")
    run = run_recipe("finetune", *DATA, *TINY_VIT, *steps, "--output_dir", tmp_path / "base")
    assert run.exit_code == 0, run.err
    assert read(tmp_path / "base")["policy"] == ["training_policy"]
    return tmp_path / "base"


@pytest.mark.slow
def test_a_run_without_a_flag_says_what_was_chosen_and_can_be_repeated(run_recipe, base, tmp_path):
    flags = (*DATA, "--model_name_or_path", base, "--cache_dir", tmp_path / "cache")
    first = run_recipe("finetune", *flags, "--output_dir", tmp_path / "first")
    assert first.exit_code == 0, first.err
    epochs = FINETUNING_BUDGET.most  # of two steps each
    assert f"64 images: {epochs} epochs, {2 * epochs} steps" in first.err
    record, recipe = read(tmp_path / "first"), yaml.safe_load((tmp_path / "first" / "recipe.yaml").read_text())
    assert {"adaptation", "learning_rate", "num_train_epochs", "training_policy"} <= set(record["policy"])
    assert (recipe["adaptation"], recipe["num_train_epochs"], recipe["training_policy"]) == ("auto", epochs, "none")

    card = (tmp_path / "first" / "README.md").read_text()
    assert ("starting from the head of a linear probe" in card) != ("as a linear probe: the head alone" in card)

    same = run_recipe("finetune", *flags, "--output_dir", tmp_path / "first")
    assert (same.exit_code, "is finished" in same.err) == (0, True)
    slower = run_recipe("finetune", *flags, "--learning_rate", "1e-5", "--output_dir", tmp_path / "first")
    assert slower.exit_code == 2
    assert f"learning_rate: {recipe['learning_rate']} then, 1e-05 now" in slower.err

    config = tmp_path / "first" / "recipe.yaml"
    again = run_recipe("finetune", "--config", config, "--output_dir", tmp_path / "again")
    assert again.exit_code == 0, again.err
    assert read(tmp_path / "again")["policy"] == []
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_who_says_how_to_train_gets_just_that(run_recipe, base, tmp_path):
    flags = ("--max_steps", "1", "--output_dir", tmp_path / "run")
    run = run_recipe("finetune", *DATA, "--model_name_or_path", base, *flags)
    assert run.exit_code == 0, run.err
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert "adaptation" not in recipe  # all weights, as ever
    assert "num_train_epochs" not in recipe
    assert recipe["learning_rate"] > 5e-5


def test_a_recipe_of_an_earlier_release_keeps_its_meaning(run_recipe, base, tmp_path):
    old = tmp_path / "recipe.yaml"
    header = "# The arguments of a run of hf_imgcls. Repeat it with: --config THIS_FILE\n"
    old.write_text(f"{header}model_name_or_path: {base}\nmax_steps: 1\n")
    run = run_recipe("finetune", *DATA, "--config", old, "--output_dir", tmp_path / "run")
    assert run.exit_code == 0, run.err
    assert "Policy" not in run.err
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert not {"learning_rate", "lr_scheduler_type", "warmup_ratio"} & recipe.keys()


def test_a_dry_run_tells_the_policy_and_takes_four_steps(run_recipe, base, tmp_path, caplog):
    flags = ("--adaptation", "full", "--dry_run", "--output_dir", tmp_path / "run")
    run = run_recipe("finetune", *DATA, "--model_name_or_path", base, *flags)
    assert run.exit_code == 0, run.err
    assert f"for {2 * FINETUNING_BUDGET.most} steps" in run.err
    assert "step 4: max_steps" in caplog.text
