"""What is imported before anything is asked for: the standard library and PyYAML, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hf_imgcls.commands.__main__ import VERBS

PROBE = """
import contextlib, io, json, sys
before = set(sys.modules)
with contextlib.redirect_stdout(io.StringIO()) as shown:
    {code}
# What has no file is no package: modules that PyYAML's C part makes, and a stand-in that switches telemetry off.
files = {{name for name, module in sys.modules.items() if getattr(module, "__file__", None)}} - before
names = {{name.partition(".")[0] for name in files}} - set(sys.stdlib_module_names)
print(json.dumps([sorted(names), len(shown.getvalue())]))
"""
IMPORT_ALL = """import importlib, pkgutil, hf_imgcls.arguments
    for module in pkgutil.iter_modules(hf_imgcls.arguments.__path__):
        importlib.import_module(f"hf_imgcls.arguments.{module.name}")
    from hf_imgcls.arguments.parse import make_arguments
    make_arguments(dataset_name="digits", license="mit", goals=["accuracy>=0.9"])"""
SHOW_HELP = """sys.argv = {words}
    from hf_imgcls.commands.__main__ import main
    with contextlib.suppress(SystemExit):
        main()"""
ALLOWED = {"hf_imgcls", "yaml", "_yaml"}


def run_probe(code: str) -> tuple[list[str], int]:
    """Return the packages that code imports, and how much it prints."""
    command = [sys.executable, "-c", PROBE.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names, shown = json.loads(done.stdout.splitlines()[-1])
    return names, shown


def test_arguments_import_the_standard_library_and_yaml() -> None:
    names, _ = run_probe(IMPORT_ALL)
    assert "yaml" in names
    assert set(names) <= ALLOWED


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)], ids=" ".join)
def test_help_imports_the_standard_library_and_yaml(words: list[str]) -> None:
    names, shown = run_probe(SHOW_HELP.format(words=["hf-imgcls", *words, "--help"]))
    assert set(names) <= ALLOWED
    assert shown > 300
