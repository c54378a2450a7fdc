"""Where the weights of a model come from: one commit of a repository, and no pickles."""

from __future__ import annotations

import contextlib
import logging
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from hf_imgcls.errors import ModelError, network_error
from hf_imgcls.layout import HASHES_FILE, MANIFEST_FILE, RUN_FILE
from hf_imgcls.model_files import ADAPTER_CONFIG, CONFIG_FILE, check_config, refuse_adapter
from hf_imgcls.offline import explain_missing_model
from hf_imgcls.retries import call_hub

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hf_imgcls.arguments.fields import DataArguments

# What torch.load and its like would execute.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_WEIGHTS = "model.safetensors"
_SMALL_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", f"{_WEIGHTS}.index.json")
# What from_pretrained raises about files that are missing, damaged, or another model's.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
logger = logging.getLogger(__name__)


def pin_source(
    name: str | Path, data: DataArguments, revision: str, *, fetches_weights: bool = False
) -> dict[str, Any]:
    """Settle what is loaded, and fetch it from the Hub: with retries, which ``from_pretrained`` has for few requests.

    Args:
        name: A folder or Hub id.
        data: ``cache_dir``, ``token``, ``trust_remote_code`` and ``download_attempts``.
        revision: Branch, tag or commit on the Hub.
        fetches_weights: Fetch the weights too, not only the small files.

    Returns:
        Keyword arguments of ``from_pretrained``, with the commit that ``revision`` stands for now.

    Raises:
        ModelError: There is nothing of that name, it is an adapter, its weights are pickles only, its configuration
            holds what no classifier has, or the Hub does not answer.
    """
    commit = find_commit(name, data, revision)
    files = _list_files(str(name), data, commit)
    adapter = None
    if files is None or ADAPTER_CONFIG in files:
        adapter = _find_file(str(name), ADAPTER_CONFIG, data, commit or revision)
    if adapter is None and commit is not None and revision != "main":
        # transformers 4.57 looks for it on the main branch, whatever the revision (models/auto/auto_factory.py).
        with contextlib.suppress(ModelError):  # there need not be such a branch
            adapter = _find_file(str(name), ADAPTER_CONFIG, data, "main")
    if adapter is not None:
        raise refuse_adapter(name, Path(adapter))
    if files is not None:
        _check_safetensors(str(name), files)
        if commit is not None:
            _fetch(str(name), _select_files(files, fetches_weights), data, commit)
    check_config_of(name, data, revision)
    return {
        "revision": commit or revision,
        "cache_dir": data.cache_dir,
        "token": data.token,
        "trust_remote_code": data.trust_remote_code,
    }


def load_trained(name: str | Path, source: dict[str, Any]) -> PreTrainedModel:
    """Load a classifier that has been trained: safetensors only, float32, every tensor of it.

    Args:
        name: A folder or Hub id.
        source: From `pin_source`.

    Returns:
        The model, on the CPU and in evaluation mode.

    Raises:
        ModelError: It cannot be loaded, or a tensor of it is missing.
    """
    from transformers import AutoModelForImageClassification

    try:
        # The dtype is said because transformers 4 and 5 have different defaults.
        model, info = AutoModelForImageClassification.from_pretrained(
            str(name), dtype=torch.float32, use_safetensors=True, output_loading_info=True, **source
        )
    except LOADING_ERRORS as error:
        raise ModelError(
            f"no image classifier could be loaded from {str(name)!r}: {error}",
            "a folder or Hub repository with config.json and model.safetensors",
            "check the name, --model_revision, and that you are logged in if the model is private",
        ) from error
    if missing := sorted(str(key) for key in info["missing_keys"]):
        raise ModelError(
            f"{str(name)!r} lacks {len(missing)} tensors of {type(model).__name__}: {', '.join(missing[:5])}",
            "a fine-tuned classifier: a fresh head would only guess",
            "fine-tune it first: hf-imgcls finetune --model_name_or_path ...",
        )
    check_weights(model, name)
    return model.eval()


def check_weights(model: nn.Module, name: str | Path) -> None:
    """Refuse weights that say nothing.

    Args:
        model: As it was loaded.
        name: How the user calls it.

    Raises:
        ModelError: All of them are 0, or one of them is not finite.
    """
    found = ""
    if not any(bool(parameter.any()) for parameter in model.parameters()):
        found = "only zeros: it gives every image the same answer"
    for key, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            found = f"NaN or infinity in {key}"
            break
    if found:
        raise ModelError(f"the weights of {str(name)!r} have {found}", "trained weights", "take another copy of them")


def find_commit(name: str | Path, data: DataArguments, revision: str) -> str | None:
    """The commit that a revision of a Hub model stands for, the same throughout a process; None for a folder.

    Raises:
        ModelError: There is no model of that name.
    """
    from transformers.utils.hub import extract_commit_hash

    path = _find_file(str(name), CONFIG_FILE, data, revision)
    return None if Path(name).is_dir() else extract_commit_hash(path, None)


def check_config_of(name: str | Path, data: DataArguments, revision: str) -> None:
    """Look at a model's ``config.json``, see `hf_imgcls.model_files.check_config`; without one there is nothing to see.

    Raises:
        ModelError: It holds what no classifier has.
    """
    path = _find_file(str(name), CONFIG_FILE, data, revision)
    if path is not None:
        check_config(name, Path(path))


def _find_file(name: str, file: str, data: DataArguments, revision: str) -> str | None:
    """A file of a folder, or of a repository as it lies in the cache; None if there is no such file."""
    return _look_up_file(name, file, data.cache_dir, data.token, revision, data.download_attempts)


def find_manifest(name: str | Path | None, data: DataArguments, revision: str) -> Path | None:
    """Find what tells which images a model has seen: in the folder of its run, or where it was published with it.

    Args:
        name: The model: the folder of a run, of one of its checkpoints, adapters or exports, or a Hub id.
        data: ``cache_dir``, ``token`` and ``download_attempts``.
        revision: Branch, tag or commit on the Hub.

    Returns:
        ``data_manifest.parquet`` or ``training_hashes.parquet``; None where there is neither.
    """
    if name is None:
        return None
    if Path(name).is_dir():
        folder = Path(name).resolve()
        run = next((place for place in (folder, folder.parent) if (place / RUN_FILE).is_file()), folder)
        path = next((run / file for file in (MANIFEST_FILE, HASHES_FILE) if (run / file).is_file()), None)
        if path is None and (run / RUN_FILE).is_file():
            logger.warning("      Whether %s has seen images of this dataset is unknown: no %s.", name, MANIFEST_FILE)
        return path
    found = _find_file(str(name), HASHES_FILE, data, find_commit(name, data, revision) or revision)
    return None if found is None else Path(found)


@cache
def _look_up_file(
    name: str, file: str, cache_dir: str | None, token: str | bool | None, revision: str, attempts: int
) -> str | None:
    from transformers.utils.hub import cached_file

    def find() -> str | None:
        return cached_file(
            name, file, cache_dir=cache_dir, token=token, revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip

    try:
        return call_hub(find, f"look up the model {name}", attempts, ModelError)
    except (OSError, ValueError) as error:
        raise explain_missing_model(name, error) from error


def _select_files(files: list[str], fetches_weights: bool) -> list[str]:
    """Choose what ``from_pretrained`` will ask for."""
    chosen = [file for file in files if file in _SMALL_FILES]
    if fetches_weights:
        shards = [file for file in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", file)]
        chosen += [_WEIGHTS] if _WEIGHTS in files else shards
    return chosen


def _fetch(name: str, files: list[str], data: DataArguments, commit: str) -> None:
    from huggingface_hub import hf_hub_download

    for file in files:
        call_hub(
            lambda file=file: hf_hub_download(  # type: ignore[misc]
                name, file, revision=commit, cache_dir=data.cache_dir, token=data.token
            ),
            f"download {file} of the model {name}",
            data.download_attempts,
            ModelError,
        )


def _check_safetensors(name: str, names: list[str]) -> None:
    """Refuse a model that has only pickles, while nothing of them has been downloaded."""
    if any(file.endswith(".safetensors") for file in names):
        return
    pickles = sorted(file for file in names if file.endswith(_PICKLES))
    raise ModelError(
        f"{name!r} has no safetensors weights" + (f", only {', '.join(pickles[:3])}" if pickles else ""),
        "model.safetensors: a pickle can run any code when it is loaded, and is not",
        "convert a model you trust: https://huggingface.co/spaces/safetensors/convert opens a pull request, which "
        "--model_revision refs/pr/N loads; or in an environment apart, from_pretrained(...).save_pretrained(FOLDER)",
    )


def _list_files(name: str, data: DataArguments, commit: str | None) -> list[str] | None:
    """The files at the top; None where the Hub is not asked, and so nothing can come from it either."""
    if Path(name).is_dir():
        return [path.name for path in Path(name).iterdir()]
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        names = HfApi(token=data.token).list_repo_files(name, revision=commit)
    except (HfHubHTTPError, OfflineModeIsEnabled, network_error(), ConnectionError, TimeoutError) as error:
        logger.debug("The files of %s are not known: %s", name, error)
        return None
    return [file for file in names if "/" not in file]
