"""A finished run whose folder somebody has edited: each command names the file before it uses or repeats anything."""

from __future__ import annotations

import json
import shutil

import pytest
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from publish.planted_runs import change_json

from hf_imgcls.digests import find_changes

FLAGS = (*SMALL_DIGITS, *TINY_VIT, "--max_steps", "4")


def _swap_names(folder):
    names = json.loads((folder / "config.json").read_text())["id2label"]
    change_json(folder / "config.json", id2label=names | {"3": names["4"], "4": names["3"]})


def _flip_weights(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    for position in range(len(content) - 4_000, len(content), 10):
        content[position] ^= 0xFF
    (folder / "model.safetensors").write_bytes(content)


def _truncate_predictions(folder):
    content = (folder / "predictions_test.parquet").read_bytes()
    (folder / "predictions_test.parquet").write_bytes(content[: len(content) // 2])


def _change(name, **changes):
    return name, lambda run: change_json(run / name, **changes)


EDITS = {
    "no rescaling": _change("preprocessor_config.json", do_rescale=False),
    "another mean": _change("preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
    "another resampling": _change("preprocessor_config.json", resample=0),
    "two names swapped": ("config.json", _swap_names),
    "400 flipped bytes": ("model.safetensors", _flip_weights),
    "a better result": _change("test_results.json", test_accuracy=0.99),
    "half of the predictions": ("predictions_test.parquet", _truncate_predictions),
    "an adapter": ("adapter_config.json", lambda run: (run / "adapter_config.json").write_text("{}")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from faults.processes import Run

    run = Run(*FLAGS, folder=tmp_path_factory.mktemp("finished") / "run")
    assert run.wait() == 0, run.output
    return run.folder


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_named_by_finetune_again_and_refused_by_push(edit, finished, run_recipe, tmp_path, caplog):
    name, apply = EDITS[edit]
    folder = shutil.copytree(finished, tmp_path / "run")
    again = (*FLAGS, "--output_dir", folder)
    # The recipe names the folder that it was trained in.
    record = json.loads((folder / "run.json").read_text())
    assert find_changes(folder) == {}
    whole = run_recipe("push", folder, "--hub_model_id", "me/digits", "--dry_run", "--verify", "false")
    assert whole.exit_code == 0, whole.err
    apply(folder)
    assert list(find_changes(folder)) == [name]

    pushed = run_recipe("push", folder, "--hub_model_id", "me/digits", "--dry_run", "--verify", "false")
    assert pushed.exit_code == 2
    assert f"Since the run finished, {name} " in pushed.err
    assert "Would push" not in pushed.out
    repeated = run_recipe("finetune", *again)
    assert repeated.exit_code == record["exit_code"] == 0
    assert "is finished" in repeated.err
    assert f"Since the run finished, {name} " in repeated.err
    tables = run_recipe("measure", "--compare", folder, finished, "--output_dir", tmp_path / "compared")
    assert f"Since the run finished, {name} " in caplog.text
    assert tables.exit_code == 2 or f"note: Since the run finished, {name} " in tables.out


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_named_before_it_is_measured_or_exported(edit, finished, run_recipe, tmp_path, caplog):
    name, apply = EDITS[edit]
    folder = shutil.copytree(finished, tmp_path / "run")
    apply(folder)
    measured = run_recipe("measure", "--model_name_or_path", folder, "--output_dir", tmp_path / "measured")
    assert f"Since the run finished, {name} " in caplog.text
    assert measured.exit_code != 0 or "note: Since the run finished" in measured.out
    caplog.clear()
    exported = run_recipe("export", folder, "--formats", "torch_export")
    assert f"Since the run finished, {name} " in caplog.text
    assert find_changes(folder).keys() == {name}  # an export hides nothing
    if exported.exit_code == 0:
        assert "note: Since the run finished" in exported.out
        card = (folder / "README.md").read_text()
        assert "Files were changed after the run finished" in card
        assert "model-index" not in card


@pytest.mark.slow
def test_measuring_into_the_folder_repairs_records_but_not_the_model(finished, run_recipe, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    change_json(folder / "test_results.json", test_accuracy=0.99)
    change_json(folder / "all_results.json", test_accuracy=0.99)
    _truncate_predictions(folder)
    run = run_recipe("measure", "--model_name_or_path", folder, "--output_dir", folder)
    assert run.exit_code == 0, run.err
    assert find_changes(folder) == {}
    for name in ("test_results.json", "all_results.json"):
        before, after = (json.loads((place / name).read_text()) for place in (finished, folder))
        assert after["test_accuracy"] == pytest.approx(before["test_accuracy"])
        assert after.keys() == before.keys()
    _swap_names(folder)
    run_recipe("measure", "--model_name_or_path", folder, "--output_dir", folder)
    assert find_changes(folder).keys() >= {"config.json"}
