"""Folders of classes, of splits and of neither; each file once, whatever links lead to it."""

import os
from pathlib import Path

import pytest

from hf_imgcls.data.split_folders import read_split_name
from hf_imgcls.errors import DataError

ONE = {"test_split": 0, "train_val_split": 0}


def sizes(dataset):
    return {role: len(split) for role, split in dataset.splits.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", "")), ("Train1", ("train", "")), ("seg_train", ("train", "seg")),
        ("trainingSet", ("train", "")), ("train_images", ("train", "")), ("TEST", ("test", "")),
        ("test1", ("test", "")), ("seg_test", ("test", "seg")), ("valid", ("validation", "")),
        ("val-2017", ("validation", "")), ("dev", ("validation", "")), ("Predict", ("", "")), ("seg_pred", ("", "seg")),
        ("trains", None), ("bus", None), ("trainer", None), ("train test", None), ("contest", None), ("déval", None),
    ],
)  # fmt: skip
def test_names_of_splits(name, expected):
    assert read_split_name(name) == expected


@pytest.mark.parametrize(
    ("flat", "train", "test"),
    [
        (["test"], "train", None),
        (["test1"], "train", None),
        (["Predict"], "Train", "Test"),
        (["seg_pred"], "seg_train", "seg_test"),
        (["unlabeled", "sample_images"], "training_set", "test_set"),
    ],
)
def test_the_labelled_splits_are_taken_and_the_flat_ones_named(load, make_folders, flat, train, test):
    folder = make_folders(f"set/{train}", {"cat": 10, "dog": 10}).parent
    if test:
        make_folders(f"set/{test}", {"cat": 3, "dog": 3})
    make_folders("set", dict.fromkeys(flat, 4))
    for arguments in ({"train_dir": folder}, {"dataset_name": folder}):
        dataset = load(**arguments, **ONE)
        assert dataset.labels == ["cat", "dog"]
        assert sizes(dataset) == {"train": 20} | ({"test": 6} if test else {})
        notes = " ".join(dataset.record.notes)
        assert f"{folder} is not a folder of classes but of splits; these were read: {train}" in notes
        assert "Left out" in notes
        assert all(name in notes for name in flat)


def test_splits_that_lie_in_folders_of_their_own_name(load, make_folders):
    folder = make_folders("set/seg_train/seg_train", {"cat": 10, "dog": 10}).parents[1]
    make_folders("set/seg_test/seg_test", {"cat": 3, "dog": 3})
    make_folders("set/seg_pred", {"seg_pred": 5})
    dataset = load(dataset_name=folder, **ONE)
    assert (dataset.labels, sizes(dataset)) == (["cat", "dog"], {"train": 20, "test": 6})
    assert "Left out: seg_pred. Without class folders" in " ".join(dataset.record.notes)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train": 8, "test1": 8}, r"splits \(test1, train\), and their images lie in no folders of classes"),
        ({"train": 8, "val": 8, "test": 8}, r"--train_file labels.csv --image_folder \S+train"),
        ({"train": 8, "test/cat": 8, "test/dog": 8}, "only test has a folder for each class"),
        ({"train1/cat": 2, "train1/dog": 2, "train2/cat": 2, "train2/dog": 2}, "pass the one that is meant: --train_"),
        ({"fold1/cat": 2, "fold1/dog": 2, "fold2/cat": 2, "fold2/dog": 2}, "all hold the same sub-folders"),
        ({"cat/train": 4, "cat/test": 2, "dog/train": 4, "dog/test": 2}, "each class folder of .* folders of splits"),
    ],
)
def test_folders_that_are_no_classes_are_not_trained_on(load, make_folders, folders, message):
    folder = make_folders("set", folders)
    for arguments in ({"train_dir": folder}, {"dataset_name": folder}):
        with pytest.raises(DataError, match=message):
            load(**arguments)


def test_folders_that_are_classes_stay_classes(load, make_folders):
    for name, folders, labels in (
        ("vehicles", {"train": 8, "bus": 8}, ["bus", "train"]),
        ("models", {"train/steam": 4, "train/electric": 4, "bus": 8}, ["bus", "train"]),
        ("tests", {"seg_train": 8, "seg_test": 8, "bus": 4}, ["bus", "seg_test", "seg_train"]),
        ("beside", {"cat": 4, "dog": 4, "test": 4}, ["cat", "dog", "test"]),
        ("views", {"cat/images": 4, "dog/images": 4}, ["cat", "dog"]),
        ("mixed", {"cat/front": 4, "cat/side": 4, "cat": 2, "dog/front": 4, "dog/side": 4, "dog": 2}, ["cat", "dog"]),
    ):
        dataset = load(train_dir=make_folders(name, folders), **ONE)
        assert dataset.labels == labels
        assert not any("splits" in note for note in dataset.record.notes)
        named = [label for label in labels if read_split_name(label)]
        assert any("Read as a class" in note for note in dataset.record.notes) == bool(named)


def test_nested_groups_are_told(load, make_folders):
    dataset = load(train_dir=make_folders("set", {"set1/flags": 4, "set1/maps": 4, "set2/cats": 4}), **ONE)
    assert dataset.labels == ["set1", "set2"]
    assert "set1/flags" in " ".join(dataset.record.notes)
    assert "their class is the upper folder" in " ".join(dataset.record.notes)


# ------------------------------------------------------------------------------------------------ links


def list_paths(dataset, root):
    return sorted(os.path.relpath(row["image"]["path"], root) for row in dataset.splits["train"])


@pytest.mark.parametrize("target", ["..", ".", "../..", "../class 1"])
def test_a_link_back_adds_no_images(load, make_folders, target):
    folder = make_folders("set", {"class 0": 4, "class 1": 5, "class 2": 6})
    expected = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert len(expected) == 15
    (folder / "class 0" / "back").symlink_to(target)
    dataset = load(train_dir=folder, **ONE)
    assert list_paths(dataset, folder) == expected
    assert dataset.record.splits["train"].class_counts == {"class 0": 4, "class 1": 5, "class 2": 6}
    assert "lead back into" in " ".join(dataset.record.notes)


def test_a_file_with_two_names_is_one_row(load, make_folders, tmp_path):
    folder = make_folders("set", {"a": 4, "b": 5})
    elsewhere = make_folders("elsewhere", {"x": 2})
    os.link(folder / "a" / "0.png", folder / "a" / "again.png")
    (folder / "a" / "1 link.png").symlink_to("../b/1.png")
    for name in ("a", "b"):
        (folder / name / "more").symlink_to(elsewhere / "x")
    (folder / "c").symlink_to("b")
    dataset = load(train_dir=folder, **ONE)
    paths = list_paths(dataset, folder)
    assert paths == sorted(
        [*(f"a/{i}.png" for i in range(4)), *(f"b/{i}.png" for i in range(5)), "a/more/0.png", "a/more/1.png"]
    )
    notes = " ".join(dataset.record.notes)
    assert "4 image files" in notes
    assert "3 of them from folders of two classes: 'a/1 link.png' is 'b/1.png'" in notes
    assert "1 links to folders lead back" in notes
    assert "'c'" in notes


def test_a_folder_of_links_into_a_hidden_store_is_read(load, make_folders, tmp_path):
    """As git-annex, DVC and the Hub's cache keep files: one of their names in the folder counts, not the hidden one."""
    store = make_folders("set/.store", {"x": 3, "y": 3})
    for name in "xy":
        (tmp_path / "set" / name).mkdir()
        for file in sorted((store / name).iterdir()):
            (tmp_path / "set" / name / file.name).symlink_to(Path("..") / ".store" / name / file.name)
    dataset = load(train_dir=tmp_path / "set", **ONE)
    assert len(list_paths(dataset, tmp_path / "set")) == 6
    assert dataset.labels == ["x", "y"]
