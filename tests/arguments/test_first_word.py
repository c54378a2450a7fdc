"""The first word of a command line: data to train on, or a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_imgcls.arguments.first_word import find_source, name_data, name_first_word, name_repeated_run
from hf_imgcls.arguments.parse import FINETUNE_GROUPS, parse_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.errors import ArgumentError
from hf_imgcls.layout import RECIPE_FILE


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data of every kind."""
    files = (
        "photos/cat/1.jpg", "photos/dog/1.jpg", "splits/train/cat/1.jpg", "splits/test/cat/1.jpg", "digits/1/1.jpg",
        "hub/README.md", "hub/data/train-00000.parquet", "saved/dataset_dict.json", "described/train/metadata.csv",
        "mixed/labels.csv", "mixed/images/1.jpg", "flat/labels.csv", "flat/1.jpg", "bare/1.jpg",
        "labels.csv", "rows.jsonl", "rows.parquet", "photos.zip", "notes.txt", "either.json",
    )  # fmt: skip
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("photos", "train_dir"), ("photos/", "train_dir"), ("./photos", "train_dir"), ("splits", "train_dir"),
        ("./digits", "train_dir"), ("digits", "dataset_name"), ("hub", "dataset_name"), ("saved", "dataset_name"),
        ("described", "dataset_name"), ("photos.zip", "dataset_name"), ("labels.csv", "train_file"),
        ("rows.jsonl", "train_file"), ("rows.parquet", "train_file"), ("cifar10", "dataset_name"),
        ("me/beans", "dataset_name"),
    ],
)  # fmt: skip
def test_data_without_a_flag(word: str, name: str) -> None:
    data = parse_arguments([word, "--seed", "7"], positional="data").data
    assert {key: value for key, value in vars(data).items() if key in ("dataset_name", "train_dir", "train_file")} == {
        "dataset_name": None, "train_dir": None, "train_file": None, name: word,
    }  # fmt: skip
    assert find_source(word) == name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("either.json --seed 1", ("may hold data or arguments", "--train_file either.json, or --config either.json")),
        (
            "mixed",
            ("labels.csv or be the names of its folders", "mixed/labels.csv; for the folders: --train_dir mixed"),
        ),
        ("flat", ("has no folders, and the file labels.csv", "flat/labels.csv")),
        ("bare", ("bare has no folders", "one folder per class")),
        ("notes.txt", ("ends in '.txt'", ".csv, .tsv")),
        ("photo/", ("there is no 'photo/'", "did you mean photos")),
        ("./foto", ("there is no './foto'", "photos")),
        ("lables.csv", ("there is no 'lables.csv'", "did you mean labels.csv")),
        ("https://huggingface.co/datasets/me/x", ("there is no", "a dataset on the Hub")),
        ("photos/cats", ("the folder photos has no 'cats'", "--dataset_name photos/cats")),
        ("photos --train_dir splits", ("photos and --train_dir splits are both given",)),
        ("photos --dataset-name=beans", ("photos and --dataset_name beans are both given",)),
        ("hub --validation_dir splits", ("comes from dataset_name and from validation_dir",)),
    ],
)
def test_words_that_name_no_data(line: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_arguments(line.split(), positional="data")
    assert all(part in str(caught.value) for part in expected), str(caught.value)
    assert "problems were found" not in str(caught.value)


def test_a_run_is_no_data(place: Path) -> None:
    (place / "photos" / "run.json").write_text("{}")
    with pytest.raises(ArgumentError, match="--model_name_or_path photos"):
        name_data(["photos"])


def test_data_replaces_the_source_of_the_file(place: Path) -> None:
    (place / "run.yaml").write_text(
        "dataset_name: cifar10\ndataset_config_name: plain_text\nimage_column_name: img\nlearning_rate: 1e-4\n"
    )
    arguments = parse_arguments(["photos", "--config", "run.yaml", "--validation_dir", "splits"], positional="data")
    assert (arguments.data.dataset_name, arguments.data.image_column_name) == (None, None)
    assert (arguments.data.train_dir, arguments.data.validation_dir) == ("photos", "splits")
    assert arguments.training["learning_rate"] == 1e-4
    for argv in (["run.yaml", "--seed", "1"], ["--config", "run.yaml"], ["run.yaml"]):
        assert parse_arguments(argv, positional="data").data.dataset_name == "cifar10"


def test_a_run_without_a_flag() -> None:
    assert name_first_word(["outputs/x", "--split", "test"], "run") == ["--run", "outputs/x", "--split", "test"]
    assert name_first_word(["--split", "test"], "run") == ["--split", "test"]
    with pytest.raises(ArgumentError, match="outputs/x and --run other are both given"):
        name_first_word(["outputs/x", "--run", "other"], "run")


def test_a_run_is_repeated_by_its_recipe_into_another_folder(place: Path) -> None:
    run = place / "outputs" / "first"
    run.mkdir(parents=True)
    line = ["digits", "--learning_rate", "1e-4", "--output_dir", str(run), "--push_to_hub", "--num_processes", "2"]
    save_recipe(parse_arguments(line, positional="data"), run / RECIPE_FILE)
    groups = (*FINETUNE_GROUPS, "repeat")
    argv = name_repeated_run([f"{run}/", "--repeats", "3"])
    arguments = parse_arguments(argv, groups=groups, positional="data")
    assert (arguments.data.dataset_name, arguments.fit.repeats, arguments.fit.num_processes) == ("digits", 3, None)
    assert arguments.training["learning_rate"] == 1e-4
    assert arguments.training["output_dir"] == f"{run}_repeated"
    argv = name_repeated_run([str(run), "--output_dir", "elsewhere"])
    assert parse_arguments(argv, groups=groups, positional="data").training["output_dir"] == "elsewhere"
    assert name_repeated_run(["photos", "--repeats", "3"]) == ["--train_dir", "photos", "--repeats", "3"]


def test_help_shows_the_first_word(capsys: pytest.CaptureFixture[str]) -> None:
    for positional, shown in (
        ("data", "[DATA] [--config"),
        ("model_name_or_path", "[RUN] [--config"),
        ("", "[--config"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments(["--help"], positional=positional)
        usage = capsys.readouterr().out.splitlines()[0]
        assert f"{shown}" in usage
        assert ("[DATA]" in usage, "[RUN]" in usage) == (positional == "data", positional == "model_name_or_path")
