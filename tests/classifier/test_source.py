"""What is loaded from the Hub: one commit of a repository, which is told, and nothing that could run code."""

from __future__ import annotations

import json

import pytest
import torch
from hub import run_client, serve_hub
from hub_faults import serve_faulty_hub
from tiny_models import TINY_CONFIGS
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.source import find_commit, pin_source
from hf_imgcls.errors import ModelError, network_error
from hf_imgcls.fit.model import build_model

LOADING = """
import json
from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.model import build_model
from hf_imgcls.classifier.source import find_commit
from hf_imgcls.classifier.loading import load_classifier

def attempt(load):
    try:
        return load()
    except ModelError as error:
        return str(error)

def head(name, revision="main"):
    fit = FitArguments(model_name_or_path=name, model_revision=revision)
    model, _ = build_model(fit, DataArguments(), ["a", "b"])
    return [model.classifier.bias.tolist(), find_commit(name, DataArguments(), revision)]
"""


def save_model(folder, bias):
    config = AutoConfig.for_model("vit", image_size=32, num_labels=2, **TINY_CONFIGS["vit"])
    config.id2label, config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    model = AutoModelForImageClassification.from_config(config)
    torch.nn.init.constant_(model.classifier.bias, bias)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A Hub with a model that has two revisions and one that has only a pickle, and what a client got of them."""
    folder = tmp_path_factory.mktemp("weights")
    with serve_hub(folder / "hub") as hub:
        good, bad = hub.create_repository("model", "org/good"), hub.create_repository("model", "org/pickled")
        save_model(folder / "first", 1.0)
        first = hub.commit_folder(good, folder / "first")
        model = save_model(folder / "second", 2.0)
        second = hub.commit_folder(good, folder / "second")
        torch.save(model.state_dict(), folder / "pickle.bin")
        files = {name: (folder / "second" / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}
        hub.commit(bad, {**files, "pytorch_model.bin": (folder / "pickle.bin").read_bytes()})
        code = LOADING + (
            "print(json.dumps({'newest': head('org/good'),"
            f"'pinned': head('org/good', '{first}'),"
            "'pickled': attempt(lambda: head('org/pickled')),"
            "'pickled to score': attempt(lambda: load_classifier('org/pickled')),"
            "'none': attempt(lambda: head('org/none'))}))"
        )
        found = run_client(code, hub, folder / "home", HF_HUB_DISABLE_XET="1")
        offline = LOADING + "print(json.dumps([head('org/good'), attempt(lambda: head('org/pickled'))]))"
        asked = len(hub.requests)
        found["offline"] = run_client(offline, hub, folder / "home", HF_HUB_OFFLINE="1")
        assert len(hub.requests) == asked
        yield hub, found, first, second


def test_the_commit_that_was_loaded_is_known(session):
    _, found, first, second = session
    assert found["newest"] == [[2.0, 2.0], second]
    assert found["pinned"] == [[1.0, 1.0], first]
    assert found["offline"][0] == [[2.0, 2.0], second]
    assert "org/none" in found["none"]


def test_a_pickle_is_refused_before_it_is_fetched(session):
    hub, found, _, _ = session
    for case in ("pickled", "pickled to score"):
        assert "no safetensors weights, only pytorch_model.bin" in found[case]
        assert "spaces/safetensors/convert" in found[case]
    assert "could not be loaded" in found["offline"][1]
    assert hub.fetched("config.json")
    assert not hub.fetched("pytorch_model.bin")


def test_a_hub_that_cannot_be_reached_is_no_traceback(monkeypatch):
    def fail(*_, **__):
        raise network_error()("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(ModelError, match="org/elsewhere"):
        build_model(FitArguments(model_name_or_path="org/elsewhere"), DataArguments(), ["a", "b"])


def test_a_folder_of_pickles_is_refused(tmp_path):
    model = save_model(tmp_path, 1.0)
    assert pin_source(tmp_path, DataArguments(), "main")["revision"] == "main"
    assert find_commit(tmp_path, DataArguments(), "main") is None
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors weights, only pytorch_model\.bin"):
        build_model(FitArguments(model_name_or_path=str(tmp_path)), DataArguments(), ["a", "b"])


def test_code_of_a_repository_is_not_run_unless_that_is_asked_for(tmp_path):
    """A repository that names a class of its own; loading it would write a file."""
    save_model(tmp_path / "model", 1.0)
    trace = tmp_path / "trace"
    (tmp_path / "model" / "code.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nfrom transformers import ViTConfig, ViTForImageClassification\n"
        "class OwnConfig(ViTConfig):\n    model_type = 'own'\n"
        "class Own(ViTForImageClassification):\n    config_class = OwnConfig\n"
    )
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text()) | {
        "model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModelForImageClassification": "code.Own"}
    }  # fmt: skip
    path.write_text(json.dumps(config))
    fit = FitArguments(model_name_or_path=str(tmp_path / "model"))
    with pytest.raises(ModelError):
        build_model(fit, DataArguments(trust_remote_code=False), ["a", "b"])
    assert not trace.exists()
    build_model(fit, DataArguments(trust_remote_code=True), ["a", "b"])
    assert trace.exists()


FAULTS = {
    "config": {"method": "HEAD", "path": "/org/config/resolve/main/config.json", "status": 503},
    "cut": {"path": "/blobs/{}", "is_cut": True},
    "stall": {"path": "/blobs/{}", "stall_s": 4},
    "busy": {"path": "/blobs/{}", "status": 429, "headers": {"Retry-After": "2"}},
    "down": {"path": "/blobs/{}", "status": 503, "times": -1},
}


@pytest.mark.slow
def test_models_are_loaded_while_the_hub_is_busy(tmp_path):
    """Waits are real."""
    planted = {}
    with serve_faulty_hub(tmp_path / "hub") as hub:
        for index, (name, fault) in enumerate(FAULTS.items()):
            save_model(tmp_path / name, float(index))
            repository = hub.create_repository("model", f"org/{name}")
            commit = hub.commit_folder(repository, tmp_path / name)
            options = {"method": "GET", **fault}
            blob = repository.commits[commit]["model.safetensors"].sha256
            planted[name] = hub.faults.plant(options.pop("method"), options.pop("path").format(blob), **options)
        code = LOADING + (
            "found = {name: attempt(lambda: head(f'org/{name}')) for name in ('config', 'cut', 'stall', 'busy')}\n"
            "fit = FitArguments(model_name_or_path='org/down')\n"
            "found['down'] = attempt(lambda: build_model(fit, DataArguments(download_attempts=2), ['a', 'b']))\n"
            "print(json.dumps(found))"
        )
        limits = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
        found = run_client(code, hub, tmp_path / "home", timeout_s=300, **limits)
    for index, name in enumerate(("config", "cut", "stall", "busy")):
        assert (planted[name].struck, found[name][0]) == (1, [index, index])
    assert "download model.safetensors of the model org/down (HTTP 503) after 2 attempts" in found["down"]
    assert "pickle" not in found["down"]
