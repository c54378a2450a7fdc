"""Without a network, what is cached is used at once, in place of minutes of retries by three libraries."""

from __future__ import annotations

import logging
import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.errors import ModelError

logger = logging.getLogger(__name__)


def go_offline_without_network(*names: str | None) -> None:
    """Set ``HF_HUB_OFFLINE`` if something is asked of the Hub whose host has no address here, and say so.

    ``huggingface_hub`` reads the variable when it is imported: call this before.

    Args:
        names: What may be on the Hub: models and datasets. What lies here, and None, is not asked of it.
    """
    here = (None, "digits")  # the built-in sample
    asked = [name for name in names if name not in here and is_repo_id(name) and not Path(str(name)).exists()]
    if not asked or "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies():
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        logger.warning("No connection: the host %s is not found. Only what is cached is used (HF_HUB_OFFLINE=1).", host)


def explain_missing_model(name: str, error: Exception) -> ModelError:
    """Make the error for a model of which not even the configuration can be loaded.

    Args:
        name: A folder or Hub id.
        error: What the libraries say.
    """
    from huggingface_hub import constants

    expected = "a folder with config.json, or the id of a model on the Hub"
    if not Path(name).exists() and not is_repo_id(name):
        return ModelError(f"there is no folder {name!r}", expected, "check the path")
    if not Path(name).exists() and constants.HF_HUB_OFFLINE:
        return ModelError(
            f"the model {name!r} is neither a folder here nor in the cache, and the Hub cannot be asked",
            f"{expected} that is in the cache or can be reached",
            "check the network, HF_HUB_OFFLINE and HF_ENDPOINT, pass the path of a folder, or train a model from "
            "scratch: --model_type",
        )
    return ModelError(
        f"no model could be loaded from {name!r}: {error}",
        expected,
        "check the name, --model_revision, and that you are logged in if the model is private",
    )
