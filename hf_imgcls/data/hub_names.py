"""Names of Hub datasets as people copy them: addresses of pages and ``hf://`` paths are read as the names in them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.errors import DataError

# Where the Hub puts its own conversion to parquet: https://huggingface.co/docs/dataset-viewer/parquet
CONVERTED_REVISION = "refs/convert/parquet"
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_SPECIAL_REVISION = re.compile(r"(refs/(?:convert|pr)/[^/]+)(?:/(.*))?")


def read_hub_name(args: DataArguments) -> DataArguments:
    """Replace the address of a dataset's page, or its ``hf://`` path, by the name, revision and configuration in it.

    Raises:
        DataError: The address is a model's, or that of a file; or it contradicts another argument.
    """
    given = args.dataset_name
    if given is None or Path(given).expanduser().exists():
        return args
    path = _find_path(given)
    if path is None:
        return args
    parts = [part for part in path.split("/") if part]
    if parts[:1] != ["datasets"] or len(parts) < 2:
        raise DataError(
            f"--dataset_name {given} is not the address of a dataset",
            "a name such as owner/dataset",
            f"check that {'/'.join(parts[:2]) or given!r} is a dataset, and pass its name",
        )
    num_names = 3 if len(parts) > 2 and parts[2] not in ("tree", "viewer", "blob", "resolve") else 2
    name, found_at, revision = "/".join(parts[1:num_names]), parts[num_names:], None
    if "@" in name:  # hf://datasets/owner/name@revision/path
        name, _, start = name.partition("@")
        revision, rest = _split_revision("/".join([unquote(start), *found_at]))
    elif found_at[:1] in (["tree"], ["blob"], ["resolve"]):
        revision, rest = _split_revision(unquote("/".join(found_at[1:])))
    else:
        rest = unquote("/".join(found_at))
    config = None
    if found_at[:1] == ["viewer"]:
        config, rest = unquote(found_at[1]) if len(found_at) > 1 else None, ""
    elif revision == CONVERTED_REVISION and rest and not rest.endswith(".parquet"):
        config, rest = rest.split("/")[0], ""
    if rest:
        raise DataError(
            f"--dataset_name {given} names {rest} inside {name}", "the name of a dataset", f"pass --dataset_name {name}"
        )
    changes = {"dataset_revision": revision, "dataset_config_name": config}
    for flag, value in changes.items():
        own = getattr(args, flag)
        if own is not None and value is not None and own != value:
            raise DataError(
                f"--dataset_name {given} says {value!r}, and --{flag} {own!r}", "one of them", f"pass the name {name}"
            )
    kept = {flag: value for flag, value in changes.items() if value is not None}
    return replace(args, dataset_name=name, **kept)  # type: ignore[arg-type]


def _find_path(given: str) -> str | None:
    """Return the path in an address or ``hf://`` path; None where it is a plain name."""
    from huggingface_hub import constants

    if given.startswith("hf://"):
        return given.removeprefix("hf://")
    endpoint = constants.ENDPOINT.rstrip("/") + "/"
    if given.startswith(endpoint):
        return urlsplit(given.removeprefix(endpoint)).path
    url = urlsplit(given if "://" in given else f"https://{given}")
    if url.netloc.lower() in _HOSTS:
        return url.path
    return given if re.fullmatch(r"datasets/[\w.-]+/[\w.-]+/?", given) else None


def _split_revision(path: str) -> tuple[str | None, str]:
    """Divide ``revision/path``; special revisions have slashes."""
    if match := _SPECIAL_REVISION.fullmatch(path):
        return match.group(1), match.group(2) or ""
    revision, _, rest = path.partition("/")
    return revision or None, rest
