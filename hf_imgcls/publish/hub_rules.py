"""What the Hub demands of a card's metadata, re-stated so that it can be asked without the Hub.

The Hub refuses a commit whose ``README.md`` has metadata that ``POST /api/validate-yaml`` refuses. Only the standard
library is imported: licence, notes and names are checked here before training starts.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md (the fields and their types) and the messages of
the Hub's own check, for example ``"base_model" with value "..." is not valid. Use a model id from https://hf.co/models``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_imgcls.arguments.hub_names import find_license_problem, is_repo_id

RELATIONS = ("finetune", "adapter", "quantized", "merge")


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
