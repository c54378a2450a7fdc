"""A token is used and never told: not in files, logs, tracebacks or arguments of processes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from publish.conftest import TOKEN

from hf_imgcls.digests import seal_run

NOISY = {"HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug", "HF_DEBUG": "1"}


class ProcessWatch(threading.Thread):
    """Reads the arguments of all processes until it is told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.seen: set[str] = set()

    def run(self):
        while not self.stop.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue


def find_token(folder):
    """Files under a folder that hold the token."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    return [path for path in paths if TOKEN.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_token_is_nowhere(pushing, run, tmp_path):
    watch = ProcessWatch()
    watch.start()
    try:
        pushed = pushing.run_recipe("push", run, "--hub_model_id", "me/digits", **NOISY)
        for status in (401, 403):
            pushing.hub.faults.plant("POST", "/commit/", status=status, message=f"not with {TOKEN}")
            failed = pushing.run_recipe(
                "push",
                run,
                "--hub_model_id",
                "me/digits",
                "--verify",
                "false",
                "--license",
                "mit",
                check=False,
                **NOISY,
            )
            assert failed.returncode == 2
            assert "not with <token>" in failed.stderr
            assert TOKEN not in failed.stdout + failed.stderr
    finally:
        watch.stop.set()
        watch.join()
    assert "POST" in pushed.stderr  # the log is a debug log
    assert TOKEN not in pushed.stdout + pushed.stderr
    assert any("push.py" in line for line in watch.seen)
    assert any("transformers.pipeline" in line for line in watch.seen)  # the consumer
    assert not [line for line in watch.seen if TOKEN in line]
    assert find_token(run) == []
    assert find_token(pushing.hub.folder) == []
    assert find_token(pushing.home) == []
    # It was used, and only where it belongs: the storage of large files has addresses of its own.
    used = {request.path.split("/")[1] for request in pushing.hub.requests if request.token == TOKEN}
    assert {"api", "me"} <= used
    assert not used & {"blobs", "storage"}


def test_a_token_given_as_a_flag_works_and_is_not_kept(pushing, run):
    result = pushing.run_recipe(
        "push", run, "--hub_model_id", "me/digits", "--verify", "false", "--hub_token", TOKEN, HF_TOKEN=""
    )
    assert "better set HF_TOKEN" in result.stderr
    assert TOKEN not in result.stdout + result.stderr
    assert find_token(run) == []
    assert len(pushing.titles()) == 2


def test_a_token_in_a_record_stops_the_push(pushing, run):
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text() + f"run_name: {TOKEN}\n")
    seal_run(run)
    error = pushing.push(run)["error"]
    assert "recipe.yaml holds an access token" in error
    assert TOKEN not in error
    assert not pushing.hub.repositories
