"""A stranger's model folder is what it seems: an adapter redirects nothing, and nonsense is refused in one sentence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from classifier.test_source import save_model
from hub import run_client, serve_hub
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.pipeline import load_pipeline
from hf_imgcls.compat import models as compat
from hf_imgcls.errors import ModelError, PushError
from hf_imgcls.fit.distill import build_distiller
from hf_imgcls.fit.model import build_model, check_model
from hf_imgcls.publish.files import check_model as check_published
from hf_imgcls.publish.files import list_names

DATA = DataArguments()
OPENED = "opened.txt"


class _Pickle:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved classifier."""
    folder = tmp_path_factory.mktemp("models") / "good"
    save_model(folder, 1.0)
    return folder


@pytest.fixture
def folder(model, tmp_path):
    """One of the test's own."""
    return shutil.copytree(model, tmp_path / "model")


def plant_adapter(folder, base, opened):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["query"]})
    )
    torch.save({"a": _Pickle(opened)}, folder / "adapter_model.bin")


LOADING = {
    "fine-tuning": lambda name: build_model(FitArguments(model_name_or_path=name), DATA, ["a", "b"]),
    "its check": lambda name: check_model(FitArguments(model_name_or_path=name), DATA),
    "measuring": lambda name: load_classifier(name),
    "a teacher": lambda name: build_distiller(FitArguments(teacher_model=name), DATA, ["a", "b"], None),
    "a consumer": load_pipeline,
}


@pytest.mark.parametrize("way", LOADING)
@pytest.mark.parametrize("has_weights", [True, False])
def test_an_adapter_never_redirects_to_another_model_and_opens_no_pickle(way, has_weights, folder, model, tmp_path):
    plant_adapter(folder, model, tmp_path / OPENED)
    if not has_weights:
        (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json") as caught:
        LOADING[way](str(folder))
    assert str(model) in str(caught.value)  # the base is named
    assert not (tmp_path / OPENED).exists()


def test_an_adapter_beside_the_model_is_not_published(folder, model, tmp_path):
    check_published(folder, list_names(folder))
    plant_adapter(folder, model, tmp_path / OPENED)
    with pytest.raises(PushError, match=r"adapter_config\.json"):
        check_published(folder, list_names(folder))


_ON_THE_HUB = """
import json
from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.distill import build_distiller
from hf_imgcls.fit.model import build_model
from hf_imgcls.classifier.loading import load_classifier

def attempt(load):
    try:
        load()
    except ModelError as error:
        return str(error)
    return "loaded"

data, name = DataArguments(), "org/redirected"
print(json.dumps([
    attempt(lambda: build_model(FitArguments(model_name_or_path=name), data, ["a", "b"])),
    attempt(lambda: load_classifier(name)),
    attempt(lambda: build_distiller(FitArguments(teacher_model=name), data, ["a", "b"], None)),
    attempt(lambda: load_classifier("org/later", REVISION)),
    attempt(lambda: load_classifier("org/other")),
]))
"""


def test_an_adapter_on_the_hub_is_refused_also_from_the_cache(folder, model, tmp_path):
    with serve_hub(tmp_path / "hub") as hub:
        hub.commit_folder(hub.create_repository("model", "org/other"), model)
        plant_adapter(folder, "org/other", tmp_path / OPENED)
        hub.commit_folder(hub.create_repository("model", "org/redirected"), folder)
        # transformers 4.57 looks for an adapter on the main branch, whatever the revision.
        later = hub.create_repository("model", "org/later")
        code = f"REVISION = {hub.commit_folder(later, model)!r}\n{_ON_THE_HUB}"
        hub.commit(later, {"adapter_config.json": (folder / "adapter_config.json").read_bytes()})
        answers = run_client(code, hub, tmp_path / "home", HF_HUB_DISABLE_XET="1")
        assert answers[-1] == "loaded"
        assert len(answers) == 5
        for answer in answers[:-1]:
            assert "' has adapter_config.json" in answer
            assert "'org/other'" in answer
        asked = [request.path for request in hub.requests if "org/redirected" in request.path]
        assert not [path for path in asked if path.endswith((".bin", ".safetensors"))]
        # Offline, also where nobody has noted in the cache that a repository has no adapter.
        noted = list((tmp_path / "home").rglob(".no_exist"))
        for folder_of_notes in noted:
            shutil.rmtree(folder_of_notes)
        assert run_client(code, hub, tmp_path / "home", HF_HUB_OFFLINE="1") == answers
    assert not (tmp_path / OPENED).exists()


def change(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
NONSENSE = {
    "a gap in id2label": (CONFIG, {"id2label": {"0": "a", "2": "b"}}, "none for class 1"),
    "10^12 classes": (CONFIG, {"num_labels": 10**12, "id2label": None}, "num_labels 1000000000000"),
    "an image of 10^9": (CONFIG, {"image_size": 10**9}, "image_size 1000000000"),
    "a size of 10^9": (PROCESSOR, {"size": {"height": 10**9, "width": 32}}, "1000000000"),
    "a negative size": (PROCESSOR, {"size": {"height": -32, "width": 32}}, "-32"),
    "another size than the model's": (PROCESSOR, {"size": {"height": 8, "width": 8}}, r"\(1, 3, 8, 8\)"),
    "no such filter": (PROCESSOR, {"resample": 99}, "99"),
    "rescaling to nothing": (PROCESSOR, {"rescale_factor": 0}, "rescale_factor 0"),
    "a negative deviation": (PROCESSOR, {"image_std": [0.5, -0.5, 0.5]}, r"image_std [\[(]0\.5, -0\.5, 0\.5[\])]"),
    "a deviation of 0": (PROCESSOR, {"image_std": [0.0, 0.5, 0.5]}, "image_std"),
    "a mean that is no number": (PROCESSOR, {"image_mean": ["a", 0.5, 0.5]}, "image_mean"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["fine-tuning", "measuring", "a teacher"])
@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_in_a_folder_is_one_sentence(case, way, folder):
    file, values, words = NONSENSE[case]
    change(folder, file, **values)
    with pytest.raises(ModelError, match=words) as caught:
        LOADING[way](str(folder))
    assert str(folder) in str(caught.value) or "the processor's images" in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("content", ["[1, 2]", "{", "3", "\x00"])
def test_a_config_that_is_no_mapping_is_one_sentence(content, folder):
    (folder / CONFIG).write_text(content)
    for way in ("fine-tuning", "measuring"):
        with pytest.raises(ModelError, match=r"config\.json"):
            LOADING[way](str(folder))


@pytest.mark.parametrize(("value", "words"), [(0.0, "only zeros"), (float("nan"), "NaN or infinity in")])
def test_weights_that_say_nothing_are_refused(value, words, folder):
    tensors = {name: torch.full_like(tensor, value) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for way in ("fine-tuning", "measuring", "a teacher"):
        with pytest.raises(ModelError, match=words):
            LOADING[way](str(folder))


def test_ordinary_folders_are_taken(model):
    for way in ("fine-tuning", "its check", "measuring"):
        LOADING[way](str(model))


# Both lines load their torchvision class by this name; without its last four letters 4.57 would take another one.
FAST = "ViTImageProcessorFast"


def test_the_saved_processor_has_the_name_that_both_lines_read_as_the_fast_one(tmp_path):
    processor = compat.plain_image_processor_class()(size={"height": 20, "width": 20}, resample=3)
    processor.save_pretrained(tmp_path)
    compat.keep_fast_processor(processor, tmp_path)
    saved = json.loads((tmp_path / PROCESSOR).read_text())
    assert saved["image_processor_type"] == FAST
    again = compat.load_image_processor(str(tmp_path))
    assert type(again) is type(processor)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    before, after = (item(picture, return_tensors="pt")["pixel_values"] for item in (processor, again))
    assert torch.equal(before, after)


def test_a_consumer_of_the_saved_folder_gets_the_torchvision_class(tmp_path):
    from transformers import AutoImageProcessor

    processor = compat.plain_image_processor_class()(size={"height": 20, "width": 20})
    processor.save_pretrained(tmp_path)
    compat.keep_fast_processor(processor, tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is type(processor)
