"""Several labels per image: every form of them is the same data, and every class keeps its share in every part."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from numbered_images import encode_png
from pictures import build_vit_processor
from scipy.sparse import csr_array

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.find_columns import find_label_column
from hf_imgcls.data.iterative_stratification import cut_iteratively
from hf_imgcls.data.label_sets import read_label_ids
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.scan import check_images
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import DataError
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL

NAMES = ["ant", "bee", "cat", "dog"]
SETS = [
    sorted(set(np.random.default_rng([5, row]).integers(0, 4, np.random.default_rng([6, row]).integers(0, 4)).tolist()))
    for row in range(60)
]
SETS[0], SETS[1] = [], [0, 1, 2]
ONE = {"train_val_split": 0, "test_split": 0}


def write_images(folder):
    for row in range(len(SETS)):
        (folder / f"{row}.png").write_bytes(encode_png(row))


def write_lines(path, make_line, head=""):
    path.write_text(head + "".join(f"{make_line(row, [NAMES[k] for k in own])}\n" for row, own in enumerate(SETS)))
    return path


def build_rows(name, feature, make_value):
    rows = {
        "image_id": list(range(len(SETS))),
        "image": [{"bytes": encode_png(row), "path": None} for row in range(len(SETS))],
        name: [make_value(own) for own in SETS],
    }
    features = {"image_id": datasets.Value("int64"), "image": datasets.Image(), name: feature}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


CLASSES = datasets.ClassLabel(names=NAMES)
BOX = {"category": CLASSES, "id": datasets.Value("int64")}
HUB_FORMS = {
    "list of ClassLabel": ("labels", datasets.Sequence(CLASSES), lambda own: own),
    "list of names": ("labels", datasets.Sequence(datasets.Value("string")), lambda own: [NAMES[k] for k in own]),
    "a name twice": (
        "labels",
        datasets.Sequence(datasets.Value("string")),
        lambda own: [NAMES[k] for k in (*own, *own)],
    ),
    "struct of lists": ("objects", datasets.Sequence(BOX), lambda own: {"category": own, "id": own}),
    "list of structs": ("objects", [BOX], lambda own: [{"category": k, "id": k} for k in own]),
}
FILE_FORMS = {
    "separator": (
        "a.csv",
        "file_name,label\n",
        lambda row, own: f"{row}.png,{' ; '.join(own)}",
        {"label_separator": ";"},
    ),
    "columns": (
        "a.csv",
        "file_name," + ",".join(NAMES) + "\n",
        lambda row, own: f"{row}.png," + ",".join(str(int(name in own)) for name in NAMES),
        {"label_column_name": ", ".join(NAMES)},
    ),
    "JSON list": ("a.jsonl", "", lambda row, own: json.dumps({"file_name": f"{row}.png", "label": own}), {}),
    "JSON path": (
        "a.jsonl",
        "",
        lambda row, own: json.dumps({"file_name": f"{row}.png", "objects": [{"category": name} for name in own]}),
        {"label_column_name": "objects.category"},
    ),
    "JSON separator": (
        "a.jsonl",
        "",
        lambda row, own: json.dumps({"file_name": f"{row}.png", "label": "|".join(own)}),
        {"label_separator": "|"},
    ),
}


def check_labels(dataset):
    """Whether every example has its own labels, by name."""
    assert dataset.is_multi_label
    assert dataset.labels == NAMES
    seen = 0
    for split in dataset.splits.values():
        assert getattr(split.features["label"], "feature", None) == datasets.ClassLabel(names=NAMES)
        for row in split.remove_columns("image"):
            assert row["label"] == SETS[row["sample_index"]]
            seen += 1
    assert seen == len(SETS)


@pytest.mark.parametrize("form", HUB_FORMS)
def test_columns_of_datasets(make_parquet, form):
    folder = make_parquet({"train": build_rows(*HUB_FORMS[form])})
    dataset = load_image_dataset(DataArguments(dataset_name=str(folder)))
    check_labels(dataset)
    record = dataset.record
    assert record.problem_type == MULTI_LABEL
    assert record.label_column in ("labels", "objects.category")
    assert [note for note in record.notes if note.startswith("Several labels per image")]
    counts = {name: sum(k in own for own in SETS) for k, name in enumerate(NAMES)}
    total = {name: sum((part.class_counts or {})[name] for part in record.splits.values()) for name in NAMES}
    assert total == counts
    train = record.splits["train"]
    assert train.label_cardinality == pytest.approx(
        sum((train.class_counts or {}).values()) / train.num_examples, abs=1e-4
    )
    assert sum(part.num_without_label or 0 for part in record.splits.values()) == sum(not own for own in SETS)


@pytest.mark.parametrize("form", FILE_FORMS)
def test_annotation_files(tmp_path, form):
    name, head, make_line, options = FILE_FORMS[form]
    write_images(tmp_path)
    path = write_lines(tmp_path / name, make_line, head)
    arguments = DataArguments(train_file=str(path), **options)
    dataset = check_images(load_image_dataset(arguments), arguments)
    check_labels(dataset)
    # One fingerprint for one content, whatever the form.
    reference = write_lines(
        tmp_path / "r.jsonl", lambda row, own: json.dumps({"file_name": f"{row}.png", "label": own[::-1]})
    )
    arguments = DataArguments(train_file=str(reference))
    other = check_images(load_image_dataset(arguments), arguments)
    prints = [[part.fingerprint for part in each.record.splits.values()] for each in (dataset, other)]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 3


def test_a_stream_has_the_same_labels(make_parquet, load):
    folder = make_parquet({"train": build_rows(*HUB_FORMS["list of ClassLabel"])})
    dataset = load(dataset_name=folder, streaming=True, shuffle_buffer_size=8, **ONE)
    assert dataset.is_multi_label
    rows = list(dataset.splits["train"])
    assert len(rows) == len(SETS)
    assert [row["label"] for row in rows] == [SETS[row["sample_index"]] for row in rows]
    plan = attach_transforms(dataset, build_vit_processor(), DataArguments(dataset_name=str(folder)), seed=0)
    plan.train.set_batch_size(4)
    batch = next(iter(plan.train))
    assert batch["labels"].tolist() == [float(k in SETS[int(batch["sample_index"])]) for k in range(4)]


@pytest.mark.parametrize("form", ["struct of lists", "list of structs"])
def test_lists_inside_a_column_are_streamed(make_parquet, load, form):
    folder = make_parquet({"train": build_rows(*HUB_FORMS[form])})
    stream, whole = (load(dataset_name=folder, streaming=streaming, **ONE) for streaming in (True, False))
    assert stream.labels == whole.labels
    rows = {row["sample_index"]: row["label"] for row in stream.splits["train"]}
    assert len(rows) > 1
    assert [rows[index] for index in range(len(rows))] == list(whole.splits["train"]["label"])


def test_vectors_of_0_and_1(make_parquet):
    def make(own):
        return [int(k in own) for k in range(4)]

    folder = make_parquet({"train": build_rows("labels", datasets.Sequence(datasets.Value("int8")), make)})
    dataset = load_image_dataset(DataArguments(dataset_name=str(folder)))
    assert dataset.labels == ["0", "1", "2", "3"]
    for split in dataset.splits.values():
        for row in split.remove_columns("image"):
            assert row["label"] == SETS[row["sample_index"]]


def test_batches_are_multi_hot(make_parquet):
    folder = make_parquet({"train": build_rows(*HUB_FORMS["list of ClassLabel"])})
    dataset = load_image_dataset(DataArguments(dataset_name=str(folder), **ONE))
    plan = attach_transforms(dataset, build_vit_processor(), DataArguments(dataset_name=str(folder)), seed=0)
    rows = plan.train.__getitems__(list(range(8)))
    targets = torch.stack([row["labels"] for row in rows])
    assert targets.dtype == torch.float32
    assert targets.shape == (8, 4)
    expected = [[float(k in SETS[int(row["sample_index"])]) for k in range(4)] for row in rows]
    assert targets.tolist() == expected


def test_another_column_or_content_is_another_fingerprint(tmp_path):
    write_images(tmp_path)
    prints = []
    for extra in ([], ["dog"]):
        path = write_lines(
            tmp_path / "a.jsonl",
            lambda row, own, extra=extra: json.dumps({"file_name": f"{row}.png", "label": own + extra * (row == 0)}),
        )
        arguments = DataArguments(train_file=str(path), **ONE)
        prints.append(check_images(load_image_dataset(arguments), arguments).record.splits["train"].fingerprint)
    assert prints[0] != prints[1]


def test_a_separator_is_offered_and_not_guessed(tmp_path):
    write_images(tmp_path)
    path = write_lines(tmp_path / "a.csv", lambda row, own: f"{row}.png,{';'.join(own) or 'ant'}", "file_name,label\n")
    dataset = load_image_dataset(DataArguments(train_file=str(path), **ONE))
    assert dataset.record.problem_type == SINGLE_LABEL
    assert [note for note in dataset.record.notes if "--label_separator ';'" in note]


def test_a_separator_needs_texts(make_parquet, make_folders, load):
    folder = make_parquet({"train": build_rows(*HUB_FORMS["list of ClassLabel"])})
    with pytest.raises(DataError, match="label column 'labels' holds a "):
        load(dataset_name=folder, label_separator=";")
    with pytest.raises(DataError, match="label column 'label' holds a ClassLabel"):
        load(train_dir=make_folders("photos", {"a;b": 5, "c": 5}), label_separator=";")


def features(**columns):
    kinds = {
        "image": datasets.Image(), "class": CLASSES, "text": datasets.Value("string"), "int": datasets.Value("int64"),
        "classes": datasets.Sequence(CLASSES), "texts": datasets.Sequence(datasets.Value("string")),
        "boxes": datasets.Sequence(BOX),
    }  # fmt: skip
    return datasets.Features({name: kinds[kind] for name, kind in columns.items()})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": "image", "tags": "classes"}, "tags"),
        ({"image": "image", "id": "int", "labels": "texts"}, "labels"),
        ({"image": "image", "id": "int", "width": "int", "objects": "boxes"}, "objects.category"),
        ({"image": "image", "label": "class", "tags": "classes"}, "label"),
        ({"image": "image", "label": "text", "objects": "boxes"}, "label"),
        ({"image": "image", "caption": "text", "tokens": "texts"}, "caption"),
    ],
)
def test_the_column_is_found(columns, expected):
    assert find_label_column(features(**columns), None, "image") == expected


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ("objects.kind", "no column 'objects.kind'"),
        ("id,colour", "no column 'colour'"),
        ("id,tags", "0 or 1 in each of several"),
        ("objects", "'objects' holds"),
    ],
)
def test_requested_columns_that_cannot_be(requested, words):
    with pytest.raises(DataError, match=words):
        find_label_column(features(image="image", id="int", tags="classes", objects="boxes"), requested, "image")


def fail(tmp_path, train, test=None, **options):
    write_images(tmp_path)
    files = {}
    for role, labels in (("train", train), ("test", test)):
        if labels is not None:
            lines = [json.dumps({"file_name": f"{row}.png", **own}) for row, own in enumerate(labels)]
            (tmp_path / f"{role}.jsonl").write_text("\n".join(lines))
            files[f"{role}_file"] = str(tmp_path / f"{role}.jsonl")
    with pytest.raises(DataError) as caught:
        load_image_dataset(DataArguments(**files, **options))
    return str(caught.value)


def test_bad_input_is_said(tmp_path):
    good = [{"label": ["a"]}, {"label": ["b"]}, {"label": []}, {"label": ["a", "b"]}]
    assert "classes that training does not have: 'c'" in fail(tmp_path, good, [{"label": ["c"]}, {"label": []}])
    message = fail(tmp_path, good, [{"label": "a"}, {"label": "b"}])
    assert "different kinds of label: a list of labels per image in 'train', one label per image in 'test'" in message
    assert "no labelled example" in fail(tmp_path, [{"label": []}] * 4)
    assert "1 of 4 examples have no list of labels" in fail(tmp_path, [*good[:3], {"label": None}])
    assert "2 of 4 examples" in fail(tmp_path, [*good[:2], {"label": ["a", None]}, {"label": ["", "b"]}])
    message = fail(tmp_path, [{"a": 1, "b": 0}, {"a": 2, "b": 1}], label_column_name="a,b")
    assert "the label column 'a' holds '2' in row 1" in message


def test_an_empty_held_out_split_judges_nothing(tmp_path):
    write_images(tmp_path)
    good = [{"label": ["a"]}, {"label": ["b"]}] * 10
    for role, labels in (("train", good), ("test", [{"label": []}] * 4)):
        lines = [json.dumps({"file_name": f"{row}.png", **own}) for row, own in enumerate(labels)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines))
    arguments = DataArguments(train_file=str(tmp_path / "train.jsonl"), test_file=str(tmp_path / "test.jsonl"))
    dataset = load_image_dataset(arguments)
    assert [note for note in dataset.record.notes if "is not used: none of its labels is given" in note]
    assert set(dataset.splits) == {"train", "validation", "test"}


def test_an_image_that_is_left_out_takes_all_its_labels_along(tmp_path):
    write_images(tmp_path)
    path = write_lines(tmp_path / "a.jsonl", lambda row, own: json.dumps({"file_name": f"{row}.png", "label": own}))
    (tmp_path / "1.png").write_bytes(b"no image")
    arguments = DataArguments(train_file=str(path), on_bad_image="skip", **ONE)
    dataset = check_images(load_image_dataset(arguments), arguments, report=tmp_path / "bad.csv")
    counts = {name: sum(k in own for row, own in enumerate(SETS) if row != 1) for k, name in enumerate(NAMES)}
    assert dataset.record.splits["train"].class_counts == counts
    assert "ant, bee, cat" in (tmp_path / "bad.csv").read_text()


# ------------------------------------------------------------------------------------------------ stratification


def draw_labels(num_examples, num_classes, seed=0):
    """Labels as real ones are: a few frequent classes and many rare ones."""
    generator = np.random.default_rng(seed)
    shares = 0.4 / np.arange(1, num_classes + 1) ** 1.2
    return csr_array(generator.random((num_examples, num_classes)) < shares)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_keeps_its_share(seed):
    labels = draw_labels(2000, 30, seed)
    counts = {"test": 300, "validation": 200}
    parts = cut_iteratively(labels, counts, seed)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 1500, **counts}
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(2000))
    total = labels.sum(axis=0)
    assert total[total > 0].min() < 20
    assert total.max() > 700
    random = np.random.default_rng(seed).permutation(2000)
    errors = {"ours": 0.0, "random": 0.0}
    start = 0
    for name, count in counts.items():
        wanted = total * count / 2000
        own = labels[parts[name]].sum(axis=0)
        assert (np.abs(own - wanted) <= 1.5 + 0.02 * wanted).all()
        errors["ours"] += np.abs(own - wanted).sum()
        errors["random"] += np.abs(labels[random[start : start + count]].sum(axis=0) - wanted).sum()
        start += count
    assert errors["ours"] < errors["random"] / 4
    assert (labels[parts["train"]].sum(axis=0)[total > 0] > 0).all()


def test_the_cut_depends_on_the_seed_alone():
    labels = draw_labels(500, 10)
    one, again, other = (cut_iteratively(labels, {"test": 50}, seed)["test"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_class_of_one_example_stays_in_train():
    labels = csr_array(np.array([[1, 0], [0, 1], [0, 1], [0, 1], [0, 0], [0, 0]], dtype=bool))
    for seed in range(20):
        parts = cut_iteratively(labels, {"test": 3}, seed)
        assert 0 in parts["train"]
        assert len(parts["test"]) == 3


def test_a_hundred_thousand_examples_are_cut_in_seconds():
    import time

    labels = draw_labels(100_000, 80)
    started = time.process_time()
    parts = cut_iteratively(labels, {"test": 15_000, "validation": 15_000}, 0)
    assert time.process_time() - started < 10
    total = labels.sum(axis=0)
    assert np.abs(labels[parts["test"]].sum(axis=0) - 0.15 * total).max() <= 2


def test_ids_of_a_loaded_split(make_parquet):
    folder = make_parquet({"train": build_rows(*HUB_FORMS["list of ClassLabel"])})
    split = load_image_dataset(DataArguments(dataset_name=str(folder), **ONE)).splits["train"]
    labels = read_label_ids(split)
    assert labels.shape == (60, 4)
    assert [np.flatnonzero(row).tolist() for row in labels.toarray()] == SETS
