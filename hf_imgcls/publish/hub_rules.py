"""What the Hub demands of a card's metadata, re-stated so that it can be asked without the Hub.

The Hub refuses a commit whose ``README.md`` has metadata that ``POST /api/validate-yaml`` refuses. Only the standard
library is imported: licence, notes and names are checked here before training starts.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md (the fields and their types) and the messages of
the Hub's own check, for example ``"base_model" with value "..." is not valid. Use a model id from https://hf.co/models``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

OTHER_LICENSE = "other"
RELATIONS = ("finetune", "adapter", "quantized", "merge")
# Comments of Markdown's; what stands between the two is the author's and is kept. The digest is that of the file it was
# taken from: while the file stays the same, what was changed in the card since stays too.
NOTES_BEGIN = re.compile(
    r"<!-- author's notes: begin \(kept when the card is written again\)(?:, file ([0-9a-f]+))? -->"
)
NOTES_END = "<!-- author's notes: end -->"
MAX_REPO_ID = 96

# Source: huggingface_hub's validate_repo_id.
_REPO_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_URL = re.compile(r"https?://[^\s<>\"]+")


@cache
def list_licenses() -> tuple[str, ...]:
    """The licence identifiers that the Hub knows."""
    text = resources.files("hf_imgcls.publish").joinpath("licenses.txt").read_text(encoding="utf-8")
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


def find_placeholders(text: str) -> list[str]:
    """Words that a template has left for somebody to fill in."""
    return re.findall(r"(?i:more information needed|\[fill in[^\]]*\]|lorem ipsum)|\bTODO\b|\bFIXME\b", text)


def is_repo_id(name: Any) -> bool:
    """Whether a name can be that of a repository: ``name`` or ``owner/name``."""
    if not isinstance(name, str) or len(name) > MAX_REPO_ID or name.endswith(".git") or re.search(r"--|\.\.", name):
        return False
    parts = name.split("/")
    return 1 <= len(parts) <= 2 and all(_REPO_NAME.fullmatch(part) for part in parts)


def find_metadata_problems(metadata: Mapping[str, Any]) -> list[str]:
    """What the Hub would refuse about a model card's metadata.

    Args:
        metadata: The YAML block, read.

    Returns:
        One line for each problem.
    """
    problems = [f"{key!r} is empty" for key, value in metadata.items() if value in (None, "", [], {})]
    for key in ("license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model_relation"):
        if key in metadata and not isinstance(metadata[key], str):
            problems.append(f"{key!r} must be a string, not {metadata[key]!r}")
    for key in ("datasets", "tags", "metrics"):
        value = metadata.get(key)
        is_list = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        if value is not None and not is_list:
            problems.append(f"{key!r} must be a list of strings, not {value!r}")
    problems += _check_names(metadata)
    problems += _check_model_index(metadata.get("model-index"))
    for number, example in enumerate(metadata.get("widget") or []):
        if not isinstance(example, dict) or not isinstance(example.get("src"), str):
            problems.append(f"'widget[{number}]' must have 'src', the path or URL of an image")
    return problems


def _check_names(metadata: Mapping[str, Any]) -> list[str]:
    problems = []
    names = [metadata.get(key) for key in ("license", "license_name", "license_link")]
    if all(name is None or isinstance(name, str) for name in names) and (problem := find_license_problem(*names)):
        problems.append(f"{problem[0]}; expected: {problem[1]}")
    base = metadata.get("base_model")
    for name in base if isinstance(base, list) else [base] if base is not None else []:
        if not is_repo_id(name):
            problems.append(f"'base_model' with value {name!r} is no id of a model on the Hub")
    relation = metadata.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        problems.append(f"'base_model_relation' with value {relation!r} is none of {', '.join(RELATIONS)}")
    if relation is not None and base is None:
        problems.append("'base_model_relation' without 'base_model'")
    for name in metadata.get("datasets") or []:
        if not is_repo_id(name):
            problems.append(f"'datasets' with value {name!r} is no id of a dataset on the Hub")
    for key in ("library_name", "pipeline_tag"):
        value = metadata.get(key)
        if isinstance(value, str) and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", value):
            problems.append(f"{key!r} with value {value!r} is not valid")
    language = metadata.get("language")
    for code in language if isinstance(language, list) else [language] if language is not None else []:
        if not isinstance(code, str) or not re.fullmatch(r"[a-z]{2,3}|code|multilingual", code):
            problems.append(f"'language' with value {code!r} is no ISO 639 code")
    return problems


def _check_model_index(index: Any) -> list[str]:
    """The types of ``model-index``; every text in it must be there and be a string."""
    if index is None:
        return []
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        return ["'model-index' must be a list of mappings"]
    problems = []
    for entry in index:
        if not isinstance(entry.get("name"), str):
            problems.append("'model-index[].name' must be a string")
        results = entry.get("results")
        if not isinstance(results, list) or not results:
            problems.append("'model-index[].results' must be a list")
            continue
        for result in results:
            problems += _check_result(result)
    return problems


def _check_result(result: Any) -> list[str]:
    problems, prefix = [], "model-index[].results[]"
    if not isinstance(result, dict):
        return [f"'{prefix}' must be a mapping"]
    required = {"task": ("type",), "dataset": ("type", "name")}
    optional = {"task": ("name",), "dataset": ("config", "split", "revision")}
    for part, keys in required.items():
        content = result.get(part)
        content = content if isinstance(content, dict) else {}
        for key in (*keys, *(key for key in optional[part] if key in content)):
            if not isinstance(content.get(key), str) or not content[key]:
                problems.append(f"'{prefix}.{part}.{key}' must be a string, not {content.get(key)!r}")
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return [*problems, f"'{prefix}.metrics' must be a list"]
    for metric in metrics:
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str):
            problems.append(f"'{prefix}.metrics[].type' must be a string")
        elif not isinstance(metric.get("value"), (int, float)) or metric["value"] != metric["value"]:
            problems.append(f"'{prefix}.metrics[].value' of {metric['type']} must be a number")
    return problems
