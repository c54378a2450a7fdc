"""The house, over the syntax tree: who may import whom, and how large things may get.

Imports count wherever they stand: at the top, in a function, and for type checking alone. The lists of what is still
over a limit may only get shorter: an entry that is no longer needed is an error too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hf_imgcls

ROOT = Path(hf_imgcls.__file__).parent
GROUND = {
    "arrays", "catalogue", "errors", "extras", "layout", "model_files", "provenance", "records", "retries", "telemetry",
    "tokens", "digests",
}  # fmt: skip
# From the ground up: a room imports itself and what stands before it.
FLOORS = (
    GROUND,
    {"arguments"},
    {"process", "peers", "offline", "earlier_start", "run_folder", "compat"},
    {"classifier"},
    {"data"},
    {"fit"},
    {"measure"},
    {"publish"},
    {"commands"},
    {"api", "run"},
)
# Rooms beside the line, and all they may import.
BESIDE = {
    "serve": GROUND | {"classifier"},
    "watch": GROUND | {"classifier", "measure.tables", "measure.statistics"},
}
MAX_FUNCTION, MAX_MODULE, MAX_PARAMETERS = 60, 400, 8

LONG_FUNCTIONS: dict[str, int] = {}
LONG_MODULES: dict[str, int] = {
    "records": 772,
    "fit.resumable": 575,
}
MANY_PARAMETERS: dict[str, int] = {
    "measure.explain.explain.explain_examples": 9,
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name without ``hf_imgcls.``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    assert len(found) > 100
    return found


def imports(name: str) -> Iterator[tuple[str, str]]:
    """Each ``(module, imported name)`` of ours that a module imports, wherever in it."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hf_imgcls":
            module = (node.module or "").removeprefix("hf_imgcls").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                yield (inner, "") if inner in modules() else (module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hf_imgcls":
                    yield alias.name.removeprefix("hf_imgcls").removeprefix("."), ""


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_module_has_its_floor():
    rooms = {room(name) for name in modules() if name}
    assert rooms <= set().union(*FLOORS) | set(BESIDE), rooms
    for name in modules():
        if name and room(name) not in BESIDE:
            floor(name)


def test_nothing_is_imported_from_a_floor_above():
    upward = [
        f"{name} imports {module}"
        for name in modules()
        if name and room(name) not in BESIDE
        for module, _ in imports(name)
        if module and (room(module) in BESIDE or floor(module) > floor(name))
    ]
    assert not upward, "\n".join(upward)


def test_rooms_beside_the_line_import_what_they_may():
    too_much = [
        f"{name} imports {module}"
        for name in modules()
        if room(name) in BESIDE
        for module, _ in imports(name)
        if room(module) != room(name)
        and not any(module == allowed or module.startswith(f"{allowed}.") for allowed in BESIDE[room(name)])
    ]
    assert not too_much, "\n".join(too_much)


def test_no_module_imports_itself_by_way_of_others():
    edges = {name: {module for module, _ in imports(name) if module and module != name} for name in modules() if name}
    circles, done = [], set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for module in sorted(edges.get(name, ())):
                walk(module, (*path, name))
            done.add(name)

    for name in edges:
        walk(name, ())
    assert not circles, "\n".join(circles)


def test_every_module_is_used():
    """What nobody imports is reached by its name: a verb, an export format, a demo's app, the process that verifies."""
    by_name = ("commands.", "publish.export.", "publish.space_app", "publish.consumer")
    used = {module for name in modules() for module, _ in imports(name) if module != name}
    packages = {name.rpartition(".")[0] for name in modules()}
    left = [name for name in modules() if name not in used | packages and not name.startswith(by_name)]
    assert not left, left


def test_nobody_imports_the_private_names_of_another_module():
    private = [
        f"{name} imports {imported} of {module}"
        for name in modules()
        for module, imported in imports(name)
        if imported.startswith("_") and imported != "__version__"
    ]
    assert not private, "\n".join(private)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, as ``module.Class.name``."""

    def walk(prefix: str, node: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{prefix}.{child.name}", child
                yield from walk(f"{prefix}.{child.name}", child)
            elif isinstance(child, ast.ClassDef):
                yield from walk(f"{prefix}.{child.name}", child)
            else:
                yield from walk(prefix, child)

    for name, tree in modules().items():
        yield from walk(name, tree)


def check_limit(found: dict[str, int], allowed: dict[str, int], limit: int) -> None:
    """Nothing is over the limit but what is listed, and that is no larger than listed."""
    over = {name: size for name, size in found.items() if size > limit and size > allowed.get(name, 0)}
    assert not over, over
    shrunk = {name: found.get(name, 0) for name, size in allowed.items() if found.get(name, 0) < size}
    assert not shrunk, f"smaller than listed, shorten the list: {shrunk}"


def test_functions_fit_on_a_screen():
    sizes = {name: (node.end_lineno or 0) - node.lineno + 1 - doc_lines(node) for name, node in functions()}
    assert len(sizes) > 1000
    check_limit(sizes, LONG_FUNCTIONS, MAX_FUNCTION)


def doc_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a docstring, which is no code."""
    first = node.body[0]
    is_doc = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return (first.end_lineno or 0) - first.lineno + 1 if is_doc else 0


def test_modules_are_no_longer_than_a_chapter():
    sizes = {name: max((node.end_lineno or 0) for node in tree.body) for name, tree in modules().items() if tree.body}
    check_limit(sizes, LONG_MODULES, MAX_MODULE)


def test_functions_take_few_parameters():
    counts = {}
    for name, node in functions():
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        counts[name] = len([arg for arg in names if arg not in ("self", "cls")])
    check_limit(counts, MANY_PARAMETERS, MAX_PARAMETERS)
