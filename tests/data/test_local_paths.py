"""Names of folders and files are names: never patterns, never chains of file systems."""

import io
from functools import cache
from pathlib import Path

import pytest
from numbered_images import decode_value, make_dataset

NAMES = ["[2024] pets", "batch[12]", "fold*", "what?", "pets::old", "a{b,c}", "[!a]b", "100% #1", "a::zip"]
SIBLINGS = ["batch1", "fold_old", "whats", "pets", "old", "ab", "ac", "cb", "a"]
ONE = {"test_split": 0, "train_val_split": 0}


@cache
def encode(first, names=("cat", "dog")):
    """A parquet file of twenty images whose value is odd for the second class."""
    file = io.BytesIO()
    rows = make_dataset([index % 2 for index in range(first + 20)], names)
    rows.select(range(first, first + 20)).to_parquet(file)
    return file.getvalue()


def write(folder, content, file="train-00000-of-00001.parquet"):
    (folder / "data").mkdir(parents=True)
    (folder / "data" / file).write_bytes(content)


def values(dataset, role="train"):
    return sorted(decode_value(row["image"]) for row in dataset.splits[role])


@pytest.fixture
def places(tmp_path, monkeypatch):
    for name in SIBLINGS:
        write(tmp_path / name, encode(20, ("oak", "elm")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_folder_that_was_named_is_read(load, places, name, streaming):
    write(places / name, encode(0))
    for given in (name, places / name):
        dataset = load(dataset_name=given, streaming=streaming, **ONE)
        assert dataset.labels == ["cat", "dog"]
        assert values(dataset) == list(range(20))
        assert dataset.record.source == str(given)


def test_a_changed_file_is_read_again(load, places):
    write(places / "batch[12]", encode(0))
    assert load(dataset_name="batch[12]", **ONE).labels == ["cat", "dog"]
    path = places / "batch[12]" / "data" / "train-00000-of-00001.parquet"
    make_dataset([index % 2 for index in range(8)], ["fox", "hen"]).to_parquet(path)
    (places / "batch[12]" / "data" / "test-00000-of-00001.parquet").write_bytes(path.read_bytes())
    dataset = load(dataset_name="batch[12]", train_val_split=0)
    assert (dataset.labels, values(dataset), values(dataset, "test")) == (
        ["fox", "hen"],
        list(range(8)),
        list(range(8)),
    )
    (places / "batch[12]" / "data" / "test-00000-of-00001.parquet").unlink()
    assert list(load(dataset_name="batch[12]", **ONE).splits) == ["train"]


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_files_and_of_folders_above(load, places, streaming):
    folder = places / "run [1]" / "pets"
    write(folder, encode(0), file="train-[1].parquet")
    write(places / "elsewhere", encode(40), file="train-1.parquet")
    (folder / "data" / "extra-0.parquet").write_bytes((places / "elsewhere/data/train-1.parquet").read_bytes())
    (folder / "data" / "train-1.notes").write_text("")
    dataset = load(dataset_name="run [1]/pets", streaming=streaming, **ONE)
    assert values(dataset) == list(range(20))


@pytest.mark.parametrize("name", ["fold*", "pets::old"])
def test_saved_datasets_and_metadata(load, places, make_folders, name):
    make_dataset([0, 1, 0, 1], ["cat", "dog"]).save_to_disk(places / "saved" / "plain")
    (places / "saved" / "plain").rename(places / "saved" / name)
    assert load(dataset_name=places / "saved" / name, **ONE).labels == ["cat", "dog"]
    folder = make_folders(f"described/{name}", {"train": 10})
    rows = "".join(f"{index}.png,{'xy'[index % 2]}\n" for index in range(10))
    (folder / "train" / "metadata.csv").write_text("file_name,label\n" + rows)
    dataset = load(dataset_name=folder, **ONE)
    assert (dataset.labels, len(dataset.splits["train"])) == (["x", "y"], 10)
    for row in dataset.splits["train"]:
        assert decode_value({"bytes": Path(row["image"]["path"]).read_bytes()}) % 2 == row["label"]


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_that_are_links_to_folders(load, places, streaming):
    folder = places / "data[1]"
    folder.mkdir()
    for role, first in (("train", 0), ("test", 40)):
        write(places / "stored [2]" / role, encode(first))
        (folder / role).symlink_to(places / "stored [2]" / role / "data", target_is_directory=True)
    # Links that go round, directly and through another folder.
    (folder / "here").symlink_to(folder, target_is_directory=True)
    (places / "stored [2]" / "train" / "data" / "around").symlink_to(folder, target_is_directory=True)
    dataset = load(dataset_name=folder, train_val_split=0, streaming=streaming)
    assert (values(dataset), values(dataset, "test")) == (list(range(20)), list(range(40, 60)))


def test_class_folders_and_files_of_rows(load, make_folders, places):
    folder = make_folders("fold*", {"a[1]": 4, "b::c": 4})
    assert load(train_dir=folder, **ONE).labels == ["a[1]", "b::c"]
    (folder / "rows[1].csv").write_text("file_name,label\na[1]/0.png,x\nb::c/0.png,y\n")
    assert load(train_file=folder / "rows[1].csv", **ONE).labels == ["x", "y"]
