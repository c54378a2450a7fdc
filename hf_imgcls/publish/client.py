"""Talking to the Hub so that a push happens once or not at all.

Requests that may be repeated are repeated, with growing waits; what cannot be helped by waiting ends at once and says
what to do. Neither line of ``huggingface_hub`` repeats the commit itself, and with reason: a commit whose answer was
lost would be made twice. Here a commit carries an id of its own, and before it is repeated the branch is searched for
it.

``create_commit`` makes one commit on both lines, whether large files travel by LFS or by xet; ``upload_folder`` of
``huggingface_hub`` 2 may make several, and is not used.
"""

from __future__ import annotations

import functools
import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hf_imgcls.errors import PushError
from hf_imgcls.retries import Fault, Patience, diagnose, sleep_before_retry, with_retries

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
logger = logging.getLogger(__name__)

_CONFLICTS = frozenset({409, 412})
PUSH_TRAILER = "Push-Id"


@dataclass(frozen=True)
class Commit:
    """A commit on the Hub.

    Attributes:
        oid: Its id.
        url: Where it can be seen; of a pull request, that one's page.
        is_new: False when nothing had changed and none was made.
        pr_revision: ``refs/pr/N`` of the pull request that was opened.
    """

    oid: str
    url: str
    is_new: bool = True
    pr_revision: str | None = None


def retry_request(question: Callable[[], T], what: str, patience: Patience) -> T:
    """Do something that may be repeated without harm.

    Args:
        question: The request.
        what: What it is for, as it stands in ``"the Hub refused to ..."``.
        patience: When to give up.

    Raises:
        PushError: It cannot be done, or not now.
    """
    return with_retries(question, what, patience, explain)


def commit_once(
    api: HfApi,
    repository: Mapping[str, Any],
    operations: Sequence[Any],
    message: str,
    *,
    head: str | None,
    create_pr: bool,
    patience: Patience,
) -> Commit:
    """Make one commit, also when answers get lost.

    Args:
        api: The client.
        repository: ``repo_id``, ``repo_type`` and ``revision``, as the client's methods take them.
        operations: What the commit does.
        message: Its title.
        head: The commit that it must follow; None in a repository without any.
        create_pr: Whether it opens a pull request instead.
        patience: When to give up.

    Raises:
        PushError: No commit was made.
    """
    push_id = uuid.uuid4().hex
    what = f"commit to {repository['repo_id']}"
    known = set(_list_pull_requests(api, repository, patience)) if create_pr else set()

    def find() -> Commit | None:
        revisions = [repository["revision"]]
        if create_pr:
            revisions = [name for name in _list_pull_requests(api, repository, patience) if name not in known]
        for revision in revisions:
            place = {**repository, "revision": revision}
            for entry in retry_request(functools.partial(api.list_repo_commits, **place), "list the commits", patience)[
                :20
            ]:
                if push_id in f"{entry.title}\n{entry.message}":
                    return _describe(api, repository, entry.commit_id, revision if create_pr else None)
        return None

    for wait in patience.waits():
        try:
            info = api.create_commit(
                **repository,
                operations=operations,
                commit_message=message,
                commit_description=f"{PUSH_TRAILER}: {push_id}",
                parent_commit=head,
                create_pr=create_pr,
            )
            return _describe(api, repository, info.oid, info.pr_revision, is_new=info.oid != head)
        except Exception as error:
            fault = _diagnose_or_raise(error)
            goes_on = patience.lasts(fault, wait)
            if goes_on:
                sleep_before_retry(wait or 0, fault, what)
            # Looked for after the wait: the Hub may still have been at it.
            if (fault.is_transient or fault.status in _CONFLICTS) and (made := find()) is not None:
                logger.info("The commit had been made; only the answer was lost.")
                return made
            if not goes_on:
                raise explain(fault, what) from error
    raise AssertionError("the last attempt has returned or raised")


def _list_pull_requests(api: HfApi, repository: Mapping[str, Any], patience: Patience) -> list[str]:
    """``refs/pr/N``, the newest first."""
    place = {name: repository[name] for name in ("repo_id", "repo_type")}
    refs = retry_request(
        lambda: api.list_repo_refs(**place, include_pull_requests=True), "list pull requests", patience
    )
    names = [ref.ref for ref in refs.pull_requests or []]
    return sorted(names, key=lambda name: int(name.rpartition("/")[2]), reverse=True)


def _describe(
    api: HfApi, repository: Mapping[str, Any], oid: str, pr_revision: str | None, *, is_new: bool = True
) -> Commit:
    kind = {"model": "", "space": "spaces/"}[repository["repo_type"]]
    page = f"{api.endpoint}/{kind}{repository['repo_id']}"
    number = pr_revision.rpartition("/")[2] if pr_revision else None
    return Commit(oid, f"{page}/discussions/{number}" if number else f"{page}/commit/{oid}", is_new, pr_revision)


# ------------------------------------------------------------------------------------------------ what went wrong


def _diagnose_or_raise(error: Exception) -> Fault:
    """A fault of the Hub or the network; anything else is ours, and is raised."""
    fault = diagnose(error)
    if fault is None:
        raise error
    return fault


_TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_ENDINGS = {
    401: ("a token that the Hub accepts", f"log in with `hf auth login`, or set HF_TOKEN ({_TOKENS_PAGE})"),
    402: ("an account that may store this", "see https://huggingface.co/settings/billing, or push with --public"),
    403: ("a token that may write there", f"make a token with write access at {_TOKENS_PAGE}, or name another owner"),
    404: ("a repository that exists and that the token may see", "correct its name, or the revision"),
    409: ("a state in which this can be done", "look at the repository, then push again"),
    412: ("the commit that was there when the push began", "somebody else has committed meanwhile: push again"),
    413: ("files that the Hub takes", "publish less: see --publish_images, and remove exports that are not needed"),
}
_OUT_OF_SPACE = re.compile(r"quota|storage (limit|space)|payment", re.IGNORECASE)


def explain(fault: Fault, what: str) -> PushError:
    """The error for a fault that ends a push."""
    if fault.is_transient:
        found = "was not reached" if fault.status is None else f"did not answer usefully (HTTP {fault.status})"
        later = f" in {fault.retry_after_s:.0f} s" if fault.retry_after_s else " later"
        return PushError(f"to {what}, the Hub {found}: {fault.message}", "an answer", f"push again{later}")
    if fault.status is None:
        return PushError(f"to {what}, the Hub cannot be asked: {fault.message}", "a connection", "unset HF_HUB_OFFLINE")
    status = 402 if _OUT_OF_SPACE.search(fault.message) else fault.status
    expected, fix = _ENDINGS.get(status, ("a request that the Hub takes", "correct what it says, and push again"))
    return PushError(f"the Hub refused to {what} (HTTP {fault.status}): {fault.message}", expected, fix)
