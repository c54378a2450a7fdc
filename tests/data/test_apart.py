"""Splits that are apart: copies across splits are found by their pixels, equal splits are refused."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from pictures import encode, photo
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.source import find_manifest
from hf_imgcls.data.apart import count_seen, save_manifest
from hf_imgcls.data.manifest import Manifest
from hf_imgcls.data.scan import check_images
from hf_imgcls.errors import DataError
from hf_imgcls.layout import HASHES_FILE, MANIFEST_FILE
from hf_imgcls.records import DataRecord


@pytest.fixture
def check(load, tmp_path):
    """Load, then check, with a cache that only this test has."""

    def call(**arguments):
        dataset = load(**arguments)
        arguments = {name: str(value) if name.endswith("dir") else value for name, value in arguments.items()}
        return check_images(dataset, DataArguments(cache_dir=str(tmp_path / "cache"), **arguments))

    return call


@pytest.fixture
def write(tmp_path):
    """Write class folders of photos that have a number; returns the folder."""

    def call(name, numbers, format="png", labels=("a", "b")):
        for place, number in enumerate(numbers):
            folder = tmp_path / name / labels[place % len(labels)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}{place}.{format}").write_bytes(encode(photo(8, 8, seed=number), format.upper()))
        return tmp_path / name

    return call


def list_shared(checked):
    return [(item.split, item.other, item.num_images, item.num_examples) for item in found_in(checked).shared]


def found_in(checked):
    assert checked.record.identical_images is not None
    return checked.record.identical_images


# ------------------------------------------------------------------------------------------------ equal splits


def test_equal_splits_are_refused(check, write, tmp_path):
    train, held_out = write("train", range(30)), write("held_out", range(50, 60))
    copies = write("copies", range(50, 60), "bmp")  # the same pictures in other files
    with pytest.raises(DataError, match="test and validation hold the same 10 images"):
        check(train_dir=train, validation_dir=held_out, test_dir=copies)
    with pytest.raises(DataError, match="validation and train hold the same 30 images"):
        check(train_dir=train, validation_dir=write("again", range(30), "tiff"))
    (tmp_path / "link").symlink_to(train)
    with pytest.raises(DataError, match=r"every image of train \(26\) is also in test"):
        check(train_dir=train, test_dir=write("same", range(30)), train_val_split=4)
    with pytest.raises(DataError, match=r"every image of test \(7\) is also in validation"):
        check(train_dir=train, validation_dir=held_out, test_dir=copies, max_test_samples=7)
    with pytest.raises(DataError, match=r"every image of validation \(6\) is also in test"):
        check(train_dir=train, validation_dir=held_out, test_dir=copies, max_eval_samples=6)
    checked = check(train_dir=train, validation_dir=held_out, test_dir=write("test", range(80, 90)))
    assert found_in(checked).shared == []


def test_blank_pictures_do_not_make_splits_equal(check, tmp_path):
    for name, count in (("train", 8), ("test", 4)):
        for place in range(count):
            folder = tmp_path / name / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place}.png").write_bytes(encode(Image.new("RGB", (8, 8)), "PNG"))
    checked = check(train_dir=tmp_path / "train", test_dir=tmp_path / "test", train_val_split=2)
    assert ("test", "train", 4, 4) in list_shared(checked)  # told all the same
    assert found_in(checked).num_conflicting == 12


# ------------------------------------------------------------------------------------------------ counting


def test_copies_across_splits_are_counted_whatever_their_format(check, write, caplog, tmp_path):
    train = write("train", range(40))
    test = write("test", [0, 1, 2, 3, *range(100, 110)], "bmp")
    validation = write("validation", [4, 5, 0, *range(200, 205)], "tiff")
    mirrored = photo(8, 8, seed=6).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (test / "a" / "mirrored.png").write_bytes(encode(mirrored, "PNG"))
    checked = check(train_dir=train, test_dir=test, validation_dir=validation)
    assert list_shared(checked) == [
        ("test", "train", 4, 15),
        ("test", "validation", 1, 15),
        ("validation", "train", 3, 8),
    ]
    assert "4 of 15 test images are also in train." in caplog.text
    assert "1 of 15 test images is also in validation." in caplog.text
    seen = checked.manifest.find_seen("test")
    files = checked.splits["test"]["image"][:]
    place = {index: row for row, index in enumerate(checked.splits["test"]["sample_index"][:])}
    names = sorted(files[place[index]]["path"].split("/")[-1] for index in seen.tolist())
    assert names == ["test0.bmp", "test1.bmp", "test2.bmp", "test3.bmp"]
    checked.record.save(tmp_path / "data.json")
    assert DataRecord.load(tmp_path / "data.json") == checked.record


def test_same_pixels_with_different_labels_are_listed(check, write, caplog):
    train = write("train", range(20))  # even numbers are "a", odd ones "b"
    (train / "b" / "wrong.bmp").write_bytes(encode(photo(8, 8, seed=2), "BMP"))
    (train / "a" / "twice.png").write_bytes(encode(photo(8, 8, seed=4), "PNG"))  # a copy with the same label
    checked = check(train_dir=train, train_val_split=0, test_split=0)
    assert found_in(checked).num_conflicting == 2
    assert "2 images have the same pixels as an image with other labels." in checked.record.notes
    assert "train2.png" in caplog.text
    assert "wrong.bmp" in caplog.text
    assert "twice.png" not in caplog.text


def test_a_long_list_of_conflicts_is_shortened(check, write, caplog):
    train = write("train", [*range(0, 20), *range(1, 20), 0])
    assert found_in(check(train_dir=train, train_val_split=0, test_split=0)).num_conflicting == 40
    assert caplog.text.count("sample_index") == 2 * 5
    assert "and 15 more pictures" in caplog.text


def test_several_labels_per_image(check, tmp_path):
    def build(numbers, labels):
        rows = {
            "image": [{"bytes": encode(photo(8, 8, seed=n), "PNG"), "path": None} for n in numbers],
            "label": labels,
        }
        features = {"image": ImageFeature(), "label": Sequence(Value("string"))}
        return Dataset.from_dict(rows, features=Features(features))

    folder = tmp_path / "several"
    folder.mkdir()
    cycle = [["a"], ["b"], ["a", "b"], []]
    build(range(20), cycle * 5).to_parquet(folder / "train.parquet")
    build([2, 3, 40, 41], [["b", "a"], ["b"], [], ["a"]]).to_parquet(folder / "test.parquet")
    checked = check(dataset_name=str(folder), train_val_split=0)
    assert checked.is_multi_label
    assert list_shared(checked) == [("test", "train", 2, 4)]
    assert found_in(checked).num_conflicting == 2  # image 3 has no label in train and "b" in test; 2 agrees
    rows = checked.manifest.take_split("test").to_pylist()
    assert [sorted(row["label"]) for row in rows] == [["a", "b"], ["b"], [], ["a"]]


def test_images_that_are_left_out_are_not_compared(check, write):
    train, test = write("train", range(30)), write("test", [0, 1, 2, *range(60, 67)])
    (test / "a" / "test2.png").write_bytes(b"broken")
    checked = check(train_dir=train, test_dir=test, train_val_split=0, on_bad_image="skip")
    assert list_shared(checked) == [("test", "train", 2, 9)]
    assert checked.manifest.take_split("test").num_rows == 9


def test_only_what_is_used_is_compared(check, write):
    arguments = {"train_dir": write("train", range(30)), "test_dir": write("test", range(25, 45)), "train_val_split": 0}
    whole = check(**arguments)
    assert list_shared(whole) == [("test", "train", 5, 20)]
    some = check(max_train_samples=12, max_test_samples=9, **arguments)
    numbers = {
        role: {row["content_hash"] for row in some.manifest.take_split(role).to_pylist()} for role in some.splits
    }
    assert (len(numbers["train"]), len(numbers["test"])) == (12, 9)
    both = len(numbers["train"] & numbers["test"])
    assert list_shared(some) == ([("test", "train", both, 9)] if both else [])


def test_without_a_scan_nothing_is_claimed(check, write, tmp_path):
    arguments = {"train_dir": write("train", range(30)), "test_dir": write("test", range(25, 45))}
    (tmp_path / MANIFEST_FILE).write_bytes(b"of an earlier start")
    checked = check(scan_images=False, **arguments)
    assert checked.manifest is None
    assert checked.record.identical_images is None
    assert any("was not checked (--scan_images false)" in note for note in checked.record.notes)
    save_manifest(checked, tmp_path)
    assert not (tmp_path / MANIFEST_FILE).exists()


# ------------------------------------------------------------------------------------------------ the manifest


def test_the_manifest_is_one_row_per_image(check, write, tmp_path):
    arguments = {"train_dir": write("train", range(20)), "test_dir": write("test", range(30, 36)), "train_val_split": 4}
    checked = check(**arguments)
    save_manifest(checked, tmp_path)
    found = pq.read_table(tmp_path / MANIFEST_FILE)
    assert found.column_names == ["sample_index", "split", "content_hash", "file_hash", "label", "group"]
    for role, split in checked.splits.items():
        rows = [row for row in found.to_pylist() if row["split"] == role]
        assert [row["sample_index"] for row in rows] == split["sample_index"][:]
        assert [row["label"] for row in rows] == [checked.labels[label] for label in split["label"][:]]
    again = Manifest.load(tmp_path / MANIFEST_FILE)
    assert again.root_hash == checked.manifest.root_hash == checked.record.manifest_hash
    assert check(**arguments).record.manifest_hash == checked.record.manifest_hash  # from the kept scan


def test_only_the_main_process_writes_the_manifest(check, write, tmp_path, monkeypatch):
    arguments = {"train_dir": write("train", range(20)), "test_dir": write("test", range(20))}
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(DataError, match="is also in test"):  # every process stops
        check(**arguments)
    save_manifest(check(train_dir=arguments["train_dir"]), tmp_path)
    assert not (tmp_path / MANIFEST_FILE).exists()


def test_names_from_data_cannot_control_the_terminal(check, write, caplog):
    train = write("train", range(10), labels=("a", "\x1b[31mred"))
    (train / "a" / "evil\x1b[2J.png").write_bytes(encode(photo(8, 8, seed=1), "PNG"))
    assert found_in(check(train_dir=train, train_val_split=0, test_split=0)).num_conflicting == 2
    assert "evil" in caplog.text
    assert "\x1b" not in caplog.text


def test_the_root_hash_is_the_same_each_time_with_a_base_of_copies(check, write, tmp_path):
    for format in ("png", "bmp", "tiff"):
        folder = write("base", range(8), format)
    base = check(train_dir=folder, train_val_split=0, test_split=0)
    save_manifest(base, make(tmp_path / "run"))
    arguments = {"train_dir": write("train", range(50, 70)), "test_split": 4, "train_val_split": 0}
    hashes = {count_seen(check(**arguments), find(tmp_path / "run"), "base").manifest.root_hash for _ in range(5)}
    assert len(hashes) == 1


def test_the_root_hash_notices_every_column(check, write):
    manifest = check(train_dir=write("train", range(12)), train_val_split=0, test_split=0).manifest
    hashes = {manifest.root_hash}
    for name in manifest.images.column_names:
        if name == "group":
            continue  # nothing but nulls
        place = manifest.images.column_names.index(name)
        values = manifest.images[name].to_pylist()
        different = next((i for i, value in enumerate(values) if value != values[0]), None)
        if different is None:
            continue  # a single split
        values[0], values[different] = values[different], values[0]
        field = manifest.images.schema.field(name)
        hashes.add(Manifest(manifest.images.set_column(place, field, pa.array(values, field.type))).root_hash)
    assert len(hashes) == 5


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text" * 100])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(DataError, match=MANIFEST_FILE):
        Manifest.load(tmp_path / MANIFEST_FILE)


# ------------------------------------------------------------------------------------------------ runs from runs


def test_what_trained_the_base_is_counted_through_a_chain(check, write, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    first = check(train_dir=write("first", range(20)), train_val_split=4, test_split=0)
    save_manifest(first, make(tmp_path / "run1"))
    trained = {row["content_hash"] for row in first.manifest.take_split("train").to_pylist()}

    second = check(train_dir=write("second", range(100, 120)), validation_dir=write("v", range(200, 206)))
    second = count_seen(second, find(tmp_path / "run1"), "base")
    assert second.record.identical_images.shared == []
    save_manifest(second, make(tmp_path / "run2"))

    arguments = {
        "train_dir": write("third", range(300, 320)),
        "test_dir": write("t", [*range(20), 100, 201, *range(400, 410)]),
    }
    third = count_seen(check(train_val_split=0, **arguments), find(tmp_path / "run2"), "base")
    assert len(trained) == 16
    assert list_shared(third) == [("test", "base_train", 17, 32), ("test", "base_validation", 5, 32)]
    assert "17 of 32 test images trained the base model." in caplog.text
    assert len(third.manifest.find_seen("test")) == 22
    assert third.record.manifest_hash == third.manifest.root_hash

    taught = count_seen(check(train_val_split=0, **arguments), find(tmp_path / "run2"), "teacher")
    assert ("test", "teacher_train", 17, 32) in list_shared(taught)
    assert taught.record.identical_images.shared[0].describe() == "17 of 32 test images trained the teacher"
    save_manifest(taught, make(tmp_path / "run3"))
    assert len(find_splits(tmp_path / "run3")["train"] & trained) == 16  # what a student has seen through it

    measured = count_seen(check(**arguments), find(tmp_path / "run2"), "model")
    assert ("test", "model_train", 17, 32) in list_shared(measured)
    assert "17 of 32 test images trained this model." in caplog.text


def test_other_models_have_seen_nothing_that_is_known(check, write, tmp_path, caplog):
    checked = check(train_dir=write("train", range(20)))
    assert find(None) is None
    assert find(make(tmp_path / "saved")) is None
    assert count_seen(checked, None, "base") is checked
    assert "is unknown" not in caplog.text  # other tests may have left the level of the log at INFO
    (make(tmp_path / "run") / "run.json").write_text("{}")
    assert find(tmp_path / "run") is None
    assert "has seen images of this dataset is unknown" in caplog.text


def test_parts_of_a_run_have_its_manifest(check, write, tmp_path):
    run = make(tmp_path / "run")
    (run / "run.json").write_text("{}")
    save_manifest(check(train_dir=write("train", range(20))), run)
    for part in ("checkpoint-4", "adapter", "onnx_int8"):
        assert find(make(run / part)) == run / MANIFEST_FILE


def test_published_hashes_tell_what_was_seen_and_nothing_else(check, write, tmp_path):
    first = check(train_dir=write("first", [*range(20), 3, 3]), train_val_split=4, test_split=0)
    repository = make(tmp_path / "repository")
    (repository / HASHES_FILE).write_bytes(first.manifest.encode_hashes())
    table = pq.read_table(repository / HASHES_FILE)
    assert {name for name in table.column_names if table[name].null_count < len(table)} == {"split", "content_hash"}
    for role in ("train", "validation"):
        found = [row["content_hash"] for row in table.to_pylist() if row["split"] == role]
        assert found == sorted(set(first.manifest.take_split(role)["content_hash"].to_pylist()))
    arguments = {"train_dir": write("second", range(50, 70)), "test_dir": write("test", [*range(20), 80, 81])}
    second = count_seen(check(train_val_split=0, **arguments), find(repository), "base")
    assert sum(count for _, _, count, _ in list_shared(second)) >= 20
    assert len(second.manifest.find_seen("test")) == 20


def test_the_same_file_is_known_though_it_is_decoded_otherwise(check, tmp_path):
    glyph = np.zeros((8, 8, 4), dtype=np.uint8)
    for place in range(12):
        glyph[..., :3], glyph[..., 3] = 200, np.random.RandomState(place).randint(0, 256, (8, 8))
        folder = tmp_path / "icons" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{place}.png").write_bytes(encode(Image.fromarray(glyph), "PNG"))
    arguments = {"train_dir": tmp_path / "icons", "train_val_split": 0, "test_split": 3}
    black = check(alpha_background="black", **arguments)
    save_manifest(black, make(tmp_path / "run"))
    white = count_seen(check(alpha_background="white", split_seed=7, **arguments), find(tmp_path / "run"), "base")
    seen = {row["file_hash"] for row in black.manifest.take_split("train").to_pylist()}
    expected = sum(row["file_hash"] in seen for row in white.manifest.take_split("test").to_pylist())
    assert expected > 0
    assert list_shared(white) == [("test", "base_train", expected, 3)]


def make(folder):
    folder.mkdir()
    return folder


def find(folder):
    return find_manifest(folder, DataArguments(), "main")


def find_splits(run):
    seen = Manifest.load(run / MANIFEST_FILE).list_seen()
    return {role: set(seen.take_split(role)["content_hash"].to_pylist()) for role in seen.splits}
