"""What a model scores without the images that training or selection has seen."""

import numpy as np
import pyarrow as pa
import pytest
from made_label_tables import make_label_logits, make_label_table
from made_tables import make_logits, make_table

from hf_imgcls.data.manifest import Manifest
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, MultiLabelAccumulator
from hf_imgcls.measure.unseen import describe_unseen, measure_unseen


def make_manifest(test, train, split="test"):
    """A manifest of images that are numbers; sample_index is that of the made tables, 3 * row + 1."""
    numbers = [*test, *train]
    hashes = pa.array([int(number).to_bytes(16, "big") for number in numbers], pa.binary(16))
    names = [split] * len(test) + ["train"] * len(train)
    index = [3 * row + 1 for row in range(len(test))] + list(range(len(train)))
    columns = {"sample_index": index, "split": names, "content_hash": hashes, "file_hash": hashes}
    return Manifest(pa.table(columns))


def test_every_metric_is_that_of_the_other_images():
    logits, labels = make_logits("random")
    seen = np.arange(0, 500, 7)
    found = measure_unseen(make_table(logits, labels), make_manifest(range(500), [*seen, 1000, 1001]))
    rest = np.setdiff1d(np.arange(500), seen)
    accumulator = ClassificationAccumulator(logits.shape[1], keep_scores=True)
    accumulator.update(logits[rest], labels[rest])
    expected = {name: value for name, value in accumulator.compute().items() if value is not None}
    assert found == pytest.approx({"num_seen": len(seen), **expected}, abs=1e-6)
    assert "roc_auc" in expected


def test_several_labels_per_image_keep_their_thresholds():
    logits, targets = make_label_logits("random")
    thresholds = np.linspace(0.2, 0.7, logits.shape[1])
    table = make_label_table(logits, targets, thresholds=thresholds)
    rows = (table.sample_index - 1) // 3 if (table.sample_index % 3 == 1).all() else table.sample_index
    manifest = make_manifest(range(len(targets)), range(0, len(targets), 5))
    manifest = Manifest(manifest.images.set_column(0, "sample_index", [[*table.sample_index, *range(80)]]))
    found = measure_unseen(table, manifest)
    rest = rows[rows % 5 > 0]
    accumulator = MultiLabelAccumulator(logits.shape[1], thresholds)
    accumulator.update(logits[rest], targets[rest])
    expected = {name: value for name, value in accumulator.compute().items() if value is not None}
    assert found == pytest.approx({"num_seen": 80, **expected}, abs=1e-6)


def test_nothing_seen_is_nothing_said():
    table = make_table(*make_logits("two classes"))
    assert measure_unseen(table, None) is None
    assert measure_unseen(table, make_manifest(range(101), range(200, 300))) is None
    assert measure_unseen(table, make_manifest(range(101), range(101), split="validation")) is None


def test_all_seen_leaves_no_metric():
    found = measure_unseen(make_table(*make_logits("two classes")), make_manifest(range(101), range(101)))
    assert found == {"num_seen": 101, "num_examples": 0}
    assert "has seen all 101 images" in describe_unseen(found, {"accuracy": 0.5})


def test_both_numbers_are_told():
    text = describe_unseen({"num_seen": 18, "num_examples": 282, "accuracy": 0.91234}, {"accuracy": 0.95})
    assert text == (
        "Without the 18 images that training or selection has seen, accuracy is 0.9123 (282 images); with them it is "
        "0.9500."
    )
    text = describe_unseen({"num_seen": 1, "num_examples": 9}, {"mean_average_precision": 0.5, "micro_f1": 0.1})
    assert "Without the 1 image that" in text
    assert "mean average precision is not defined (9 images); with them it is 0.5000" in text
