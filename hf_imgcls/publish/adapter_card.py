"""The card of ``adapter/``: short, true, and in the place of peft's own, which is a form that nobody has filled in."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_imgcls.publish.card_facts import describe_data
from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.markdown import code, escape, join_words

_ORDER = (
    "license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model", "base_model_relation",
    "tags",
)  # fmt: skip


def render_adapter_card(records: CardRecords, name: str, license: dict[str, str]) -> str:
    """Write the adapter's card.

    Args:
        records: The run's records, with ``adapter``.
        name: Of the model: Hub id or folder.
        license: The metadata's fields about the licence.
    """
    adapter = records.adapter or {}
    fields: dict[str, Any] = {**license, "library_name": "peft", "pipeline_tag": "image-classification"}
    if records.is_hub_model:
        fields |= {"base_model": records.base_model, "base_model_relation": "adapter"}
    data = ModelCardData(**fields, tags=["lora", "image-classification", "hf_imgcls"])
    metadata = data.to_yaml(original_order=[key for key in _ORDER if key in data.__dict__])
    targets = adapter.get("target_modules") or ()
    layers = join_words([code(target) for target in sorted([targets] if isinstance(targets, str) else targets)])
    head = join_words([code(module) for module in adapter.get("modules_to_save") or ()])
    body = (
        f"# {escape(name, 120)}: the LoRA adapter\n\n"
        "The model in the folder above has this adapter merged into its weights; to use that model, this folder is not "
        "needed. Results, limitations, data and training are in [its card](../README.md).\n\n"
        f"Rank {adapter.get('r', 'not recorded')}, alpha {adapter.get('lora_alpha', 'not recorded')}, on {layers}; the "
        f"head ({head or 'not recorded'}) is saved whole. Trained on {describe_data(records)}.\n\n"
        f"{_tell_loading(records, name)}\n"
    )
    return str(ModelCard(f"---\n{metadata}\n---\n\n{body}"))


def _tell_loading(records: CardRecords, name: str) -> str:
    run = records.run
    if run is None or not records.is_hub_model:
        base = f"the folder {code(records.base_model)}" if records.base_model else "a model that is not recorded"
        return f"It belongs to {base}, which is not published here: use the merged model."
    if "image_size" in records.recipe:
        return (
            "The base model was brought to another image size, for which its position embeddings may have been "
            "resampled: use the merged model."
        )
    return (
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoConfig, AutoModelForImageClassification\n\n"
        f'config = AutoConfig.from_pretrained("{name}")\n'
        "base = AutoModelForImageClassification.from_pretrained(\n"
        f'    "{run.base_model}", revision="{run.base_model_revision}", config=config, ignore_mismatched_sizes=True\n'
        ")\n"
        f'model = PeftModel.from_pretrained(base, "{name}", subfolder="adapter")\n'
        "```"
    )
