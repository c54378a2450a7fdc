"""Streams from the Hub: which bytes are fetched, and which datasets can be streamed."""

import io
import subprocess
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from hub import run_client, serve_hub

ROWS_PER_GROUP = 20

READING = """
import itertools, json, os
from torch.utils.data import DataLoader
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.load import load_image_dataset

def open_stream(name, **options):
    dataset = load_image_dataset(DataArguments(dataset_name=name, streaming=True, **options))
    for split in dataset.splits.values():
        split.set_batch_size(8)
    return dataset

def read(split, num_workers=0, batches=None):
    loader = DataLoader(split, batch_size=8, num_workers=num_workers, collate_fn=len)
    return sum(itertools.islice(loader, batches))
"""


def write_noise(count, seed):
    """A parquet file of images that no compression makes smaller, 8 KB each, in row groups of 20."""
    random = np.random.RandomState(seed)
    rows = {
        "image": [{"bytes": random.bytes(8000), "path": None} for _ in range(count)],
        "label": [index % 2 for index in range(count)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(buffer, batch_size=ROWS_PER_GROUP)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Bytes that a Hub has sent: for a few steps, and for three epochs with validation after each."""
    folder = tmp_path_factory.mktemp("hub")
    train, validation = write_noise(600, 0), write_noise(100, 1)
    with serve_hub(folder) as hub:
        for name in ("epochs", "steps"):
            files = {
                f"{split}.parquet": {"train": train, "validation": validation}[split]
                for split in ("train", "validation")
            }
            files |= {"test.parquet": write_noise(20, 2)}
            hub.commit(hub.create_repository("dataset", f"org/{name}"), files)
        run = f"{READING}\nprint(json.dumps(" + "[{}]))"
        found = {}
        steps = "read(open_stream('org/steps', shuffle_buffer_size=16).splits['train'], batches=3)"
        found["rows of steps"] = run_client(run.format(steps), hub, folder / "home")
        found["steps"] = hub.count_bytes("train.parquet")
        epochs = (
            "[(split.set_epoch(epoch), read(split, num_workers=2))[1] for dataset in [open_stream('org/epochs')] "
            "for epoch in range(3) for split in (dataset.splits['train'], dataset.splits['validation'])]"
        )
        hub.bytes_sent.clear()
        requests = len(hub.requests)
        found["rows of epochs"] = run_client(run.format(epochs), hub, folder / "home")
        found["epochs"] = {split: hub.count_bytes(f"{split}.parquet") for split in ("train", "validation")}
        found["requests"] = len(hub.requests) - requests
        left = [path for path in (folder / "home").rglob("*") if "hf_imgcls_stream" in path.name]
        yield SimpleNamespace(found=found, sizes={"train": len(train), "validation": len(validation)}, left=left)


def test_a_few_steps_read_a_few_row_groups(session):
    assert session.found["rows of steps"] == [24]
    group = session.sizes["train"] * ROWS_PER_GROUP / 600
    # Batches take turns at lanes, and a buffer of 16 rows reads from up to eight row groups by turns.
    assert session.found["steps"] < 3 * 8 * group + 2**17 < session.sizes["train"]


def test_epochs_read_the_bytes_about_once(session):
    assert session.found["rows of epochs"] == [[600, 100] * 3]
    for split, size in session.sizes.items():
        assert size <= session.found["epochs"][split] < 1.3 * size, split
    assert session.left == []


def test_a_cache_whose_last_reader_dies_in_another_thread_goes_when_the_process_ends(tmp_path):
    """Removing files there, while the interpreter shuts down, aborted the process."""
    code = """
import sys, threading
from pathlib import Path
from hf_imgcls.data.ranges import RangeCache

caches = [RangeCache(Path(sys.argv[1]))]
caches[0].put("key", b"content")
thread = threading.Thread(target=caches.clear)
thread.start()
thread.join()
print(len(list(Path(sys.argv[1]).iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
    assert list(tmp_path.iterdir()) == []
