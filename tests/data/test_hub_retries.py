"""Loading a dataset while the Hub is busy or the connection drops."""

from types import SimpleNamespace

import pytest
from hub_faults import serve_faulty_hub
from hub_loading import make_pets, run_loads, write_parquet

pytestmark = pytest.mark.slow  # waits are real
FAULTS = {
    "facts": {"path": "/api/datasets/org/facts$", "status": 503},
    "paths": {"method": "POST", "path": "/api/datasets/org/paths/paths-info", "status": 503},
    "listing": {"path": "/api/datasets/org/listing/tree/[^/]*$", "status": 500, "times": 2},
    "busy": {"path": "/api/datasets/org/busy$", "status": 429, "headers": {"Retry-After": "2"}},
    "dropped": {"path": "/api/datasets/org/dropped/tree"},
    "card": {"method": "HEAD", "path": "/datasets/org/card/resolve/.*/README.md", "status": 503},
    "cut": {"path": "/blobs/{}", "is_cut": True},
    "stall": {"path": "/blobs/{}", "stall_s": 4},
    "streamed": {"path": "/blobs/{}", "is_cut": True, "times": 3},
    "down": {"path": "/api/datasets/org/down$", "status": 503, "times": -1},
    "later": {"path": "/api/datasets/org/later$", "status": 429, "headers": {"Retry-After": "3600"}},
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What a client got from a Hub where one request for each dataset goes wrong."""
    folder = tmp_path_factory.mktemp("hub")
    with serve_faulty_hub(folder) as hub:
        loads, planted = {}, {}
        for index, (name, fault) in enumerate(FAULTS.items()):
            repository = hub.create_repository("dataset", f"org/{name}")
            content = write_parquet(make_pets(20 + index))
            commit = hub.commit(repository, {"data/train-00000-of-00001.parquet": content, "README.md": b"# pets"})
            blob = repository.commits[commit]["data/train-00000-of-00001.parquet"].sha256
            options = {"method": "GET", **fault}
            planted[name] = hub.faults.plant(options.pop("method"), options.pop("path").format(blob), **options)
            loads[name] = {"dataset_name": f"org/{name}", "test_split": 0, "train_val_split": 0}
        loads["streamed"]["streaming"] = True
        loads["down"]["download_attempts"] = 2
        found = run_loads(hub, folder / "home", loads, HF_HUB_DOWNLOAD_TIMEOUT="2", HF_HUB_ETAG_TIMEOUT="2")
        yield SimpleNamespace(hub=hub, found=found, planted=planted)


@pytest.mark.parametrize("case", [name for name in FAULTS if name not in ("down", "later")])
def test_one_fault_is_overcome(session, case):
    found = session.found[case]
    assert found.get("sizes") == {"train": 20 + list(FAULTS).index(case)}, found
    assert session.planted[case].struck == FAULTS[case].get("times", 1)


def test_a_hub_that_stays_down_is_called_that(session):
    error = session.found["down"]["error"]
    assert "the Hub did not answer the request to look up the dataset org/down (HTTP 503) after 2 attempts" in error
    assert session.planted["down"].struck >= 2
    assert "its files" not in error


def test_a_wait_that_is_too_long_is_told(session):
    assert "asks to wait 3600 s (HTTP 429)" in session.found["later"]["error"]
    assert session.planted["later"].struck == 1
