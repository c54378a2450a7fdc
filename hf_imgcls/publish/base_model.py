"""What a run's record says about its model: sizes, and the pretrained model it began from with that one's licence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard, hf_hub_download

from hf_imgcls.fit.quantization import is_quantizer
from hf_imgcls.layout import CARD_FILE
from hf_imgcls.process import is_main_process
from hf_imgcls.records import ModelRecord

if TYPE_CHECKING:
    from torch import nn

    from hf_imgcls.arguments.fields import DataArguments, FitArguments


def describe_model(
    model: nn.Module, fit: FitArguments, data: DataArguments, base_revision: str | None = None
) -> ModelRecord:
    """Describe a model that is about to be trained.

    Args:
        model: As it is trained, adapters included.
        fit: ``model_name_or_path``.
        data: ``cache_dir`` and ``token``.
        base_revision: Commit of the pretrained model, where it comes from the Hub.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    saved = [p for name, p in base.named_parameters() if not _goes_away(name)]
    name = fit.model_name_or_path
    stated = {}
    if name is not None and is_main_process():  # which alone writes the record
        stated = read_license(name, base_revision, data)
    return ModelRecord(
        architecture=type(base).__name__,
        num_parameters=sum(p.numel() for p in saved),
        num_trainable_parameters=sum(
            p.numel() for name, p in model.named_parameters() if p.requires_grad and not is_quantizer(name)
        ),
        **{f"base_{key}": value for key, value in stated.items()},
    )


def _goes_away(name: str) -> bool:
    """Whether a parameter is no part of the model that is saved: an adapter's, or a quantiser's range."""
    # peft keeps the untrained head as "original_module" beside the copy that it trains.
    return "lora_" in name or ".original_module." in name or is_quantizer(name)


def read_license(name: str, revision: str | None, data: DataArguments) -> dict[str, str]:
    """What a model's own card states as its licence.

    Args:
        name: Hub id or folder.
        revision: Commit on the Hub; None for a folder.
        data: ``cache_dir`` and ``token``.

    Returns:
        ``license``, ``license_name`` and ``license_link``, as far as they are there; nothing if the card cannot be
        read: a licence that is not known must not be in the way of training.
    """
    try:
        if revision is None:
            path = Path(name).expanduser() / CARD_FILE
        else:
            options: dict[str, Any] = {"cache_dir": data.cache_dir, "token": data.token}
            path = Path(hf_hub_download(name, CARD_FILE, revision=revision, **options))
        metadata = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    names = ("license", "license_name", "license_link")
    return {name: metadata[name] for name in names if isinstance(metadata.get(name), str)}
