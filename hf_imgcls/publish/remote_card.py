"""The card that is on the Hub already: what others have written there is kept, or the push stops.

Somebody may have edited ``README.md`` on the website since the last push. What stands between the marks of the author's
notes goes into the new card. Any other edit would be lost, so the push stops and says so. Edits are found by comparing
the card with that of the last push: its digest is in ``push.json``, its text in the branch's history, where each push
has left an id.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.hub_names import NOTES_BEGIN, NOTES_END
from hf_imgcls.errors import PushError
from hf_imgcls.layout import CARD_FILE
from hf_imgcls.publish.card import Notes, read_notes
from hf_imgcls.publish.client import PUSH_TRAILER, retry_request
from hf_imgcls.retries import Patience

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_imgcls.publish.upload import Destination, Remote

logger = logging.getLogger(__name__)


def digest_card(content: bytes) -> str:
    """SHA-256 of a card as it was pushed."""
    return hashlib.sha256(content).hexdigest()


def keep_remote_notes(
    local: Notes, destination: Destination, remote: Remote, last_digest: str, api: HfApi, patience: Patience
) -> Notes:
    """Choose the author's notes for a card that is about to replace the one on the Hub.

    Args:
        local: The notes of the run's own card, or of ``--card_notes``.
        destination: The repository.
        remote: What is there.
        last_digest: `digest_card` of the card that this folder pushed last; empty if it pushed none.
        api: The client.
        patience: When to give up.

    Returns:
        The local notes; or the remote ones, where only they have changed since the last push.

    Raises:
        PushError: Somebody has edited the card outside its notes, or both notes have changed.
    """
    if remote.head is None or CARD_FILE not in remote.names:
        return local
    content = _read_card(destination, remote.head, api, patience)
    card = content.decode(errors="replace")
    base = card if digest_card(content) == last_digest else _find_last_pushed(destination, remote.head, api, patience)
    return merge_notes(local, card, base, destination.repo_id)


def check_unedited(destination: Destination, remote: Remote, api: HfApi, patience: Patience) -> None:
    """Make sure that nobody has edited the ``README.md`` of a Space since a push of ours put it there.

    Raises:
        PushError: Somebody has.
    """
    if remote.head is None or CARD_FILE not in remote.names:
        return
    base = _find_last_pushed(destination, remote.head, api, patience)
    if base is not None and _read_card(destination, remote.head, api, patience).decode(errors="replace") != base:
        raise PushError(
            f"somebody has edited {CARD_FILE} of the Space {destination.repo_id} on the Hub since the last push",
            "the file there as the last push left it",
            "push to another --space, or pass --overwrite_card to replace it; it stays in the repository's history",
        )


def merge_notes(local: Notes, card: str, base: str | None, repo_id: str) -> Notes:
    """Choose the author's notes out of two cards and what both began as.

    Args:
        local: Here.
        card: The card on the Hub.
        base: The card that was pushed last; None if no push is known.
        repo_id: For the error.

    Raises:
        PushError: Text of others would be lost.
    """
    card = card.replace("\r\n", "\n")  # as some editors leave it
    is_ours = NOTES_BEGIN.search(card) is not None
    if is_ours and base is None:
        raise _edited_error(
            f"{CARD_FILE} of {repo_id} on the Hub may have been edited: the push that made it is not found"
        )
    if base is not None and _cut_notes(card) != _cut_notes(base):
        where = "outside the author's notes" if is_ours else "and the marks of the author's notes are gone"
        raise _edited_error(f"somebody has edited {CARD_FILE} of {repo_id} on the Hub since the last push, {where}")
    if not is_ours and base is None and read_notes(card).text:
        logger.warning(
            "The card of %s was written by hand: its text becomes the author's notes of the new one.", repo_id
        )
    there, before = read_notes(card), read_notes(base) if base is not None else Notes()
    if not there.text or there.text == local.text:
        return local
    if not local.text or local.text == before.text:
        return there
    if there.text == before.text:
        return local
    raise _edited_error(f"the author's notes in {CARD_FILE} of {repo_id} on the Hub are others than those here")


def _edited_error(found: str) -> PushError:
    return PushError(
        found,
        "a card there as the last push left it, or edits between the marks of the author's notes, which are kept",
        "move those edits between the marks (or into --card_notes) and push again; or pass --overwrite_card to replace "
        "that card, which stays in the repository's history",
    )


def _cut_notes(card: str) -> str:
    """A card without what its author may edit."""
    begin, end = NOTES_BEGIN.search(card), card.rfind(NOTES_END)
    text = card if begin is None or end < begin.end() else card[: begin.start()] + card[end:]
    # Notes get a heading where they have none.
    return re.sub(r"\s+", " ", text.replace("## From the author\n", "")).strip()


def _read_card(destination: Destination, revision: str, api: HfApi, patience: Patience) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hf_imgcls_card_") as cache:
        path = retry_request(
            lambda: api.hf_hub_download(
                destination.repo_id, CARD_FILE, repo_type=destination.repo_type, revision=revision, cache_dir=cache
            ),
            f"read {CARD_FILE} of {destination.repo_id}",
            patience,
        )
        return Path(path).read_bytes()


def _find_last_pushed(destination: Destination, head: str, api: HfApi, patience: Patience) -> str | None:
    """The card of the newest commit that was a push of ours."""
    place: dict[str, Any] = {"repo_id": destination.repo_id, "repo_type": destination.repo_type, "revision": head}
    commits = retry_request(lambda: api.list_repo_commits(**place), "list the commits", patience)
    pushed = next((entry.commit_id for entry in commits if PUSH_TRAILER in f"{entry.title}\n{entry.message}"), None)
    return None if pushed is None else _read_card(destination, pushed, api, patience).decode(errors="replace")
