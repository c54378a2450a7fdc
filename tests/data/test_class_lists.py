"""Class ids mean what each file's own list says: labels go by name across files, shards and splits, streamed or not."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numbered_images import decode_value, encode_png, make_dataset

from hf_imgcls.errors import DataError

PETS = ("cat", "dog", "bird")
ONE = {"test_split": 0, "train_val_split": 0}


def pets(names, first=0, count=12, *, wrap=None):
    """Images whose value modulo 3 is the animal, in the ids of a list of names."""
    ids = [names.index(PETS[value % len(names)]) for value in range(first, first + count)]
    images = [{"bytes": encode_png(value), "path": None} for value in range(first, first + count)]
    label = datasets.ClassLabel(names=list(names))
    feature = datasets.Sequence(label) if wrap == "list" else {"kind": label} if wrap == "struct" else label
    column = [[i] for i in ids] if wrap == "list" else [{"kind": i} for i in ids] if wrap == "struct" else ids
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": images, "label": column}, features=features)


def write(folder, parts, *, plain=()):
    """Write data files; those in ``plain`` without the schema's metadata, as other tools than datasets do."""
    for name, part in parts.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path, batch_size=5)
        if name in plain:
            pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    return folder


def read(dataset):
    """Every (value of an image, names of its classes) of all splits."""
    pairs = []
    for split in dataset.splits.values():
        for row in split:
            ids = row["label"] if isinstance(row["label"], list) else [row["label"]]
            pairs.append((decode_value(row["image"]), [dataset.labels[i] for i in ids]))
    return sorted(pairs)


def expect(values, num_names=3):
    return [(value, [PETS[value % num_names]]) for value in values]


SHARDS = {
    "train-00000-of-00002.parquet": pets(PETS),
    "train-00001-of-00002.parquet": pets(("bird", "cat", "dog"), 12),
    "test-00000-of-00001.parquet": pets(("dog", "bird", "cat"), 24),
}


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_go_by_name_over_shards_and_splits(load, tmp_path, streaming):
    folder = write(tmp_path / "pets", SHARDS)
    for _ in range(2):  # the second time from the cache
        dataset = load(dataset_name=folder, train_val_split=0, streaming=streaming)
        assert dataset.labels == list(PETS)
        assert read(dataset) == expect(range(36))
        notes = " ".join(dataset.record.notes)
        assert "train-00000-of-00002.parquet ('cat', 'dog', 'bird')" in notes
        assert "train-00001-of-00002.parquet ('bird', 'cat', 'dog')" in notes
        assert "'test' differs from training's" in notes


@pytest.mark.parametrize("wrap", ["list", "struct"])
def test_so_do_labels_inside_lists_and_structs(load, tmp_path, wrap):
    parts = {"train-0.parquet": pets(PETS, wrap=wrap), "train-1.parquet": pets(PETS[::-1], 12, wrap=wrap)}
    folder = write(tmp_path / "pets", parts)
    options = {"label_column_name": "label.kind" if wrap == "struct" else "label", **ONE}
    for streaming in (False, True):
        assert read(load(dataset_name=folder, streaming=streaming, **options)) == expect(range(24))


def test_arrow_files_too(load, tmp_path):
    (tmp_path / "pets").mkdir()
    for index, (names, first) in enumerate([(PETS, 0), (PETS[::-1], 12)]):
        table = pets(names, first).with_format("arrow")[:]
        with pa.ipc.new_stream(tmp_path / "pets" / f"train-{index}.arrow", table.schema) as writer:
            writer.write_table(table)
    assert read(load(dataset_name=tmp_path / "pets", **ONE)) == expect(range(24))


@pytest.mark.parametrize("streaming", [False, True])
def test_files_with_more_classes_bring_them(load, tmp_path, streaming):
    parts = {"train-0.parquet": pets(PETS[:2], 0, 6), "train-1.parquet": pets(PETS, 6)}
    dataset = load(dataset_name=write(tmp_path / "pets", parts), streaming=streaming, **ONE)
    assert dataset.labels == list(PETS)
    assert read(dataset) == expect(range(6), 2) + expect(range(6, 18))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("plain", ["train-1.parquet", "test-0.parquet"])
def test_ids_without_a_list_are_not_guessed(load, tmp_path, plain, streaming):
    parts = {"train-0.parquet": pets(PETS), "train-1.parquet": pets(PETS, 12), "test-0.parquet": pets(PETS, 24)}
    folder = write(tmp_path / "pets", parts, plain=[plain])
    with pytest.raises(DataError, match=rf"names in \S+\.parquet, and none in {plain}"):
        load(dataset_name=folder, streaming=streaming)


def test_a_first_file_without_a_list_is_no_exception(load, tmp_path):
    parts = {"train-0.parquet": pets(PETS), "train-1.parquet": pets(PETS, 12)}
    folder = write(tmp_path / "pets", parts, plain=["train-0.parquet"])
    with pytest.raises(DataError, match=r"names in train-1\.parquet, and none in train-0\.parquet"):
        load(dataset_name=folder)


def test_names_and_ids_in_two_files(load, tmp_path):
    texts = make_dataset([PETS[value % 3] for value in range(12)])
    first = write(tmp_path / "first", {"train-0.parquet": texts, "train-1.parquet": pets(PETS, 12)})
    with pytest.raises(DataError, match=r"names in train-1\.parquet, and none in train-0\.parquet"):
        load(dataset_name=first)
    second = write(tmp_path / "second", {"train-0.parquet": pets(PETS[::-1], 12), "train-1.parquet": texts})
    assert read(load(dataset_name=second, **ONE)) == expect(range(24))


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': {}
          '1': {}
          '2': {}
---
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_the_card_and_the_files(load, tmp_path, streaming):
    """The files' own lists hold; a card may name the classes of files without a list, and rename those of others."""
    parts = {"train-0.parquet": pets(PETS), "train-1.parquet": pets(PETS[::-1], 12)}
    for name, card, plain, values in (
        ("order", ("dog", "bird", "cat"), (), range(24)),
        ("plain", PETS, ("train-0.parquet",), range(24)),
        ("renamed", ("tom", "dog", "tweety"), (), range(12)),
    ):
        folder = write(tmp_path / name, {file: parts[file] for file in list(parts)[: len(values) // 12]}, plain=plain)
        (folder / "README.md").write_text(CARD.format(*card))
        dataset = load(dataset_name=folder, streaming=streaming, **ONE)
        assert dataset.labels == list(card)
        found = [
            (value, [{"tom": "cat", "tweety": "bird"}.get(name, name) for name in names])
            for value, names in read(dataset)
        ]
        assert found == expect(values)
    (folder / "README.md").write_text(CARD.format("dog", "owl", "cat"))
    with pytest.raises(DataError, match=r"card lists the classes 'dog', 'owl', 'cat', and train-0\.parquet lists"):
        load(dataset_name=folder, streaming=streaming, **ONE)


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_a_card_that_yaml_reads_as_something_else(load, tmp_path, streaming):
    parts = {"train-0.parquet": pets(PETS)}
    for card, labels, said in (
        (("no", "yes", "null"), ["False", "True", "None"], "False (written no, off or false?), True"),
        (("7", "0.5", "2024-01-31"), ["7", "0.5", "2024-01-31"], "read as the texts 7, 0.5"),
        (("'no'", "'7'", "'null'"), ["no", "7", "null"], None),
    ):
        folder = write(tmp_path / str(labels[0]), parts, plain=list(parts))
        (folder / "README.md").write_text(CARD.format(*card))
        dataset = load(dataset_name=folder, streaming=streaming, **ONE)
        assert dataset.labels == labels
        notes = " ".join(dataset.record.notes)
        assert said in notes if said else "YAML" not in notes and "quotes" not in notes


def test_another_column_whose_files_disagree_is_left_out(load, tmp_path):
    parts = {}
    for index, names in enumerate([("indoor", "outdoor"), ("outdoor", "indoor")]):
        place = datasets.ClassLabel(names=list(names))
        part = pets(PETS, 12 * index).add_column("place", [0] * 12, feature=place).add_column("size", [4] * 12)
        parts[f"train-{index}.parquet"] = part
    dataset = load(dataset_name=write(tmp_path / "pets", parts), **ONE)
    assert dataset.splits["train"].column_names == ["image", "label", "sample_index", "size"]
    assert "column 'place'" in " ".join(dataset.record.notes)


# ------------------------------------------------------------------------------------------------ vectors of 0 and 1


def vectors(rows, item="int64", length=-1):
    images = [{"bytes": encode_png(index), "path": None} for index in range(len(rows))]
    feature = datasets.Sequence(datasets.Value(item), length=length)
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": images, "label": rows}, features=features)


def read_ids(dataset, role="train"):
    """Labels in the order of the rows."""
    rows = sorted(dataset.splits[role], key=lambda row: row["sample_index"])
    return [row["label"] for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("item", "length"), [("int64", -1), ("uint8", 2), ("float32", -1), ("bool", -1)])
def test_one_hot_vectors_of_two(load, make_parquet, item, length, streaming):
    rows = [[1, 0], [0, 1]] * 10
    dataset = load(dataset_name=make_parquet({"train": vectors(rows, item, length)}), streaming=streaming, **ONE)
    assert dataset.record.problem_type == "single_label_classification"
    assert dataset.labels == ["0", "1"]
    assert read_ids(dataset) == [0, 1] * 10
    assert streaming or dataset.record.splits["train"].class_counts == {"0": 10, "1": 10}
    assert "one-hot vectors with 2 places" in " ".join(dataset.record.notes)


def test_one_hot_vectors_of_five(load, make_parquet):
    rows = [[int(place == index % 5) for place in range(5)] for index in range(20)]
    dataset = load(dataset_name=make_parquet({"train": vectors(rows)}), **ONE)
    assert not dataset.is_multi_label
    assert dataset.splits["train"]["label"][:] == [index % 5 for index in range(20)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("item", ["int64", "float64", "bool"])
@pytest.mark.parametrize("other", [[0, 0], [1, 1]])
def test_vectors_of_two_with_none_or_both(load, make_parquet, item, other, streaming):
    rows = [[1, 0], [0, 1]] * 10 + [other]
    dataset = load(dataset_name=make_parquet({"train": vectors(rows, item)}), streaming=streaming, **ONE)
    assert dataset.is_multi_label
    assert read_ids(dataset) == [[0], [1]] * 10 + [[0, 1] if other[0] else []]


def test_what_vectors_are_is_decided_over_all_splits(load, make_parquet):
    one_hot, several = [[1, 0], [0, 1]] * 10, [[0, 0], [1, 1], [0, 1]]
    dataset = load(dataset_name=make_parquet({"train": vectors(one_hot), "test": vectors(several)}), train_val_split=0)
    assert dataset.is_multi_label
    assert dataset.splits["test"]["label"][:] == [[], [0, 1], [1]]
    # A test split whose images happen to have both classes does not make vectors of lists of class ids
    ids = [[0], [1], [0, 1]] * 6
    folder = make_parquet({"train": vectors(ids), "test": vectors([[0, 1]] * 3)}, "ids")
    dataset = load(dataset_name=folder, train_val_split=0)
    assert dataset.splits["train"]["label"][:] == ids
    assert dataset.splits["test"]["label"][:] == [[0, 1]] * 3
    assert "lists of the classes 0 and 1, not as vectors" in " ".join(dataset.record.notes)


def test_hidden_labels_say_nothing_about_vectors(load, make_parquet):
    for name, hidden in (("empty", [[]] * 3), ("minus", [[-1, -1]] * 3)):
        parts = {"train": vectors([[1, 0], [0, 1]] * 10), "test": vectors(hidden)}
        dataset = load(dataset_name=make_parquet(parts, name), **ONE)
        assert not dataset.is_multi_label
        assert list(dataset.splits) == ["train"]


def test_vectors_of_several_lengths_are_refused(load, make_parquet):
    with pytest.raises(DataError, match="vectors of 0 and 1 with 2, 3 places"):
        load(dataset_name=make_parquet({"train": vectors([[1, 0], [0, 0, 1]] * 10)}))


def test_vectors_with_unlabelled_rows_are_refused(load, make_parquet):
    with pytest.raises(DataError, match=r"and -1 in 1 rows \(row 20 is the first\)"):
        load(dataset_name=make_parquet({"train": vectors([[1, 0], [0, 1]] * 10 + [[-1, -1]])}))
