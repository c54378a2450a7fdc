"""What finished stays what it was: a changed file of a finished run is named."""

from __future__ import annotations

import json
import shutil

import pytest
from publish.planted_runs import change_json, make_run, plant_run

from hf_imgcls.digests import (
    compute_checksum,
    describe_changes,
    find_changes,
    list_files,
    record_digests,
    recording,
    restate_digests,
    seal_run,
)
from hf_imgcls.errors import UserError
from hf_imgcls.records import RunRecord


@pytest.fixture
def sealed(tmp_path):
    """A finished run's folder with digests, and beside them what is no part of a run."""
    folder = plant_run(tmp_path / "run", run=make_run(state="running"))
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "predictions_test.parquet").write_bytes(b"table" * 100)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "export.json").write_text("{}")
    (folder / "onnx" / "model.onnx").write_bytes(b"graph")
    (folder / "README.md").write_text("card")
    (folder / "train.log").write_text("of the user's shell")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"weights")
    seal_run(folder)
    return folder


def flip(path, where=0):
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def test_every_file_of_a_finished_run_has_a_digest(sealed):
    record = RunRecord.load(sealed / "run.json")
    assert record.state == "finished"
    assert set(record.files) == set(list_files(sealed)) == {
        "config.json", "data.json", "model.safetensors", "onnx/export.json", "onnx/model.onnx", "parity.json",
        "predictions_test.parquet", "preprocessor_config.json", "recipe.yaml", "report/report.json",
        "test_results.json", "train_results.json", "trainer_state.json",
    }  # fmt: skip
    assert find_changes(sealed) == {}


def test_each_file_is_named_when_one_bit_of_it_changes(sealed):
    names = list_files(sealed)
    assert len(names) > 10
    for name in names:
        flip(sealed / name)
        assert find_changes(sealed) == {name: "was changed"}
        assert name in describe_changes(find_changes(sealed))
        flip(sealed / name)
    assert describe_changes(find_changes(sealed)) == ""


def test_same_size_and_time_do_not_hide_a_change(sealed):
    import os

    path = sealed / "model.safetensors"
    before = path.stat()
    flip(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(find_changes(sealed)) == ["model.safetensors"]


def test_missing_shortened_and_added_files_are_named(sealed):
    (sealed / "parity.json").unlink()
    (sealed / "predictions_test.parquet").write_bytes(b"table" * 50)
    for name in ("adapter_config.json", "adapter_model.bin", "eval_results.json", "onnx/adapter_config.json"):
        (sealed / name).write_text("{}")
    assert find_changes(sealed) == {
        "parity.json": "is missing",
        "predictions_test.parquet": "was changed",
        "adapter_config.json": "was added",
        "adapter_model.bin": "was added",
        "eval_results.json": "was added",
        "onnx/adapter_config.json": "was added",
    }


def test_what_is_the_users_may_change(sealed):
    (sealed / "README.md").write_text("card with notes of the author's")
    (sealed / "train.log").write_text("more lines")
    (sealed / "notes.txt").write_text("mine")
    (sealed / "notes.json").write_text("{}")
    for name in ("embeddings.parquet", "cluster_centres.safetensors"):
        (sealed / name).write_bytes(b"of the user's own")
    shutil.rmtree(sealed / "checkpoint-5")
    shutil.rmtree(sealed / "onnx")
    (sealed / "runs").mkdir()
    (sealed / "runs" / "events.json").write_text("{}")
    (sealed / "push.json").write_text("{}")
    (sealed / "comparison.json").write_text("{}")
    assert find_changes(sealed) == {}


def test_the_record_itself_is_held_by_a_checksum_that_outlives_new_fields(sealed):
    change_json(sealed / "run.json", seed=43)
    assert find_changes(sealed) == {"run.json": "was changed"}
    content = json.loads((sealed / "run.json").read_text()) | {"seed": 42, "a_field_of_a_later_release": [1]}
    content["checksum"] = compute_checksum(content)
    (sealed / "run.json").write_text(json.dumps(content))
    assert find_changes(sealed) == {}


def test_folders_without_digests_are_taken_as_they_are(tmp_path):
    assert find_changes(tmp_path) == {}
    folder = plant_run(tmp_path / "older")
    (folder / "config.json").write_text("{}")
    record_digests(folder, ["config.json"])
    with recording(folder):
        (folder / "test_results.json").write_text("{}")
    assert find_changes(folder) == {}
    assert RunRecord.load(folder / "run.json").files == {}


def test_a_record_that_is_damaged_or_somebody_elses(sealed, tmp_path):
    (tmp_path / "run.json").write_text('{"name": "an experiment of another tool"}')
    assert find_changes(tmp_path) == {}
    content = (sealed / "run.json").read_text()
    for damaged in (content[:-100], content.replace('"files": {', '"files": [{', 1), "\x00"):
        (sealed / "run.json").write_text(damaged)
        assert find_changes(sealed) == {"run.json": "cannot be read"}


def test_a_stage_that_writes_the_same_bytes_again_has_written_them(sealed):
    """As after a kill between the last file and its digest: the stage is run again, and gives what it gave before."""
    (sealed / "predictions_test.parquet").write_bytes(b"measured again")
    (sealed / "onnx" / "config.json").write_text("{}")
    assert set(find_changes(sealed)) == {"predictions_test.parquet", "onnx/config.json"}
    with recording(sealed):
        (sealed / "predictions_test.parquet").write_bytes(b"measured again")
        (sealed / "onnx" / "config.json").unlink()
        (sealed / "onnx" / "config.json").write_text("{}")
    assert find_changes(sealed) == {}


def test_a_damaged_record_stops_a_stage_before_it_writes(sealed):
    (sealed / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"), recording(sealed):
        pytest.fail("nothing may be written")


def test_a_stage_may_rewrite_files_and_hides_nobody_elses_change(sealed):
    flip(sealed / "config.json")
    change_json(sealed / "report" / "report.json", split="edited")
    with recording(sealed, amends=("report/*",)):
        (sealed / "test_results.json").write_text("{}")
        (sealed / "onnx" / "model.onnx").write_bytes(b"another graph")
        (sealed / "openvino").mkdir()
        (sealed / "openvino" / "export.json").write_text("{}")
        (sealed / "parity.json").unlink()
        change_json(sealed / "report" / "report.json", exports=[])
    assert set(find_changes(sealed)) == {"config.json", "report/report.json"}
    assert "openvino/export.json" in RunRecord.load(sealed / "run.json").files
    # What is written anew is no longer what somebody has changed.
    with recording(sealed):
        change_json(sealed / "report" / "report.json", exports=[1])
    assert set(find_changes(sealed)) == {"config.json"}


def test_a_stage_that_fails_has_recorded_what_it_wrote(sealed):
    def fail():
        with recording(sealed):
            (sealed / "test_results.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert find_changes(sealed) == {}


def test_a_copy_with_some_files_and_cleaned_texts_is_as_it_was_published(sealed, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    published = {name: sealed / name for name in ("config.json", "model.safetensors", "data.json")}
    published["data.json"] = b"{}"
    for name, source in published.items():
        (copy / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    (copy / "run.json").write_text(restate_digests((sealed / "run.json").read_text(), published))
    assert set(RunRecord.load(copy / "run.json").files) == set(published)
    assert find_changes(copy) == {}
    flip(copy / "config.json")
    assert list(find_changes(copy)) == ["config.json"]
