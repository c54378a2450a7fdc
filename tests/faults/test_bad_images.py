"""A run on a folder of which one file in a hundred cannot be read."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest
from faults.processes import RUN, Run, read_json
from PIL import Image
from sklearn.datasets import load_digits

FLAGS = (
    *RUN[-4:], "--image_size", "16", "--per_device_train_batch_size", "16", "--use_cpu", "--disable_tqdm", "true",
    "--num_train_epochs", "1", "--train_val_split", "0.2", "--test_split", "0.2",
)  # fmt: skip


def tree_hash(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            digest.update(path.read_bytes() + str(path.stat().st_mtime_ns).encode())
    return digest.hexdigest()


@pytest.fixture
def photos(tmp_path):
    """500 real digits in class folders; five of the files are broken, each in its own way."""
    digits = load_digits()
    folder = tmp_path / "photos"
    for index, (pixels, label) in enumerate(zip(digits.images[:500], digits.target[:500], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / str(label) / f"{index:03}.png")
    paths = sorted(folder.rglob("*.png"))
    truncated, empty, text, flipped, missing = paths[3], paths[120], paths[210], paths[333], paths[480]
    truncated.write_bytes(truncated.read_bytes()[:40])
    empty.write_bytes(b"")
    text.write_text("<html>404</html>")
    content = bytearray(flipped.read_bytes())
    content[60] ^= 0xFF
    flipped.write_bytes(content)
    missing.unlink()
    missing.symlink_to("nowhere.png")
    return folder, [truncated, empty, text, flipped, missing]


def test_bad_images_stop_a_run_with_a_table(photos, tmp_path):
    folder, bad = photos
    before = tree_hash(folder)
    run = Run(*FLAGS, "--train_dir", folder, folder=tmp_path / "run")
    assert run.wait() == 2
    assert "5 " in run.output
    for path in bad:
        assert path.name in run.output
    assert "--on_bad_image skip" in run.output
    assert "Traceback" not in run.output
    assert tree_hash(folder) == before


@pytest.mark.slow
def test_bad_images_are_left_out_when_that_is_asked_for(photos, tmp_path):
    folder, bad = photos
    before = tree_hash(folder)
    run = Run(*FLAGS, "--train_dir", folder, "--on_bad_image", "skip", folder=tmp_path / "run")
    assert run.wait() == 0, run.output
    with (tmp_path / "run" / "bad_images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["file"].rpartition("/")[2] for row in rows} == {path.name for path in bad}
    assert all(row["split"] in ("train", "validation", "test") and row["reason"] for row in rows)
    data = read_json(tmp_path / "run" / "data.json")
    assert sum(split["num_examples"] for split in data["splits"].values()) == 495
    assert any("left out" in note for note in data["notes"])
    assert tree_hash(folder) == before
