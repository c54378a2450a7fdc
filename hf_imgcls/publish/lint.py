"""What must not be published of a card: blanks, local paths, broken tables and links, metadata that the Hub refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from hf_imgcls.arguments.hub_names import NOTES_BEGIN, NOTES_END, find_placeholders
from hf_imgcls.publish.hub_rules import find_metadata_problems

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\b[^>]*?(?:src|href)\s*=\s*[\"']([^\"']+)[\"']")
# Folders that machines have and repositories do not.
_ROOTS = (
    "home|Users|root|tmp|mnt|media|data|var|opt|srv|etc|usr|work|workspace|workspaces|content|scratch|private|Volumes"
)
_LOCAL = re.compile(
    rf"(?<![\w.:/\-)>])/(?:{_ROOTS})/[^\s\"'`<>|)]+|(?<!\w)~/[^\s\"'`<>|)]+|(?<!\w)[A-Za-z]:\\+Users\\[^\s\"'`<>|]+|file://\S+"
)


def lint_card(text: str, folder: str | Path) -> list[str]:
    """Find what is wrong with a card.

    Args:
        text: The whole README.
        folder: Where it lies; pictures and links are looked for there.

    Returns:
        One line for each problem.
    """
    folder = Path(folder)
    front = _FRONT.match(text)
    body = text[front.end() :] if front else text
    problems = list(_check_front(text, front[1], folder)) if front else ["there is no metadata block at the top"]
    problems += [f"a blank is left: {word!r}" for word in dict.fromkeys(find_placeholders(text))]
    ours = re.sub(NOTES_BEGIN.pattern + ".*" + re.escape(NOTES_END), "", body, flags=re.DOTALL)
    problems += [f"a mark of the template is left: {mark!r}" for mark in dict.fromkeys(re.findall(r"\{[{%#]", ours))]
    problems += [f"the section {title!r} is empty" for title in _find_empty_sections(body)]
    problems += [f"a local path: {path}" for path in dict.fromkeys(_find_paths(text, folder))]
    problems += [f"a table is broken at {line[:60]!r}" for line in _find_broken_rows(body)]
    problems += [f"a link leads nowhere: {target}" for target in _find_dead_links(body, folder)]
    return problems


def _check_front(text: str, block: str, folder: Path) -> Iterator[str]:
    try:
        metadata = yaml.safe_load(block)
    except yaml.YAMLError as error:
        yield f"the metadata is no YAML: {str(error).splitlines()[0]}"
        return
    if not isinstance(metadata, dict):
        yield "the metadata is no mapping"
        return
    found = find_metadata_problems(metadata)
    yield from found
    if found:
        return
    # What the Hub's client would make of it, were the card read and written once more.
    again = _FRONT.match(str(ModelCard(text)))
    if again is None or yaml.safe_load(again[1]) != metadata:
        yield "the metadata changes when huggingface_hub reads and writes it"
    for example in metadata.get("widget") or ():
        if not example["src"].startswith(("http://", "https://")) and not (folder / example["src"]).is_file():
            yield f"the widget's example {example['src']} is not there"
    if metadata.get("license_link") == "LICENSE" and not (folder / "LICENSE").is_file():
        yield "license_link is LICENSE, and there is no such file beside the card"


def _strip_code(body: str) -> str:
    return _CODE.sub("code", _FENCE.sub("code", body))


def _find_empty_sections(body: str) -> Iterator[str]:
    """Headings with nothing below them but a heading of the same or a higher level."""
    text = re.sub(r"<!--.*?-->", "", _FENCE.sub("code", body), flags=re.DOTALL)
    headings = list(_HEADING.finditer(text))
    for number, heading in enumerate(headings):
        following = headings[number + 1] if number + 1 < len(headings) else None
        content = text[heading.end() : following.start() if following else len(text)].strip()
        if not content and (following is None or len(following[1]) <= len(heading[1])):
            yield heading[2]


def _find_paths(text: str, folder: Path) -> Iterator[str]:
    yield from (match.group() for match in _LOCAL.finditer(text))
    for path in {folder.resolve(), Path.home(), Path.cwd()}:
        if len(path.parts) > 2 and re.search(rf"(?<![\w.]){re.escape(str(path))}(?![\w-])", text):
            yield str(path)


def _find_broken_rows(body: str) -> Iterator[str]:
    """Rows of a table with another number of cells than its head."""
    width = None
    for line in _FENCE.sub("code", body).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        width = width or cells
        if cells != width or not line.rstrip().endswith("|"):
            yield line


def _find_dead_links(body: str, folder: Path) -> Iterator[str]:
    for match in _LINK.finditer(_strip_code(body)):
        target = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:|//|#", target):
            continue
        path = folder / target.partition("#")[0].partition("?")[0]
        if target.startswith("/") or not path.exists():
            yield target
