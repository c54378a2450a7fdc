"""Placeholder of the model card: valid metadata, one paragraph, and no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_imgcls.errors import UserError


def write_card(
    folder: Path,
    *,
    notes: Path | None = None,
    license: str | None = None,
    hub_model_id: str | None = None,
    widget: list[dict[str, Any]] | None = None,
) -> Path:
    """Write ``README.md`` with the metadata that the Hub needs."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license, library_name="transformers", pipeline_tag="image-classification", widget=widget
    )
    text = notes.read_text(encoding="utf-8") if notes else "More will be written here."
    path = folder / "README.md"
    name = hub_model_id or folder.name
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\nAn image classifier. {text}\n", encoding="utf-8")
    return path


def check_card(folder: Path) -> None:
    """Refuse a card without metadata."""
    path = folder / "README.md"
    if not path.is_file() or not path.read_text(encoding="utf-8").startswith("---\n"):
        raise UserError(f"{path} has no metadata", "a card that write_card has written", "write it again")
