"""Which column becomes the label, what is told about it, and numbers that mean "no label"."""

import numpy as np
import pytest
from hub_loading import make_pets

from hf_imgcls.errors import DataError


def add_columns(**columns):
    """Forty numbered images with columns in place of the label."""
    dataset = make_pets(40).remove_columns("label")
    for name, values in columns.items():
        dataset = dataset.add_column(name, list(values))
    return dataset


RANKS = {
    "class": ["mammal", "bird"] * 20,
    "order": ["carnivora", "owls", "bats", "cranes"] * 10,
    "family": ["cats", "owls", "bats", "rails"] * 10,
}


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"__key__": [f"{i:04d}" for i in range(40)], "__url__": ["a.tar"] * 40, "cls": [0, 1] * 20}, "cls"),
        ({"uid": range(40), "kind": ["cat", "dog"] * 20}, "kind"),
        ({"source": ["https://a/b.jpg"] * 40, "kind": ["cat", "dog"] * 20}, "kind"),
        ({"weight": np.linspace(0, 1, 40), "kind": ["cat", "dog"] * 20}, "kind"),
        ({"year_day": [*range(30), *range(10)], "kind": ["cat", "dog"] * 20}, "kind"),
        (RANKS, "class"),
    ],
)
def test_columns_that_cannot_be_classes_are_no_candidates(load, make_parquet, caplog, columns, chosen):
    with caplog.at_level("INFO"):
        dataset = load(dataset_name=make_parquet({"train": add_columns(**columns)}))
    assert dataset.record.label_column == chosen
    assert f"in column {chosen!r}" in caplog.text


def test_other_columns_of_labels_are_named(load, make_parquet):
    folder = make_parquet({"train": add_columns(**RANKS)})
    assert "--label_column_name takes 'order', 'family' instead" in " ".join(load(dataset_name=folder).record.notes)
    asked = load(dataset_name=folder, label_column_name="family")
    assert len(asked.labels) == 4
    assert "instead" not in " ".join(asked.record.notes)


def test_columns_of_zero_and_one_are_suggested_together(load, make_parquet):
    columns = {"cat": [0, 1] * 20, "dog": [1, 0, 0, 1] * 10, "place": ["in", "out"] * 20}
    with pytest.raises(DataError, match="--label_column_name cat,dog"):
        load(dataset_name=make_parquet({"train": add_columns(**columns)}))


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float64])
def test_minus_one_among_numbers_is_no_label(load, make_parquet, kind):
    train = add_columns(label=np.array([0, 1] * 20, dtype=kind))
    hidden = add_columns(label=np.full(40, -1, dtype=kind))
    dataset = load(dataset_name=make_parquet({"train": train, "test": hidden}))
    assert (dataset.labels, dataset.record.splits["test"].source_split) == (["0", "1"], "train")
    notes = " ".join(dataset.record.notes)
    assert "The split 'test' is not used: none of its labels is given." in notes
    assert "-1 in the label column 'label' is read as no label" in notes


@pytest.mark.parametrize("last", [-1, None])
def test_minus_one_in_training_is_counted(load, make_parquet, last):
    with pytest.raises(DataError, match="10 of 40 examples have no label") as error:
        load(dataset_name=make_parquet({"train": add_columns(label=[0, 1, 2, last] * 10)}))
    offered = str(error.value).endswith("label these examples, or write the labels as text if -1 is a class")
    assert offered == (last == -1)


def test_minus_one_as_text_is_a_class(load, make_parquet):
    folder = make_parquet({"train": add_columns(label=["0", "1", "2", "-1"] * 10)})
    assert load(dataset_name=folder).labels == ["-1", "0", "1", "2"]


@pytest.mark.parametrize("values", [[-1, 1], [-2, -1, 0]])
def test_minus_one_may_be_a_class(load, make_parquet, values):
    count = 40 // len(values) * len(values)
    train = add_columns(label=(values * 40)[:40]).select(range(count))
    assert load(dataset_name=make_parquet({"train": train})).labels == [str(value) for value in values]


def test_what_cannot_be_cut_is_asked_for_as_the_data_were_named(load, make_parquet, make_folders):
    labels = [f"class {index}" for index in range(6)]
    rows = make_pets(6).remove_columns("label").add_column("label", labels)
    with pytest.raises(DataError, match="--test_split_name"):
        load(dataset_name=make_parquet({"train": rows}))
    with pytest.raises(DataError, match="--test_dir"):
        load(train_dir=make_folders("photos", dict.fromkeys(labels, 1)))
