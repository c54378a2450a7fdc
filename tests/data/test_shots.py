"""Few shots: equally many of each class, from train alone, and the same on every machine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.splits import choose_shots
from hf_imgcls.errors import DataError

LABELS = np.random.default_rng(0).integers(0, 4, 200)


def load(**options):
    return load_image_dataset(DataArguments(dataset_name="digits", **options))


def test_each_class_gives_its_share():
    rows = choose_shots(LABELS, 7, seed=1)
    assert np.bincount(LABELS[rows]).tolist() == [7] * 4
    assert (np.diff(rows) > 0).all()


def test_a_class_gives_what_it_has():
    labels = np.array([0] * 20 + [2] * 3)
    assert np.bincount(labels[choose_shots(labels, 5, seed=0)]).tolist() == [5, 0, 3]


def test_draws_follow_the_seed_and_grow():
    few, more = choose_shots(LABELS, 5, seed=3), choose_shots(LABELS, 6, seed=3)
    assert set(few) < set(more)
    assert set(few) != set(choose_shots(LABELS, 5, seed=4))
    assert few[:4].tolist() == [1, 6, 20, 25]  # NumPy's RandomState stream is frozen


def test_only_train_has_fewer_and_it_is_written_down():
    whole, shots, other = load(), load(shots_per_class=5), load(shots_per_class=5, shots_seed=1)
    assert set(shots.record.splits["train"].class_counts.values()) == {5}
    assert shots.record.splits["train"].num_available == whole.record.splits["train"].num_examples
    for role in ("validation", "test"):
        assert shots.splits[role]["sample_index"] == whole.splits[role]["sample_index"]
    assert any("train has 5 examples of each class" in note for note in shots.record.notes)
    assert "5 of each class, seed 0" in shots.record.splits["train"].source
    rows = [set(part.splits["train"]["sample_index"]) for part in (whole, shots, other)]
    assert rows[1] < rows[0]
    assert rows[1] != rows[2] < rows[0]


def test_a_class_that_is_too_small_is_named():
    assert any("; fewer of '8', which have no more." in note for note in load(shots_per_class=123).record.notes)


def test_shots_of_several_labels_are_refused(tmp_path):
    for row in range(12):
        Image.fromarray(np.full((8, 8), 20 * row, np.uint8)).save(tmp_path / f"{row}.png")
    lines = [json.dumps({"file_name": f"{row}.png", "tags": ["a", "b"][: 1 + row % 2]}) for row in range(12)]
    (tmp_path / "tags.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="several labels") as error:
        load_image_dataset(
            DataArguments(train_file=str(tmp_path / "tags.jsonl"), label_column_name="tags", shots_per_class=2)
        )
    assert "--max_train_samples" in error.value.fix
