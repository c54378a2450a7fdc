"""The allow-list: what is on it goes up, what is not never does; and no text tells what it must not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from hf_imgcls.errors import PushError
from hf_imgcls.publish.files import check_model, list_names, read_files, select_checkpoint, select_published
from hf_imgcls.tokens import hide_secrets

PUBLISHED = {
    "config.json", "generation_config.json", "preprocessor_config.json", "model.safetensors",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors", "README.md", "recipe.yaml", "data.json",
    "run.json", "parity.json", "confusion_matrix.json", "all_results.json", "test_results.json", "report/report.json",
    "report/slices.png", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/README.md",
    "onnx/export.json", "onnx/model.onnx", "onnx/model.onnx_data", "openvino/export.json",
    "openvino/openvino_model.xml", "openvino/openvino_model.bin", "onnx_int8/export.json", "onnx_int8/sub/model.onnx",
    "report/report.html",
}  # fmt: skip
IMAGES = {"report/images/gallery-test-000001.png", "examples/1.png", "examples/2.jpg"}
PREDICTIONS = {"predictions_test.parquet", "predictions_validation.parquet"}
NEVER = {
    "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "model.pkl",
    "trainer_state.json", "bad_images.csv", "push.json", "manifest.json", "checkpoint-5/model.safetensors",
    "checkpoint-5/config.json", "runs/events.out.tfevents.1", "logs/run.log", "run.log", "space/app.py",
    "notes.md", "data_manifest.parquet", "adapter/notes.md", "adapter/adapter_model.bin", "onnx/weights.pt",
    "onnx/model.bin",
    "onnx/optimizer.pth", "openvino/other.bin", "tflite/model.tflite", "report/images/deep/x.png",
    "report/secret.txt", ".env", ".lock", ".cache/x.json", "report/.hidden.png", "onnx/.git/config.json",
    "examples/1.txt", "model-1-of-2.bin", "data/train.json",
    "torch_export/model.pt2", "torch_export/export.json", "torch_export/config.json",
}  # fmt: skip


def test_the_list():
    hashes = {"training_hashes.parquet"}
    everything = PUBLISHED | IMAGES | PREDICTIONS | NEVER | hashes
    assert select_published(everything) == PUBLISHED | IMAGES | PREDICTIONS | hashes
    assert select_published(everything, predictions=False) == PUBLISHED | IMAGES | hashes
    assert select_published(everything, images=False, hashes=False) == PUBLISHED | PREDICTIONS
    assert select_checkpoint(
        {"model.safetensors", "config.json", "optimizer.pt", "rng_state.pth", "trainer_state.json", "manifest.json",
         "adapter_model.safetensors", "training_args.bin", "sub/model.safetensors"}
    ) == {"model.safetensors", "config.json", "trainer_state.json", "adapter_model.safetensors"}  # fmt: skip


def test_neither_links_nor_hidden_files_are_seen(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (run, run / "report", run / ".hidden", outside / "onnx", outside / "report"):
        folder.mkdir(parents=True)
    (outside / "secret.json").write_text("{}")
    (outside / "onnx" / "export.json").write_text("{}")
    (run / "config.json").write_text("{}")
    (run / ".hidden" / "config.json").write_text("{}")
    (run / "data.json").symlink_to(outside / "secret.json")
    (run / "run.json").symlink_to(run / "config.json")
    (run / "parity.json").symlink_to(tmp_path / "nothing")
    (run / "onnx").symlink_to(outside / "onnx", target_is_directory=True)
    (run / "report" / "report.json").symlink_to(outside / "secret.json")
    os.mkfifo(run / "recipe.yaml")
    assert list_names(run) == {"config.json"}
    # A run that is itself reached by a link is the run.
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    assert list_names((tmp_path / "link").resolve()) == {"config.json"}


def test_a_model_is_whole(trained_run, tmp_path):
    import shutil

    run = shutil.copytree(trained_run, tmp_path / "run")
    names = select_published(list_names(run))
    check_model(run, names)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        with pytest.raises(PushError, match=re.escape(f"{name} is missing")):
            check_model(run, names - {name})
    weights = run / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-100], content[:3], b"\x80\x04." + content[3:], b""):
        weights.write_bytes(damaged)
        with pytest.raises(PushError, match="is damaged"):
            check_model(run, names)
    weights.unlink()
    (tmp_path / "elsewhere.safetensors").write_bytes(content)
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(PushError, match="is a symbolic link"):
        check_model(run, select_published(list_names(run)))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    (run / "model-00001-of-00002.safetensors").write_bytes(content)
    with pytest.raises(PushError, match=r"model-00002-of-00002\.safetensors is missing"):
        check_model(run, select_published(list_names(run)))


def read_texts(run, **texts):
    for name, text in texts.items():
        (run / name.replace("__", ".")).write_text(text)
    files = read_files(run, [name.replace("__", ".") for name in texts])
    return {
        file.name: (file.source if isinstance(file.source, bytes) else file.source.read_bytes()).decode()
        for file in files
    }


def test_local_paths_are_cut_to_their_last_part(tmp_path):
    run = tmp_path / "some folder" / "my_run"
    photos = tmp_path / "photos & more"
    for folder in (run, photos / "train"):
        folder.mkdir(parents=True)
    (photos / "a b.png").write_bytes(b"")
    recipe = f"output_dir: {run}\ntrain_dir: {photos}/train\nmodel_type: vit\nimage_mean: [0.5, 0.5, 0.5]\n"
    record = {"model": str(run), "labels": ["/a/abbey", "/b/bar", "</p>", "a/b"], "file": str(photos / "a b.png")}
    page = f"<p>{str(photos).replace('&', '&amp;')}/train</p></div><a href='https://host/x'>{run}</a>"
    texts = read_texts(
        run, recipe__yaml=recipe, report__json=json.dumps(record), report__html=page, README__md=f"`{run}/x`"
    )
    assert (
        texts["recipe.yaml"]
        == "output_dir: ./my_run\ntrain_dir: ./train\nmodel_type: vit\nimage_mean: [0.5, 0.5, 0.5]\n"
    )
    assert json.loads(texts["report.json"]) == record | {"model": "./my_run", "file": "./a b.png"}
    assert texts["report.html"] == "<p>./train</p></div><a href='https://host/x'>./my_run</a>"
    assert texts["README.md"] == "`./my_run/x`"
    assert str(tmp_path) not in "".join(texts.values())
    # What need not be changed goes up as the file that it is.
    (run / "data.json").write_text('{"labels": ["/a/abbey"]}')
    assert read_files(run, ["data.json"])[0].source == run / "data.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("made in /home/ana/photos", "line 2, holds a local path: /home/ana"),
        ("file:///Users/ana/x.png", "local path"),
        (r"C:\Users\ana\photos", "local path"),
        ("token: hf_abcdefghijklmnopqrstuvwxyz", "holds an access token"),
    ],
)
def test_what_still_tells_too_much_is_refused(tmp_path, text, reason):
    with pytest.raises(PushError, match=r"README\.md") as error:
        read_texts(tmp_path, README__md=f"# Title\n{text}\n")
    assert reason in str(error.value)
    assert "hf_abc" not in str(error.value)


def test_a_home_folder_of_any_name_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "ana"))
    (tmp_path / "run").mkdir()
    with pytest.raises(PushError, match="people/ana"):
        read_texts(tmp_path / "run", README__md=f"made in {tmp_path}/people/ana/photos")
    assert Path.home() == tmp_path / "people" / "ana"


def test_tokens_are_hidden_in_messages(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "an-odd-token")
    assert hide_secrets("with an-odd-token or hf_abcdefghijklmnopqrst") == "with <token> or <token>"
