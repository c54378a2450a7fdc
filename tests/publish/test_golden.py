"""The committed cards: written again from their committed records, byte for byte; and how they come to be there."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml
from places import REPOSITORY
from publish.number_walk import find_foreign_metadata, find_foreign_numbers
from publish.planted_runs import RECIPE, change_json, make_data, make_report, plant_run

from hf_imgcls.errors import OutputError
from hf_imgcls.publish.card import NO_NOTES, check_card, read_notes, read_records, render_card, write_card
from hf_imgcls.publish.golden import copy_records

CARDS = sorted(path.parent for path in (REPOSITORY / "model_cards").glob("*/README.md"))


def test_the_quick_starts_card_is_there():
    assert "digits_vit_tiny" in [folder.name for folder in CARDS]


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_committed_card_is_what_its_records_give(folder):
    card = (folder / "README.md").read_bytes().decode()
    assert render_card(read_records(folder), notes=read_notes(card)) == card
    check_card(folder)


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_every_number_of_a_committed_card_is_in_its_records(folder):
    card = (folder / "README.md").read_text()
    assert find_foreign_numbers(card, folder) == []
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
    assert find_foreign_metadata(metadata, folder) == []


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_committed_card_is_small_and_tells_nothing_of_a_machine(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    texts = [path.read_text() for path in files if path.suffix != ".png"]
    assert len(texts) > 8
    for text in texts:
        assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt)/", text)


def test_records_are_copied_without_pixels_and_without_paths(tmp_path):
    labels = [f"animal {index:03d}" for index in range(10)]
    photos, run = "/home/jane/my photos/train", tmp_path / "zoo" / "run"
    data = make_data(labels, source=photos, revision=None, config=None, notes=[f"{photos} has no hidden files."])
    report = make_report(labels, gallery={"worst_mistakes": [{"image": "images/1.png"}]})
    report.data, report.model = photos, str(run)
    recipe = {k: v for k, v in RECIPE.items() if k != "dataset_name"} | {"train_dir": photos, "output_dir": str(run)}
    plant_run(run, data=data, report=report, recipe=recipe)
    change_json(run / "trainer_state.json", log_history=[{"step": 50}], best_model_checkpoint=f"{run}/checkpoint-980")
    (run / "model.safetensors").write_bytes(b"large")
    before = (run / "recipe.yaml").read_text()
    assert "jane" not in write_card(run).read_text()
    check_card(run)

    target = copy_records(run, tmp_path / "cards" / "zoo")
    write_card(target)
    check_card(target)
    assert (run / "recipe.yaml").read_text() == before
    texts = {path.name: path.read_text() for path in target.rglob("*") if path.is_file()}
    assert "model.safetensors" not in texts
    assert not [name for name, text in texts.items() if "jane" in text or str(tmp_path) in text]
    copied = yaml.safe_load(texts["recipe.yaml"])
    assert (copied["train_dir"], copied["output_dir"]) == ("./train", "./run")
    assert json.loads(texts["report.json"])["gallery"] is None
    assert "log_history" not in {k for k, v in json.loads(texts["trainer_state.json"]).items() if v}
    again = (target / "README.md").read_text()
    assert render_card(read_records(target), notes=read_notes(again)) == again
    assert read_notes(again) == NO_NOTES


def test_a_folder_that_is_no_card_is_left_alone(tmp_path):
    run = plant_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="no card"):
        copy_records(run, tmp_path / "other")


def test_the_command_writes_a_card_elsewhere(tmp_path):
    run = plant_run(tmp_path / "run")
    flags = [str(run), "--into", str(tmp_path / "card"), "--license", "x"]
    command = [sys.executable, "-m", "hf_imgcls.commands", "card", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "license is 'x'" in result.stderr
    result = subprocess.run([*command[:-1], "mit"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "license: mit" in (tmp_path / "card" / "README.md").read_text()
