"""Groups of images stay in one split, stratified as well as whole groups can be."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from numbered_images import encode_png
from scipy.sparse import csr_array

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.apart import save_manifest
from hf_imgcls.data.groups import cut_groups
from hf_imgcls.data.scan import check_images
from hf_imgcls.errors import DataError
from hf_imgcls.records import DataRecord

TEXT = Value("string")


@pytest.fixture
def write(tmp_path):
    """Write splits of a parquet dataset whose images have a patient; returns its folder."""

    def call(kind=TEXT, labels=None, **patients):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for split, owners in patients.items():
            numbers = range(len(owners))
            rows = {
                "image": [{"bytes": encode_png(number), "path": None} for number in numbers],
                "label": labels or [number % 2 for number in numbers],
                "patient": owners,
            }
            label = Sequence(ClassLabel(names=["a", "b"])) if labels else ClassLabel(names=["a", "b"])
            features = Features({"image": ImageFeature(), "label": label, "patient": kind})
            Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
        return folder

    return call


def patients_of(dataset):
    return {role: set(split["patient"][:]) for role, split in dataset.splits.items()}


# ------------------------------------------------------------------------------------------------ cutting


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_whole_and_sizes_and_classes_come_close(seed):
    random = np.random.RandomState(seed)
    groups = random.randint(0, 120, 1000)
    labels = random.choice(4, 120, p=[0.5, 0.3, 0.15, 0.05])[groups]  # a patient has one class
    counts = {"test": 150, "validation": 100}
    parts = cut_groups(labels, groups, counts, seed)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1000))
    owners = [set(groups[rows]) for rows in parts.values()]
    assert sum(map(len, owners)) == len(set(groups))
    for name, count in counts.items():
        assert abs(len(parts[name]) - count) <= 10
        shares = np.bincount(labels[parts[name]], minlength=4) / len(parts[name])
        assert np.abs(shares - np.bincount(labels, minlength=4) / 1000).max() < 0.05
    again = cut_groups(labels, groups, counts, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert not np.array_equal(cut_groups(labels, groups, counts, seed + 10)["test"], parts["test"])


def test_several_labels_per_image_are_stratified_too():
    gaps = []
    for seed in range(5):
        random = np.random.RandomState(seed)
        groups = np.repeat(np.arange(200), 5)
        targets = random.rand(200, 6)[groups] + random.rand(1000, 6) > [1.6, 1.5, 1.4, 1.2, 1.0, 0.8]
        rows = cut_groups(csr_array(targets), groups, {"test": 200}, 0)["test"]
        assert abs(len(rows) - 200) <= 10
        assert len(set(groups[rows])) == len(rows) / 5
        gaps.append(np.abs(targets[rows].mean(axis=0) - targets.mean(axis=0)).max())
    assert np.median(gaps) < 0.02  # of groups drawn at random: 0.054


def test_a_group_that_is_too_large_stays_in_train():
    groups = np.array([0] * 60 + list(range(1, 41)))
    parts = cut_groups(np.arange(100) % 2, groups, {"test": 15, "validation": 15}, 0)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 70, "test": 15, "validation": 15}
    assert set(range(60)) <= set(parts["train"].tolist())


def test_no_part_is_empty():
    for seed in range(5):
        groups = np.array([0] * 90 + [1] * 5 + [2] * 5)
        parts = cut_groups(np.arange(100) % 2, groups, {"test": 30, "validation": 30}, seed)
        assert sorted(map(len, parts.values())) == [5, 5, 90]
        assert len(parts["train"]) == 90
    with pytest.raises(DataError, match="2 groups, to be cut into train, test, validation"):
        cut_groups(np.arange(10) % 2, np.arange(10) % 2, {"test": 2, "validation": 2}, 0)


# ------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("kind", [TEXT, Value("int32")])
def test_a_patient_is_in_one_split(load, write, tmp_path, kind):
    owners = [str(n // 4) if kind.dtype == "string" else n // 4 for n in range(120)]
    folder = write(kind, train=owners)
    arguments = {"dataset_name": str(folder), "group_column": "patient"}
    dataset = load(**arguments)
    found = patients_of(dataset)
    assert set(found) == {"train", "validation", "test"}
    assert sum(map(len, found.values())) == 30
    record = dataset.record
    assert record.groups.column == "patient"
    assert record.groups.num_groups == {role: len(patients) for role, patients in found.items()}
    assert record.groups.shared == []
    assert "whole groups of 'patient', stratified, seed 42" in record.splits["test"].source
    assert any("not 18: groups stay whole" in note for note in record.notes)
    checked = check_images(dataset, DataArguments(cache_dir=str(tmp_path / "cache"), **arguments))
    save_manifest(checked, tmp_path)
    rows = pq.read_table(tmp_path / "data_manifest.parquet").to_pylist()
    assert {row["group"] for row in rows if row["split"] == "test"} == {str(name) for name in found["test"]}
    checked.record.save(tmp_path / "data.json")
    assert DataRecord.load(tmp_path / "data.json") == checked.record


def test_images_without_a_patient_are_groups_of_their_own(load, write):
    dataset = load(dataset_name=str(write(train=[None] * 60 + ["one"] * 40)), group_column="patient", test_split=0)
    assert sum(dataset.record.groups.num_groups.values()) == 61
    assert len(dataset.splits["validation"]) == 15


def test_several_labels_per_image_are_cut_by_patient(load, write):
    labels = [[0], [1], [0, 1], []] * 15
    dataset = load(
        dataset_name=str(write(labels=labels, train=[str(n // 3) for n in range(60)])), group_column="patient"
    )
    assert dataset.is_multi_label
    found = patients_of(dataset)
    assert sum(map(len, found.values())) == 20


def test_patients_that_the_datasets_own_splits_share_are_counted(load, write):
    folder = write(train=[str(n // 4) for n in range(80)], test=["3", "3", "4", "x", "y", "y"])
    dataset = load(dataset_name=str(folder), group_column="patient", train_val_split=0)
    shared = dataset.record.groups.shared
    assert [(item.split, item.other, item.num_groups, item.num_images, item.num_examples) for item in shared] == [
        ("test", "train", 2, 3, 6)
    ]
    assert "3 of 6 test images are of 2 groups of 'patient' that are also in train." in dataset.record.notes


@pytest.mark.parametrize(
    ("column", "words"),
    [("patients", "patient"), ("label", "holds images or labels"), ("image", "holds images or labels")],
)
def test_a_column_that_names_no_groups_is_refused(load, write, column, words):
    with pytest.raises(DataError, match=words):
        load(dataset_name=str(write(train=["a", "b"] * 10)), group_column=column)


def test_lists_are_no_groups(load, write):
    with pytest.raises(DataError, match="one text or number per image"):
        load(dataset_name=str(write(Sequence(Value("string")), train=[["a"], ["b"]] * 10)), group_column="patient")
