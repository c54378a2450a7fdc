"""The wheel, installed outside the checkout: the command, the configs and the package are all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without the checkout on the path; the dependencies are those of this environment.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False, timeout=900
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes beside the code
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file() and name.startswith(("hf_imgcls/", "pyproject", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    # With a setuptools that is new enough here, the build asks no package registry for one.
    is_new = int(version("setuptools").partition(".")[0]) >= 77 if find_spec("setuptools") else False
    options = ("--no-deps", "-w", folder, *(["--no-build-isolation"] if is_new else []))
    built = run(sys.executable, "-m", "pip", "wheel", ".", *options, cwd=source)
    assert built.returncode == 0, built.stderr[-2000:]
    (path,) = folder.glob("hf_imgcls-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hf_imgcls/")}
    ours = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "hf_imgcls").rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert len(ours) > 200
    assert packed == ours


@pytest.mark.slow
def test_it_runs_outside_the_checkout(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    target = ("--python", python, "install", "--no-deps", "--no-index", wheel)
    installed = run(sys.executable, "-m", "pip", *target, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr[-2000:]
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind what is installed here
    program = tmp_path / "venv" / "bin" / "hf-imgcls"

    found = run(python, "-c", "import hf_imgcls; print(hf_imgcls.__file__)", cwd=tmp_path)
    assert Path(found.stdout.strip()).parent == site / "hf_imgcls", found.stderr
    assert "finetune" in run(program, "--help", cwd=tmp_path).stdout
    flags = (
        "--config",
        "digits_vit_tiny",
        "--max_steps",
        2,
        "--report",
        "false",
        "--use_cpu",
        "--disable_tqdm",
        "true",
    )
    done = run(program, "finetune", *flags, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "outputs" / "digits_vit_tiny"
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    assert json.loads((folder / "test_results.json").read_text())["test_num_examples"] == 270
