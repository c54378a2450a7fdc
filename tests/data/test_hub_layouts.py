"""Layouts that datasets on the Hub have: conversions with several configurations, scripts, addresses, unused splits."""

from types import SimpleNamespace

import pytest
from hub import serve_hub
from hub_loading import commit_conversion, make_pets, make_tar, make_zip, run_loads, write_parquet
from numbered_images import encode_png

CONVERTED = "refs/convert/parquet"
DESCRIBED = ("deep-metadata", "several-with-metadata", "metadata-beside")
ARCHIVED = ("zips", "one-zip", "splits-in-zip", "zip-of-a-class", "tars", *DESCRIBED)
OTHER_SPLITS = {"train_split_name": "extra", "test_split_name": "train"}
FULL = {"dataset_name": "org/scripted", "dataset_revision": CONVERTED, "dataset_config_name": "full"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What a client process got from a Hub, and another one, with the same cache, without it."""
    folder = tmp_path_factory.mktemp("hub")
    with serve_hub(folder) as hub:
        scripted = hub.create_repository("dataset", "org/scripted")
        hub.commit(scripted, {"scripted.py": b"raise SystemExit", "README.md": b"---\nlicense: mit\n---\n"})
        sizes = {"full": {"train": 40, "validation": 10, "test": 10}, "mini": {"train": 6, "validation": 4, "test": 4}}
        converted = commit_conversion(hub, scripted, sizes)
        single = hub.create_repository("dataset", "org/single")
        hub.commit(single, {"single.py": b"raise SystemExit"})
        commit_conversion(hub, single, {"default": {"partial-train": 20, "test": 6, "unused": 8}})
        hub.commit(hub.create_repository("dataset", "org/alone"), {"alone.py": b"raise SystemExit"})
        unused = hub.create_repository("dataset", "org/unused")
        files = {f"data/{split}-00000-of-00001.parquet": write_parquet(make_pets(20)) for split in ("train", "test")}
        hub.commit(unused, {**files, "data/extra-00000-of-00001.parquet": write_parquet(make_pets(99))})
        pets = {"cat": 12, "dog": 8}
        for name, archives in {
            "zips": {"train.zip": make_zip(pets, "pets/"), "test.zip": make_zip({"dog": 2, "cat": 4})},
            "one-zip": {"archive.zip": make_zip(pets, "Pets/all/")},
            "splits-in-zip": {"archive.zip": make_zip({"train/cat": 9, "train/dog": 9, "val/cat": 2, "val/dog": 3})},
            "deep-metadata": {"archive.zip": make_zip(pets, "pets/all/", metadata=True)},
            "several-with-metadata": {
                "one.zip": make_zip({"cat": 8, "dog": 2}, metadata=True),
                "two.zip": make_zip({"cat": 4, "dog": 6}, metadata=True),
            },
            "metadata-beside": {
                "metadata.csv": ("file_name,label\n" + "".join(f"{n}.png,{'tg'[n % 2]}\n" for n in range(20))).encode(),
                **{f"{n}.png": encode_png(n) for n in range(20)},
                "more.zip": make_zip({"cat": 1}),
            },
            "zip-of-a-class": {"cat.zip": make_zip({"cat": 3}), "dog.zip": make_zip({"dog": 3})},
        }.items():
            hub.commit(hub.create_repository("dataset", f"org/{name}"), archives)
        hub.commit(hub.create_repository("dataset", "org/tars"), {"train-0000.tar": make_tar(20)})
        unused.tags["v1"] = unused.branches["main"]
        loads = {
            "script": {"dataset_name": "org/scripted"},
            "single script": {"dataset_name": "org/single"},
            "script without conversion": {"dataset_name": "org/alone"},
            "several": {"dataset_name": "org/scripted", "dataset_revision": CONVERTED},
            "wrong": {**FULL, "dataset_config_name": "half"},
            "full": FULL,
            "mini": {**FULL, "dataset_config_name": "mini"},
            "by commit": {"dataset_name": "org/scripted", "dataset_revision": converted},
            "full by commit": {**FULL, "dataset_revision": converted},
            "streamed": {**FULL, "streaming": True},
            "streamed several": {"dataset_name": "org/scripted", "dataset_revision": CONVERTED, "streaming": True},
            "script after": {"dataset_name": "org/scripted"},
            "single": {"dataset_name": "org/single", "dataset_revision": CONVERTED},
            "unused": {"dataset_name": "org/unused", "dataset_revision": "v1"},
            "other splits": {"dataset_name": "org/unused", "dataset_revision": "v1", **OTHER_SPLITS},
            "page": {"dataset_name": f"{hub.url}/datasets/org/unused/tree/v1"},
            "path": {"dataset_name": "hf://datasets/org/unused@v1"},
            "viewer": {
                "dataset_name": "https://huggingface.co/datasets/org/scripted/viewer/mini/train",
                "dataset_revision": CONVERTED,
            },
            "file": {"dataset_name": "hf://datasets/org/unused/data/train-00000-of-00001.parquet"},
            "model page": {"dataset_name": "https://huggingface.co/org/unused"},
            **{name: {"dataset_name": f"org/{name}", "train_val_split": 4} for name in ARCHIVED},
            "streamed zips": {"dataset_name": "org/zips", "streaming": True},
            "streamed tars": {"dataset_name": "org/tars", "streaming": True},
            "gone revision": {"dataset_name": "org/unused", "dataset_revision": "v9"},
        }
        found = run_loads(hub, folder / "home", loads)
        offline = {
            "zips": {"dataset_name": "org/zips", "train_val_split": 4},
            "full": FULL,
            "several": {"dataset_name": "org/scripted", "dataset_revision": CONVERTED},
            "plain": {"dataset_name": "org/scripted"},
            "unused": {"dataset_name": "org/unused", "dataset_revision": "v1"},
            "other splits": {"dataset_name": "org/unused", "dataset_revision": "v1", **OTHER_SPLITS},
            "streamed": {"dataset_name": "org/unused", "dataset_revision": "v1", "streaming": True},
            "another revision": {"dataset_name": "org/unused", "dataset_revision": "v2"},
        }
        requests = len(hub.requests)
        without = run_loads(hub, folder / "home", offline, HF_HUB_OFFLINE="1")
        assert len(hub.requests) == requests
        yield SimpleNamespace(hub=hub, found=found, offline=without, converted=converted)


@pytest.mark.parametrize(
    ("case", "texts"),
    [
        ("script", [f"--dataset_revision {CONVERTED} --dataset_config_name full (or mini)"]),
        ("script after", [f"--dataset_revision {CONVERTED} --dataset_config_name full (or mini)"]),
        ("single script", [f"--dataset_revision {CONVERTED},"]),
        ("script without conversion", ["no conversion", "save_to_disk"]),
        ("several", ["not given", "full, mini"]),
        ("streamed several", ["not given", "full, mini"]),
        ("by commit", ["not given", "full, mini"]),
        ("wrong", ["half", "full, mini"]),
        ("file", ["--dataset_name org/unused", "data/train-00000-of-00001.parquet"]),
        ("model page", ["not the address of a dataset"]),
        ("zip-of-a-class", ["2 files", "cat.zip, dog.zip", "unpack them"]),
        ("streamed zips", ["leave --streaming out"]),
        ("streamed tars", ["leave --streaming out"]),
        ("gone revision", ["org/unused has no revision 'v9'"]),
    ],
)
def test_errors_say_what_to_pass(session, case, texts):
    error = session.found[case]["error"]
    assert [text for text in texts if text not in error] == [], error


@pytest.mark.parametrize("case", ["full", "full by commit", "streamed"])
def test_one_configuration_of_a_conversion_is_read(session, case):
    found = session.found[case]
    assert found["sizes"] == {"train": 40, "validation": 10, "test": 10}
    assert (found["config"], found["revision"]) == ("full", session.converted)


def test_configurations_share_no_cache(session):
    assert session.found["mini"]["sizes"] == {"train": 6, "validation": 4, "test": 4}
    assert session.found["viewer"]["sizes"] == session.found["mini"]["sizes"]


def test_the_only_configuration_is_taken_and_what_is_missing_of_it_is_told(session):
    found = session.found["single"]
    assert (found["config"], found["sizes"]) == ("default", {"train": 17, "validation": 3, "test": 6})
    assert "only the first part" in " ".join(found["notes"])


@pytest.mark.parametrize("case", ["page", "path"])
def test_addresses_are_read_as_names(session, case):
    found = session.found[case]
    assert (found["source"], found["sizes"]) == ("org/unused", {"train": 17, "validation": 3, "test": 20})


@pytest.mark.parametrize("case", ["unused", "streamed"])
def test_offline_a_part_of_the_splits_is_found(session, case):
    online, offline = session.found["unused"], session.offline[case]
    assert (offline["sizes"], offline["revision"]) == (online["sizes"], online["revision"])
    assert offline["splits"]["train"]["class_counts"] == online["splits"]["train"]["class_counts"]
    assert "read from the cache" in offline["notes"][0]


def test_offline_the_splits_are_those_of_the_same_command(session):
    """What another command has prepared since, with other split names, is left alone."""
    online, offline = session.found["other splits"], session.offline["other splits"]
    assert online["sizes"] == offline["sizes"]
    assert online["sizes"] != session.offline["unused"]["sizes"]


def test_offline_a_conversion_is_found_by_its_revision_only(session):
    assert session.offline["full"]["sizes"] == session.found["full"]["sizes"]
    assert "full, mini" in session.offline["several"]["error"]
    assert "HF_HUB_OFFLINE" in session.offline["plain"]["error"]
    assert "v2" in session.offline["another revision"]["error"]


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("zips", {"train": 16, "validation": 4, "test": 6}),
        ("one-zip", {"train": 13, "validation": 4, "test": 3}),
        ("splits-in-zip", {"train": 14, "validation": 4, "test": 5}),
    ],
)
def test_archives_of_class_folders_are_read(session, case, sizes):
    found = session.found[case]
    assert (found.get("labels"), found.get("sizes")) == (["cat", "dog"], sizes), found
    assert found["revision"]


@pytest.mark.parametrize(("case", "labels"), zip(DESCRIBED, [["god", "tac"], ["god", "tac"], ["g", "t"]], strict=True))
def test_archives_with_metadata_are_read_by_it(session, case, labels):
    found = session.found[case]
    assert (found.get("labels"), found.get("sizes")) == (labels, {"train": 13, "validation": 4, "test": 3}), found


def test_offline_archives_are_found(session):
    online, offline = session.found["zips"], session.offline["zips"]
    assert [offline[key] for key in ("sizes", "revision")] == [online[key] for key in ("sizes", "revision")]
    assert offline["splits"]["test"]["class_counts"] == {"cat": 4, "dog": 2}


def test_tars_of_images_and_classes_are_read(session):
    found = session.found["tars"]
    assert (found.get("labels"), found.get("sizes")) == (["0", "1"], {"train": 13, "validation": 4, "test": 3}), found
    assert found["label_column"] == "cls"
