"""Files of rows as other people write them: read as they were meant, or refused in one sentence that helps."""

import base64
import csv
import json
import os
import unicodedata
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numbered_images import decode_value, encode_png, make_dataset

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import DataError, UserError

ONE = {"test_split": 0, "train_val_split": 0}


def read(dataset, role="train"):
    """Every (name of the file, class) of a split."""
    split = dataset.splits[role]
    return [(os.path.basename(row["image"]["path"]), dataset.labels[row["label"]]) for row in split]


def pairs(count=6):
    return [(f"{index}.png", "xy"[index % 2]) for index in range(count)]


# ------------------------------------------------------------------------------------------------ CSV


def test_line_breaks_in_quotes(load, make_folders):
    """More of them than Arrow reads at once, each row with line breaks of its own."""
    folder = make_folders("set", {"images": 6})
    long = " more" * 60
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "remark"])
        for index in range(6_000):
            writer.writerow([f"images/{index % 6}.png", f"class {index}", f"one\ntwo, {index}\nthree{long}"])
    assert (folder / "rows.csv").stat().st_size > 1 << 20
    dataset = load(train_file=folder / "rows.csv", **ONE)
    rows = dataset.splits["train"].remove_columns("image")
    assert [dataset.labels[label] for label in rows["label"]] == [f"class {index}" for index in range(6_000)]
    assert rows["remark"][:] == [f"one\ntwo, {index}\nthree{long}" for index in range(6_000)]


def test_a_file_on_many_rows_is_one_example(load, make_folders):
    folder = make_folders("set", {"images": 6})
    labels = ["x", "y", "x", "y", "x", "y"]
    rows = [f"images/{index % 6}.png,{labels[index % 6]},{index}\n" for index in range(600)]
    (folder / "rows.csv").write_text("file_name,label,number\n" + "".join(rows))
    dataset = load(train_file=folder / "rows.csv", **ONE)
    assert read(dataset) == pairs(6)
    assert dataset.splits["train"]["number"][:] == list(range(6))
    assert "600 rows for 6 files; a file with one label is used once." in " ".join(dataset.record.notes)
    (folder / "rows.csv").write_text("file_name,label,number\n" + "".join(rows) + "images/0.png,y,600\n")
    dataset = load(train_file=folder / "rows.csv", **ONE)
    assert read(dataset) == [*pairs(6), ("0.png", "y")]
    assert "1 rows give a file another label" in " ".join(dataset.record.notes)


def test_a_row_that_is_larger_than_a_block(load, make_folders):
    folder = make_folders("set", {"images": 4})
    long = "x" * 1_500_000
    rows = [{"file_name": f"images/{index}.png", "label": "xy"[index % 2], "text": long} for index in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "rows.csv").write_text("file_name,label,text\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    for name in ("rows.jsonl", "rows.csv"):
        assert read(load(train_file=folder / name, **ONE)) == pairs(4)


def test_columns_that_stand_twice(load, make_folders):
    folder = make_folders("set", {"images": 4})
    rows = [f"images/{index}.png,{'xy'[index % 2]},a,b,c\n" for index in range(4)]
    (folder / "rows.csv").write_text("file_name,label,note,note,note_2\n" + "".join(rows))
    dataset = load(train_file=folder / "rows.csv", **ONE)
    assert read(dataset) == pairs(4)
    row = dataset.splits["train"][0]
    assert (row["note"], row["note_3"], row["note_2"]) == ("a", "b", "c")
    assert "'note' (2 times)" in " ".join(dataset.record.notes)
    for head in ("file_name,label,label,b,c", "file_name,label,file_name,b,c"):
        (folder / "rows.csv").write_text(f"{head}\n" + "".join(rows))
        with pytest.raises(DataError, match="more than once"):
            load(train_file=folder / "rows.csv")


@pytest.mark.parametrize("second", ["7", "7.5", "true", "2024-01-31", "x"])
def test_a_column_that_was_numbered_is_not_the_label(load, make_folders, second):
    folder = make_folders("set", {"images": 4})
    rows = [f"images/{index}.png,{'xy'[index % 2]},{second}\n" for index in range(4)]
    (folder / "rows.csv").write_text("file_name,label,label\n" + "".join(rows))
    with pytest.raises(DataError, match=r"has the column 'label' more than once(?s:.*)rename the others in the header"):
        load(train_file=folder / "rows.csv", label_column_name="label_2")
    (folder / "rows.csv").write_text("file_name,label_2,note,note\n" + "".join(row[:-1] + ",\n" for row in rows))
    assert read(load(train_file=folder / "rows.csv", label_column_name="label_2", **ONE)) == pairs(4)


def test_ids_and_another_folder(load, make_folders, tmp_path):
    images = make_folders("set", {"photos": 6}) / "photos"
    (tmp_path / "set" / "labels.csv").write_text(
        "id,breed\n" + "".join(f"{index},{'xy'[index % 2]}\n" for index in range(6))
    )
    options = {"train_file": tmp_path / "set" / "labels.csv", **ONE}
    with pytest.raises(
        DataError, match=rf"photos/0\.png is there[^$]*pass --image_folder {images} --image_suffix \.png"
    ):
        load(**options)
    for suffix in (".png", "png"):
        assert read(load(**options, image_folder=images, image_suffix=suffix)) == pairs()
    # A suffix that is there already is not added again
    with_suffix = (tmp_path / "set" / "labels.csv").read_text().replace(",", ".png,").replace("id.png", "id")
    (tmp_path / "set" / "labels.csv").write_text(with_suffix)
    assert read(load(**options, image_folder=images, image_suffix=".png")) == pairs()


@pytest.mark.parametrize(
    ("written", "real"),
    [
        ("photos\\{}.png", "photos/{}.png"),
        ("photos/{}.PNG", "photos/{}.png"),
        ("Photos/{}.png", "photos/{}.png"),
        (unicodedata.normalize("NFD", "caf\u00e9/{}.png"), unicodedata.normalize("NFC", "caf\u00e9/{}.png")),
        (unicodedata.normalize("NFC", "caf\u00e9/{}.png"), unicodedata.normalize("NFD", "caf\u00e9/{}.png")),
        (".\\a\\..\\photos\\{}.JPG", "photos/{}.jpg"),
    ],
)
def test_names_as_another_system_writes_them(load, tmp_path, written, real):
    for index in range(6):
        path = tmp_path / real.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(index))
    (tmp_path / "a").mkdir()
    rows = "".join(f"{written.format(index)},{'xy'[index % 2]}\n" for index in range(6))
    (tmp_path / "rows.csv").write_text("file_name,label\n" + rows, encoding="utf-8")
    dataset = load(train_file=tmp_path / "rows.csv", **ONE)
    assert [os.path.relpath(row["image"]["path"], tmp_path) for row in dataset.splits["train"]] == [
        real.format(index) for index in range(6)
    ]
    assert "6 file names in rows.csv are written otherwise" in " ".join(dataset.record.notes)


def test_names_that_two_files_have_are_not_guessed(load, tmp_path):
    for name in ("a.png", "A.png", "b.png"):
        (tmp_path / name).write_bytes(encode_png(0))
    (tmp_path / "rows.csv").write_text("file_name,label\na.png,x\nA.png,y\nb.png,x\n")
    assert read(load(train_file=tmp_path / "rows.csv", **ONE)) == [("a.png", "x"), ("A.png", "y"), ("b.png", "x")]
    (tmp_path / "rows.csv").write_text("file_name,label\na.PNG,x\nb.png,y\n")
    with pytest.raises(DataError, match=r"1 of 2 files that are not there: a\.PNG"):
        load(train_file=tmp_path / "rows.csv", **ONE)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([f"https://example.org/{index}.jpg" for index in range(4)], "by URLs: https://example.org/0.jpg"),
        (["s3://bucket/0.jpg"] * 4, "download the images first"),
        ([base64.b64encode(encode_png(index)).decode() for index in range(4)], "as base64 text"),
        (["data:image/png;base64," + base64.b64encode(encode_png(0)).decode()] * 4, "as base64 text"),
        (["0.png", "", "1.png", ""], r"2 rows name no file \(rows 1, 3"),
    ],
)
def test_what_is_no_file_name(load, tmp_path, make_parquet, column, message):
    rows = [{"image": value, "label": "xy"[index % 2]} for index, value in enumerate(column)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        load(train_file=tmp_path / "rows.jsonl")
    folder = make_parquet({"train": datasets.Dataset.from_list(rows)})
    with pytest.raises(DataError, match=message):
        load(dataset_name=folder, image_column_name="image")


# ------------------------------------------------------------------------------------------------ JSON, parquet


def test_labels_that_look_like_dates(load, make_folders):
    folder = make_folders("set", {"images": 4})
    labels = ["2024-01-31", "2024-02-01"]
    rows = [{"file_name": f"images/{index}.png", "label": labels[index % 2]} for index in range(4)]
    (folder / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "one.json").write_text(json.dumps(rows))
    for name in ("one.jsonl", "one.json"):
        assert load(train_file=folder / name, **ONE).labels == labels
    rows = [{**row, "label": [row["label"]]} for row in rows]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load(train_file=folder / "list.jsonl", **ONE).labels == labels


def test_json_of_other_shapes(load, make_folders):
    folder = make_folders("set", {"images": 4})
    rows = [{"image": [f"images/{index}.png"], "label": "xy"[index % 2]} for index in range(4)]
    (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(load(train_file=folder / "lists.jsonl", **ONE)) == pairs(4)
    rows[0]["image"].append("images/1.png")
    (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="one file name on each row"):
        load(train_file=folder / "lists.jsonl")
    rows = [{"file_name": "images/0.png"}, {"label": "x", "file_name": "images/1.png"}]
    (folder / "gap.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"1 of 2 examples have no label .*: row 0, images/0\.png"):
        load(train_file=folder / "gap.json", **ONE)


def test_parquet_files_with_images_are_matched_by_name(load, tmp_path):
    make_dataset([index % 2 for index in range(10)], ["cat", "dog"]).to_parquet(tmp_path / "train.parquet")
    with open(tmp_path / "a::[1].parquet", "wb") as file:
        make_dataset([(index + 1) % 2 for index in range(4)], ["dog", "cat"]).to_parquet(file)
    dataset = load(train_file=tmp_path / "train.parquet", test_file=tmp_path / "a::[1].parquet", train_val_split=0)
    assert dataset.labels == ["cat", "dog"]
    for role in ("train", "test"):
        for row in dataset.splits[role]:
            assert row["label"] == decode_value(row["image"]) % 2


def test_parquet_files_with_file_names(load, make_folders):
    folder = make_folders("set", {"images": 6})
    names = [f"images/{index}.png" for index in range(6)]
    pq.write_table(pa.table({"path": names, "label": list("xyxyxy")}), folder / "rows.parquet")
    assert read(load(train_file=folder / "rows.parquet", **ONE)) == pairs()


def test_files_of_the_same_name_in_two_folders(load, tmp_path):
    for place, values in (("train", range(8)), ("test", range(100, 104))):
        (tmp_path / place).mkdir()
        for value in values:
            (tmp_path / place / f"{value}.png").write_bytes(encode_png(value))
        rows = "".join(f"{value}.png,{'xy'[value % 2]}\n" for value in values)
        (tmp_path / place / "labels.csv").write_text("file_name,label\n" + rows)
    files = {f"{place}_file": tmp_path / place / "labels.csv" for place in ("train", "test")}
    dataset = load(**files, train_val_split=0)
    assert {role: len(split) for role, split in dataset.splits.items()} == {"train": 8, "test": 4}
    assert read(dataset, "test")[0] == ("100.png", "x")


def test_folders_of_the_same_name(load, make_folders):
    train = make_folders("one/photos", {"a": 8, "b": 8})
    test = make_folders("two/photos", {"a": 2, "b": 3})
    dataset = load(train_dir=train, test_dir=test, train_val_split=0)
    assert {role: len(split) for role, split in dataset.splits.items()} == {"train": 16, "test": 5}


# ------------------------------------------------------------------------------------------------ columns of datasets


def test_bytes_without_a_path(load, tmp_path):
    images = pa.array([{"bytes": encode_png(index)} for index in range(6)])
    label = datasets.ClassLabel(names=["x", "y"])
    table = pa.table({"image": images, "label": [index % 2 for index in range(6)]})
    (tmp_path / "set").mkdir()
    features = datasets.Features({"image": {"bytes": datasets.Value("binary")}, "label": label})
    datasets.Dataset(table.cast(features.arrow_schema)).to_parquet(tmp_path / "set" / "train.parquet")
    for streaming in (False, True):
        dataset = load(dataset_name=tmp_path / "set", streaming=streaming, **ONE)
        assert sorted((decode_value(row["image"]), row["label"]) for row in dataset.splits["train"]) == [
            (index, index % 2) for index in range(6)
        ]


@pytest.mark.parametrize("streaming", [False, True])
def test_images_in_lists_are_refused_with_the_way_out(load, make_parquet, streaming):
    features = datasets.Features(
        {"images": datasets.Sequence(datasets.Image()), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    images = [[{"bytes": encode_png(index), "path": None}] for index in range(4)]
    rows = datasets.Dataset.from_dict({"images": images, "label": [0, 1, 0, 1]}, features=features)
    with pytest.raises(DataError, match=r"unpack lists of one: dataset\.map"):
        load(dataset_name=make_parquet({"train": rows}), streaming=streaming)


def test_columns_with_all_the_names_that_are_taken(load, tmp_path):
    rows = make_dataset([0, 1, 0, 1], ["x", "y"]).add_column("sample_index", list("abcd"))
    rows.add_column("source_sample_index", list("efgh")).save_to_disk(tmp_path / "saved")
    row = load(dataset_name=tmp_path / "saved", **ONE).splits["train"][1]
    assert (row["sample_index"], row["source_source_sample_index"], row["source_sample_index"]) == (1, "b", "f")


def test_metadata_two_levels_down(load, make_folders):
    folder = make_folders("set", {"data/train/images": 10})
    rows = "".join(f"{index}.png,{'xy'[index % 2]}\n" for index in range(10))
    (folder / "data" / "train" / "images" / "metadata.csv").write_text("file_name,label\n" + rows)
    assert read(load(dataset_name=folder, **ONE)) == pairs(10)


# ------------------------------------------------------------------------------------------------ class names


def test_a_class_typed_wrong_is_named_with_its_row(load, make_folders):
    folder = make_folders("set", {"images": 63})
    labels = ["flags", "maps"] * 30 + ["flgas", "apes", "Maps"]
    rows = "".join(f"images/{index}.png,{label}\n" for index, label in enumerate(labels))
    (folder / "rows.csv").write_text("file_name,label\n" + rows)
    dataset = load(train_file=folder / "rows.csv", **ONE)
    assert [note for note in dataset.record.notes if "did you mean" in note] == [
        "1 row of 'flgas' (row 60, images/60.png): did you mean 'flags', which has 30?",
        "1 row of 'Maps' (row 62, images/62.png): did you mean 'maps', which has 30?",
    ]


def test_rare_classes_with_other_names_and_numbers_are_left_alone(load, make_folders):
    folders = {"type 10": 30, "type 1": 1, "boats": 30, "beetles": 1, "goats": 29, "car": 30, "cat": 1}
    dataset = load(train_dir=make_folders("set", folders), **ONE)
    assert not any("did you mean" in note for note in dataset.record.notes)


def test_a_class_typed_wrong_in_a_held_out_split(load, make_folders):
    train, test = make_folders("train", {"flags": 5, "maps": 5}), make_folders("test", {"flgas": 1, "maps": 2})
    with pytest.raises(DataError, match=r"'flgas' is probably 'flags'\) \(row 0, flgas/0\.png\)"):
        load(train_dir=train, test_dir=test)


def test_empty_labels_are_named_by_row_and_file(load, make_folders, make_parquet):
    folder = make_folders("set", {"images": 6})
    rows = "".join(f"images/{index}.png,{'' if index in (2, 5) else 'xy'[index % 2]}\n" for index in range(6))
    (folder / "rows.csv").write_text("file_name,label\n" + rows)
    with pytest.raises(DataError, match=r"2 of 6 .*: row 2, images/2\.png; row 5, images/5\.png"):
        load(train_file=folder / "rows.csv")
    with pytest.raises(DataError, match=r"4 of 6 .*: row 1; row 2; row 3 \.\.\."):
        load(dataset_name=make_parquet({"train": make_dataset(["x", None, None, None, None, "y"])}))


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train_dir {0} --image_folder {0}", "image_folder without train_file"),
        ("--dataset_name digits --image_suffix .jpg", "image_suffix without train_file"),
        ("--train_file {0}/rows.csv --image_suffix photos/", "a suffix such as .jpg"),
        ("--train_file {0}/rows.csv --image_folder {0}/none", "no such folder"),
    ],
)
def test_arguments_of_annotation_files(tmp_path, flags, message):
    (tmp_path / "rows.csv").write_text("file_name,label\n")
    with pytest.raises(UserError, match=message):
        parse_arguments(flags.format(tmp_path).split(), description="")


def test_the_folder_of_images_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text("file_name,label\n")
    (tmp_path / "photos").mkdir()
    found = parse_arguments(["--train_file", "~/rows.csv", "--image_folder", "~/photos"], description="")
    assert Path(found.data.image_folder) == tmp_path / "photos"
