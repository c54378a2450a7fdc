"""A trained run to push, a Hub to push it to, and clients in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub import client_environment, run_client
from hub_writes import User, WritableHub, serve_writable_hub
from lifecycle.command_lines import SMALL_DIGITS, TINY_VIT
from places import REPOSITORY

# Has the form of a real one; each process has its own, because command lines of the whole machine are looked at.
TOKEN = f"hf_CanaryCanaryCanary{os.getpid():012d}"
# The stand-in speaks the classic protocol for large files.
CLIENT = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}

_PUSH = """
import json, sys
from pathlib import Path
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import UserError
from hf_imgcls.retries import Patience
from hf_imgcls.publish.hub import push_run

args = parse_arguments({argv!r}, groups=("publish", "push"), positional="run")
try:
    record = push_run(Path(args.publish.run), args, patience=Patience({attempts}, 0.05, 5))
    print(json.dumps({{"revision": record.revision, "url": record.url}}))
except UserError as error:
    print(json.dumps({{"error": str(error)}}))
"""
FAST = ("--verify", "false")


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """A finished run of a few steps, with report and predictions; do not change it."""
    folder = tmp_path_factory.mktemp("trained") / "digits"
    flags = [*SMALL_DIGITS[:-2], *TINY_VIT, "--max_steps", "6", "--output_dir", str(folder)]
    command = [sys.executable, str(REPOSITORY / "recipes" / "finetune.py"), *flags]
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A run of one's own."""
    return shutil.copytree(trained_run, tmp_path / "digits")


@dataclass
class Pushing:
    """A Hub, and what pushes to it."""

    hub: WritableHub
    home: Path

    def push(self, run: Path, *flags: str, attempts: int = 6, **environment: str) -> dict[str, Any]:
        """Push with the library, without pictures and verification: what was done, or the error."""
        argv = [str(run), "--hub_model_id", "me/digits", *FAST, *flags]
        return self.run_code(_PUSH.format(argv=argv, attempts=attempts), **environment)

    def run_code(self, code: str, **environment: str) -> Any:
        """Run a client; its last line is JSON."""
        return run_client(code, self.hub, self.home, timeout_s=900, **{**CLIENT, **environment})

    def run_recipe(self, name: str, *flags: Any, check: bool = True, **environment: str) -> Any:
        """Run ``recipes/NAME.py`` from the command line."""
        command = [sys.executable, str(REPOSITORY / "recipes" / f"{name}.py"), *map(str, flags)]
        variables = client_environment(self.hub, self.home, **{**CLIENT, **environment})
        result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert not check or result.returncode == 0, result.stdout + result.stderr[-6000:]
        return result

    @property
    def repository(self):
        """``me/digits``."""
        return self.hub.find("me/digits")

    def titles(self, revision: str = "main") -> list[str]:
        """Titles of the commits behind a revision, oldest first."""
        return [self.repository.titles[commit] for commit in reversed(self.repository.history(revision))]


@pytest.fixture
def pushing(tmp_path):
    """A Hub where the token belongs to ``me``, of the organisation ``team``."""
    with serve_writable_hub(tmp_path / "hub") as hub:
        hub.users[TOKEN] = User(organisations=["team"])
        yield Pushing(hub, tmp_path / "home")


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
