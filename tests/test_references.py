"""What texts name exists: files that the documentation names, and modules and names that docstrings refer to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from places import REPOSITORY

PACKAGE = REPOSITORY / "hf_imgcls"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SOURCES = [
    path for folder in ("hf_imgcls", "recipes", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
]
# Where a path in prose may begin, from the outermost folder.
ROOTS = (REPOSITORY, PACKAGE)


def defined_names(path: Path) -> set[str]:
    """Names at the top of a module, and ``Class.attribute`` of its classes."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for item in ast.walk(node):
                if isinstance(item, ast.FunctionDef):
                    names.add(f"{node.name}.{item.name}")
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    names.add(f"{node.name}.{item.target.id}")
    return names


def resolves(reference: str) -> bool:
    """Whether a dotted name is a module, or a name at the top of one."""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        base = REPOSITORY.joinpath(*parts[:length])
        rest = ".".join(parts[length:])
        if base.is_dir():
            return not rest or rest in defined_names(base / "__init__.py") or _is_public(base, rest)
        if base.with_suffix(".py").is_file():
            return not rest or rest in defined_names(base.with_suffix(".py"))
    return False


def _is_public(base: Path, name: str) -> bool:
    return base == PACKAGE and f'"{name}"' in (base / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|txt|png))`", text)
    missing += [name for name in named if not any((root / name).exists() for root in ROOTS)]
    assert not missing, missing


def test_modules_and_names_that_texts_refer_to_exist():
    found, missing = 0, []
    for path in [*PAGES, *SOURCES]:
        for reference in re.findall(r"`{1,2}(hf_imgcls(?:\.\w+)+)(?:\(\))?`", path.read_text(encoding="utf-8")):
            found += 1
            if not resolves(reference):
                missing.append(f"{path.relative_to(REPOSITORY)}: {reference}")
    assert found > 100
    assert not missing, "\n".join(missing)
