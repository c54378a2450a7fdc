"""A run ends with a card: its snippet runs, notes are kept, and no card of Trainer or peft is in its place."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from PIL import Image
from publish.number_walk import find_foreign_numbers
from publish.planted_runs import plant_export, plant_run
from sklearn.datasets import load_digits

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.publish.card import check_card, write_card
from hf_imgcls.records import RunRecord
from hf_imgcls.run_folder import open_output_folder


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "notes.md"
    path.write_text("For teaching only.\n")
    return path


def read_metadata(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


@pytest.mark.slow
def test_a_run_ends_with_a_card_whose_snippet_runs(run_recipe, tmp_path, monkeypatch, notes, capsys):
    pytest.importorskip("matplotlib")
    run = run_recipe(
        "finetune", *SMALL_DIGITS[:-2], *TINY_VIT, "--max_steps", "12", "--output_dir", tmp_path / "run",
        "--license", "mit", "--card_notes", notes, "--goals", "accuracy>=0.01", "--measure_latency",
    )  # fmt: skip
    assert run.exit_code in (0, 3), run.err
    folder = tmp_path / "run"
    card = (folder / "README.md").read_text()
    check_card(folder)
    assert str(tmp_path) not in card
    assert "For teaching only." in card
    assert read_metadata(card)["license"] == "mit"
    assert "**This is a smoke run:** it took 12 optimizer steps" in card
    assert find_foreign_numbers(card, folder) == []
    pictures = re.findall(r"!\[[^\]]+\]\((report/\w+\.png)\)", card)
    assert {"report/confusion.png", "report/reliability.png"} <= set(pictures)
    data = json.loads((folder / "data.json").read_text())["splits"]
    assert [(part["source_split"], part["is_cut"], part["num_available"]) for part in data.values()] == [
        ("train", True, 1257), ("train", True, 270), ("train", True, 270),
    ]  # fmt: skip
    model = RunRecord.load(folder / "run.json").model
    assert model.architecture == "ViTForImageClassification"
    assert model.num_parameters == model.num_trainable_parameters > 10_000

    Image.fromarray((load_digits().images[0] * 15.9).astype(np.uint8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert "'label': " in capsys.readouterr().out


def test_trainers_own_card_never_takes_its_place(tmp_path):
    from transformers import TrainingArguments

    from hf_imgcls.fit.trainer import ImageClassificationTrainer

    trainer = ImageClassificationTrainer.__new__(ImageClassificationTrainer)
    trainer.args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer.create_model_card(model_name="x", tags=["y"])
    assert not (tmp_path / "README.md").exists()


def test_replacing_a_run_takes_away_what_was_about_its_weights_and_keeps_the_notes(tmp_path):
    folder = plant_run(tmp_path / "run")
    plant_export(folder)
    for name in ("adapter/adapter_config.json", "photos/cat.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    card = write_card(folder).read_text()
    open_output_folder(
        parse_arguments(["--dataset_name", "digits", "--output_dir", str(folder), "--overwrite_output_dir"])
    )
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["photos"]
    assert (folder / "README.md").read_text() == card


@pytest.mark.slow
def test_lora_leaves_two_true_cards_and_the_adapters_snippet_gives_the_same_answers(run_recipe, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForImageClassification

    flags = [word for word in (*SMALL_DIGITS, "--max_steps", "2") if word not in ("--image_size", "16")]
    scratch = ("--model_type", "vit", "--model_config", "{image_size: 16, " + TINY_VIT[3][1:])
    assert run_recipe("finetune", *flags, *scratch, "--output_dir", tmp_path / "base").exit_code == 0
    run = run_recipe(
        "finetune", *flags, "--model_name_or_path", tmp_path / "base", "--adaptation", "lora", "--output_dir",
        tmp_path / "lora",
    )  # fmt: skip
    assert run.exit_code == 0, run.err
    adapter = (tmp_path / "lora" / "adapter" / "README.md").read_text()
    assert "More Information" not in adapter
    assert read_metadata(adapter)["library_name"] == "peft"
    assert "the folder `base`" in adapter
    check_card(tmp_path / "lora")
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "with LoRA; the adapter is merged into the weights" in card
    model = RunRecord.load(tmp_path / "lora" / "run.json").model
    assert model.num_trainable_parameters < model.num_parameters

    # The base model as the Hub would have it; the snippet is the card's own, its two names are folders.
    record = RunRecord.load(tmp_path / "lora" / "run.json")
    assert record.base_model == str(tmp_path / "base")
    record.base_model, record.base_model_revision = "base", "main"
    record.save(tmp_path / "lora" / "run.json")
    write_card(tmp_path / "lora")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "lora" / "adapter" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "lora").eval()
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(names["model"].eval()(pixel_values=pixels).logits, merged(pixels).logits)
