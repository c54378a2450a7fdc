"""The model card: a function of a run's records, and of what the author adds to them.

Everything in it comes from the records; what they do not hold is "not measured" or "not stated". What stands between
the two marks of the author's notes is kept when the card is written again, and so is a README of somebody else's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from huggingface_hub import ModelCard

from hf_imgcls.arguments.hub_names import NOTES_BEGIN, NOTES_END, find_notes_problem
from hf_imgcls.digests import RESTORE, describe_changes, find_changes
from hf_imgcls.errors import CardError
from hf_imgcls.layout import CARD_FILE
from hf_imgcls.publish.adapter_card import render_adapter_card
from hf_imgcls.publish.card_metadata import build_metadata, choose_license
from hf_imgcls.publish.card_records import CardRecords, read_records
from hf_imgcls.publish.card_view import build_view
from hf_imgcls.publish.lint import lint_card

ADAPTER_CARD = "adapter/README.md"
_HINT = "<!-- Write here what the records do not know, for example who may use the model, and for what. -->"
# What the cards that nobody wrote have in common: those of Trainer, and of peft.
_STOCK = re.compile(
    r"generated automatically according to the information the Trainer had access to|\[More Information Needed\]"
)

logger = logging.getLogger(__name__)


class Notes(NamedTuple):
    """What the author adds to a card: Markdown, and the digest of the file that it was taken from."""

    text: str = ""
    digest: str = ""


NO_NOTES = Notes()


def render_card(
    records: CardRecords,
    *,
    notes: Notes = NO_NOTES,
    license: Mapping[str, str] | None = None,
    hub_model_id: str | None = None,
    widget: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Write a card as Markdown with its metadata.

    Args:
        records: From `read_records`.
        notes: What the author adds.
        license: In the place of the recipe's, see `choose_license`.
        hub_model_id: Where the model will be; by default what the recipe says, or the folder's name.
        widget: Examples for the model page: ``src`` and ``example_title`` each.
    """
    hub_model_id = hub_model_id or records.recipe.get("hub_model_id")
    name = hub_model_id or records.name
    fields, sentence = choose_license(records, license)
    metadata = build_metadata(records, name=name.rpartition("/")[2], license=fields, widget=list(widget or ()))
    view = build_view(records, name=name, is_on_hub=hub_model_id is not None, license_sentence=sentence)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = resources.files("hf_imgcls.publish").joinpath("card_template.md").read_text(encoding="utf-8")
    body = environment.from_string(template).render(**view, notes_block=_frame_notes(notes))
    body = re.sub(r"\n{3,}", "\n\n", body)
    return str(ModelCard(f"---\n{metadata}\n---\n\n{body}"))


def write_card(
    folder: str | Path,
    *,
    notes: str | Path | Notes | None = None,
    license: Mapping[str, str] | None = None,
    hub_model_id: str | None = None,
    widget: list[dict[str, Any]] | None = None,
    left_out: Collection[str] = (),
) -> Path:
    """Write ``README.md`` of a run, and ``adapter/README.md`` where there is an adapter.

    Args:
        folder: The run's folder.
        notes: What the author adds, or a Markdown file with it, see `choose_notes`.
        license: In the place of the recipe's, see `choose_license`.
        hub_model_id: Where the model will be.
        widget: Examples for the model page: ``src`` and ``example_title`` each.
        left_out: Files of the folder that will not be published, for example ``report/report.html``; the card does not
            refer to them.

    Returns:
        The card. What is wrong with it is logged; `check_card` refuses it.

    Raises:
        CardError: The folder is no run, or the notes cannot be used.
        UserError: A record is damaged.
    """
    folder = Path(folder)
    records = read_records(folder)
    records = dataclasses.replace(records, files=records.files.difference(left_out))
    path = folder / CARD_FILE
    chosen = notes if isinstance(notes, Notes) else choose_notes(folder, notes)
    card = render_card(records, notes=chosen, license=license, hub_model_id=hub_model_id, widget=widget)
    _replace(path, card)
    if records.adapter is not None:
        name = hub_model_id or records.recipe.get("hub_model_id") or records.name
        _replace(folder / ADAPTER_CARD, render_adapter_card(records, name, choose_license(records, license)[0]))
    if records.changes:
        logger.warning("Warning: %s was changed. %s", folder, describe_changes(records.changes))
    for problem in _list_problems(folder):
        logger.warning("The model card is not ready to be published: %s", problem)
    return path


def choose_notes(folder: str | Path, file: str | Path | None = None) -> Notes:
    """What the author adds to a run's card.

    Args:
        folder: The run's folder.
        file: A Markdown file. Without one, or while it is the one that the card was written with before, what the card
            has between its marks is kept.

    Raises:
        CardError: The file cannot be used.
    """
    path = Path(folder) / CARD_FILE
    kept = read_notes(path.read_text(encoding="utf-8")) if path.is_file() else NO_NOTES
    if file is not None and (given := _read_notes_file(Path(file))).digest != kept.digest:
        return given
    return kept


def check_card(folder: str | Path) -> None:
    """Make sure that a run's cards may be published.

    Raises:
        CardError: There is no card, or it has problems: all of them are named.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        raise CardError(f"{folder} has no {CARD_FILE}", "a model card", f"hf-imgcls card {folder}")
    if changes := describe_changes(find_changes(folder)):
        raise CardError(f"{folder} was changed. {changes}", "the files that the run has left", RESTORE)
    if problems := _list_problems(folder):
        raise CardError(
            f"{folder / CARD_FILE} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n  - "
            + "\n  - ".join(problems),
            "a card without blanks and local paths, whose metadata the Hub accepts",
            "correct the author's notes, --license or the run, and write it again",
        )


def read_notes(card: str) -> Notes:
    """What an earlier card holds of its author's.

    Args:
        card: A whole README: ours, of which the notes are kept; a stock card, of which nothing is; or one that somebody
            wrote by hand, which becomes the notes.
    """
    begin, end = NOTES_BEGIN.search(card), card.rfind(NOTES_END)
    if begin is not None and end > begin.end():
        return Notes(card[begin.end() : end].replace(_HINT, "").strip(), begin[1] or "")
    if _STOCK.search(card):
        return NO_NOTES
    return Notes(re.sub(r"\A\s*---\n.*?\n---\s*\n", "", card, flags=re.DOTALL).strip())


def _frame_notes(notes: Notes) -> str:
    heading = "## From the author\n\n" if notes.text and not notes.text.startswith("#") else ""
    source = f", file {notes.digest}" if notes.digest else ""
    begin = f"<!-- author's notes: begin (kept when the card is written again){source} -->"
    return f"{heading}{begin}\n{notes.text or _HINT}\n{NOTES_END}"


def _read_notes_file(path: Path) -> Notes:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CardError(f"card_notes {path}: {error}", "a Markdown file in UTF-8", "correct the file") from error
    if (reason := find_notes_problem(text)) is not None:
        raise CardError(f"card_notes {path}: {reason}", "Markdown that can stand inside a card", "correct the file")
    return Notes(text.strip(), hashlib.sha256(text.encode()).hexdigest()[:12])


def _list_problems(folder: Path) -> list[str]:
    problems = lint_card((folder / CARD_FILE).read_text(encoding="utf-8"), folder)
    if (folder / ADAPTER_CARD).is_file():
        found = lint_card((folder / ADAPTER_CARD).read_text(encoding="utf-8"), folder / "adapter")
        problems += [f"{ADAPTER_CARD}: {problem}" for problem in found]
    return problems


def _replace(path: Path, text: str) -> None:
    """Write a text in one step."""
    aside = path.with_name(f".{path.name}.unfinished")
    try:
        aside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(aside, path)
    except OSError:  # a full disk
        aside.unlink(missing_ok=True)
        raise
