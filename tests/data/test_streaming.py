"""Streams: every row once, shared out by process and worker, and taken up again anywhere as if never stopped."""

import gc
import pickle

import datasets
import numpy as np
import pytest
import torch
from numbered_images import decode_value, make_dataset
from torch.utils.data import DataLoader

from hf_imgcls.data.parquet import open_parquet, slice_groups, take_groups
from hf_imgcls.data.ranges import RangeReader
from hf_imgcls.errors import DataError

BATCH_SIZE = 4


def read_batches(split, num_workers=0, **options):
    """The sample indices of a loader's batches."""
    loader = DataLoader(split, batch_size=BATCH_SIZE, num_workers=num_workers, collate_fn=list, **options)
    return [[row["sample_index"] for row in batch] for batch in loader]


def flatten(batches):
    return [index for batch in batches for index in batch]


@pytest.fixture
def open_stream(load, make_parquet):
    """Open 203 rows in three files of row groups of ten as streams; 23 more are the test split."""
    train = make_dataset([index % 3 for index in range(203)], ["a", "b", "c"])
    folder = make_parquet({"train": train, "test": train.select(range(23))}, files=3)

    def call(**arguments):
        options = {"shuffle_buffer_size": 40, "train_val_split": 21} | arguments
        dataset = load(dataset_name=folder, streaming=True, **options)
        for split in dataset.splits.values():
            split.set_batch_size(BATCH_SIZE)
        return dataset

    return call


def set_process(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


def test_same_rows_as_without_streaming(open_stream, load, tmp_path):
    streams = open_stream()
    whole = load(dataset_name=tmp_path / "parquet", train_val_split=0).splits
    assert streams.labels == ["a", "b", "c"]
    assert {role: split.num_examples for role, split in streams.record.splits.items()} == {
        "train": 182, "validation": 21, "test": 23,
    }  # fmt: skip
    for role, split in streams.splits.items():
        rows = list(split)
        assert len(rows) == len(split) == streams.record.splits[role].num_examples
        for row in rows:
            original = whole["test" if role == "test" else "train"][row["sample_index"]]
            assert (row["image"], row["label"]) == (original["image"], original["label"])
            assert list(row) == split.column_names
    held_out = {row["sample_index"] for row in streams.splits["validation"]}
    assert held_out.isdisjoint(row["sample_index"] for row in streams.splits["train"])
    assert "not stratified" in " ".join(streams.record.notes)


def test_order_depends_on_seed_and_epoch_and_is_mixed(open_stream):
    split = open_stream().splits["train"]
    first = flatten(read_batches(split))
    assert flatten(read_batches(split)) == first
    split.set_epoch(1)
    second = flatten(read_batches(split))
    assert second != first
    split.set_epoch(0)
    split.seed += 1
    assert first != flatten(read_batches(split)) != second
    assert sorted(first) == sorted(second)
    split.seed -= 1
    groups_per_batch = [len({index // 10 for index in batch}) for batch in read_batches(split)]
    assert np.mean(groups_per_batch) > 2


def test_evaluation_keeps_the_files_order(open_stream):
    split = open_stream().splits["test"]
    rows = flatten(read_batches(split))
    assert sorted(rows) == list(range(23))
    split.set_epoch(1)
    assert flatten(read_batches(split)) == rows


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_worker_count_changes_nothing(open_stream, role):
    split = open_stream().splits[role]
    expected = read_batches(split)
    for num_workers in (1, 2, 3, 4):
        assert read_batches(split, num_workers) == expected


def test_idle_workers_are_told(open_stream, caplog):
    split = open_stream().splits["train"]
    expected = read_batches(split)
    assert read_batches(split, 9) == expected
    # The message comes from a worker process; here the same code runs in this one.
    loader_info = torch.utils.data._utils.worker.WorkerInfo(id=8, num_workers=9, seed=0, dataset=split)
    torch.utils.data._utils.worker._worker_info = loader_info
    try:
        assert list(split) == []
    finally:
        torch.utils.data._utils.worker._worker_info = None
    assert "1 of 9 dataloader workers are idle" in caplog.text


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_an_epoch(open_stream, monkeypatch, world_size):
    dataset = open_stream()
    for role, total in (("train", 182), ("test", 23)):
        shares = []
        for rank in range(world_size):
            set_process(monkeypatch, rank, world_size)
            shares.append(flatten(read_batches(dataset.splits[role])))
            assert len(shares[-1]) == len(dataset.splits[role])
        every = [index for share in shares for index in share]
        assert len(every) == len(set(every))
        if role == "train":
            assert {len(share) for share in shares} == {total // world_size}
        else:
            assert sorted(every) == list(range(total))


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_stream_goes_on_as_if_never_stopped(open_stream, monkeypatch, num_workers, rank):
    if rank is not None:
        set_process(monkeypatch, rank, 2)
    split = open_stream().splits["train"]
    split.set_epoch(3)
    expected = read_batches(split)
    for used in (0, 1, 5, len(expected) - 1, len(expected)):
        again = open_stream().splits["train"]
        again.set_epoch(3)
        again.resume_from(min(used * BATCH_SIZE, len(again)))
        assert read_batches(again, num_workers) == expected[used:]
        again.set_epoch(4)
        assert len(flatten(read_batches(again))) == len(again)


def test_resuming_does_not_read_what_was_used(open_stream, monkeypatch):
    split = open_stream().splits["train"]
    read = []
    original = type(split.files).read_group

    def counting(self, *arguments):
        for row in original(self, *arguments):
            read.append(row[0])
            yield row

    monkeypatch.setattr(type(split.files), "read_group", counting)
    read_batches(split)
    whole = len(read)
    read.clear()
    split.resume_from(160)
    read_batches(split)
    # 22 rows are left; each lane re-reads at most what its buffer held.
    assert len(read) < 22 + 40 + 8 * 10 < whole


def test_resuming_inside_a_batch_is_refused(open_stream):
    with pytest.raises(ValueError, match="whole batches"):
        open_stream().splits["train"].resume_from(5)


def test_epoch_reaches_workers_that_stay_alive(open_stream):
    split = open_stream().splits["train"]
    loader = DataLoader(split, batch_size=BATCH_SIZE, num_workers=2, collate_fn=list, persistent_workers=True)
    epochs = []
    for epoch in (0, 1):
        split.set_epoch(epoch)
        epochs.append([[row["sample_index"] for row in batch] for batch in loader])
    split.set_epoch(1)
    assert epochs[0] != epochs[1] == read_batches(split)


def test_transform_gets_whole_batches(open_stream):
    sizes = []

    def transform(batch):
        sizes.append(len(batch["image"]))
        values = torch.tensor([decode_value(image) for image in batch["image"]])
        return {"values": values, "sample_index": torch.tensor(batch["sample_index"])}

    split = open_stream().splits["train"].with_transform(transform)
    rows = list(split)
    assert sizes == [4] * 45 + [2]
    assert all(row["values"] == row["sample_index"] for row in rows)
    assert rows[0]["values"].untyped_storage().data_ptr() == rows[3]["values"].untyped_storage().data_ptr()


def test_stream_can_be_pickled(open_stream):
    split = open_stream().splits["train"]
    split.set_epoch(2)
    assert read_batches(pickle.loads(pickle.dumps(split))) == read_batches(split)


def test_truncated_streams(open_stream):
    dataset = open_stream(max_train_samples=33, max_eval_samples=5, max_test_samples=4)
    assert {role: len(list(split)) for role, split in dataset.splits.items()} == {
        "train": 33, "validation": 5, "test": 4,
    }  # fmt: skip
    assert "33 of 182" in dataset.record.splits["train"].source


def test_one_row_group_is_cut_by_rows(load, make_parquet):
    folder = make_parquet({"train": make_dataset([index % 2 for index in range(20)], ["a", "b"])}, rows=1000)
    splits = load(dataset_name=folder, streaming=True, test_split=3, train_val_split=4).splits
    found = [row["sample_index"] for split in splits.values() for row in split]
    assert sorted(found) == list(range(20))
    assert {role: len(split) for role, split in splits.items()} == {"train": 13, "validation": 4, "test": 3}


def test_images_that_are_here_are_not_streamed(load, make_folders):
    for arguments in ({"dataset_name": "digits"}, {"train_dir": make_folders("train", {"a": 10, "b": 10})}):
        dataset = load(streaming=True, **arguments)
        assert isinstance(dataset.splits["train"], datasets.Dataset)
        assert "no streaming" in " ".join(dataset.record.notes)


def test_hidden_test_labels_are_seen_beforehand(load, make_parquet):
    train = make_dataset([index % 2 for index in range(40)], ["a", "b"])
    hidden = make_dataset([-1] * 9, ["a", "b"])
    dataset = load(
        dataset_name=make_parquet({"train": train, "validation": train.select(range(8)), "test": hidden}),
        streaming=True,
    )
    assert dataset.record.splits["test"].source == "validation"


@pytest.mark.parametrize("values", [["b", "a"] * 20, [10, 2] * 20, [2.0, 10.0, None, 2.0] * 10, [[], ["b", "a"]] * 20])
def test_labels_without_class_lists_are_read_beforehand(load, make_parquet, values):
    values = [value for value in values if value is not None]
    folder = make_parquet({"train": make_dataset(values), "test": make_dataset(values[:12])}, files=2)
    stream, whole = (load(dataset_name=folder, streaming=streaming, train_val_split=0) for streaming in (True, False))
    assert stream.labels == whole.labels
    for role in ("train", "test"):
        rows = {row["sample_index"]: row["label"] for row in stream.splits[role]}
        assert [rows[index] for index in range(len(rows))] == list(whole.splits[role]["label"])
    assert "were read beforehand" in " ".join(stream.record.notes)


def test_hidden_labels_without_a_class_list_are_found(load, make_parquet):
    folder = make_parquet({"train": make_dataset([0, 1] * 20), "test": make_dataset([-1] * 10)})
    dataset = load(dataset_name=folder, streaming=True)
    assert dataset.record.splits["test"].source_split == "train"
    assert "none of its labels is given" in " ".join(dataset.record.notes)


def test_texts_of_several_labels_are_streamed(load, make_parquet):
    folder = make_parquet({"train": make_dataset(["a;b", "b", "", "c;a"] * 10)})
    dataset = load(dataset_name=folder, streaming=True, label_separator=";", train_val_split=0, test_split=0)
    rows = {row["sample_index"]: row["label"] for row in dataset.splits["train"]}
    assert [rows[index] for index in range(4)] == [[0, 1], [1], [], [0, 2]]


def test_class_names_of_streams_are_looked_at(load, make_parquet):
    train = make_dataset([0, 1] * 10, ["01", "1"])
    arguments = {"streaming": True, "train_val_split": 0}
    notes = load(dataset_name=make_parquet({"train": train, "test": train}), **arguments).record.notes
    assert any("'01' and '1'" in note for note in notes)
    folder = make_parquet({"train": train, "test": make_dataset([0, 1], ["01", "1.0"])}, "other")
    with pytest.raises(DataError, match=r"does not have: '1\.0' \('1\.0' is probably '1'\)"):
        load(dataset_name=folder, **arguments)


def test_missing_label_in_a_stream_names_the_sample(load, make_parquet):
    folder = make_parquet({"train": make_dataset([0, 1, 0, -1], ["a", "b"])})
    split = load(dataset_name=folder, streaming=True, test_split=0, train_val_split=0).splits["train"]
    with pytest.raises(DataError, match="sample 3 has the label -1"):
        list(split)


def test_files_that_are_not_parquet_cannot_be_streamed(load, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"csv files(.|\n)*refs/convert/parquet"):
        load(dataset_name=tmp_path / "texts", streaming=True)


def test_row_groups_are_cut_exactly():
    groups = np.array([[0, 0, 0, 10], [0, 1, 10, 10], [1, 0, 20, 5]])
    pieces = slice_groups(groups, 7, 22)
    assert pieces.tolist() == [[0, 0, 7, 3], [0, 1, 10, 10], [1, 0, 20, 2]]
    assert slice_groups(groups, 12, 14).tolist() == [[0, 1, 12, 2]]
    assert slice_groups(groups, 5, 5).tolist() == []
    for count in range(26):
        taken, rest = take_groups(groups, count, (0,))
        rows = [row for _, _, first, size in (*taken, *rest) for row in range(first, first + size)]
        assert taken[:, 3].sum() == count
        assert sorted(rows) == list(range(25))


def test_nothing_of_the_file_is_held_while_the_rows_of_a_group_are_used(make_parquet):
    folder = make_parquet({"train": make_dataset([0, 1] * 10, ["a", "b"])})
    url = str(next(folder.rglob("*.parquet")))
    files = open_parquet([url], None)
    rows = files.read_group(files.groups[0], 0, ["image"])
    assert next(rows)[0] == 0
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, RangeReader) and found.url == url]
