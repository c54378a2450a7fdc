"""The prediction table: what scoring puts into it, and that a file gives back what was saved."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from made_label_tables import make_label_case
from made_tables import CASES, make_case, make_logits, make_table, read_columns
from trained_models import digits_arguments, find_trained_model, load_digits

from hf_imgcls.errors import DataError
from hf_imgcls.measure import columns
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator
from hf_imgcls.measure.metrics.top_scores import TopScores, sort_scores
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.tables import PREDICTIONS_FILE, PredictionTable, Table, unique_names

METADATA = {
    "camera": ["left", None, "right"] * 20,
    "age": [3, None, 17] * 20,
    "height": [1.5, 0.25, None] * 20,
    "is_indoors": [True, False, None] * 20,
}


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_a_table_holds_what_was_answered(case):
    logits, labels = make_logits(case)
    table = make_table(logits, labels)
    probabilities = softmax(logits).astype(np.float32)
    np.testing.assert_array_equal(table.sample_index, 3 * np.arange(len(labels)) + 1)
    np.testing.assert_array_equal(table.label, labels)
    np.testing.assert_array_equal(table.prediction, logits.argmax(axis=1))
    np.testing.assert_array_equal(table.correct, logits.argmax(axis=1) == labels)
    np.testing.assert_array_equal(table.confidence, probabilities.max(axis=1).astype(np.float64))
    exact = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    np.testing.assert_allclose(table.log_loss, exact, rtol=1e-12, atol=1e-12)
    assert (np.diff(table.top_probabilities, axis=1) <= 0).all()
    if case == "many classes":
        assert table.top_classes.shape == (60, 20)
        assert table.probabilities is None
        assert table.scores_by_class() is None
        np.testing.assert_array_equal(table.top_probabilities, -np.sort(-probabilities, axis=1)[:, :20])
        rows = np.arange(60)[:, None]
        np.testing.assert_array_equal(probabilities[rows, table.top_classes], table.top_probabilities)
    else:
        np.testing.assert_array_equal(table.probabilities, probabilities.astype(np.float64))
        assert table.is_complete


@pytest.mark.parametrize("case", ["random", "many classes"])
def test_a_file_gives_back_what_was_saved(case, tmp_path):
    table = make_case(case)
    if case == "many classes":
        table.metadata = METADATA
        table.files = ["ä/1.png", None, "b/<2>.png"] * 20
    path = tmp_path / PREDICTIONS_FILE.format(split=table.split)
    table.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions_test.parquet"]
    again = PredictionTable.load(path)
    for item in dataclasses.fields(table):
        before, after = getattr(table, item.name), getattr(again, item.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after
    # Anybody else's reader sees typed columns.
    schema = pq.read_schema(path)
    assert schema.field("log_loss").type == pa.float64()
    assert schema.field("top_probabilities").type.value_type == pa.float32()
    if case == "many classes":
        assert schema.field("metadata.age").type == pa.int64()
        assert schema.field("metadata.is_indoors").type == pa.bool_()
    else:
        np.testing.assert_array_equal(read_columns(path)["probabilities"], table.probabilities)


def test_rows_are_converted_a_few_at_a_time(tmp_path, monkeypatch):
    table = make_case("random")
    monkeypatch.setattr("hf_imgcls.measure.table_file._ROWS", 64)
    table.save(tmp_path / "small.parquet")
    assert pq.ParquetFile(tmp_path / "small.parquet").num_row_groups == 8
    again = PredictionTable.load(tmp_path / "small.parquet")
    np.testing.assert_array_equal(again.top_classes, table.top_classes)
    np.testing.assert_array_equal(again.probabilities, table.probabilities)


def test_the_base_class_reads_either_kind_and_a_subclass_its_own(tmp_path):
    tables = (make_case("random"), make_label_case("random"))
    for table in tables:
        table.save(tmp_path / "table.parquet")
        again = Table.load(tmp_path / "table.parquet")
        assert type(again) is type(table)
        np.testing.assert_array_equal(again.correct, table.correct)
        other = next(type(other) for other in tables if type(other) is not type(table))
        with pytest.raises(DataError, match=f"it is of the problem type {table.problem_type}"):
            other.load(tmp_path / "table.parquet")


def test_a_data_frame_has_the_columns_of_the_file(tmp_path):
    for table in (make_case("random"), make_label_case("random")):
        table.metadata = {"camera": ["a", None] * (len(table) // 2)}
        table.save(tmp_path / "table.parquet")
        frame = table.to_pandas()
        assert list(frame.columns) == pq.read_schema(tmp_path / "table.parquet").names
        assert len(frame) == len(table)
        np.testing.assert_array_equal(frame["log_loss"], table.log_loss)
        assert frame["metadata.camera"].isna().tolist() == [False, True] * (len(table) // 2)
    answers = [np.flatnonzero(row).tolist() for row in table.targets]
    assert [list(row) for row in frame["labels"]] == answers


def test_what_is_no_table_is_an_error(tmp_path):
    path = tmp_path / "predictions_test.parquet"
    with pytest.raises(DataError, match="cannot be used"):
        PredictionTable.load(path)
    path.write_text("label,prediction\n")
    with pytest.raises(DataError, match="cannot be used"):
        PredictionTable.load(path)
    pq.write_table(pa.table({"label": [1, 2]}), path)
    with pytest.raises(DataError, match="not written by this release"):
        PredictionTable.load(path)
    table = make_case("random")
    table.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be used"):
        PredictionTable.load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="cannot be used"):
        PredictionTable.load(path)
    for name, value, reason in (
        ("label", 12, "label has values outside 0 to 11"),
        ("sample_index", 0, "sample_index is not ascending"),
        ("log_loss", np.nan, "log_loss is not finite"),
        ("prediction", 11 - int(table.prediction[7]), "top_classes does not begin with prediction"),
    ):
        broken = make_case("random")
        getattr(broken, name)[7] = value
        broken.save(path)
        with pytest.raises(DataError, match=reason):
            PredictionTable.load(path)


def test_equal_scores_are_ordered_by_class_but_for_the_prediction():
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.4, 0.1], [0.5, 0.0, 0.5, 0.0]])
    classes, top = sort_scores(probabilities, np.array([0, 2, 0]), 4)
    assert classes.tolist() == [[0, 1, 2, 3], [2, 1, 0, 3], [0, 2, 1, 3]]
    np.testing.assert_array_equal(top[1], np.float32([0.4, 0.4, 0.1, 0.1]))
    # The prediction is there even when more classes than are kept have the highest score.
    classes, _ = sort_scores(np.full((1, 5), 0.2), np.array([4]), 2)
    assert classes.tolist() == [[4, 0]]


def test_a_row_that_is_missing_is_noticed():
    accumulator, top = ClassificationAccumulator(3), TopScores(3)
    batch = accumulator.measure_batch(np.eye(3), [0, 1, 2], [7, 8, 9])
    top.update(batch)
    with pytest.raises(RuntimeError, match="scores of 3 examples were kept, and there are 4"):
        top.collect(np.array([7, 8, 9, 10]))
    with pytest.raises(ValueError, match="without scores"):
        top.update(dataclasses.replace(batch, scores=None))


def test_the_main_process_collects_the_rows_of_all(monkeypatch):
    """Three processes, one of them without examples; what goes between them is exchanged in lockstep."""
    logits, labels = make_logits("random")
    accumulator = ClassificationAccumulator(12)
    shares = [np.arange(0, 500, 2), np.arange(1, 500, 2), np.arange(0)]
    workers = []
    monkeypatch.setattr("hf_imgcls.measure.metrics.top_scores._PIECE_BYTES", 3000)
    for rows in shares:
        workers.append(TopScores(12))
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            workers[-1].update(accumulator.measure_batch(logits[part], labels[part], part))
    # The other processes' contents, in the order in which they would give them.
    for worker in workers[1:]:
        worker._close_piece()
    given = [[len(worker._pieces), *worker._pieces] for worker in workers[1:]]
    assert len(given[0]) > 2

    def gather_object(contents):
        return contents + [queue.pop(0) if queue else None for queue in given]

    monkeypatch.setattr("accelerate.utils.gather_object", gather_object)
    state = SimpleNamespace(num_processes=3, is_main_process=True)
    classes, top = workers[0].collect(np.arange(500), state)
    expected = make_table(logits, labels)
    np.testing.assert_array_equal(classes, expected.top_classes)
    np.testing.assert_array_equal(top, expected.top_probabilities)


def test_names_that_repeat_stay_apart():
    assert unique_names(["crane", "dog", "crane"]) == ["crane (0)", "dog", "crane (2)"]


# ------------------------------------------------------------------------------------------------ scoring


@pytest.fixture(scope="module")
def scored():
    dataset = load_digits()
    rows = dataset.splits["test"]
    rows = rows.add_column("weight", [index / 2 for index in range(len(rows))])
    dataset = dataclasses.replace(dataset, splits={"test": rows})
    return dataset, score_folder(find_trained_model("vit"), dataset, digits_arguments(), batch_size=7)


def test_scoring_fills_a_table(scored):
    dataset, score = scored
    table, rows = score.table, dataset.splits["test"]
    for name in ("sample_index", "label", "prediction", "log_loss", "reference_rank"):
        np.testing.assert_array_equal(getattr(table, name), getattr(score.examples, name))
    np.testing.assert_array_equal(table.confidence, score.examples.probability.astype(np.float32))
    np.testing.assert_allclose(table.probabilities.sum(axis=1), 1.0, atol=1e-6)
    weights = dict(zip(rows["sample_index"], rows["weight"], strict=True))
    assert table.metadata == {"weight": [weights[index] for index in table.sample_index]}
    assert table.files == [None] * len(table)
    assert table.source["model"] == str(find_trained_model("vit"))
    assert table.source["model_revision"] is None
    assert table.source["data"] == "digits"
    assert table.source["temperature"] == 1.0
    assert score.metrics["roc_auc"] is not None


def test_columns_of_a_dataset(tmp_path):
    features = Features(
        {
            "image": Image(decode=False),
            "label": ClassLabel(names=["a", "b"]),
            "sample_index": Value("int64"),
            "place": ClassLabel(names=["field", "wood"]),
            "taken": Value("timestamp[s]"),
            "iso": Value("int32"),
            "boxes": Sequence(Value("int64")),
            "thumbnail": Value("binary"),
        }
    )
    content = {
        "image": [{"bytes": None, "path": f"{tmp_path}/{name}"} for name in ("b/1.png", "a/2.png", "a/3.png")],
        "label": [1, 0, 0],
        "sample_index": [4, 0, 2],
        "place": [1, None, 0],
        "taken": [np.datetime64("2026-01-02T03:04:05"), None, np.datetime64("2025-01-01T00:00:00")],
        "iso": [100, 200, None],
        "boxes": [[1], [], [2, 3]],
        "thumbnail": [b"x", b"y", b"z"],
    }
    split = Dataset.from_dict(content, features=features)
    for rows in (split, split.select([2, 0, 1]), split.select([0, 1, 2]).with_transform(lambda rows: rows)):
        files, metadata = columns.read_columns(rows, np.array([0, 2, 4]))
        assert files == ["a/2.png", "a/3.png", "b/1.png"]
        assert metadata == {
            "place": [None, "field", "wood"],
            "taken": [None, "2025-01-01 00:00:00", "2026-01-02 03:04:05"],
            "iso": [200, None, 100],
        }


def test_names_of_files_do_not_tell_the_machine():
    assert columns.name_files(["/data/x/test/a/1.png", None, "/data/x/test/b/2.png"]) == ["a/1.png", None, "b/2.png"]
    assert columns.name_files(["/data/x/1.png"]) == ["1.png"]
    assert columns.name_files(["1.png", "zip://a/2.png::/home/me/test.zip"]) == ["1.png", "a/2.png"]
    assert columns.name_files([None, None]) == [None, None]
