"""docs/notebook.py, run as it stands on a folder of drawn pictures."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_imgcls.run import open_run

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "notebook.py"


def make_photos(folder: Path) -> Path:
    """Two classes that differ by their colour, under noise."""
    random = np.random.default_rng(0)
    for channel, label in enumerate(("red", "green")):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 128, (32, 32, 3))
            pixels[..., channel] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


def test_the_script_is_short_and_imports_no_inner_module():
    text = SCRIPT.read_text()
    tree = ast.parse(text)
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "hf_imgcls" in imported
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in (*imported, *modules) if name.startswith("hf_imgcls.")]
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) - len(ast.get_docstring(tree).splitlines()) <= 40


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    pytest.importorskip("onnxruntime")
    photos = make_photos(tmp_path / "photos")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(photos)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = open_run(tmp_path / "outputs" / "new")
    assert run.state == "finished"
    assert (run.folder / "onnx" / "export.json").is_file()
    assert re.search(r"^step \d+: loss ", done.stdout, re.MULTILINE)
    assert run.metrics["test_mistakes"] == len(run.table()) - run.table().correct.sum()
    assert "goal accuracy>=0.5" in done.stdout
    assert "Would push to me/photos" in done.stdout
