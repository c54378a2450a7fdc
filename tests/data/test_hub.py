"""Datasets from the Hub, through the unmodified clients and a stand-in for the Hub on the loopback interface."""

import textwrap

import pytest
from conftest import make_dataset
from hub import run_client

LOADING = """
import dataclasses, json
from hf_imgcls.arguments import DataArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.errors import DataError

def load(**arguments):
    try:
        dataset = load_image_dataset(DataArguments(**arguments))
    except DataError as error:
        return {"error": str(error)}
    sizes = {role: len(split) for role, split in dataset.splits.items()}
    return {"sizes": sizes, "labels": dataset.labels, **dataclasses.asdict(dataset.record)}
"""


@pytest.fixture
def commit_dataset(hub, tmp_path):
    """Commit splits as parquet files, each with ``rows`` rows per row group; returns the repository and the commit."""

    def commit(repo_id, splits, *, prefix="data", readme=None, repository=None, rows=10, **options):
        repository = repository or hub.create_repository("dataset", repo_id, **options)
        files = {}
        for split, dataset in splits.items():
            path = tmp_path / f"{split}.parquet"
            dataset.to_parquet(path, batch_size=rows)
            files[f"{prefix}/{split}-00000-of-00001.parquet"] = path.read_bytes()
        if readme:
            files["README.md"] = readme.encode()
        return repository, hub.commit(repository, files)

    return commit


def test_stand_in_speaks_the_clients_language(hub, tmp_path):
    model = hub.create_repository("model", "org/model")
    first = hub.commit(model, {"config.json": b"{}", "model.safetensors": b"0123456789", "sub/a.txt": b"a"})
    model.tags["v1"] = first
    second = hub.commit(model, {"config.json": b'{"a": 1}', "sub/b.txt": b"b"}, deleted=("sub/a.txt",))
    hub.commit(hub.create_repository("model", "org/secret", token="hf_x"), {"config.json": b"{}"})
    hub.commit(hub.create_repository("model", "org/gated", token="hf_x", gated=True), {"config.json": b"{}"})
    hub.page_size = 2
    code = """
    import json, pathlib
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
    api = HfApi()
    found = {
        "sha": api.model_info("org/model").sha,
        "tagged": api.model_info("org/model", revision="v1").sha,
        "files": sorted(api.list_repo_files("org/model")),
        "tree": sorted(item.path for item in api.list_repo_tree("org/model", recursive=True)),
        "lfs": api.get_paths_info("org/model", ["model.safetensors"])[0].lfs.size,
        "tags": [tag.name for tag in api.list_repo_refs("org/model").tags],
        "old": pathlib.Path(hf_hub_download("org/model", "config.json", revision="v1")).read_text(),
        "snapshot": sorted(p.name for p in pathlib.Path(snapshot_download("org/model")).rglob("*") if p.is_file()),
        "user": api.whoami(token="hf_x")["name"],
        "secret": api.model_info("org/secret", token="hf_x").id,
        "errors": [],
    }
    with HfFileSystem().open("org/model/model.safetensors", "rb", block_size=4) as file:
        file.seek(6)
        found["range"] = file.read(2).decode()
    for call in (
        lambda: api.model_info("org/none"),
        lambda: api.model_info("org/none", token="hf_x"),
        lambda: api.model_info("org/secret"),
        lambda: api.model_info("org/model", revision="v2"),
        lambda: hf_hub_download("org/model", "none.json"),
        lambda: hf_hub_download("org/gated", "config.json"),
    ):
        try:
            call()
        except Exception as error:
            found["errors"].append(type(error).__name__)
    print(json.dumps(found))
    """
    found = run_client(textwrap.dedent(code), hub, tmp_path / "home")
    assert found == {
        "sha": second,
        "tagged": first,
        "files": ["config.json", "model.safetensors", "sub/b.txt"],
        "tree": ["config.json", "model.safetensors", "sub", "sub/b.txt"],
        "lfs": 10,
        "tags": ["v1"],
        "old": "{}",
        "snapshot": ["b.txt", "config.json", "model.safetensors"],
        "user": "tester",
        "secret": "org/secret",
        "range": "67",
        "errors": [
            "RepositoryNotFoundError",
            "RepositoryNotFoundError",
            "RepositoryNotFoundError",
            "RevisionNotFoundError",
            found["errors"][4],
            "GatedRepoError",
        ],
    }
    # huggingface_hub 2 splits the error for a missing file in two.
    assert found["errors"][4] in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    assert any(request.range for request in hub.requests)


def test_load_from_the_hub(hub, tmp_path, commit_dataset):
    train = make_dataset([index % 2 for index in range(40)], ["cat", "dog"])
    test = make_dataset([0, 1, 1], ["cat", "dog"])
    repository, first = commit_dataset("org/pets", {"train": train, "test": test, "extra": train})
    _, second = commit_dataset("", {"train": train.select(range(30))}, repository=repository)
    readme = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("big", "small")
    )
    sized, _ = commit_dataset("org/sized", {"train": train}, prefix="big", readme=readme + "---\n")
    commit_dataset("", {"train": train.select(range(10))}, prefix="small", repository=sized)
    commit_dataset("org/secret", {"train": train}, token="hf_key")
    code = LOADING + textwrap.dedent(
        f"""
        print(json.dumps([
            load(dataset_name="org/sized"),
            load(dataset_name="org/sized", dataset_config_name="medium"),
            load(dataset_name="org/secret"),
            load(dataset_name="org/none"),
            load(dataset_name="org/pets"),
            load(dataset_name="org/pets", dataset_revision="{first}"),
            load(dataset_name="org/sized", dataset_config_name="small", test_split=0),
            load(dataset_name="org/secret", token="hf_key", test_split=0),
            load(dataset_name="org/pets", dataset_revision="v9"),
        ]))
        """
    )
    *errors, newest, pinned, small, secret, wrong = run_client(code, hub, tmp_path / "home")
    assert (newest["revision"], newest["sizes"]) == (second, {"train": 26, "validation": 4, "test": 3})
    assert (pinned["revision"], pinned["sizes"]) == (first, {"train": 34, "validation": 6, "test": 3})
    assert newest["labels"] == ["cat", "dog"]
    assert (newest["source"], small["config"]) == ("org/pets", "small")
    assert small["sizes"] == {"train": 8, "validation": 2}
    assert secret["sizes"] == {"train": 34, "validation": 6}
    expected = ["big, small", "big, small", "org/secret", "org/none", "v9"]
    for error, text in zip([*errors, wrong], expected, strict=True):
        assert text in error["error"]
    hashes = {name: blob.sha256 for name, blob in repository.commits[second].items()}
    fetched = {request.path.rsplit("/", 1)[-1] for request in hub.requests if request.method == "GET"}
    assert hashes["data/test-00000-of-00001.parquet"] in fetched
    assert not any("extra" in request.path for request in hub.requests)
    assert {request.token for request in hub.requests if "secret" in request.path} == {None, "hf_key"}


def test_offline_the_pinned_revision_is_kept(hub, tmp_path, commit_dataset):
    train = make_dataset([index % 2 for index in range(10)], ["cat", "dog"])
    _, sha = commit_dataset("org/pets", {"train": train})
    code = LOADING + 'print(json.dumps(load(dataset_name="org/pets")))'
    online = run_client(code, hub, tmp_path / "home")
    asked = len(hub.requests)
    code = LOADING + textwrap.dedent(
        f"""
        print(json.dumps([
            load(dataset_name="org/pets", dataset_revision="{sha}"),
            load(dataset_name="org/pets", dataset_revision="{"0" * 40}"),
            load(dataset_name="org/other"),
        ]))
        """
    )
    same, other, none = run_client(code, hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert len(hub.requests) == asked
    assert (same["revision"], same["splits"]["train"]["class_counts"]) == (
        sha,
        online["splits"]["train"]["class_counts"],
    )
    assert "read from the cache" in same["notes"][0]
    assert "0" * 40 in other["error"]
    assert "HF_HUB_OFFLINE" in none["error"]


def test_stream_from_the_hub(hub, tmp_path, commit_dataset):
    train = make_dataset([index % 2 for index in range(200)], ["cat", "dog"])
    repository, sha = commit_dataset("org/pets", {"train": train, "test": train.select(range(7))}, rows=10)
    code = LOADING + textwrap.dedent(
        """
        import io
        import numpy as np
        from PIL import Image
        dataset = load_image_dataset(DataArguments(dataset_name="org/pets", streaming=True, shuffle_buffer_size=50))
        rows = {}
        for role, split in dataset.splits.items():
            split.set_batch_size(4)
            rows[role] = [
                (row["sample_index"], row["label"], np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).max())
                for row in split
            ]
        print(json.dumps([dataset.record.revision, rows], default=int))
        """
    )
    revision, rows = run_client(code, hub, tmp_path / "home")
    assert revision == sha
    assert {role: len(part) for role, part in rows.items()} == {"train": 170, "validation": 30, "test": 7}
    assert sorted(index for index, _, _ in rows["train"] + rows["validation"]) == list(range(200))
    assert all(index == value and label == index % 2 for part in rows.values() for index, label, value in part)
    blob = repository.commits[sha]["data/train-00000-of-00001.parquet"].sha256
    reads = [request for request in hub.requests if request.method == "GET" and blob in request.path]
    assert reads
    assert all(request.range for request in reads)
    assert not any((tmp_path / "home").rglob("*.arrow"))
