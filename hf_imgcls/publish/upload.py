"""Files into a repository on the Hub: looked at first, then one commit, then what belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hf_imgcls.errors import PushError
from hf_imgcls.model_files import ADAPTER_CONFIG, refuse_adapter
from hf_imgcls.publish.client import Commit, commit_once, retry_request
from hf_imgcls.publish.files import PublishedFile
from hf_imgcls.retries import Patience, diagnose

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where files go, and how.

    Attributes:
        repo_id: ``owner/name``; without an owner, the token's.
        repo_type: ``"model"`` or ``"space"``.
        branch: Made when it is not there.
        public: Whether everybody may see it; otherwise a new repository is private, and an existing one stays as it is.
        tag: Set on the commit.
        create_pr: Whether to open a pull request instead of committing to the branch.
        message: The commit's title.
    """

    repo_id: str
    repo_type: str = "model"
    branch: str = "main"
    public: bool = False
    tag: str | None = None
    create_pr: bool = False
    message: str = "Upload model"


@dataclass(frozen=True)
class Remote:
    """What is there before a push.

    Attributes:
        exists: Whether there is a repository.
        private: Whether it is private.
        head: Newest commit of the branch; None without the branch.
        names: The branch's files.
        tags: Tag -> commit.
    """

    exists: bool
    private: bool = True
    head: str | None = None
    names: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


def find_owner(destination: Destination, api: HfApi, patience: Patience) -> Destination:
    """Ask the Hub whose token this is, and complete the repository's name.

    Raises:
        PushError: There is no token, it is not valid, it may only read, or the owner is somebody else.
    """
    user = retry_request(api.whoami, "identify the owner of the token", patience)
    owner, _, name = destination.repo_id.rpartition("/")
    owner = owner or user["name"]
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PushError(
            f"the token of {user['name']} may only read",
            "a token that may write",
            "make one at https://huggingface.co/settings/tokens",
        )
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if owner not in owners and not destination.create_pr:
        raise PushError(
            f"{owner}/{name} belongs to {owner}; the token is one of {user['name']}",
            f"a repository of one of {', '.join(owners)}",
            "name another owner in --hub_model_id, log in as somebody else, or propose it with --create_pr",
        )
    return replace(destination, repo_id=f"{owner}/{name}")


def fetch_remote_state(destination: Destination, api: HfApi, patience: Patience) -> Remote:
    """Find out what is there.

    Raises:
        PushError: The Hub does not say, or the tag is taken.
    """
    place: dict[str, Any] = {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    info = retry_request(lambda: _find_repository(api, place), f"look up {destination.repo_id}", patience)
    if info is None:
        return Remote(exists=False)
    refs = retry_request(lambda: api.list_repo_refs(**place), f"list the branches of {destination.repo_id}", patience)
    head = {branch.name: branch.target_commit for branch in refs.branches}.get(destination.branch)
    names = (
        retry_request(lambda: api.list_repo_files(**place, revision=head), "list its files", patience) if head else ()
    )
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    if destination.tag in tags and tags[destination.tag] != head:
        raise PushError(
            f"{destination.repo_id} has a tag {destination.tag!r} already, at {tags[destination.tag][:10]}",
            "a tag that is not taken",
            "choose another --hub_tag",
        )
    return Remote(True, bool(info.private), head, tuple(names), tags)


def _find_repository(api: HfApi, place: dict[str, Any]) -> Any:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(**place)
    except RepositoryNotFoundError as error:
        if (fault := diagnose(error)) is not None and fault.status == 401:
            raise  # the token is the problem
        return None


def upload(
    files: Sequence[PublishedFile],
    destination: Destination,
    *,
    is_ours: Callable[[Iterable[str]], Collection[str]] = lambda names: (),
    patience: Patience,
    api: HfApi,
    space_sdk: str | None = None,
    remote: Remote | None = None,
) -> Commit:
    """Put files into a repository with one commit, which is made if it is not there; `finish` does the rest.

    Args:
        files: What is to be there.
        destination: Where, with its owner (see `find_owner`).
        is_ours: Which of the names there an earlier push has put there: those that are not in ``files`` any more are
            deleted by the same commit.
        patience: When to give up.
        api: The client.
        space_sdk: Of a new Space.
        remote: What was there when it was decided to push: a commit of somebody else since then stops it.

    Raises:
        PushError: Nothing was committed; it says whether an empty repository has been left behind.
    """
    place: dict[str, Any] = {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    remote = remote or fetch_remote_state(destination, api, patience)
    if not remote.exists:
        _create(destination, space_sdk, api, patience)
    try:
        there = remote if remote.head is not None else _make_branch(destination, place, api, patience)
        gone = set(is_ours(there.names)) - {file.name for file in files}
        _check_adapter(destination, set(there.names) - gone, files)
        commit = commit_once(
            api, {**place, "revision": destination.branch}, _list_operations(files, gone), destination.message,
            head=there.head, create_pr=destination.create_pr, patience=patience,
        )  # fmt: skip
    except PushError as error:
        left = _describe_rest(destination, remote, api)
        raise PushError(f"{error.found}\n  {left}", error.expected, error.fix) from error
    return commit


def _create(destination: Destination, space_sdk: str | None, api: HfApi, patience: Patience) -> None:
    options: dict[str, Any] = {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    options |= {"private": not destination.public, "space_sdk": space_sdk, "exist_ok": True}
    try:
        retry_request(lambda: api.create_repo(**options), f"create {destination.repo_id}", patience)
    except KeyError as error:  # the client takes any 409 for "it exists", and looks for its URL
        raise PushError(
            f"the Hub refused to create {destination.repo_id} (HTTP 409) without saying why",
            "a new repository",
            "look whether the name is taken or was renamed, choose another --hub_model_id, or push again later",
        ) from error


def finish(destination: Destination, commit: Commit, api: HfApi, patience: Patience) -> None:
    """Do what comes after a commit: set the tag, and open a private repository if that was asked for.

    Raises:
        PushError: It was not done; the files are pushed all the same, which the message says.
    """
    place: dict[str, Any] = {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    try:
        if destination.tag is not None:
            _set_tag(destination.tag, commit, place, api, patience)
        if destination.public and not destination.create_pr:
            info = retry_request(lambda: api.repo_info(**place), f"look up {destination.repo_id}", patience)
            if info.private:
                retry_request(
                    lambda: api.update_repo_settings(**place, private=False),
                    f"make {destination.repo_id} public",
                    patience,
                )
    except PushError as error:
        raise PushError(f"the files are pushed ({commit.url}), but {error.found}", error.expected, error.fix) from error


def _check_adapter(destination: Destination, staying: set[str], files: Sequence[PublishedFile]) -> None:
    """Refuse to put a model beside an adapter of somebody else's, whose base model would be loaded instead of it."""
    if destination.repo_type == "model" and ADAPTER_CONFIG in staying - {file.name for file in files}:
        error = refuse_adapter(destination.repo_id)
        raise PushError(error.found, error.expected, error.fix)


def _make_branch(destination: Destination, place: dict[str, Any], api: HfApi, patience: Patience) -> Remote:
    """Make a branch that is not there, from main; a new repository has a main branch by itself."""
    if destination.branch != "main":
        options = {**place, "branch": destination.branch}
        retry_request(
            lambda: api.create_branch(**options, exist_ok=True), f"create the branch {destination.branch}", patience
        )
    return fetch_remote_state(destination, api, patience)


def _list_operations(files: Sequence[PublishedFile], gone: Collection[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sources = [(file.name, file.source if isinstance(file.source, bytes) else str(file.source)) for file in files]
    added = [CommitOperationAdd(name, source) for name, source in sources]
    return [*added, *(CommitOperationDelete(name, is_folder=False) for name in sorted(gone))]


def _describe_rest(destination: Destination, remote: Remote, api: HfApi) -> str:
    """What a push that failed has left on the Hub."""
    if remote.exists:
        branch = "" if remote.head is not None else f", but for a new branch {destination.branch!r}"
        return f"{destination.repo_id} is as it was before{branch}."
    kind = "" if destination.repo_type == "model" else f"{destination.repo_type}s/"
    page = f"{api.endpoint}/{kind}{destination.repo_id}/settings"
    return (
        f"{destination.repo_id} was created and is still empty: the same command goes on with it; to remove it, see "
        f"{page}."
    )


def _set_tag(tag: str, commit: Commit, place: dict[str, Any], api: HfApi, patience: Patience) -> None:
    options = {**place, "tag": tag, "revision": commit.oid}
    retry_request(lambda: api.create_tag(**options, exist_ok=True), f"tag the commit as {tag}", patience)
    refs = retry_request(lambda: api.list_repo_refs(**place), "list tags", patience)
    target = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
    if target != commit.oid:
        raise PushError(
            f"the tag {tag!r} stands at {target}",
            f"the tag at {commit.oid}",
            "choose another --hub_tag and push again: nothing else will change",
        )
