"""The public functions: what the commands do, for Python users, with the same checks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from api.conftest import SMALL, TINY
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import TrainerCallback

import hf_imgcls as ic
from hf_imgcls.errors import ArgumentError, DataError

# --- names ---


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "numpy"}
    code = f"import sys, hf_imgcls; dir(hf_imgcls); print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_every_public_name_is_there():
    assert len(ic.__all__) >= 15
    for name in ic.__all__:
        assert getattr(ic, name).__name__ == name
        assert getattr(ic, name).__doc__
    assert set(ic.__all__) <= set(dir(ic))
    with pytest.raises(AttributeError, match="did you mean load_data"):
        ic.load_dataset  # noqa: B018


# --- data ---


def draw(color: int) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(color).integers(0, 256, (16, 16, 3), np.uint8))


def make_folder(folder: Path) -> Path:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            draw(number + 100 * (label == "cat")).save(folder / label / f"{number}.png")
    return folder


def test_data_is_told_when_it_is_loaded(caplog):
    with caplog.at_level(logging.INFO):
        data = ic.load_data("digits", **SMALL)
    assert "train 256, validation 61, test 61" in caplog.text
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 256, "validation": 61, "test": 61}
    assert data.manifest is not None  # every image was looked at


@pytest.mark.parametrize("kind", ["folder", "table", "objects"])
def test_any_source_is_named_by_one_word(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = folder = make_folder(tmp_path / "photos")
    paths = sorted(folder.glob("*/*.png"))
    if kind == "table":
        source = tmp_path / "labels.csv"
        lines = [f"photos/{path.parent.name}/{path.name},{path.parent.name}" for path in paths]
        source.write_text("\n".join(["file_name,label", *lines]))
    elif kind == "objects":
        features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
        columns = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
        source = DatasetDict({"train": Dataset.from_dict(columns, features=features)})
    data = ic.load_data(source, train_val_split=0.2, test_split=0.2)
    assert data.labels == ["cat", "dog"]
    assert sum(map(len, data.splits.values())) == 20
    assert len(data.splits["test"]) == 4
    if kind == "objects":  # written once, and named from then on
        assert ic.load_data(source, train_val_split=0.2, test_split=0.2).arguments == data.arguments
        assert Path(data.arguments["dataset_name"]).parent == tmp_path / "cache" / "hf_imgcls"


def test_mistakes_about_data_are_told_with_the_nearest_name(tmp_path):
    with pytest.raises(ArgumentError, match="did you mean max_train_samples"):
        ic.load_data("digits", max_train_sample=1)
    with pytest.raises(ArgumentError, match="train_dir is given too"):
        ic.load_data("digits", train_dir=tmp_path)
    with pytest.raises(ArgumentError, match="on_bad_image is 'skp'"):
        ic.load_data("digits", on_bad_image="skp")
    make_folder(tmp_path / "photos")
    with pytest.raises(ArgumentError, match=r"did you mean .*photos"):
        ic.load_data(tmp_path / "photo")
    with pytest.raises(DataError, match="of type int"):
        ic.load_data(3)


# --- training ---


def test_a_run_is_what_the_command_leaves(run, digits):
    assert run.state == "finished"
    assert run.metrics["test_num_examples"] == 61
    assert run.recipe["model_type"] == "vit"
    assert run.recipe["dataset_name"] == "digits"
    assert run.recipe["max_train_samples"] == 256
    record = json.loads((run.folder / "run.json").read_text())
    assert record["data"]["train"] == digits.record.splits["train"].fingerprint
    assert ic.open_run(str(run.folder)) == run


def test_the_same_call_returns_the_finished_run(run, digits, capsys):
    before = (run.folder / "model.safetensors").stat().st_mtime_ns
    assert ic.train(digits, output_dir=run.folder, **TINY) == run
    assert "is finished" in capsys.readouterr().err
    assert (run.folder / "model.safetensors").stat().st_mtime_ns == before
    assert not list(run.folder.glob(".lock.*"))


def test_a_command_line_of_the_recipe_is_the_same_run(run, digits):
    """The recipe has what was given to load_data and to train, so the command finds the run finished."""
    command = [sys.executable, "-m", "hf_imgcls.commands", "finetune", "--config", str(run.folder / "recipe.yaml")]
    done = subprocess.run([*command, "--output_dir", str(run.folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is finished" in done.stderr


class CountSteps(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def invert(images):
    return 255 - images


def halve(logits, labels, num_examples):
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, reduction="sum") / num_examples / 2


def test_code_of_a_user_takes_part(run, digits, tmp_path):
    counter = CountSteps()
    other = ic.train(
        digits, output_dir=tmp_path / "run", callbacks=[counter], train_transform=invert, loss=halve, **TINY
    )
    assert counter.steps == 8
    assert set(json.loads((other.folder / "run.json").read_text())["hooks"]) == {"callbacks", "train_transform", "loss"}
    assert other.metrics["train_loss"] == pytest.approx(run.metrics["train_loss"] / 2, rel=0.1)
    weights = [load_file(place.folder / "model.safetensors") for place in (run, other)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_a_run_leaves_the_data_as_they_were(digits, tmp_path):
    record = digits.record.to_json()
    other = ic.train(digits, output_dir=tmp_path / "run", image_mean="dataset", max_steps=1, **TINY)
    assert json.loads((other.folder / "data.json").read_text())["pixel_mean"] is not None
    assert digits.record.to_json() == record


def test_a_run_is_trained_further(run, digits, tmp_path):
    names = {name: value for name, value in TINY.items() if not name.startswith("model_")}
    further = ic.train(digits, run, tmp_path / "further", max_steps=1, **names)
    assert further.recipe["model_name_or_path"] == str(run.folder)
    assert further.recipe["max_steps"] == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"learning_rte": 1}, "did you mean learning_rate"),
        ({"augmentation": "heavyy"}, "augmentation is 'heavyy'"),
        ({"lora_rank": -3}, "lora_rank is -3"),
        ({"max_train_samples": 3}, r"load_data\(\.\.\., max_train_samples=\.\.\.\)"),
        ({"model": 3}, "the model is of type int"),
        ({"find_lr": True}, "find_lr leaves no run"),
        ({"model": "a/b", "model_name_or_path": "c/d"}, "model_name_or_path is given twice"),
        ({"callbacks": [print]}, "TrainerCallback"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(digits, tmp_path, names, words):
    with pytest.raises(ArgumentError, match=words):
        ic.train(digits, output_dir=tmp_path / "run", **names)
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_told(run):
    with pytest.raises(DataError, match=r"did you mean .*run"):
        ic.open_run(f"{run.folder}x")


# --- judging ---


def test_scoring_gives_the_runs_own_table(run, digits):
    table = ic.score(run, digits)
    assert isinstance(table, ic.Table)
    np.testing.assert_array_equal(table.prediction, run.table().prediction)
    np.testing.assert_array_equal(ic.score(run.classifier(), digits).prediction, table.prediction)
    assert len(table.to_pandas()) == 61
    with pytest.raises(DataError, match="no tset split"):
        ic.score(run, digits, "tset")


def test_a_classifier_answers(run, digits):
    classifier = ic.load_classifier(run.folder)
    assert isinstance(classifier, ic.Classifier)
    images = digits.splits["test"][:5]["image"]
    scores = classifier.scores(images)
    assert scores.shape == (5, 10)
    assert [answer[0]["label"] for answer in classifier(images)] == [classifier.labels[row.argmax()] for row in scores]


def test_a_report_shows_itself(run, digits):
    before = sorted(run.folder.rglob("*"))
    told = ic.report(run.table(), goals=["accuracy>=0.99"], data=digits)
    assert isinstance(told, ic.Report)
    assert told.goals[0]["status"] == "not met"
    assert told.metrics["accuracy"].value == pytest.approx(run.metrics["test_accuracy"])
    assert told._repr_html_().startswith('<iframe srcdoc="&lt;!')
    assert told.page.is_file()
    assert sorted(run.folder.rglob("*")) == before  # nothing was written there
    with pytest.raises(ArgumentError, match="accurac"):
        ic.report(run.table(), goals=["accurac>=0.9"])


def test_a_report_stays_in_a_folder_that_is_named(run, tmp_path):
    told = ic.report(run.table(), folder=tmp_path)
    assert told.page == tmp_path / "report" / "report.html"
    assert told.record.gallery is not None


def test_two_models_are_compared(run, digits, capsys):
    record = ic.compare(run, ic.score(run, digits))
    assert record.num_examples == 61
    assert record.verdict == "not distinguishable"
    assert "cannot be told from" in capsys.readouterr().out


def test_served_is_scored(run, digits):
    assert ic.check_parity(run, digits).top1_agreement == 1.0
    record = ic.check_parity(run.classifier(), digits, "validation")
    assert (record.split, record.num_agreeing) == ("validation", 61)


# --- shipping ---


def test_a_push_is_rehearsed(run, capsys):
    assert ic.push(run, "me/digits", dry_run=True) is None
    assert "Would push to me/digits" in capsys.readouterr().out
    with pytest.raises(ArgumentError, match="hub_model_id is 'a b'"):
        ic.push(run, "a b", dry_run=True)


@pytest.mark.slow
def test_a_model_is_exported(run, digits):
    pytest.importorskip("onnxruntime")
    (record,) = ic.export(run, formats=["onnx"])
    assert record.top1_agreement == 1.0
    np.testing.assert_array_equal(ic.score(run.folder / "onnx", digits).prediction, run.table().prediction)
    with pytest.raises(ArgumentError, match="did you mean onnx"):
        ic.export(run, formats=["onxx"])
