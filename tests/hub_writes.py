"""The side of the Hub that clients write to: repositories, uploads by LFS, commits, branches, tags, pull requests.

It speaks to the unmodified client of both ``huggingface_hub`` lines. Large files go by the classic LFS protocol, single
or multipart, to another host name than the Hub's own, as there; a client with hf_xet must be told
``HF_HUB_DISABLE_XET=1``, since xet's storage is a service of its own.

Source: https://huggingface.co/docs/hub/api, and the requests that the two clients send.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hub import Blob, Hub, HubHandler, Refusal, Repository, serve_hub
from hub_faults import Faults, FaultyHandler

_KIND = r"(?P<kind>models|datasets|spaces)"
_REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
_GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs"
_INVALID = "Invalid credentials in Authorization header"


@dataclass
class User:
    """Whoever a token belongs to.

    Attributes:
        name: The account.
        role: What the token may do: ``read`` or ``write``.
        organisations: Others whose repositories it may write to.
    """

    name: str = "me"
    role: str = "write"
    organisations: list[str] = field(default_factory=list)


class WritableHub(Hub):
    """A Hub with users, whose tokens are the keys of ``users``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.users: dict[str, User] = {}
        self.faults = Faults()
        self.multipart_bytes = 1 << 40
        self.parts: dict[str, dict[int, bytes]] = {}
        self.created: list[str] = []

    def find(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repository that must be there."""
        return self.repositories[repo_type, repo_id]

    def read(self, repo_id: str, name: str, revision: str = "main", repo_type: str = "model") -> bytes:
        """A file's contents at a revision."""
        return self.find_blob(self.find(repo_id, repo_type).tree(revision)[name].sha256).read_bytes()


class WritingHandler(FaultyHandler, HubHandler):
    """Adds the routes that change something."""

    hub: WritableHub
    ROUTES = (
        ("POST", r"/api/repos/create", "create_repository"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("PUT", rf"/api/{_KIND}/{_REPO}/settings", "change_settings"),
        ("POST", rf"/api/{_KIND}/{_REPO}/preupload/(?P<rev>[^/]+)", "choose_upload_modes"),
        ("POST", rf"/api/{_KIND}/{_REPO}/commit/(?P<rev>[^/]+)", "commit"),
        ("POST", rf"/api/{_KIND}/{_REPO}/branch/(?P<name>[^/]+)", "create_branch"),
        ("POST", rf"/api/{_KIND}/{_REPO}/tag/(?P<rev>[^/]+)", "create_tag"),
        ("GET", rf"/api/{_KIND}/{_REPO}/commits/(?P<rev>[^/]+)", "list_commits"),
        ("GET", rf"/api/{_KIND}/{_REPO}/discussions", "list_discussions"),
        ("POST", rf"{_GIT}/objects/batch", "plan_lfs"),
        ("POST", rf"{_GIT}/objects/verify", "verify_lfs"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "store_whole"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", "store_part"),
        ("POST", r"/storage/(?P<oid>[0-9a-f]{64})", "join_parts"),
        *HubHandler.ROUTES,
    )

    # ------------------------------------------------------------------------------------------------ who may do it

    def find_user(self) -> User:
        user = self.hub.users.get(self.token or "")
        if user is None:
            raise Refusal(401, "", _INVALID)
        return user

    def check_writer(self, repo: str) -> User:
        user = self.find_user()
        if user.role == "read" or repo.split("/")[0] not in (user.name, *user.organisations):
            raise Refusal(403, "", "You don't have the rights to write to this repository")
        return user

    def answer_whoami(self) -> None:
        user = self.find_user()
        self.send_json(
            {
                "type": "user",
                "id": "0",
                "name": user.name,
                "fullname": user.name,
                "isPro": False,
                "orgs": [{"name": name, "type": "org"} for name in user.organisations],
                "auth": {"type": "access_token", "accessToken": {"displayName": "key", "role": user.role}},
            }
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ repositories

    def create_repository(self) -> None:
        asked = json.loads(self.body)
        user = self.find_user()
        repo_id = f"{asked.get('organization') or user.name}/{asked['name']}"
        self.check_writer(repo_id)
        kind = asked.get("type") or "model"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            self.send(409, json.dumps({"error": "You already created this repo", "url": url}).encode())
            return
        is_private = asked.get("private") or asked.get("visibility") == "private"
        repository = self.hub.create_repository(kind, repo_id, token=self.token if is_private else None)
        self.hub.commit(repository, {".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial commit")
        self.hub.created.append(repo_id)
        self.send_json({"url": url, "name": repo_id, "id": "0" * 24})

    def change_settings(self, kind: str, repo: str) -> None:
        repository = self.find_repository(kind, repo)
        self.check_writer(repo)
        asked = json.loads(self.body)
        is_private = asked.get("private", asked.get("visibility") == "private")
        repository.token = self.token if is_private else None
        self.send_json({})

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        errors, warnings = [], []
        header = content.split("---\n")[1] if content.startswith("---\n") else ""
        try:
            metadata = yaml.safe_load(header) or {}
            if not metadata:
                warnings.append("empty or missing yaml metadata in repo card")
            elif "license" in metadata and not isinstance(metadata["license"], str):
                errors.append('"license" must be a string')
        except yaml.YAMLError as error:
            errors.append(str(error))
        body = {kind: [{"message": text} for text in texts] for kind, texts in
                (("errors", errors), ("warnings", warnings))}  # fmt: skip
        self.send(400 if errors else 200, json.dumps(body).encode())

    def create_branch(self, kind: str, repo: str, name: str) -> None:
        repository = self.find_repository(kind, repo)
        self.check_writer(repo)
        if name in repository.branches:
            raise Refusal(409, "", "Reference already exists")
        start = (json.loads(self.body) if self.body else {}).get("startingPoint") or "main"
        repository.branches[name] = str(repository.find_commit(start))
        self.send_json({})

    def create_tag(self, kind: str, repo: str, rev: str) -> None:
        repository, sha, _ = self.find_tree(kind, repo, rev)
        self.check_writer(repo)
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise Refusal(409, "", "Tag reference exists already")
        repository.tags[tag] = sha
        self.send_json({})

    def list_commits(self, kind: str, repo: str, rev: str) -> None:
        repository, sha, _ = self.find_tree(kind, repo, rev)
        self.send_json(
            [
                {
                    "id": commit, "title": repository.titles[commit], "message": repository.descriptions[commit],
                    "authors": [{"user": "me"}], "date": "2026-01-01T00:00:00.000Z",
                }
                for commit in repository.history(sha)
            ]
        )  # fmt: skip

    def list_discussions(self, kind: str, repo: str) -> None:
        repository = self.find_repository(kind, repo)
        found = [
            {
                "title": repository.titles[sha], "num": int(name.rpartition("/")[2]), "author": {"name": "me"},
                "createdAt": "2026-01-01T00:00:00.000Z", "status": "open", "isPullRequest": True,
                "repo": {"name": repo, "type": repository.repo_type},
            }
            for name, sha in repository.pull_requests.items()
        ]  # fmt: skip
        self.send_json({"discussions": found, "count": len(found), "start": 0})

    # ------------------------------------------------------------------------------------------------ uploads

    def choose_upload_modes(self, kind: str, repo: str, rev: str) -> None:
        _, _, tree = self.find_tree(kind, repo, rev)
        self.find_user()
        files = []
        for file in json.loads(self.body)["files"]:
            path, known = file["path"], tree.get(file["path"])
            mode = "lfs" if self.hub.is_lfs(path) else "regular"
            oid = known.etag if known is not None else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": files})

    def plan_lfs(self, kind: str | None, repo: str) -> None:
        self.find_repository(kind, repo)
        self.find_user()
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            planned: dict[str, Any] = {"oid": oid, "size": size}
            if not self.hub.find_blob(oid).is_file():
                href, header = f"{self.hub.blob_url}/storage/{oid}", {}
                if size > self.hub.multipart_bytes:
                    number = -(-size // self.hub.multipart_bytes)
                    header = {f"{part:05d}": f"{href}/{part}" for part in range(1, number + 1)}
                    header["chunk_size"] = str(self.hub.multipart_bytes)
                prefix = f"{kind}/" if kind else ""
                verify = {"href": f"{self.hub.url}/{prefix}{repo}.git/info/lfs/objects/verify"}
                planned["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
            objects.append(planned)
        self.send_json({"transfer": "basic", "objects": objects})

    def verify_lfs(self, kind: str | None, repo: str) -> None:
        if not self.hub.find_blob(json.loads(self.body)["oid"]).is_file():
            raise Refusal(404, "EntryNotFound", "the object was not uploaded")
        self.send_json({})

    def store_whole(self, oid: str) -> None:
        assert self.token is None, "a token was sent to the storage"
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "", "the contents do not have this hash")
        self.hub.store_blob(self.body, "file.bin")
        self.send(200, b"", {"ETag": f'"{oid}"'})

    def store_part(self, oid: str, part: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        self.send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def join_parts(self, oid: str) -> None:
        asked = json.loads(self.body)
        parts = self.hub.parts[oid]
        assert [item["partNumber"] for item in asked["parts"]] == sorted(parts)
        content = b"".join(parts[number] for number in sorted(parts))
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, "", "the parts do not have this hash")
        self.hub.store_blob(content, "file.bin")
        self.send_json({})

    # ------------------------------------------------------------------------------------------------ commits

    def commit(self, kind: str, repo: str, rev: str) -> None:
        repository, head, tree = self.find_tree(kind, repo, rev)
        is_proposal = self.query.get("create_pr") == ["1"]
        self.find_user() if is_proposal else self.check_writer(repo)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        files, stored, deleted = self._read_operations(lines[1:], tree)
        branch = f"refs/pr/{len(repository.pull_requests) + 1}" if is_proposal else rev
        sha = self.hub.commit(
            repository, files, stored=stored, deleted=deleted, branch=branch,
            title=header["summary"], description=header["description"],
        )  # fmt: skip
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo}"
        answer = {"success": True, "commitUrl": f"{url}/commit/{sha}", "commitOid": sha}
        if is_proposal:
            answer["pullRequestUrl"] = f"{url}/discussions/{len(repository.pull_requests)}"
        self.send_json(answer)

    def _read_operations(
        self, lines: list[dict[str, Any]], tree: dict[str, Blob]
    ) -> tuple[dict[str, bytes], dict[str, Blob], tuple[str, ...]]:
        files: dict[str, bytes] = {}
        stored: dict[str, Blob] = {}
        deleted: list[str] = []
        for line in lines:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[path] = b64decode(value["content"])
            elif line["key"] == "lfsFile":
                blob = self.hub.find_blob(value["oid"])
                if not blob.is_file():
                    raise Refusal(404, "EntryNotFound", f"{path} was not uploaded")
                stored[path] = self.hub.store_blob(blob.read_bytes(), path)
            elif line["key"] == "deletedFile":
                if path not in tree:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
                deleted.append(path)
            else:
                raise Refusal(400, "", f"unknown operation {line['key']}")
        return files, stored, tuple(deleted)


@contextmanager
def serve_writable_hub(folder: Path) -> Iterator[WritableHub]:
    """Serve a new, empty Hub that can be written to."""
    with serve_hub(folder, WritingHandler, WritableHub(folder)) as hub:
        yield hub
