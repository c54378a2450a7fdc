"""Datasets from the Hub, through the unmodified clients and a stand-in for the Hub on the loopback interface."""

import textwrap
from types import SimpleNamespace

import pytest
from hub import run_client, serve_hub
from hub_loading import LOADING
from numbered_images import make_dataset


def commit_parquet(hub, folder, repository, splits, *, prefix="data", **others):
    """Commit splits as parquet files with ten rows per row group, and other files; returns the commit."""
    files = dict(others)
    for split, dataset in splits.items():
        dataset.to_parquet(folder / f"{split}.parquet", batch_size=10)
        files[f"{prefix}/{split}-00000-of-00001.parquet"] = (folder / f"{split}.parquet").read_bytes()
    return hub.commit(repository, files)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A Hub with four datasets and what a client process that loaded from it got; starting one takes seconds."""
    folder = tmp_path_factory.mktemp("hub")
    train = make_dataset([index % 2 for index in range(200)], ["cat", "dog"])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("big", "small")
    )
    with serve_hub(folder) as hub:
        pets = hub.create_repository("dataset", "org/pets")
        splits = {"train": train.select(range(40)), "test": train.select(range(3)), "extra": train.select(range(99))}
        first = commit_parquet(hub, folder, pets, splits)
        second = commit_parquet(hub, folder, pets, {"train": train.select(range(30))})
        sized = hub.create_repository("dataset", "org/sized")
        readme = {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
        commit_parquet(hub, folder, sized, {"train": train}, prefix="big", **readme)
        commit_parquet(hub, folder, sized, {"train": train.select(range(10))}, prefix="small")
        secret = hub.create_repository("dataset", "org/secret", token="hf_key")
        commit_parquet(hub, folder, secret, {"train": train.select(range(40))})
        orders = hub.create_repository("dataset", "org/orders")
        turned = make_dataset([(index + 1) % 2 for index in range(20)], ["dog", "cat"])
        commit_parquet(hub, folder, orders, {"train": train.select(range(40)), "test": turned})
        stream = hub.create_repository("dataset", "org/stream")
        commit_parquet(hub, folder, stream, {"train": train, "test": train.select(range(7))})
        code = LOADING + textwrap.dedent(
            f"""
            import io
            import numpy as np
            from PIL import Image
            streamed = load_image_dataset(
                DataArguments(dataset_name="org/stream", streaming=True, shuffle_buffer_size=50)
            )
            rows = {{}}
            for role, split in streamed.splits.items():
                split.set_batch_size(4)
                rows[role] = [
                    (row["sample_index"], row["label"], np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).max())
                    for row in split
                ]
            print(json.dumps({{
                "config needed": load(dataset_name="org/sized"),
                "config wrong": load(dataset_name="org/sized", dataset_config_name="medium"),
                "no token": load(dataset_name="org/secret"),
                "no such dataset": load(dataset_name="org/none"),
                "newest": load(dataset_name="org/pets"),
                "tagged": load(dataset_name="org/pets", dataset_revision="{first}"),
                "small": load(dataset_name="org/sized", dataset_config_name="small", test_split=0),
                "secret": load(dataset_name="org/secret", token="hf_key", test_split=0),
                "orders": read_pairs("org/orders"),
                "streamed orders": read_pairs("org/orders", streaming=True),
                "no such revision": load(dataset_name="org/pets", dataset_revision="v9"),
                "stream": [streamed.record.revision, rows],
            }}, default=int))
            """
        )
        yield SimpleNamespace(
            hub=hub,
            home=folder / "home",
            commits={
                "first": first,
                "second": second,
                "stream": stream.branches["main"],
                "secret": secret.branches["main"],
            },
            blobs={
                repository.repo_id: repository.commits[repository.branches["main"]] for repository in (pets, stream)
            },
            found=run_client(code, hub, folder / "home"),
        )


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


def test_newest_and_pinned_revision(session):
    newest, pinned = session.found["newest"], session.found["tagged"]
    assert (newest["revision"], newest["sizes"]) == (
        session.commits["second"],
        {"train": 26, "validation": 4, "test": 3},
    )
    assert (pinned["revision"], pinned["sizes"]) == (
        session.commits["first"],
        {"train": 34, "validation": 6, "test": 3},
    )
    assert (newest["source"], newest["labels"]) == ("org/pets", ["cat", "dog"])


def test_config_and_token_are_passed_on(session):
    small, secret = session.found["small"], session.found["secret"]
    assert (small["config"], small["sizes"]) == ("small", {"train": 8, "validation": 2})
    assert secret["sizes"] == {"train": 34, "validation": 6}
    assert {request.token for request in session.hub.requests if "secret" in request.path} == {None, "hf_key"}


@pytest.mark.parametrize("case", ["orders", "streamed orders"])
def test_classes_in_another_order_are_matched_by_name(session, case):
    assert session.found[case] == [[index, ["cat", "dog"][index % 2]] for index in range(20)]


def test_only_the_splits_that_are_used_are_fetched(session):
    blobs = session.blobs["org/pets"]
    fetched = {request.path.rsplit("/", 1)[-1] for request in session.hub.requests if request.method == "GET"}
    assert blobs["data/test-00000-of-00001.parquet"].sha256 in fetched
    assert blobs["data/extra-00000-of-00001.parquet"].sha256 not in fetched


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("config needed", "big, small"),
        ("config wrong", "big, small"),
        ("no token", "org/secret"),
        ("no such dataset", "org/none"),
        ("no such revision", "v9"),
    ],
)
def test_errors_say_what_there_is(session, case, text):
    assert text in session.found[case]["error"]


def test_stream_reads_ranges_and_keeps_nothing(session):
    revision, rows = session.found["stream"]
    assert revision == session.commits["stream"]
    assert {role: len(part) for role, part in rows.items()} == {"train": 170, "validation": 30, "test": 7}
    assert sorted(index for index, _, _ in rows["train"] + rows["validation"]) == list(range(200))
    assert all(index == value and label == index % 2 for part in rows.values() for index, label, value in part)
    blob = session.blobs["org/stream"]["data/train-00000-of-00001.parquet"].sha256
    reads = [request for request in session.hub.requests if request.method == "GET" and blob in request.path]
    assert reads
    assert all(request.range for request in reads)
    assert not list((session.home / "datasets").glob("*stream*/**/*.arrow"))
    assert not list((session.home / "hub").glob("datasets--org--stream/**/*.parquet"))


def test_offline_the_pinned_revision_is_kept(session):
    asked, sha = len(session.hub.requests), session.commits["secret"]
    code = LOADING + textwrap.dedent(
        f"""
        print(json.dumps([
            load(dataset_name="org/secret", dataset_revision="{sha}", test_split=0),
            load(dataset_name="org/secret", dataset_revision="{"0" * 40}"),
            load(dataset_name="org/other"),
            read_pairs("org/orders"),
        ]))
        """
    )
    same, other, none, pairs = run_client(code, session.hub, session.home, HF_HUB_OFFLINE="1")
    assert len(session.hub.requests) == asked
    online = session.found["secret"]["splits"]
    assert (same["revision"], same["sizes"]) == (sha, {"train": 34, "validation": 6})
    assert same["splits"]["train"]["class_counts"] == online["train"]["class_counts"]
    assert "read from the cache" in same["notes"][0]
    assert "0" * 40 in other["error"]
    assert "HF_HUB_OFFLINE" in none["error"]
    assert pairs == session.found["orders"]
