"""One shape of dataset from every kind of source, and one clear error for every kind of wrong one."""

import json
import os

import datasets
import numpy as np
import pytest
from numbered_images import decode_value, make_dataset

from hf_imgcls.data.find_columns import find_image_column, find_label_column
from hf_imgcls.data.names import natural_key
from hf_imgcls.errors import DataError
from hf_imgcls.records import DataRecord


def indices(split):
    return split["sample_index"][:]


def values_by_class(dataset, role):
    """Class name -> the values of its images."""
    found = {}
    for row in dataset.splits[role]:
        found.setdefault(dataset.labels[row["label"]], []).append(decode_value(row["image"]))
    return found


# ------------------------------------------------------------------------------------------------ built-in sample


def test_digits(load, tmp_path):
    dataset = load(dataset_name="digits")
    assert dataset.labels == list("0123456789")
    assert {role: len(split) for role, split in dataset.splits.items()} == {
        "train": 1257, "validation": 270, "test": 270,
    }  # fmt: skip
    every = [set(indices(split)) for split in dataset.splits.values()]
    assert sum(map(len, every)) == len(set.union(*every)) == 1797
    split = dataset.splits["train"]
    assert split.column_names == ["image", "label", "sample_index"]
    assert split.features["image"] == datasets.Image(decode=False)
    assert split.features["label"] == datasets.ClassLabel(names=dataset.labels)
    from sklearn.datasets import load_digits

    digits = load_digits()
    for row in split.select(range(20)):
        position = row["sample_index"]
        pixels = np.asarray(datasets.Image().decode_example(row["image"]))
        assert np.array_equal(pixels, np.round(digits.images[position] * 255 / 16))
        assert row["label"] == digits.target[position]
    counts = dataset.record.splits["train"].class_counts
    assert sum(counts.values()) == 1257
    assert min(counts.values()) >= 122
    dataset.record.save(tmp_path / "data.json")
    assert DataRecord.load(tmp_path / "data.json") == dataset.record


def test_same_seed_same_split_other_seed_other_split(load):
    one, again, other = (load(dataset_name="digits", split_seed=seed) for seed in (1, 1, 2))
    assert indices(one.splits["test"]) == indices(again.splits["test"])
    assert one.record == again.record
    assert indices(one.splits["test"]) != indices(other.splits["test"])


def test_truncation_comes_after_the_cut_and_is_recorded(load):
    whole = load(dataset_name="digits")
    part = load(dataset_name="digits", max_train_samples=100, max_eval_samples=20, max_test_samples=10)
    for role, count in {"train": 100, "validation": 20, "test": 10}.items():
        assert set(indices(part.splits[role])) < set(indices(whole.splits[role]))
        assert part.record.splits[role].num_examples == len(part.splits[role]) == count
        assert sum(part.record.splits[role].class_counts.values()) == count
        assert f"{count} of" in part.record.splits[role].source


def test_splits_that_are_switched_off(load):
    assert set(load(dataset_name="digits", test_split=0).splits) == {"train", "validation"}
    assert set(load(dataset_name="digits", train_val_split=0, test_split=10).splits) == {"train", "test"}


# ------------------------------------------------------------------------------------------------ class folders


def test_class_folders(load, make_folders):
    train = make_folders("train", {"10": 3, "2": 4, "cat": 2})
    validation = make_folders("val", {"cat": 1, "2": 1})
    for junk in (".ipynb_checkpoints", "__MACOSX", ".git"):
        (train / junk).mkdir()
        (train / junk / "0.png").write_bytes(b"")
    (train / "2" / "._0.png").write_bytes(b"")
    (train / "2" / "notes.txt").write_text("")
    (train / "2" / "deeper").mkdir()
    (train / "2" / "0.png").rename(train / "2" / "deeper" / "0.PNG")
    (train / "stray.png").write_bytes(b"")
    (train / "empty").mkdir()
    dataset = load(train_dir=train, validation_dir=validation)
    assert dataset.labels == ["2", "10", "cat"]
    assert set(dataset.splits) == {"train", "validation"}
    assert dataset.record.splits["train"].class_counts == {"2": 4, "10": 3, "cat": 2}
    assert dataset.record.splits["validation"].class_counts == {"2": 1, "10": 0, "cat": 1}
    for split in dataset.splits.values():
        for row in split:
            assert f"/{dataset.labels[row['label']]}/" in row["image"]["path"]
    notes = " ".join(dataset.record.notes)
    assert "1 images directly in" in notes
    assert "empty" in notes
    assert "1 .txt" in notes
    hidden = ".git (1 images), .ipynb_checkpoints (1 images), __MACOSX (1 images), files such as ._0.png (1 images)"
    assert hidden in notes
    assert "1 of 3 classes that train has are absent from validation: '10'." in notes


def test_train_folder_alone_is_cut_in_three(load, make_folders):
    dataset = load(train_dir=make_folders("all", {"a": 40, "b": 20}))
    assert {role: len(split) for role, split in dataset.splits.items()} == {"train": 42, "validation": 9, "test": 9}
    assert dataset.record.splits["test"].class_counts == {"a": 6, "b": 3}


def test_folder_of_splits_is_recognised_and_told(load, make_folders):
    folder = make_folders("set/train", {"a": 10, "b": 10}).parent
    make_folders("set/val", {"a": 2, "b": 2})
    make_folders("set/test", {"a": 3, "b": 3})
    for arguments in ({"train_dir": folder}, {"dataset_name": folder}):
        dataset = load(**arguments)
        sizes = {role: len(split) for role, split in dataset.splits.items()}
        assert sizes == {"train": 20, "validation": 4, "test": 6}
        assert "train, val" in dataset.record.notes[0] or "test, train" in dataset.record.notes[0]


def test_named_validation_without_test_is_left_alone_and_told(load, make_folders):
    folders = {
        "train_dir": make_folders("train", {"a": 9, "b": 9}),
        "validation_dir": make_folders("val", {"a": 2, "b": 2}),
    }
    dataset = load(**folders)
    assert {role: len(split) for role, split in dataset.splits.items()} == {"train": 18, "validation": 4}
    assert "no test split" in " ".join(dataset.record.notes)


def test_held_out_folder_alone_can_be_measured(load, make_folders):
    dataset = load(test_dir=make_folders("test", {"a": 2, "b": 3}))
    assert {role: len(split) for role, split in dataset.splits.items()} == {"test": 5}
    assert dataset.labels == ["a", "b"]


def test_folder_with_metadata_is_read_by_it(load, make_folders):
    folder = make_folders("set", {"train": 10})
    rows = "".join(f"{index}.png,{'xy'[index % 2]}\n" for index in range(10))
    (folder / "train" / "metadata.csv").write_text("file_name,label\n" + rows)
    dataset = load(dataset_name=folder, test_split=0, train_val_split=0)
    assert dataset.labels == ["x", "y"]
    assert all(row["image"]["path"].endswith(f"/{row['sample_index']}.png") for row in dataset.splits["train"])


def test_classes_named_like_splits_stay_classes(load, make_folders):
    dataset = load(train_dir=make_folders("vehicles", {"train": 8, "bus": 8}))
    assert dataset.labels == ["bus", "train"]


def test_images_in_hidden_folders_are_told_wherever_they_lie(load, make_folders):
    folder = make_folders("set/train", {"a": 10, "b": 10}).parent
    make_folders("set/val", {"a": 2, "b": 2})
    for place, names in {
        "__MACOSX/train/a": ["._0.png", "._1.png"],
        "train/a/.ipynb_checkpoints": ["0.png", "1.jpg", "notes.txt"],
        "train/b/.ipynb_checkpoints": ["0.png"],
        "train/.cache": ["index.json"],
    }.items():
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / name).write_bytes(b"")
    dataset = load(train_dir=folder)
    assert dataset.record.splits["train"].num_examples + dataset.record.splits["validation"].num_examples == 20
    told = [note for note in dataset.record.notes if "Hidden" in note]
    assert told == [
        f"Hidden folders and files in {folder} are no classes and not used: __MACOSX (2 images).",
        f"Hidden folders and files in {folder / 'train'} are no classes and not used: .ipynb_checkpoints (3 images).",
    ]


def test_links_that_lead_out_of_the_folder_are_followed_and_told(load, make_folders, tmp_path):
    folder, other = make_folders("train", {"a": 5, "b": 5}), make_folders("elsewhere", {"x": 3, "y": 2})
    (folder / "c").symlink_to(other / "x")
    (folder / "a" / "more").symlink_to(other / "y")
    (folder / "a" / "one.png").symlink_to(other / "x" / "0.png")
    (folder / "b" / "inside.png").symlink_to(folder / "b" / "0.png")
    (folder / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = load(train_dir=folder, **dict.fromkeys(["test_split", "train_val_split"], 0))
    assert dataset.record.splits["train"].class_counts == {"a": 7, "b": 6, "c": 3}
    told = [note for note in dataset.record.notes if "symbolic" in note]
    assert told == [f"3 symbolic links lead out of {folder} and were followed: 'a/more', 'a/one.png', 'c'."]
    (tmp_path / "link").symlink_to(make_folders("plain", {"a": 5, "b": 5}))
    assert not any("symbolic" in note for note in load(train_dir=tmp_path / "link").record.notes)


def test_pipes_and_devices_are_not_read(load, make_folders):
    folder = make_folders("train", {"a": 5, "b": 5})
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "b" / "endless.jpg").symlink_to("/dev/zero")
    dataset = load(train_dir=folder, test_split=0, train_val_split=0)
    assert dataset.record.splits["train"].class_counts == {"a": 5, "b": 5}
    assert "1 .png that is no file, 1 .jpg that is no file" in " ".join(dataset.record.notes)


def test_classes_that_a_split_lacks_are_told(load, make_folders):
    folders = {"train_dir": make_folders("train", {"a": 5, "b": 5, "c": 5}), "test_dir": make_folders("test", {"b": 1})}
    told = [note for note in load(**folders, train_val_split=3).record.notes if "absent" in note]
    assert told == ["2 of 3 classes that train has are absent from test: 'a', 'c'."]
    assert not any("absent" in note for note in load(test_dir=folders["test_dir"]).record.notes)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["01", "1", "2"], "'01' and '1'"),
        (["1", "1.0", "10"], "'1' and '1.0'"),
        (["Cat", "cat", "dog"], "'Cat' and 'cat'"),
        (["T-shirt", "t_shirt", "t  shirt", "shirt"], "'t  shirt' and 'T-shirt' and 't_shirt'"),
        (["caf\u00e9", "cafe\u0301", "cafe"], r"'cafe\u0301' and 'caf\xe9'"),
        (["２", "2", "3"], "'2' and '２'"),
        ([".git", "cat", "__MACOSX"], "Classes with the names of hidden files, perhaps not meant as classes: "),
        (["-1", "1", "0"], None),
        (["a", "b c", "bc", "C++", "C--"], None),
    ],
)
def test_classes_that_may_be_one_are_told(load, make_folders, names, told):
    folder = make_folders("images", {"a": len(names)})
    rows = [{"file": f"a/{index}.png", "label": name} for index, name in enumerate(names)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load(train_file=folder / "labels.jsonl", test_split=0, train_val_split=0)
    assert sorted(dataset.labels) == sorted(names)
    assert len(dataset.record.notes) == (told is not None)
    assert told is None or told in dataset.record.notes[0]


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        ("01", "1", "'1' is probably '01'"),
        ("great cat", "Great_Cat", "'Great_Cat' is probably 'great cat'"),
        ("caf\u00e9", "cafe\u0301", r"'cafe\u0301' is probably 'caf\xe9'"),
    ],
)
def test_an_unknown_class_that_may_be_a_known_one_is_told(load, make_folders, train, test, told):
    folders = {"train_dir": make_folders("train", {train: 5, "b": 5}), "test_dir": make_folders("test", {test: 1})}
    with pytest.raises(DataError, match="classes that training does not have") as caught:
        load(**folders)
    assert told in str(caught.value)


# ------------------------------------------------------------------------------------------------ annotation files


CSV = "filename,label,site\n" + "".join(
    f"{label}/{index}.png, {label},{index}\n" for label in ("01", "1") for index in range(10)
)


def test_a_file_in_another_encoding_is_one_clear_error(load, make_folders):
    folder = make_folders("images", {"a": 2})
    (folder / "labels.csv").write_bytes("file,label\na.png,né\n".encode("latin-1"))
    with pytest.raises(DataError, match="save --train_file as UTF-8"):
        load(train_file=folder / "labels.csv")


@pytest.mark.parametrize("kind", ["csv", "semicolon", "tsv", "jsonl", "json"])
def test_annotation_files(load, make_folders, kind):
    folder = make_folders("images", {"01": 10, "1": 10})
    rows = [dict(zip(CSV.split("\n")[0].split(","), line.split(","), strict=True)) for line in CSV.split("\n")[1:-1]]
    rows = [row | {"label": row["label"].strip(), "site": int(row["site"])} for row in rows]
    content, suffix = {
        "csv": (CSV, "csv"),
        "semicolon": (CSV.replace(",", ";"), "csv"),
        "tsv": (CSV.replace(",", "\t"), "tsv"),
        "jsonl": ("\n".join(map(json.dumps, rows)), "jsonl"),
        "json": (json.dumps(rows), "json"),
    }[kind]
    (folder / f"labels.{suffix}").write_text(content)
    dataset = load(train_file=folder / f"labels.{suffix}", test_split=4, train_val_split=4)
    assert dataset.labels == ["01", "1"]
    assert (dataset.record.image_column, dataset.record.label_column) == ("filename", "label")
    assert dataset.splits["train"].column_names == ["image", "label", "sample_index", "site"]
    for row in dataset.splits["train"]:
        assert row["image"]["path"].endswith(f"images/{dataset.labels[row['label']]}/{row['site']}.png")


def test_annotation_columns_by_name(load, make_folders):
    folder = make_folders("images", {"a": 10})
    lines = "".join(f"a/{index}.png,{index % 2},{index % 5}\n" for index in range(10))
    (folder / "labels.csv").write_text("file,label,category\n" + lines)
    with pytest.raises(DataError, match="label, category"):
        load(train_file=folder / "labels.csv")
    dataset = load(train_file=folder / "labels.csv", label_column_name="category", test_split=0, train_val_split=0)
    assert dataset.labels == list("01234")
    with pytest.raises(DataError, match=r"no column 'breed'(.|\n)*label, category"):
        load(train_file=folder / "labels.csv", label_column_name="breed")


def test_class_names_that_pandas_takes_for_missing(load, make_folders):
    folder = make_folders("images", {"a": 10})
    lines = "".join(f"a/{index}.png,{('NA', 'null')[index % 2]}\n" for index in range(10))
    (folder / "labels.csv").write_text("file,label\n" + lines)
    assert load(train_file=folder / "labels.csv").labels == ["NA", "null"]


def test_missing_files_are_counted_and_listed(load, make_folders):
    folder = make_folders("images", {"a": 3})
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"a/{index}.png,{index % 2}\n" for index in range(10)))
    with pytest.raises(DataError, match=r"names 7 of 10 files that are not there: a/3.png, a/4.png.*a/7.png \.\.\."):
        load(train_file=folder / "labels.csv")


# ------------------------------------------------------------------------------------------------ parquet and saved


def test_fashion_mnist(load, repository):
    folder = repository.parent / "shared" / "data" / "fashion_mnist"
    if not folder.is_dir():
        pytest.skip("Fashion-MNIST is not on this machine")
    dataset = load(dataset_name=folder)
    assert {role: len(split) for role, split in dataset.splits.items()} == {
        "train": 51_000, "validation": 9_000, "test": 10_000,
    }  # fmt: skip
    assert dataset.labels[:2] == ["T - shirt / top", "Trouser"]
    assert set(dataset.record.splits["validation"].class_counts.values()) == {900}
    assert not set(indices(dataset.splits["train"])) & set(indices(dataset.splits["validation"]))


def test_parquet_with_cifar_like_columns(load, make_parquet):
    train = make_dataset([index % 3 for index in range(30)], ["cat", "dog", "bird"], "img", "fine_label")
    coarse = datasets.ClassLabel(names=["mammal", "other"])
    train = train.add_column("coarse_label", [int(index % 3 == 2) for index in range(30)], feature=coarse)
    folder = make_parquet({"train": train, "test": train.select(range(6))})
    fine = load(dataset_name=folder, train_val_split=6)
    assert fine.labels == ["cat", "dog", "bird"]
    assert (fine.record.image_column, fine.record.label_column) == ("img", "fine_label")
    assert fine.splits["train"].column_names == ["image", "label", "sample_index", "coarse_label"]
    assert all(row["label"] == decode_value(row["image"]) % 3 for row in fine.splits["train"])
    assert all(row["sample_index"] == decode_value(row["image"]) for row in fine.splits["train"])
    assert load(dataset_name=folder, label_column_name="coarse_label").labels == ["mammal", "other"]


def test_only_validation_beside_train_is_the_test(load, make_parquet):
    train = make_dataset([index % 2 for index in range(20)], ["a", "b"])
    folder = make_parquet({"train": train, "validation": train.select(range(8))})
    dataset = load(dataset_name=folder)
    assert {role: len(split) for role, split in dataset.splits.items()} == {"train": 17, "validation": 3, "test": 8}
    assert dataset.record.splits["test"].source == "validation"
    named = load(dataset_name=folder, validation_split_name="validation")
    assert {role: len(split) for role, split in named.splits.items()} == {"train": 20, "validation": 8}


def test_imagenet_like_hidden_test(load, make_parquet):
    train = make_dataset([index % 2 for index in range(20)], ["a", "b"])
    hidden = make_dataset([-1] * 5, ["a", "b"])
    folder = make_parquet({"train": train, "validation": train.select(range(8)), "test": hidden})
    dataset = load(dataset_name=folder)
    assert dataset.record.splits["test"].source == "validation"
    assert len(dataset.splits["test"]) == 8
    assert "'test' is not used" in dataset.record.notes[0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([7, 10, 7, 10, 2, 2], ["2", "7", "10"]),
        ([True, False] * 3, ["False", "True"]),
        (["b", "a", "b", "a", "a", "b"], ["a", "b"]),
        ([1.0, 2.0, 2.0, 1.0, 1.0, 2.0], ["1", "2"]),
        ([-1, 0, -2, 0, -1, -2], ["-2", "-1", "0"]),
    ],
)
def test_plain_labels_become_names(load, make_parquet, labels, expected):
    dataset = load(dataset_name=make_parquet({"train": make_dataset(labels)}), test_split=0, train_val_split=0)
    assert dataset.labels == expected
    for row in dataset.splits["train"]:
        original = labels[decode_value(row["image"])]
        assert dataset.labels[row["label"]] == str(int(original) if isinstance(original, float) else original)


def test_saved_dataset_with_differing_class_lists_is_matched_by_name(load, tmp_path):
    train = make_dataset([0, 1, 2, 0, 1, 2], ["a", "b", "c"])
    test = make_dataset([0, 1, 2], ["c", "unused", "a"]).select([0, 2])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    dataset = load(dataset_name=tmp_path / "saved", train_val_split=0)
    assert dataset.labels == ["a", "b", "c"]
    assert values_by_class(dataset, "test") == {"c": [0], "a": [2]}
    assert any("matched by name" in note for note in dataset.record.notes)


def test_columns_that_are_in_the_way_are_renamed(load, tmp_path):
    train = make_dataset(["x", "y", "x", "y"], label_column="class")
    train = train.add_column("label", [5, 6, 7, 8]).add_column("sample_index", ["p", "q", "r", "s"])
    train.save_to_disk(tmp_path / "saved")
    dataset = load(dataset_name=tmp_path / "saved", label_column_name="class", test_split=0, train_val_split=0)
    row = dataset.splits["train"][1]
    assert (row["label"], row["sample_index"], row["source_label"], row["source_sample_index"]) == (1, 1, 6, "q")


# ------------------------------------------------------------------------------------------------ columns


def features(**columns):
    kinds = {
        "image": datasets.Image(), "class": datasets.ClassLabel(names=["a"]), 
        "string": datasets.Value("string"), "int": datasets.Value("int64"), "binary": datasets.Value("binary"),
        "list": datasets.List(datasets.Value("binary")),
    }  # fmt: skip
    return datasets.Features({name: kinds[kind] for name, kind in columns.items()})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"img": "image", "label": "class"}, ("img", "label")),
        ({"image": "image", "mask": "image", "labels": "class"}, ("image", "labels")),
        ({"pixels": "binary", "label": "int"}, ("pixels", "label")),
        ({"image": "image", "id": "int", "species": "string"}, ("image", "species")),
        ({"image": "image", "what": "string"}, ("image", "what")),
        ({"image": "image", "fine_label": "class", "coarse_label": "class"}, ("image", "fine_label")),
        ({"image": "image", "label": "class", "quality": "class"}, ("image", "label")),
    ],
)
def test_columns_are_inferred(columns, expected):
    image = find_image_column(features(**columns), None)
    assert (image, find_label_column(features(**columns), None, image)) == expected


@pytest.mark.parametrize(
    ("columns", "requested", "message"),
    [
        ({"a": "image", "b": "image", "label": "class"}, (None, None), "a, b"),
        ({"image": "image", "x": "class", "y": "class"}, (None, None), "x, y"),
        ({"image": "image", "p": "int", "q": "string"}, (None, None), "p, q"),
        ({"text": "string", "label": "class"}, (None, None), "text, label"),
        ({"img": "image", "y": "class"}, ("image", None), "'image'(.|\n)*img, y"),
        ({"img": "image", "y": "class"}, (None, "label"), "'label'(.|\n)*img, y"),
        ({"img": "image", "y": "class"}, (None, "img"), "'img' holds a Image"),
        ({"img": "image", "y": "class"}, ("y", None), "'y' holds a ClassLabel"),
        ({"img": "image", "y": "list"}, (None, "y"), "'y' holds binary values"),
    ],
)
def test_columns_that_cannot_be_inferred_are_listed(columns, requested, message):
    with pytest.raises(DataError, match=message):
        find_label_column(features(**columns), requested[1], find_image_column(features(**columns), requested[0]))


def test_natural_order():
    names = ["10", "2", "-1", "b", "A", "img12", "img2", "1a", "01"]
    assert sorted(names, key=natural_key) == ["-1", "01", "1a", "2", "10", "A", "b", "img2", "img12"]


# ------------------------------------------------------------------------------------------------ bad input


def test_no_such_dataset_offers_near_folders(load, tmp_path, monkeypatch):
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="did you mean flowers"):
        load(dataset_name="flower")
    with pytest.raises(DataError, match="no-such/folder"):
        load(dataset_name="./no-such/folder/at/all")


@pytest.mark.parametrize("flag", ["train_dir", "train_file"])
def test_no_such_path_offers_near_names(load, tmp_path, flag):
    (tmp_path / "traning").mkdir()
    with pytest.raises(DataError, match=f"--{flag} (.|\n)*did you mean .*traning"):
        load(**{flag: tmp_path / "training"})


def test_file_for_folder_and_folder_for_file(load, tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(DataError, match="--train_file"):
        load(train_dir=tmp_path / "labels.csv")
    with pytest.raises(DataError, match="--train_dir"):
        load(train_file=tmp_path)
    with pytest.raises(DataError, match="--train_file"):
        load(dataset_name=tmp_path / "labels.csv")


def test_sources_that_exclude_each_other(load, tmp_path):
    with pytest.raises(DataError, match="2 kinds"):
        load(dataset_name="digits", train_dir=tmp_path)
    with pytest.raises(DataError, match="0 kinds"):
        load()


@pytest.mark.parametrize(
    ("counts", "message"),
    [({"a": 5}, "single class 'a'"), ({"a": 0, "b": 0}, "no images"), ({}, "no images")],
)
def test_folders_that_cannot_train(load, make_folders, tmp_path, counts, message):
    make_folders("images", counts)
    (tmp_path / "images").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        load(train_dir=tmp_path / "images")


def test_images_outside_class_folders(load, tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 images, but none in a folder"):
        load(train_dir=tmp_path)


def test_class_that_training_does_not_have(load, make_folders):
    train, test = make_folders("train", {"a": 5, "b": 5}), make_folders("test", {"a": 2, "c": 3})
    with pytest.raises(DataError, match="'test' has 3 examples of classes that training does not have: 'c'"):
        load(train_dir=train, test_dir=test)


@pytest.mark.parametrize("labels", [["a", None, "b", "b"], ["a", " ", "b", "b"], [1, None, 2, 2]])
def test_missing_labels_are_counted(load, make_parquet, labels):
    with pytest.raises(DataError, match="1 of 4 examples have no label"):
        load(dataset_name=make_parquet({"train": make_dataset(labels)}))


@pytest.mark.parametrize("labels", [["a", "nan", "b", "b"], ["a", "NaN", "b", "b"], [1.0, float("nan"), 2.0, 2.0]])
def test_labels_that_are_nan_are_missing(load, make_parquet, labels):
    with pytest.raises(DataError, match=r"1 of 4 examples have no label \(null, NaN, empty or -1\)"):
        load(dataset_name=make_parquet({"train": make_dataset(labels)}))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("label", "is_missing"), [("", True), (" ", True), ("NaN", True), ("nan", True), ("NA", False)]
)
def test_missing_labels_in_annotation_files(load, make_folders, kind, label, is_missing):
    folder = make_folders("images", {"a": 4})
    labels = ["x", label, "y", "y"]
    rows = [{"file": f"a/{index}.png", "label": label} for index, label in enumerate(labels)]
    if kind == "csv":
        text = "file,label\n" + "".join(f"{row['file']},{row['label']}\n" for row in rows)
    else:
        text = "\n".join(map(json.dumps, rows))
    (folder / f"labels.{kind}").write_text(text)
    arguments = {"train_file": folder / f"labels.{kind}", "test_split": 0, "train_val_split": 0}
    if is_missing:
        with pytest.raises(DataError, match="1 of 4 examples have no label"):
            load(**arguments)
    else:
        assert load(**arguments).labels == ["NA", "x", "y"]


@pytest.mark.parametrize("label", ["null", "NaN"])
def test_missing_numbers_in_json_lines(load, make_folders, label):
    folder = make_folders("images", {"a": 4})
    lines = [f'{{"file": "a/{index}.png", "label": {value}}}' for index, value in enumerate(["1", label, "2", "2"])]
    (folder / "labels.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="1 of 4 examples have no label"):
        load(train_file=folder / "labels.jsonl")


def test_missing_class_labels_are_counted(load, make_parquet):
    with pytest.raises(DataError, match="2 of 4 examples have no label"):
        load(dataset_name=make_parquet({"train": make_dataset([0, -1, 1, -1], ["a", "b"])}))


def test_fractions_are_no_labels(load, make_parquet):
    with pytest.raises(DataError, match="fractions"):
        load(dataset_name=make_parquet({"train": make_dataset([0.5, 1.0, 2.0])}))


def test_empty_split(load, make_parquet):
    train = make_dataset([0, 1, 0, 1], ["a", "b"])
    with pytest.raises(DataError, match=r"'test' of .* is empty"):
        load(dataset_name=make_parquet({"train": train, "test": train.select([])}))


def test_unknown_split_names_are_listed(load, tmp_path):
    train = make_dataset([0, 1, 0, 1], ["a", "b"])
    datasets.DatasetDict({"everything": train}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="everything"):
        load(dataset_name=tmp_path / "saved")
    assert len(load(dataset_name=tmp_path / "saved", train_split_name="everything", test_split=0).splits["train"]) == 3


def test_broken_parquet(load, make_parquet):
    folder = make_parquet({"train": make_dataset([0, 1, 0, 1], ["a", "b"])})
    file = next(folder.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load(dataset_name=folder)


def test_no_data_to_cut_from(load, make_folders):
    with pytest.raises(DataError, match="take 20 of 20"):
        load(train_dir=make_folders("train", {"a": 10, "b": 10}), test_split=10, train_val_split=10)
    with pytest.raises(DataError, match="every class has one example"):
        load(train_dir=make_folders("single", {"a": 1, "b": 1, "c": 1}))


def test_single_examples_are_told(load, make_folders):
    dataset = load(train_dir=make_folders("train", {"a": 20, "b": 20, "rare": 1}))
    assert dataset.record.splits["train"].class_counts["rare"] == 1
    assert any("1 classes have a single example" in note for note in dataset.record.notes)
