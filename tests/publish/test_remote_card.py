"""What others have written into the card on the Hub is kept by the next push, or that push stops."""

from __future__ import annotations

import re
import shutil

import pytest

from hf_imgcls.arguments.hub_names import NOTES_BEGIN, NOTES_END
from hf_imgcls.errors import PushError
from hf_imgcls.publish.card import Notes, read_notes
from hf_imgcls.publish.remote_card import merge_notes


def edit(pushing, change):
    """Somebody edits the card on the website."""
    card = pushing.hub.read("me/digits", "README.md").decode()
    assert change(card) != card
    pushing.hub.commit(pushing.repository, {"README.md": change(card).encode()}, title="Update README.md")


def write_notes(text):
    """An edit between the marks."""
    return lambda card: NOTES_BEGIN.sub(lambda mark: f"{mark.group()}\n{text}\n", card, count=1)


def read_card(pushing):
    return pushing.hub.read("me/digits", "README.md").decode()


def test_an_edit_outside_the_notes_stops_the_push(pushing, run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")  # the same run elsewhere, without a push.json
    pushing.push(run)
    edit(pushing, lambda card: card + "\n## Who made this\n\nThe zoo.\n")
    head = pushing.repository.branches["main"]
    for folder in (run, again):
        error = pushing.push(folder, "--license", "mit")["error"]
        assert "somebody has edited README.md of me/digits on the Hub since the last push" in error
        assert "--overwrite_card" in error
    shown = pushing.run_recipe("push", run, "--hub_model_id", "me/digits", "--dry_run", check=False)
    assert shown.returncode == 2
    assert "somebody has edited README.md" in shown.stderr
    assert pushing.repository.branches["main"] == head
    assert "error" not in pushing.push(run, "--license", "mit", "--overwrite_card")
    assert "The zoo." not in read_card(pushing)
    assert "error" not in pushing.push(again, "--license", "mit")  # nobody has edited that one


def test_notes_that_were_written_on_the_hub_are_kept(pushing, run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    pushing.push(run)
    edit(pushing, write_notes("Not for snakes."))
    assert "error" not in pushing.push(run, "--license", "mit")
    card = read_card(pushing)
    assert "license: mit" in card
    assert read_notes(card).text == "Not for snakes."
    assert read_notes((run / "README.md").read_text()).text == "Not for snakes."
    # Another run that is pushed to the same place keeps them too.
    assert "error" not in pushing.push(again)
    assert read_notes(read_card(pushing)).text == "Not for snakes."
    # Both sides have changed: nobody can tell which ones are meant.
    edit(pushing, lambda card: card.replace("Not for snakes.", "Not for eels."))
    (tmp_path / "notes.md").write_text("For cats.\n")
    error = pushing.push(again, "--card_notes", str(tmp_path / "notes.md"))["error"]
    assert "are others than those here" in error
    assert "error" not in pushing.push(again, "--card_notes", str(tmp_path / "notes.md"), "--overwrite_card")
    assert read_notes(read_card(pushing)).text == "For cats."


@pytest.mark.parametrize("text", ["# Ours\n\nThe zoo wrote this.\n", "---\nlicense: mit\n---\n# Ours\n\nBy hand.\n"])
def test_a_card_that_was_written_by_hand_becomes_the_notes(pushing, run, text):
    repository = pushing.hub.create_repository("model", "me/digits")
    pushing.hub.commit(repository, {"README.md": text.encode()}, title="By hand")
    assert "error" not in pushing.push(run)
    assert read_notes(read_card(pushing)).text == re.sub(r"\A---.*?---\n", "", text, flags=re.DOTALL).strip()


def card(notes="", *, outside="What we measured."):
    begin = "<!-- author's notes: begin (kept when the card is written again) -->"
    return f"---\nlicense: mit\n---\n# Model\n\n{begin}\n{notes}\n{NOTES_END}\n\n{outside}\n"


def framed(text):
    """With the heading that notes without one get."""
    return text.replace("<!-- author's notes: begin", "## From the author\n\n<!-- author's notes: begin")


@pytest.mark.parametrize(
    ("local", "remote", "base", "kept"),
    [
        ("", card(), card(), ""),
        ("here", card(), card(), "here"),
        ("", card("there"), card(), "there"),
        ("old", card("there"), card("old"), "there"),
        ("here", card("old"), card("old"), "here"),
        ("", card("old"), card("old"), "old"),
        ("same", card("same"), card(), "same"),
        ("", card("there\nonce").replace("\n", "\r\n"), card(), "there\nonce"),
        ("", card("# Heading").replace("\n", "\r\n"), framed(card("old")), "# Heading"),
        ("", "Written by hand.", None, "Written by hand."),
        ("", "generated automatically according to the information the Trainer had access to", None, ""),
        ("here", card("there"), card("old"), None),
        ("here", "Written by hand.", None, None),
        ("", card(outside="Edited."), card(), None),
        ("", card(), None, None),
        ("", "Somebody's own card.", card(), None),
    ],
)
def test_notes_are_merged_or_it_stops(local, remote, base, kept):
    if kept is None:
        with pytest.raises(PushError, match="--overwrite_card"):
            merge_notes(Notes(local), remote, base, "me/digits")
    else:
        assert merge_notes(Notes(local), remote, base, "me/digits").text == kept
