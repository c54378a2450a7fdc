"""``hf-imgcls VERB``: help without torch, the nearest verb, packaged configs, and processes that it starts itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT

from hf_imgcls.arguments.configs import CONFIGS, find_config
from hf_imgcls.commands.__main__ import VERBS

HEAVY = "torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn"


def run_command(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hf_imgcls.commands", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_the_help_names_every_verb():
    shown = run_command("--help")
    assert shown.returncode == 0
    assert len(VERBS) >= 7
    for verb in VERBS:
        assert f"\n  {verb} " in shown.stdout
    assert run_command().stdout == shown.stdout


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_tells_what_it_takes_before_anything_heavy_is_imported(verb):
    program = (
        f"import sys; sys.argv = ['hf-imgcls', {verb!r}, '--help']\n"
        "from hf_imgcls.commands.__main__ import main\n"
        f"try:\n    main()\nfinally:\n    print('heavy:', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: hf-imgcls {verb} ")
    assert shown.stdout.endswith("heavy: []\n")


def test_an_unknown_verb_is_answered_with_the_nearest():
    told = run_command("fintune", "--max_steps", "1")
    assert told.returncode == 2
    assert "'fintune' is not a verb" in told.stderr
    assert "did you mean hf-imgcls finetune?" in told.stderr
    assert "Traceback" not in told.stderr
    assert "hf-imgcls --help" in run_command("xyz").stderr


def test_a_verb_alone_says_what_is_missing(tmp_path):
    for verb, missing in (
        ("finetune", "no dataset is named"),
        ("measure", "no model is named"),
        ("export", "no model"),
    ):
        told = run_command(verb, cwd=tmp_path)
        assert told.returncode == 2
        assert missing in told.stderr
        assert "Traceback" not in told.stderr


def test_a_mistake_is_told_as_by_the_script():
    told = run_command("finetune", "--dataset_name", "digits", "--learning_rte", "1")
    assert told.returncode == 2
    assert "did you mean --learning_rate" in told.stderr


@pytest.mark.parametrize("name", ["digits_vit_tiny", "digits_vit_tiny.yaml", "recipes/configs/digits_vit_tiny.yaml"])
def test_a_packaged_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "digits_vit_tiny.yaml"
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("dataset_name: digits\n")
    assert find_config(name).resolve() == path  # a file of that name comes first


def test_a_config_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    told = run_command("finetune", "--config", "digits_vit_tin", cwd=tmp_path)
    assert told.returncode == 2
    assert "did you mean digits_vit_tiny?" in told.stderr
    assert str(find_config("elsewhere/digits_vit_tiny.yaml")) == "elsewhere/digits_vit_tiny.yaml"


@pytest.mark.slow
def test_processes_are_started_through_accelerate(tmp_path):
    flags = [flag for flag in SMALL_DIGITS if flag != "--use_cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}  # as after training
    done = run_command(
        "finetune", *flags, *TINY_VIT, "--num_processes", "2", "--max_steps", "2", "--output_dir", tmp_path / "run",
        env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "World size: 2 processes" in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2
    again = run_command("measure", "--model_name_or_path", tmp_path / "run", "--output_dir", tmp_path / "out",
                        "--num_processes", "2", "--report", "false", env=environment, timeout=600)  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    results = [json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("run", "out")]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
