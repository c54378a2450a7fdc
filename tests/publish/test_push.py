"""From a trained run to the Hub, and back as a consumer gets it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import textwrap

import numpy as np
import pytest
from hub import run_client
from lifecycle.command_lines import SMALL_DIGITS
from publish.conftest import CLIENT, TOKEN, read_json
from publish.planted_runs import plant_export
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from hf_imgcls.digests import seal_run
from hf_imgcls.publish.files import select_images
from hf_imgcls.records import PushRecord

SEEN = """
import json
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.manifest import Manifest
from hf_imgcls.classifier.source import find_manifest

path = find_manifest("me/digits", DataArguments(), "main")
splits = Manifest.load(path).images["split"].to_pylist() if path else []
print(json.dumps({name: splits.count(name) for name in sorted(set(splits))}))
"""
CONSUMER = """
import json, sys
from transformers import AutoModelForImageClassification, pipeline
classifier = pipeline("image-classification", model="me/digits")
assert not any(name.split(".")[0] == "hf_imgcls" for name in sys.modules)
answers = [classifier(path, top_k=10) for path in {paths!r}]
model = AutoModelForImageClassification.from_pretrained("me/digits", revision="v1")
print(json.dumps({{"answers": answers, "labels": model.config.id2label}}))
"""
EXPECTED = {
    "README.md", "all_results.json", "config.json", "confusion_matrix.json", "data.json", "eval_results.json",
    "examples/1.png", "examples/2.png", "examples/3.png", "model.safetensors", "parity.json",
    "preprocessor_config.json", "recipe.yaml", "report/classes.png", "report/confusion.png", "report/imbalance.png",
    "report/reliability.png", "report/report.html", "report/report.json", "report/risk_coverage.png", "run.json",
    "test_results.json", "train_results.json",
}  # fmt: skip


def without_gallery(names):
    return {name for name in names if not name.startswith("report/images/")}


@pytest.mark.slow
def test_push_verify_and_consume(pushing, run, tmp_path):
    """Dry run, push with a tag, verified; then another process with an empty cache and nothing but transformers."""
    flags = (run, "--hub_model_id", "me/digits", "--license", "apache-2.0", "--publish_images")
    dry = pushing.run_recipe("push", *flags, "--dry_run")
    assert not pushing.hub.repositories
    assert all(request.method == "GET" for request in pushing.hub.requests)
    listed = [line.split()[:2] for line in dry.stdout.splitlines() if line[:2] == "  " and line.split()[0][0].isdigit()]
    sizes = {name: int(size.replace(",", "")) for size, name in listed if name != "bytes"}
    assert "me/digits is not there yet" in dry.stdout
    assert "Stays here: checkpoint-6/, data_manifest.parquet, predictions_test.parquet" in dry.stdout
    assert "examples/1.png  (an image of the dataset)" in dry.stdout
    assert "report/report.html  (with images of the dataset)" in dry.stdout
    verified = (
        r"served = scored       61 of 61 arrays, given as PNG, pipeline of transformers .*, from the staged files"
    )
    assert re.search(verified, dry.stdout)

    pushed = pushing.run_recipe("push", *flags, "--hub_tag", "v1")
    before, after = pushed.stdout.split("\n  pushed  ")
    assert re.search(verified, before)
    assert f"{len(sizes)}, byte for byte the staged ones" in after
    assert re.search(
        r"served = scored       32 of 32 arrays, given as PNG, pipeline of transformers .*, from the Hub", after
    )
    repository = pushing.repository
    tree = repository.tree()
    assert repository.token == TOKEN  # private
    assert pushing.titles() == ["initial commit", "Upload image classifier"]
    assert repository.tags["v1"] == repository.branches["main"]
    assert without_gallery(tree) == EXPECTED | {".gitattributes"}
    assert any(name.startswith("report/images/gallery-test-") for name in tree)
    assert {name: blob.size for name, blob in tree.items() if name != ".gitattributes"} == sizes
    assert tree["model.safetensors"].sha256 == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert str(run).encode() not in b"".join(pushing.hub.read("me/digits", name) for name in tree)
    assert b"output_dir: ./digits\n" in pushing.hub.read("me/digits", "recipe.yaml")

    record = PushRecord.load(run / "push.json")
    assert (record.repo_id, record.revision, record.tag) == ("me/digits", repository.branches["main"], "v1")
    assert record.parity is not None
    assert (record.parity.num_examples, record.parity.num_agreeing) == (61, 61)
    assert set(record.files) == set(sizes)

    # Nobody of ours: an image of the widget's examples, asked for as a stranger would.
    images = [str(tmp_path / f"{number}.png") for number in (1, 2, 3)]
    for path in images:
        (tmp_path / path).write_bytes(pushing.hub.read("me/digits", f"examples/{os.path.basename(path)}"))
    found = run_client(CONSUMER.format(paths=images), pushing.hub, tmp_path / "elsewhere", **CLIENT)
    classifier = pipeline("image-classification", model=str(run))
    for path, answer in zip(images, found["answers"], strict=True):
        here = classifier(path, top_k=10)
        assert [item["label"] for item in answer] == [item["label"] for item in here]
        assert [item["score"] for item in answer] == pytest.approx([item["score"] for item in here], abs=1e-6)


def test_the_widget_shows_what_the_repository_holds(pushing, run):
    import yaml

    pushing.run_recipe("push", run, "--hub_model_id", "me/digits", "--verify", "false", "--publish_images")
    card = pushing.hub.read("me/digits", "README.md").decode()
    widget = yaml.safe_load(card.split("---\n")[1])["widget"]
    assert len(widget) == 3
    prefix = f"{pushing.hub.url}/me/digits/resolve/main/"
    names = [item["src"].removeprefix(prefix) for item in widget]
    assert all(name in pushing.repository.tree() for name in names)
    labels = set(read_json(run / "data.json")["labels"])
    assert {item["example_title"] for item in widget} <= labels
    assert len({item["example_title"] for item in widget}) == 3

    # Without being asked for, no image is there; those of an earlier push go, and nothing else does.
    before = set(pushing.repository.tree())
    assert "error" not in pushing.push(run)
    gone = before - set(pushing.repository.tree())
    assert gone == select_images(before)
    assert {name.split("/")[0] for name in gone} == {"examples", "report"}
    assert "widget" not in pushing.hub.read("me/digits", "README.md").decode().split("---\n")[1]


def test_a_later_push_replaces_what_is_ours_and_nothing_else(pushing, run):
    plant_export(run)
    seal_run(run)
    first = pushing.push(run)
    theirs = {"LICENSE": b"theirs", "openvino/openvino_model.bin": b"theirs", "notes/about.md": b"theirs"}
    pushing.hub.commit(pushing.repository, theirs, title="By hand")
    for path in (run / "onnx").iterdir():
        path.unlink()
    (run / "onnx").rmdir()
    second = pushing.push(run, "--commit_message", "Without ONNX", "--hub_tag", "v2")
    assert pushing.titles() == ["initial commit", "Upload image classifier", "By hand", "Without ONNX"]
    assert first["revision"] != second["revision"]
    tree = pushing.repository.tree()
    assert theirs.keys() <= tree.keys()
    assert not any(name.startswith("onnx/") for name in tree)
    assert "onnx/model.onnx" in pushing.repository.tree(first["revision"])


def test_hashes_of_training_images_are_published_only_when_asked_and_found_by_who_goes_on(pushing, run):
    names = {"training_hashes.parquet", "data_manifest.parquet"}
    pushing.push(run)
    assert not names & pushing.repository.tree().keys()
    assert pushing.run_code(SEEN) == {}
    pushing.push(run, "--publish_hashes", "true")
    assert names & pushing.repository.tree().keys() == {"training_hashes.parquet"}
    assert pushing.run_code(SEEN) == {"train": 256, "validation": 61}
    pushing.push(run, "--commit_message", "Without")
    assert not names & pushing.repository.tree().keys()
    (run / "data_manifest.parquet").unlink()
    seal_run(run)
    assert "has no data_manifest.parquet" in pushing.push(run, "--publish_hashes", "true")["error"]


def test_a_taken_tag_is_told_before_anything_is_sent(pushing, run):
    pushing.push(run, "--hub_tag", "v1")
    pushing.push(run, "--license", "mit")
    head = pushing.repository.branches["main"]
    error = pushing.push(run, "--license", "apache-2.0", "--hub_tag", "v1")["error"]
    assert "has a tag 'v1' already" in error
    assert pushing.repository.branches["main"] == head
    # The same tag at the same commit is what was asked for.
    pushing.push(run, "--license", "apache-2.0", "--hub_tag", "v3")
    before = pushing.titles()
    assert "error" not in pushing.push(run, "--license", "apache-2.0", "--hub_tag", "v3")
    assert pushing.titles() == before  # nothing had changed


def test_branches_pull_requests_and_visibility(pushing, run):
    opened = pushing.push(run, "--public")
    assert pushing.repository.token is None
    branch = pushing.push(run, "--hub_revision", "next", "--license", "mit")
    assert pushing.repository.branches["next"] == branch["revision"]
    assert pushing.repository.branches["main"] == opened["revision"]
    proposal = pushing.push(run, "--create_pr", "--license", "apache-2.0")
    assert pushing.repository.pull_requests == {"refs/pr/1": proposal["revision"]}
    assert proposal["url"] == f"{pushing.hub.url}/me/digits/discussions/1"
    assert pushing.repository.branches["main"] == opened["revision"]
    # Private by default, opened when that is asked for.
    team = "--hub_model_id", "team/digits"
    pushing.push(run, *team)
    assert pushing.hub.find("team/digits").token == TOKEN
    pushing.push(run, *team, "--public")
    assert pushing.hub.find("team/digits").token is None
    pushing.push(run, "--hub_model_id", "open", "--hub_private_repo", "false")
    assert pushing.hub.find("me/open").token is None


def test_large_files_go_up_in_parts(pushing, run):
    pushing.hub.multipart_bytes = 30_000
    assert "error" not in pushing.push(run)
    assert pushing.hub.read("me/digits", "model.safetensors") == (run / "model.safetensors").read_bytes()
    weights = pushing.repository.tree()["model.safetensors"].sha256
    assert sorted(pushing.hub.parts[weights]) == [1, 2, 3]


def swap_labels(run):
    config = read_json(run / "config.json")
    names = config["id2label"]
    names["0"], names["1"] = names["1"], names["0"]
    (run / "config.json").write_text(json.dumps(config))


def change_weights(run):
    tensors = load_file(run / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"] * -50
    save_file(tensors, run / "model.safetensors", metadata={"format": "pt"})


def change_processor(run):
    path = run / "preprocessor_config.json"
    path.write_text(json.dumps(read_json(path) | {"image_mean": [9.0, 9.0, 9.0], "image_std": [0.1, 0.1, 0.1]}))


_PUSH_ALL = """
import json
from pathlib import Path
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import UserError
from hf_imgcls.publish.hub import push_run

errors = []
for argv in {lines!r}:
    args = parse_arguments([*argv, "--hub_model_id", "me/digits"], groups=("publish", "push"), positional="run")
    try:
        push_run(Path(args.publish.run), args)
    except UserError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_wrong_model_is_never_pushed(pushing, run, tmp_path):
    """What was changed after scoring is found before anything is sent, and by a dry run as well."""
    lines = []
    for change in (swap_labels, change_weights, change_processor):
        change(folder := shutil.copytree(run, tmp_path / change.__name__))
        seal_run(folder)  # as if the run had ended with it
        lines.append([str(folder)])
    lines[-1].append("--dry_run")
    errors = pushing.run_code(_PUSH_ALL.format(lines=lines))
    assert len(errors) == len(lines)
    assert all(error.startswith("nothing was pushed: the ") for error in errors), errors
    assert {request.method for request in pushing.hub.requests} <= {"GET", "HEAD"}
    assert not pushing.hub.repositories
    assert not list(tmp_path.glob("*/push.json"))
    assert not list(tmp_path.glob("*/.staged-*"))


def test_the_report_is_published_without_pictures_unless_asked(pushing, run):
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    pictures = [path.read_bytes() for path in (run / "report" / "images").glob("*.png")]
    assert pictures
    assert all(base64.b64encode(picture).decode() in page for picture in pictures)
    assert "error" not in pushing.push(run)
    published = pushing.hub.read("me/digits", "report/report.html").decode()
    assert "data:image" not in published
    assert page.count("<svg") == published.count("<svg") > 0
    assert not select_images(pushing.repository.tree())
    card = pushing.hub.read("me/digits", "README.md").decode()
    assert "images are shown here" not in card
    assert "[report/report.html](report/report.html)" in card
    assert "error" not in pushing.push(run, "--publish_images", "true")
    published = pushing.hub.read("me/digits", "report/report.html").decode()
    assert all(base64.b64encode(picture).decode() in published for picture in pictures)
    number = len(select_images(pushing.repository.tree()))
    assert number == len(pictures) + 3
    assert f"{number} of its images are shown here" in pushing.hub.read("me/digits", "README.md").decode()


_VERIFY = """
import json
from pathlib import Path
from hf_imgcls.publish.verify import recall_data, verify_staged
moved, *folders = [Path(name) for name in {folders!r}]
reasons = [verify_staged(folder, folder, recall_data(folder)) for folder in folders]
print(json.dumps([recall_data(moved).reason, *reasons]))
"""


def test_what_cannot_be_verified_is_said(pushing, run, tmp_path):
    unmeasured, moved, changed = (shutil.copytree(run, tmp_path / name) for name in ("unmeasured", "moved", "changed"))
    for path in unmeasured.glob("predictions_*.parquet"):
        path.unlink()
    (moved / "recipe.yaml").write_text("train_dir: gone\n")
    record = (changed / "data.json").read_text()
    (changed / "data.json").write_text(record.replace('"fingerprint": "', '"fingerprint": "0'))
    reasons = pushing.run_code(_VERIFY.format(folders=[str(moved), str(unmeasured), str(changed)]))
    for reason, expected in zip(
        reasons,
        ("the run's data cannot be loaded", "has no predictions to compare with", "has other images"),
        strict=True,
    ):
        assert expected in reason
    assert not pushing.hub.requests


@pytest.mark.slow
def test_evaluator(pushing, run, tmp_path):
    """``evaluate.evaluator`` on what was pushed (on transformers 4; on 5 it cannot be imported)."""
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5:
        pytest.skip("evaluate.evaluator needs transformers 4")
    pushing.push(run, "--publish_images", "true")
    code = """
    import json
    from datasets import ClassLabel, Dataset, Features, Image
    from evaluate import evaluator
    from transformers import pipeline
    labels = [str(digit) for digit in range(10)]
    features = Features({"image": Image(), "label": ClassLabel(names=labels)})
    paths = %r
    data = Dataset.from_dict({"image": paths, "label": [0] * len(paths)}, features=features)
    classifier = pipeline("image-classification", model="me/digits")
    import sklearn.metrics
    from evaluate import Metric, MetricInfo
    import datasets
    class Accuracy(Metric):
        def _info(self):
            kinds = Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
            return MetricInfo(description="", citation="", inputs_description="", features=kinds)
        def _compute(self, predictions, references):
            return {"accuracy": sklearn.metrics.accuracy_score(references, predictions)}
    result = evaluator("image-classification").compute(
        classifier, data, metric=Accuracy(), label_mapping=classifier.model.config.label2id
    )
    first = [classifier(path)[0]["label"] for path in paths]
    print(json.dumps([result["accuracy"], sum(label == "0" for label in first) / len(first)]))
    """
    paths = []
    for number in (1, 2, 3):
        paths.append(str(tmp_path / f"{number}.png"))
        (tmp_path / f"{number}.png").write_bytes(pushing.hub.read("me/digits", f"examples/{number}.png"))
    ours, theirs = pushing.run_code(textwrap.dedent(code) % paths)
    assert ours == theirs


_ADAPTER = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification
base = AutoModelForImageClassification.from_pretrained({base!r}).eval()
adapted = AutoModelForImageClassification.from_pretrained({base!r})
adapted = PeftModel.from_pretrained(adapted, "me/digits", subfolder="adapter").eval()
merged = AutoModelForImageClassification.from_pretrained("me/digits").eval()
pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    print(json.dumps([model(pixel_values=pixels).logits.tolist() for model in (adapted, merged, base)]))
"""


@pytest.mark.slow
def test_an_adapter_is_published_beside_the_merged_model(pushing, trained_run, tmp_path):
    run = tmp_path / "lora"
    pushing.run_recipe(
        "finetune", *SMALL_DIGITS, "--model_name_or_path", trained_run, "--adaptation", "lora", "--max_steps", "4",
        "--learning_rate", "0.1", "--output_dir", run, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert "error" not in pushing.push(run)
    names = {name for name in pushing.repository.tree() if name.startswith("adapter/")}
    assert names == {"adapter/README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert str(tmp_path) not in pushing.hub.read("me/digits", "adapter/adapter_config.json").decode()
    record = json.loads(pushing.hub.read("me/digits", "run.json"))
    assert (record["base_model"], record["base_model_revision"]) == (f"./{trained_run.name}", None)
    adapted, merged, base = np.array(pushing.run_code(_ADAPTER.format(base=str(trained_run))))
    np.testing.assert_allclose(adapted, merged, atol=1e-4)
    assert np.abs(base - merged).max() > 0.01
