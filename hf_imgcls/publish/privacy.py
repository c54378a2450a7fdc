"""What must not leave the machine in a published text: paths of its files, and tokens.

A run's records name local folders, because the run needs them: ``train_dir``, ``output_dir``, files of images. In what
is published, in a card too, such a path is cut to its last part: ``./photos``. After that nothing is repaired any more:
a text that still holds a home folder or a token is not published.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_imgcls.errors import PushError
from hf_imgcls.layout import RECIPE_FILE
from hf_imgcls.tokens import TOKEN, list_secrets

# Home folders, of this machine and of the one that a run was brought from.
_HOME = re.compile(r"(?<![\w.])(?:/home|/Users)/[^/\s\"'<>&]+|\b[A-Za-z]:\\{1,2}Users\\{1,2}[^\\\s\"'<>&]+")
_PATH = re.compile(r"/|~|\.\.|[A-Za-z]:\\")


def clean_texts(folder: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Cut local paths to their last part.

    Args:
        folder: The run's folder.
        texts: File name -> contents. Paths are looked for in the values of JSON and YAML, and cut in all texts.

    Returns:
        File name -> contents without them.
    """
    parsed = {name: _parse(name, text) for name, text in texts.items()}
    paths = list_paths(folder, parsed.pop(RECIPE_FILE, None), *parsed.values())
    return {name: cut_paths(text, paths) for name, text in texts.items()}


def list_paths(folder: Path, recipe: Any, *records: Any) -> set[str]:
    """Paths of a machine in parsed YAML and JSON, and that of the run's folder.

    Args:
        folder: The run's folder.
        recipe: The arguments: every value that is written like a path counts, whether it is still there or not.
        records: What else may hold some: a value counts that leads somewhere on this machine, or into a home folder.
    """
    named = {value for value in _walk(recipe) if _PATH.match(value) and value.strip("/\\.~")}  # not "/", a separator
    found = {value for record in records for value in _walk(record) if _is_local(value, folder)}
    return {str(folder.resolve()), *named, *found}


def cut_paths(text: str, paths: Collection[str]) -> str:
    """Leave the last part of each path, as a path of here: a name alone could be one on the Hub.

    Args:
        text: Plain, or JSON, YAML or HTML, where a path may be escaped.
        paths: From `list_paths`.
    """
    replacements: dict[str, str] = {}
    for path in paths:
        last = "./" + re.split(r"[/\\]", path.rstrip("/\\"))[-1]
        for escape in (str, html.escape, lambda text: json.dumps(text, ensure_ascii=False)[1:-1]):
            replacements[escape(path)] = escape(last)
    # The longest first: a folder is a part of the paths of its files.
    parts = "|".join(re.escape(path) for path in sorted(replacements, key=len, reverse=True))
    return re.sub(rf"(?<![\w.:/<-])(?:{parts})(?![\w-])", lambda match: replacements[match.group()], text)


def check_texts(texts: Mapping[str, str]) -> None:
    """Make sure that no text tells what it must not.

    Raises:
        PushError: A text holds a home folder or a token; the token is not shown.
    """
    home = str(Path.home())
    known = re.compile(rf"(?<![\w.]){re.escape(home)}(?![\w-])") if len(Path(home).parts) > 1 else _HOME
    secrets = list_secrets()
    for name, text in texts.items():
        for match in (known.search(text), _HOME.search(text)):
            if match:
                line = text.count("\n", 0, match.start()) + 1
                raise PushError(
                    f"{name}, line {line}, holds a local path: {match.group()}",
                    "nothing about this machine in what is published",
                    "remove it from that file (or from what it was made of), and push again",
                )
        if TOKEN.search(text) or any(secret in text for secret in secrets):
            raise PushError(
                f"{name} holds an access token",
                "no secret in what is published",
                "remove it, and make a new token at https://huggingface.co/settings/tokens: this one is in a file",
            )


def _is_local(value: str, folder: Path) -> bool:
    """Whether a value is a path of this machine (a class may well be called ``/a/abbey``)."""
    if "\n" in value or len(value) > 4096:
        return False
    if _HOME.match(value):
        return True
    path = Path(value)
    if not path.is_absolute() or len(path.parts) < 3:
        return False
    roots = (Path.home(), folder.resolve(), folder.resolve().parent)
    if any(path.is_relative_to(root) for root in roots if len(root.parts) > 1):
        return True
    try:
        return path.exists()
    except OSError:
        return False


def _parse(name: str, text: str) -> Any:
    import yaml

    try:
        if name.endswith(".json"):
            return json.loads(text)
        if name.endswith((".yaml", ".yml")):
            return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return None
    return None


def _walk(value: Any) -> Iterator[str]:
    """All strings of parsed JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
