"""Whatever goes wrong on the way: exactly one commit in the end, or none and the old revision as it was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from cases import quick_first
from hub import client_environment
from hub_writes import User
from places import REPOSITORY
from publish.conftest import CLIENT, FAST, TOKEN
from safetensors.numpy import load_file, save_file

from hf_imgcls.digests import seal_run
from hf_imgcls.records import PushRecord

COMMIT = ("POST", "/api/models/me/digits/commit/")
UPLOAD = ("PUT", "/storage/")
ONCE = ["initial commit", "Upload image classifier"]

# Method and path, and what happens there; each is overcome by trying again.
OVERCOME = {
    "commit 503": (COMMIT, {"status": 503, "times": 2}),
    "commit 429": (COMMIT, {"status": 429, "headers": {"Retry-After": "1"}}),
    "commit cut": (COMMIT, {"times": 2}),
    "commit answer lost": (COMMIT, {"is_done": True}),
    "upload 503": (UPLOAD, {"status": 503}),
    "upload cut": (UPLOAD, {}),
    "upload answer lost": (UPLOAD, {"is_done": True}),
    "upload address expired": (UPLOAD, {"status": 429}),
    "create 502": (("POST", "/api/repos/create"), {"status": 502}),
    "create answer lost": (("POST", "/api/repos/create"), {"is_done": True}),
    "preupload 500": (("POST", "/preupload/"), {"status": 500}),
    "batch cut": (("POST", "/objects/batch"), {}),
    "verify 504": (("POST", "/objects/verify"), {"status": 504}),
    "whoami 429": (("GET", "/api/whoami-v2"), {"status": 429, "headers": {"Retry-After": "1"}}),
    "validation 503": (("POST", "/api/validate-yaml"), {"status": 503}),
    "tag answer lost": (("POST", "/tag/"), {"is_done": True}),
    "tag 503": (("POST", "/tag/"), {"status": 503}),
}


@pytest.mark.parametrize("case", quick_first(OVERCOME, "commit answer lost", "upload cut", "create 502", "whoami 429"))
def test_what_passes_is_overcome_with_one_commit(pushing, run, case):
    (method, path), options = OVERCOME[case]
    fault = pushing.hub.faults.plant(method, path, **options)
    result = pushing.push(run, "--hub_tag", "v1")
    assert fault.struck == options.get("times", 1)
    assert "error" not in result, result
    assert pushing.titles() == ONCE
    assert pushing.repository.branches["main"] == pushing.repository.tags["v1"] == result["revision"]
    assert pushing.hub.created == ["me/digits"]


def test_a_pull_request_whose_answer_is_lost_is_found(pushing, run):
    pushing.push(run)
    earlier = pushing.push(run, "--license", "mit", "--create_pr")
    fault = pushing.hub.faults.plant(*COMMIT, is_done=True)
    result = pushing.push(run, "--license", "mit", "--create_pr", "--commit_message", "Again")
    assert fault.struck == 1
    assert list(pushing.repository.pull_requests) == ["refs/pr/1", "refs/pr/2"]
    assert result["revision"] == pushing.repository.pull_requests["refs/pr/2"] != earlier["revision"]
    assert result["url"].endswith("/discussions/2")


def test_somebody_elses_commit_in_between_is_not_overwritten(pushing, run):
    pushing.push(run)
    held = threading.Event()
    fault = pushing.hub.faults.plant(*COMMIT, hold=held)
    results = []
    thread = threading.Thread(target=lambda: results.append(pushing.push(run, "--license", "mit")))
    thread.start()
    while not fault.struck:
        time.sleep(0.05)
    theirs = pushing.hub.commit(pushing.repository, {"theirs.txt": b"x"}, title="Theirs")
    held.set()
    thread.join()
    assert "somebody else has committed meanwhile" in results[0]["error"]
    assert pushing.repository.branches["main"] == theirs


# What ends at once, and what the user is told to do.
ENDS = {
    "commit 401": (COMMIT, 401, "Invalid credentials in Authorization header", "hf auth login"),
    "commit 403": (COMMIT, 403, "Forbidden", "make a token with write access"),
    "commit 409": (COMMIT, 409, "Conflict", "look at the repository, then push again"),
    "commit quota": (COMMIT, 403, "Private repository storage limit reached", "settings/billing"),
    "batch quota": (("POST", "/objects/batch"), 402, "You have no credits left", "settings/billing"),
    "upload too large": (UPLOAD, 413, "Files of more than 50 GB", "publish less"),
    "preupload 403": (("POST", "/preupload/"), 403, "Forbidden", "make a token with write access"),
}


@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", quick_first(ENDS, "commit 403", "preupload 403"))
def test_what_does_not_pass_ends_at_once(pushing, run, case, is_new):
    (method, path), status, message, fix = ENDS[case]
    before = None if is_new else pushing.push(run)["revision"]
    weights = run / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    seal_run(run)
    fault = pushing.hub.faults.plant(method, path, status=status, message=message, times=-1)
    asked = len(pushing.hub.requests)
    error = pushing.push(run)["error"]
    paths = [request.path for request in pushing.hub.requests[asked:] if request.method == method]
    struck = [found for found in paths if re.search(path, found)]
    assert len(struck) == len(set(struck)) == fault.struck > 0  # files go up side by side; none is tried again
    assert f"HTTP {status}" in error
    assert message in error
    assert fix in error
    if is_new:
        assert "me/digits was created and is still empty: the same command goes on with it" in error
        assert f"{pushing.hub.url}/me/digits/settings" in error
        assert pushing.titles() == ["initial commit"]
    else:
        assert "me/digits is as it was before" in error
        assert pushing.repository.branches["main"] == before
    fault.times = 0
    assert "error" not in pushing.push(run)
    assert pushing.titles()[-1] == "Upload image classifier"


def test_a_tag_that_is_refused_leaves_a_record_of_what_is_pushed(pushing, run):
    fault = pushing.hub.faults.plant("POST", "/tag/", status=403, message="Forbidden", times=-1)
    error = pushing.push(run, "--hub_tag", "v1")["error"]
    head = pushing.repository.branches["main"]
    assert f"the files are pushed ({pushing.hub.url}/me/digits/commit/{head}), but the Hub refused to tag" in error
    record = PushRecord.load(run / "push.json")
    assert (record.repo_id, record.revision, record.tag) == ("me/digits", head, None)
    fault.times = 0
    assert "error" not in pushing.push(run, "--hub_tag", "v1")
    assert pushing.titles() == ONCE
    assert pushing.repository.tags == {"v1": head}
    assert PushRecord.load(run / "push.json").tag == "v1"


def test_a_repository_that_cannot_be_made_is_one_sentence(pushing, run):
    fault = pushing.hub.faults.plant("POST", "/api/repos/create", status=409, message="Conflict", times=-1)
    error = pushing.push(run)["error"]
    assert fault.struck == 1
    assert error.startswith("the Hub refused to create me/digits (HTTP 409)")
    assert not pushing.hub.repositories


def test_what_lasts_is_given_up(pushing, run):
    fault = pushing.hub.faults.plant(*COMMIT, status=503, times=-1)
    error = pushing.push(run, attempts=3)["error"]
    assert fault.struck == 3
    assert "did not answer usefully (HTTP 503)" in error
    assert "push again later" in error
    assert pushing.titles() == ["initial commit"]


def test_a_long_wait_is_left_to_the_user(pushing, run):
    fault = pushing.hub.faults.plant(*COMMIT, status=429, times=-1, headers={"Retry-After": "3000"})
    start = time.monotonic()
    error = pushing.push(run)["error"]
    assert fault.struck == 1
    assert "push again in 3000 s" in error
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("user", "flags", "reason"),
    [
        (User(role="read"), (), "may only read"),
        (User("somebody"), (), "me/digits belongs to me; the token is one of somebody"),
        (None, (), "hf auth login"),
    ],
)
def test_who_may_not_write_is_told_before_anything_is_sent(pushing, run, user, flags, reason):
    pushing.hub.users = {TOKEN: user} if user else {}
    error = pushing.push(run, *flags)["error"]
    assert reason in error
    assert {request.method for request in pushing.hub.requests} == {"GET"}


def test_without_a_token_or_a_network(pushing, run):
    assert "hf auth login" in pushing.push(run, HF_TOKEN="")["error"]
    assert "unset HF_HUB_OFFLINE" in pushing.push(run, HF_HUB_OFFLINE="1")["error"]
    assert not [request for request in pushing.hub.requests if request.method != "GET"]
    error = pushing.push(run, attempts=2, HF_ENDPOINT="http://127.0.0.1:9")["error"]
    assert "was not reached" in error


def test_a_card_that_the_hub_refuses_ends_it(pushing, run):
    fault = pushing.hub.faults.plant("POST", "/api/validate-yaml", status=400, message="license is wrong", times=-1)
    error = pushing.push(run)["error"]
    assert fault.struck == 1
    assert "Invalid metadata" in error or "license is wrong" in error
    assert not [request for request in pushing.hub.requests if request.method == "PUT"]


@pytest.mark.parametrize("where", [UPLOAD, COMMIT])
def test_a_killed_push_goes_on(pushing, run, where):
    """A kill -9 while files go up, or while the commit is made: then the same command again."""
    held = threading.Event()
    fault = pushing.hub.faults.plant(*where, hold=held)
    flags = [str(run), "--hub_model_id", "me/digits", *FAST]
    command = [sys.executable, str(REPOSITORY / "recipes" / "push.py"), *flags]
    process = subprocess.Popen(
        command, env=client_environment(pushing.hub, pushing.home, **CLIENT), stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while not fault.struck and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert fault.struck == 1, process.stderr.read()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    held.set()
    deadline = time.monotonic() + 30
    while where == COMMIT and len(pushing.titles()) == 1 and time.monotonic() < deadline:
        time.sleep(0.05)  # the Hub finishes what it was sent
    assert "error" not in pushing.push(run)
    assert pushing.titles() == ONCE
    assert (run / "model.safetensors").read_bytes() == pushing.hub.read("me/digits", "model.safetensors")
