"""Splits: roles, the honest use of held-out data, and cuts that depend on the seed alone."""

import hashlib

import numpy as np
import pytest

from hf_imgcls.data.splits import assign_roles, choose_subset, count_held_out, cut_stratified, match_split_names
from hf_imgcls.errors import DataError

NOTHING = {"train": None, "validation": None, "test": None}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "VAL"])
def test_names_are_recognised(name):
    assert match_split_names(["train", name, "extra"], NOTHING) == {"train": "train", "validation": name}


def test_requested_names_win_over_recognised_ones():
    found = match_split_names(["train", "valid", "extra"], NOTHING | {"train": "extra", "test": "valid"})
    assert found == {"train": "extra", "test": "valid"}


@pytest.mark.parametrize(
    ("available", "requested", "message"),
    [
        (["train", "val", "dev"], {}, "val, dev"),
        (["train"], {"test": "tset"}, "no split 'tset'"),
        (["train"], {"train": "train", "test": "train"}, "asked for twice"),
        (["full"], {}, "full"),
    ],
)
def test_split_names_that_do_not_fit(available, requested, message):
    with pytest.raises(DataError, match=message):
        match_split_names(available, NOTHING | requested)


def test_only_held_out_split_is_the_test():
    notes = []
    assert assign_roles({"train": "train", "validation": "val"}, set(), False, notes) == {
        "train": "train",
        "test": "val",
    }
    assert "validation is cut from train" in notes[0]


def test_explicit_validation_stays_validation():
    found = {"train": "train", "validation": "val"}
    assert assign_roles(found, set(), True, []) == found


def test_hidden_test_makes_validation_the_test():
    notes = []
    found = {"train": "train", "validation": "validation", "test": "test"}
    assert assign_roles(found, {"test"}, False, notes) == {"train": "train", "test": "validation"}
    assert "'test' is not used" in notes[0]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0.15, 15), (0.001, 1), (7, 7), (7.0, 7)])
def test_held_out_is_a_fraction_or_a_count(value, expected):
    assert count_held_out(value, 100, "--test_split") == expected


@pytest.mark.parametrize("value", [-0.1, 1.5, 100, 1000, 0.999])
def test_held_out_that_cannot_be(value):
    with pytest.raises(DataError, match="--test_split"):
        count_held_out(value, 100, "--test_split")


def test_cut_keeps_class_proportions_and_loses_nothing():
    labels = np.repeat(np.arange(4), [400, 300, 200, 100])
    np.random.RandomState(0).shuffle(labels)
    parts = cut_stratified(labels, {"test": 150, "validation": 100}, seed=1)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1000))
    assert np.bincount(labels[parts["test"]]).tolist() == [60, 45, 30, 15]
    assert np.bincount(labels[parts["validation"]]).tolist() == [40, 30, 20, 10]
    assert all((np.diff(rows) > 0).all() for rows in parts.values())


def test_cut_has_the_size_asked_for_when_shares_are_fractions():
    labels = np.repeat(np.arange(7), 9)
    parts = cut_stratified(labels, {"validation": 10}, seed=3)
    assert len(parts["validation"]) == 10
    assert set(np.bincount(labels[parts["validation"]], minlength=7)) == {1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_every_class_keeps_a_training_example(seed):
    labels = np.array([0] * 50 + [1] * 2 + [2])
    parts = cut_stratified(labels, {"test": 30, "validation": 20}, seed)
    assert set(labels[parts["train"]]) == {0, 1, 2}
    assert 2 not in labels[parts["test"]]
    assert 2 not in labels[parts["validation"]]
    # 53 examples, of which 3 must stay: the second cut gets what is left.
    assert (len(parts["test"]), len(parts["validation"])) == (30, 20)


def test_cut_gives_what_there_is():
    parts = cut_stratified(np.array([0, 0, 1, 1]), {"test": 3}, seed=0)
    assert len(parts["test"]) == 2


def test_cut_depends_on_the_seed_alone():
    labels = np.tile(np.arange(10), 100)
    digests = {
        seed: hashlib.sha256(cut_stratified(labels, {"test": 200}, seed)["test"].astype("<i8").tobytes()).hexdigest()[
            :16
        ]
        for seed in (0, 42)
    }
    # Written down on one machine: the same split everywhere, with every NumPy.
    assert digests == {0: "70e7839fd9c827d4", 42: "b2c44fdd62529b91"}


@pytest.mark.parametrize("seed", range(6))
def test_small_classes_are_not_absent_from_the_same_parts(seed):
    labels = np.repeat(np.arange(10), 3)
    parts = cut_stratified(labels, {"test": 5, "validation": 5}, seed)
    held_out = [*labels[parts["test"]], *labels[parts["validation"]]]
    assert sorted(held_out) == list(range(10))  # each class once, in one of them
    # A share of 0.4 is too little for one image in either part, and twice 0.4 is not.
    labels = np.array([0] * 96 + [1] * 4)
    parts = cut_stratified(labels, {"test": 10, "validation": 10}, seed)
    assert [int((labels[parts[name]] == 1).sum()) for name in ("test", "validation")] == [0, 1]


def test_cuts_in_which_no_class_is_absent_stay_what_they_were():
    digests = []
    for labels in (np.tile(np.arange(7), 101), np.repeat(np.arange(4), [400, 33, 21, 11])):
        count = round(0.15 * len(labels))
        parts = cut_stratified(labels, {"test": count, "validation": count}, seed=42)
        digest = hashlib.sha256()
        for name in sorted(parts):
            digest.update(parts[name].astype("<i8").tobytes())
        digests.append(digest.hexdigest()[:16])
    assert digests == ["cfd19b20a5f7559f", "cb66d71e81aad5e1"]


def test_subset_is_nested_and_differs_between_splits():
    small, large = choose_subset(1000, 50, 42, "train"), choose_subset(1000, 100, 42, "train")
    assert set(small) < set(large)
    assert not np.array_equal(small, choose_subset(1000, 50, 42, "test"))
    assert not np.array_equal(small, choose_subset(1000, 50, 43, "train"))
    assert choose_subset(1000, 1000, 42, "train") is None
    assert choose_subset(1000, None, 42, "train") is None
