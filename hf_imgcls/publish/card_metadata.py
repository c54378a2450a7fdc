"""A card's metadata: what the Hub filters, links and ranks models by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_imgcls.arguments.hub_names import OTHER_LICENSE, list_licenses
from hf_imgcls.catalogue import get_metric
from hf_imgcls.publish.card_facts import find_smoke_reasons
from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.markdown import clean

TASK = "image-classification"
# In this order; ModelCardData orders its fields differently from release to release.
_ORDER = [
    "license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model", "base_model_relation",
    "datasets", "tags", "metrics", "widget", "model_name", "eval_results",
]  # fmt: skip


def build_metadata(
    records: CardRecords,
    *,
    name: str,
    license: dict[str, str],
    widget: list[dict[str, Any]] | None = None,
) -> str:
    """The YAML block, without its dashes.

    Args:
        records: The run's records.
        name: Of the model, for ``model-index``.
        license: From `choose_license`.
        widget: Examples for the model page: ``src`` and ``example_title`` each.
    """
    results = [] if find_smoke_reasons(records) or records.changes else list_results(records)
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": TASK, **license}
    if (base := records.base_model) is not None and records.is_hub_model:
        # With LoRA too: the adapter is merged, and what lies at the top is a whole model.
        fields |= {"base_model": base, "base_model_relation": "finetune"}
    if records.is_hub_dataset:
        fields["datasets"] = [records.data_name]
    family = records.config.get("model_type")
    fields["tags"] = [TASK, "vision", *([family] if isinstance(family, str) else []), "hf_imgcls"]
    measured = [get_metric(name) for name, estimate in records.metrics.items() if estimate.value is not None]
    fields["metrics"] = sorted({metric.hub_name for metric in measured if metric.is_on_hub}) or None
    fields["widget"] = [_clean_example(example) for example in widget or ()] or None
    if results:
        fields |= {"model_name": clean(name), "eval_results": results}
    data = ModelCardData(**fields)
    return data.to_yaml(original_order=[key for key in _ORDER if key in data.__dict__])


def list_results(records: CardRecords) -> list[EvalResult]:
    """What was measured on the whole test split, as the Hub's leaderboards read it.

    A part of a split is not comparable with others' numbers, and validation has chosen the checkpoint: neither is here.
    """
    part = records.data.splits.get("test")
    if records.split != "test" or part is None or records.is_subset("test"):
        return []
    where: dict[str, Any] = {
        "dataset_name": clean(_pretty_data(records)),
        "dataset_type": _data_type(records),
        "dataset_config": records.data.config,
        "dataset_split": clean(part.source_split) if part.source_split else None,
        "dataset_revision": records.data.revision,
        "dataset_args": {"held_out": clean(part.source, 200)} if part.is_cut else None,
    }
    results = []
    for name, estimate in records.metrics.items():
        metric = get_metric(name)
        if estimate.value is None or metric.average == "weighted":
            continue
        results.append(
            EvalResult(
                task_type=TASK,
                task_name="Image Classification",
                metric_type=metric.hub_name,
                metric_value=_round(estimate.value),
                metric_name=metric.title,
                metric_args={"average": metric.average} if metric.average else None,
                **where,
            )
        )
    return results


def choose_license(records: CardRecords, license: Mapping[str, str] | None = None) -> tuple[dict[str, str], str]:
    """The model's licence: what the author states, else what the base model's own card states, else none.

    Args:
        records: The run's records.
        license: ``license``, and with ``other`` its ``license_name`` and ``license_link``, in the recipe's place.

    Returns:
        The metadata's fields, and a sentence about where they come from. The Hub accepts a card without a licence.
    """
    model = records.run.model if records.run else None
    given = license or records.recipe
    stated = given.get("license")
    base = model.base_license if model else None
    base_name = f"[{records.base_model}](https://huggingface.co/{records.base_model})"
    base_name = base_name if records.is_hub_model else "the base model"
    if stated is not None:
        fields = {"license": stated}
        if stated == OTHER_LICENSE:
            fields |= {key: given[key] for key in ("license_name", "license_link") if given.get(key)}
        sentence = f"{fields.get('license_name', stated)}, stated by the author."
        if base is not None and base != stated:
            sentence += f" The card of {base_name} states {clean(base)}: its terms may reach this model."
        return fields, sentence
    if model is None or base is None:
        nobody = "The author states none" + (", and neither does the base model's card" if records.base_model else "")
        return {}, f"Not stated. {nobody}: ask before you use it."
    if base not in list_licenses():
        return {}, f"Not stated. The card of {base_name} states {clean(base)!r}, which the Hub does not know."
    fields = {"license": base}
    if base == OTHER_LICENSE:
        if not model.base_license_name or not model.base_license_link:
            return {}, f"Not stated. The card of {base_name} states a licence of its own, without name or link."
        link = model.base_license_link
        if not link.startswith(("http://", "https://")) and records.run and records.is_hub_model:
            link = f"https://huggingface.co/{records.base_model}/blob/{records.run.base_model_revision}/{link}"
        fields |= {"license_name": clean(model.base_license_name), "license_link": link}
    return fields, f"{fields.get('license_name', base)}, inherited from {base_name}, whose card states it."


def _round(value: float) -> float:
    return round(value, 4) if abs(value) >= 0.001 else float(f"{value:.3g}")


def _pretty_data(records: CardRecords) -> str:
    return "scikit-learn digits" if records.is_built_in else records.data_name


def _data_type(records: CardRecords) -> str:
    """The Hub wants a dataset's id here; what is not on the Hub is called by what made it, as Trainer does."""
    if records.is_hub_dataset:
        return records.data_name
    return "sklearn.datasets.load_digits" if records.is_built_in else "imagefolder"


def _clean_example(example: dict[str, Any]) -> dict[str, Any]:
    title = {"example_title": clean(example["example_title"])} if example.get("example_title") else {}
    return {**example, **title}
