"""What the Hub accepts as names, licences and notes."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib import resources
from typing import Any

OTHER_LICENSE = "other"

# Comments of Markdown's; what stands between the two is the author's and is kept. The digest is that of the file it was
# taken from: while the file stays the same, what was changed in the card since stays too.
NOTES_BEGIN = re.compile(
    r"<!-- author's notes: begin \(kept when the card is written again\)(?:, file ([0-9a-f]+))? -->"
)

NOTES_END = "<!-- author's notes: end -->"

MAX_REPO_ID = 96

# Source: huggingface_hub's validate_repo_id.
_REPO_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")


@cache
def list_licenses() -> tuple[str, ...]:
    """The licence identifiers that the Hub knows."""
    text = resources.files("hf_imgcls.arguments").joinpath("licenses.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def find_license_problem(license: str | None, name: str | None, link: str | None) -> tuple[str, str, str] | None:
    """What is wrong with a licence: found, expected and fix; None if nothing is.

    Args:
        license: An identifier.
        name: Its name; needed where the identifier is ``other``, and only there.
        link: Where its text is: a URL, or ``LICENSE``, a file of the repository.
    """
    if license is None or license != OTHER_LICENSE:
        if name or link:
            given = " and ".join(word for word, value in (("license_name", name), ("license_link", link)) if value)
            return f"{given} with license {license}", "license other", "add --license other, or leave them out"
        if license is not None and license not in list_licenses():
            near = difflib.get_close_matches(license.lower(), list_licenses(), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "use other, with --license_name and --license_link"
            return f"license is {license!r}", "an identifier that the Hub knows, for example apache-2.0 or mit", hint
        return None
    if not name or not link:
        return (
            "license other without a name or a link",
            "--license_name, and --license_link: a URL, or LICENSE for a file of that name in the run's folder",
            "add them, or choose one of the Hub's licences",
        )
    if link != "LICENSE" and not _URL.fullmatch(link):
        return f"license_link is {link!r}", "a URL, or LICENSE for a file in the run's folder", "correct it"
    return None


def find_notes_problem(text: str) -> str | None:
    """Why a user's text cannot stand in a card; None if it can."""
    if NOTES_BEGIN.search(text) or NOTES_END in text:
        return "it contains the card's own marks around the notes"
    if re.match(r"\s*---\s*\n", text):
        return "it begins with a metadata block, which belongs to the card"
    if find_placeholders(text):
        return f"it contains {find_placeholders(text)[0]!r}"
    return None


def is_repo_id(name: Any) -> bool:
    """Whether a name can be that of a repository: ``name`` or ``owner/name``."""
    if not isinstance(name, str) or len(name) > MAX_REPO_ID or name.endswith(".git") or re.search(r"--|\.\.", name):
        return False
    parts = name.split("/")
    return 1 <= len(parts) <= 2 and all(_REPO_NAME.fullmatch(part) for part in parts)


_URL = re.compile(r"https?://[^\s<>\"]+")


def find_placeholders(text: str) -> list[str]:
    """Words that a template has left for somebody to fill in."""
    return re.findall(r"(?i:more information needed|\[fill in[^\]]*\]|lorem ipsum)|\bTODO\b|\bFIXME\b", text)
