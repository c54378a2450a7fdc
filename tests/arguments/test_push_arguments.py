"""What recipes/push.py is told: a run without a flag, and mistakes before anything is imported."""

from __future__ import annotations

import dataclasses
import email.utils
import logging
import subprocess
import sys
import time

import pytest
from places import REPOSITORY

from hf_imgcls.arguments.fields import PublishArguments
from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.commands.push import read_arguments
from hf_imgcls.errors import ArgumentError
from hf_imgcls.layout import RECIPE_FILE
from hf_imgcls.publish.hub import read_destination
from hf_imgcls.retries import Fault, Patience, read_retry_after, sleep_before_retry


def parse(*argv):
    return parse_arguments([str(word) for word in argv], groups=("publish", "push"), positional="run")


def test_the_run_needs_no_flag(tmp_path):
    for argv in ((tmp_path, "--dry_run"), ("--run", tmp_path, "--dry_run"), ("--dry_run", "--run", tmp_path)):
        assert parse(*argv).publish.run == str(tmp_path)
    assert parse(tmp_path, "--hub_tag", "v1").publish.hub_tag == "v1"
    with pytest.raises(ArgumentError, match="no run is named"):
        parse("--hub_model_id", "me/x")
    with pytest.raises(ArgumentError, match=r"follows no flag|has 2 values"):
        parse(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("--hub_model_id", "a/b/c"), "hub_model_id is 'a/b/c'"),
        (("--hub_model_id", "me/my model"), "hub_model_id is"),
        (("--space", "-x"), "--space has no value|space is '-x'"),
        (("--hub_tag", "v 1"), "hub_tag is 'v 1'"),
        (("--hub_tag", "v1", "--create_pr"), "hub_tag with create_pr"),
        (("--public", "--hub_private_repo", "true"), "public with hub_private_repo true"),
        (("--push_to_hub", "--dry_runs"), "did you mean --dry_run"),
    ],
)
def test_mistakes(tmp_path, argv, reason):
    with pytest.raises(ArgumentError, match=reason):
        parse(tmp_path, *argv)


def test_the_recipe_takes_every_flag_about_what_is_published(tmp_path):
    """By its own reading of the command line, which names its flags one by one."""
    assert read_arguments([str(tmp_path)]).publish.publish_hashes is False
    assert read_arguments([str(tmp_path), "--publish_hashes", "true"]).publish.publish_hashes is True
    (tmp_path / RECIPE_FILE).write_text("publish_hashes: true\ndataset_name: digits\n")
    assert read_arguments([str(tmp_path)]).publish.publish_hashes is True
    flags = [item.name for item in dataclasses.fields(PublishArguments) if item.name.startswith("publish_")]
    assert len(flags) >= 3
    for flag in flags:
        assert getattr(read_arguments([str(tmp_path), f"--{flag}", "true"]).publish, flag) is True


def test_a_space_needs_a_model(tmp_path):
    with pytest.raises(ArgumentError, match="space without a model"):
        parse("--space", "me/demo")
    assert parse("--space", "me/demo", "--hub_model_id", "me/x").publish.space == "me/demo"
    with pytest.raises(ArgumentError, match="there is no folder"):
        parse(tmp_path / "none", "--space", "me/demo")


def test_names_are_those_that_the_client_accepts():
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    names = [
        "me/x", "x", "a.b_c-d/e", "9", "a/b/c", "a--b", "a..b", "-a", "a-", ".a", "a.", "x.git", "a b", "é", "", "/",
        "a/", "/a", "x" * 96, "x" * 97,
    ]  # fmt: skip
    for name in names:
        try:
            validate_repo_id(name)
            accepted = name.isascii()  # the Hub itself takes no others
        except HFValidationError:
            accepted = False
        assert is_repo_id(name) is accepted, name


def test_where_it_goes(tmp_path):
    folder = tmp_path / "my_run"
    folder.mkdir()
    plain = read_destination(folder, parse(folder))
    assert (plain.repo_id, plain.branch, plain.public, plain.tag, plain.create_pr) == (
        "my_run",
        "main",
        False,
        None,
        False,
    )
    asked = read_destination(
        folder,
        parse(folder, "--hub_model_id", "me/x", "--hub_revision", "next", "--public", "--hub_tag", "v1",
              "--commit_message", "New data"),
    )  # fmt: skip
    assert (asked.repo_id, asked.branch, asked.public, asked.tag) == ("me/x", "next", True, "v1")
    assert asked.message == "New data" != plain.message


def test_mistakes_come_before_heavy_imports(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['push.py', '--hub_model_id', 'a b']\n"
        "try:\n    runpy.run_path(sys.path.pop(), run_name='__main__')\n"
        "finally:\n    heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy))"
    )
    script = f"import sys; sys.path.append({str(REPOSITORY / 'recipes' / 'push.py')!r})\n{code}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "hub_model_id is 'a b'" in result.stderr
    assert "heavy: []" in result.stdout


def test_waits():
    assert list(Patience(4, 1.0, 3.0).waits()) == [1.0, 2.0, 3.0, None]
    assert read_retry_after({"Retry-After": "7"}) == 7
    assert read_retry_after({"RateLimit": '"api";r=0;t=55'}) == 55
    assert read_retry_after({"RateLimit": '"api";r=12;t=55'}) == 0
    assert read_retry_after({"Retry-After": "soon"}) == read_retry_after({}) == 0
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < read_retry_after({"Retry-After": date}) <= 61


def test_a_retry_says_what_failed_and_how_long_it_waits(caplog):
    with caplog.at_level(logging.WARNING):
        sleep_before_retry(0.0, Fault(503, "busy", True), "list the commits")
    assert caplog.messages == ["Could not list the commits; retrying in 0 s: busy"]
