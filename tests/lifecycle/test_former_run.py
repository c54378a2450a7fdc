"""Folders that an earlier release has left: an interrupted run goes on, a finished one is measured and pushed.

``former_run/`` was made by the code of commit 46c7047 on transformers 4.57, torch 2.14: a tiny ViT on the digits, 12
epochs; the second run was stopped by a SIGTERM after 33 of 96 steps.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_imgcls as ic

FORMER = Path(__file__).parent / "former_run"
ON_4 = version("transformers").startswith("4.")


@pytest.fixture
def former(tmp_path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(FORMER / name, tmp_path / name))

    return copy


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_it_is_read_as_a_run(former):
    run = ic.open_run(former("finished"))
    assert run.state == "finished"
    assert run.recipe["num_train_epochs"] == 12
    table = run.table()
    assert len(table) == 61
    assert table.correct.mean() == pytest.approx(run.metrics["test_accuracy"])
    assert ic.open_run(former("interrupted")).state == "interrupted"


def test_measuring_gives_the_numbers_of_then(former, run_recipe, tmp_path):
    folder = former("finished")
    done = run_recipe("measure", "--model_name_or_path", folder, "--output_dir", tmp_path / "out")
    assert done.exit_code == 0, done.err
    assert "note:" not in done.out  # nothing of the folder or the data has changed
    then, now = read(folder / "test_results.json"), read(tmp_path / "out" / "test_results.json")
    names = [name for name, value in then.items() if isinstance(value, float) and "second" not in name]
    names.remove("test_runtime")
    assert len(names) > 5
    for name in names:
        assert now[name] == pytest.approx(then[name], abs=1e-5), name
    assert read(tmp_path / "out" / "parity.json")["top1_agreement"] == 1.0


def test_the_same_command_finds_it_finished(former, run_recipe):
    folder = former("finished")
    weights = (folder / "model.safetensors").read_bytes()
    done = run_recipe("finetune", "--config", folder / "recipe.yaml", "--output_dir", folder)
    assert done.exit_code == 0, done.err
    assert "is finished; pass --overwrite_output_dir" in done.err
    assert "was changed" not in done.err
    assert (folder / "model.safetensors").read_bytes() == weights


def test_what_was_interrupted_goes_on_to_where_the_whole_run_came(former, run_recipe):
    folder, whole = former("interrupted"), former("finished")
    done = run_recipe("finetune", "--config", whole / "recipe.yaml", "--output_dir", folder)
    if not ON_4:  # optimizer states are laid out differently
        assert done.exit_code == 2
        assert "transformers: 4.57.6 then" in done.err
        return
    assert done.exit_code == 0, done.err
    record = read(folder / "run.json")
    assert (record["state"], record["resumed_from"]) == ("finished", ["checkpoint-33"])
    assert read(folder / "trainer_state.json")["global_step"] == 96
    tensors, expected = (load_file(run / "model.safetensors") for run in (folder, whole))
    assert tensors.keys() == expected.keys()
    for name in tensors.keys() - {"vit.encoder.layer.0.attention.attention.key.bias"}:  # softmax ignores it
        assert torch.allclose(tensors[name], expected[name], atol=1e-4), name


def test_a_push_of_it_would_be_whole(former, capsys):
    assert ic.push(former("finished"), "me/former", dry_run=True) is None
    shown = capsys.readouterr().out
    assert "Would push to me/former" in shown
    assert "model.safetensors" in shown
    assert "served = scored       61 of 61" in shown
