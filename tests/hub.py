"""A stand-in for the Hugging Face Hub on the loopback interface, for clients that are not modified in any way.

``huggingface_hub`` (0.36 and 2.x) and ``datasets`` talk to it because ``HF_ENDPOINT`` names it. They read that variable
when they are imported, so client code runs in a process of its own: ``run_client``. It serves the read side: repository
info, refs, trees, paths-info, and files by ``resolve``, with commits, tags, ETags, LFS redirects, ranges, tokens, gated
and missing repositories. History is made with ``Hub.commit``; ``hub_writes`` adds the side that clients write to, and
``hub_faults`` what can go wrong.

Source: https://huggingface.co/docs/hub/api, and the requests that the two clients send.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LFS_SUFFIXES = (".parquet", ".arrow", ".safetensors", ".bin", ".onnx", ".png", ".jpg", ".zip", ".tar")
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """A file's contents, kept on disk under their SHA-256.

    Attributes:
        sha256: Of the contents; the LFS oid.
        oid: Git's blob id, SHA-1 of a header and the contents (of the LFS pointer for LFS files).
        size: In bytes.
        is_lfs: Whether the Hub keeps it in LFS.
    """

    sha256: str
    oid: str
    size: int
    is_lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repository:
    """One repository: its commits, newest last, and what names point to them."""

    repo_type: str
    repo_id: str
    token: str | None = None
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def find_commit(self, revision: str) -> str | None:
        """Resolve a branch, a tag, a pull request, or a full commit id."""
        revision = revision.removeprefix("refs/heads/")
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision) or self.pull_requests.get(revision)

    def history(self, revision: str = "main") -> list[str]:
        """The commits behind a revision, newest first."""
        commits, commit = [], self.find_commit(revision)
        while commit is not None:
            commits.append(commit)
            commit = self.parents[commit]
        return commits

    def tree(self, revision: str = "main") -> dict[str, Blob]:
        """Path -> blob at a revision."""
        return self.commits[str(self.find_commit(revision))]


@dataclass(frozen=True)
class Request:
    """What a client asked: recorded, so that tests can see what was and was not fetched."""

    method: str
    path: str
    token: str | None
    range: str | None


class Hub:
    """The repositories, and the server that shows them.

    Args:
        folder: Where blobs are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.bytes_sent: Counter[str] = Counter()  # contents only, by their SHA-256
        self.page_size = 1000
        self.url = ""
        # Another host name, as the real one: a client's HEAD reads the redirect's headers instead of following it.
        self.blob_url = ""
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def create_repository(
        self, repo_type: str, repo_id: str, *, token: str | None = None, gated: bool = False
    ) -> Repository:
        """Make an empty repository; with ``token`` only requests that carry it may see inside."""
        repository = Repository(repo_type, repo_id, token, gated)
        self.repositories[repo_type, repo_id] = repository
        return repository

    def commit(
        self,
        repository: Repository,
        files: Mapping[str, bytes | Path],
        *,
        deleted: tuple[str, ...] = (),
        branch: str = "main",
        title: str = "Upload files",
        description: str = "",
        stored: Mapping[str, Blob] | None = None,
    ) -> str:
        """Add a commit on a branch (or ``refs/pr/N``) and return its id; ``stored`` are files that are here already."""
        heads = repository.pull_requests if branch.startswith("refs/pr/") else repository.branches
        parent = heads.get(branch)
        if parent is None and not branch.startswith("refs/convert/"):  # the Hub's conversions have no common history
            parent = repository.branches.get("main")
        tree = dict(repository.commits[parent]) if parent else {}
        for name in deleted:
            del tree[name]
        for name, content in files.items():
            tree[name] = self.store_blob(content if isinstance(content, bytes) else content.read_bytes(), name)
        tree |= stored or {}
        text = json.dumps([parent, title, description, {name: blob.sha256 for name, blob in sorted(tree.items())}])
        sha = hashlib.sha1(text.encode()).hexdigest()
        repository.commits[sha], repository.titles[sha] = tree, title
        repository.descriptions[sha], repository.parents[sha] = description, parent
        heads[branch] = sha
        return sha

    def commit_folder(self, repository: Repository, folder: Path, **options: Any) -> str:
        """Add a commit of all files under a folder."""
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return self.commit(repository, files, **options)

    def store_blob(self, content: bytes, name: str) -> Blob:
        """Keep contents by their hash; the name decides whether they are LFS, as .gitattributes does."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.find_blob(sha256).write_bytes(content)
        is_lfs = self.is_lfs(name)
        stored = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
            if is_lfs
            else content
        )
        return Blob(sha256, hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest(), len(content), is_lfs)

    @staticmethod
    def is_lfs(name: str) -> bool:
        """Whether a file of that name is kept in LFS."""
        return name.endswith(_LFS_SUFFIXES)

    def find_blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def count_bytes(self, name: str) -> int:
        """Bytes sent of the files whose path contains ``name``."""
        return sum(self.bytes_sent[sha256] for sha256 in self._find_hashes(name))

    def _find_hashes(self, name: str) -> set[str]:
        return {
            blob.sha256
            for repository in self.repositories.values()
            for tree in repository.commits.values()
            for path, blob in tree.items()
            if name in path
        }

    def fetched(self, name: str) -> list[Request]:
        """The GET requests whose path contains ``name``, blobs of LFS files included."""
        hashes = self._find_hashes(name)
        return [
            request
            for request in self.requests
            if request.method == "GET" and (name in request.path or request.path.rsplit("/", 1)[-1] in hashes)
        ]


class Refusal(Exception):
    """An answer that the client turns into one of its errors."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})
        super().__init__(message)


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection. ``ROUTES`` maps a method and a path pattern to a handler's name."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    ROUTES: tuple[tuple[str, str, str], ...] = (
        ("GET", r"/api/whoami-v2", "answer_whoami"),
        ("GET", r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+(?:/[^/]+)?)/refs", "answer_refs"),
        (
            "GET",
            r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+(?:/[^/]+)?)/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?",
            "answer_tree",
        ),
        (
            "POST",
            r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+(?:/[^/]+)?)/paths-info/(?P<rev>[^/]+)",
            "answer_paths_info",
        ),
        ("GET", r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>.+?)/revision/(?P<rev>[^/]+)", "answer_info"),
        ("GET", r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+(?:/[^/]+)?)", "answer_info"),
        ("GET", r"/blobs/(?P<sha256>[0-9a-f]{64})", "answer_blob"),
        (
            "GET",
            r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)",
            "answer_file",
        ),
    )

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_HEAD(self) -> None:
        self._dispatch("HEAD")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_PUT(self) -> None:
        self._dispatch("PUT")

    def do_DELETE(self) -> None:
        self._dispatch("DELETE")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output quiet."""

    def _dispatch(self, method: str) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self._read_body()
        authorization = self.headers.get("Authorization") or ""
        self.token = authorization.removeprefix("Bearer ") or None
        self.hub.requests.append(Request(method, url.path, self.token, self.headers.get("Range")))
        try:
            self.answer(method, url.path)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    def answer(self, method: str, path: str) -> None:
        """Find the route and answer by it."""
        for verb, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == ("GET" if method == "HEAD" else method):
                parts = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
                handler: Callable[..., None] = getattr(self, name)
                handler(**parts)
                return
        raise Refusal(404, "", f"no route for {method} {path}")

    def _read_body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete answer; to HEAD, everything but the body."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), headers)

    def find_repository(self, kind: str | None, repo: str) -> Repository:
        """Look a repository up, hiding private ones as the Hub does."""
        repository = self.hub.repositories.get(((kind or "models").removesuffix("s"), repo))
        is_open = repository is not None and (repository.token is None or repository.token == self.token)
        if repository is not None and not is_open and repository.gated:
            raise Refusal(403 if self.token else 401, "GatedRepo", f"Access to {repo} is restricted.")
        if repository is None or not is_open:
            # The Hub leaves the code out of its 401; clients then go by the URL, but only if that begins with https.
            raise Refusal(404 if self.token else 401, "RepoNotFound", "Repository not found")
        return repository

    def find_tree(self, kind: str | None, repo: str, rev: str) -> tuple[Repository, str, dict[str, Blob]]:
        repository = self.find_repository(kind, repo)
        sha = repository.find_commit(rev)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return repository, sha, repository.commits[sha]

    def answer_whoami(self) -> None:
        if self.token is None:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        self.send_json({"type": "user", "id": "0", "name": "tester", "fullname": "Tester", "orgs": [], "isPro": False})

    def answer_refs(self, kind: str, repo: str) -> None:
        repository = self.find_repository(kind, repo)
        self.send_json(
            {
                "branches": [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
                    for name, sha in repository.branches.items()
                    if not name.startswith("refs/")
                ],
                "tags": [
                    {"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha}
                    for name, sha in repository.tags.items()
                ],
                "converts": [
                    {"name": name.rpartition("/")[2], "ref": name, "targetCommit": sha}
                    for name, sha in repository.branches.items()
                    if name.startswith("refs/convert/")
                ],
                "pullRequests": [
                    {"name": name, "ref": name, "targetCommit": sha} for name, sha in repository.pull_requests.items()
                ],
            }
        )

    def answer_info(self, kind: str, repo: str, rev: str = "main") -> None:
        repository, sha, tree = self.find_tree(kind, repo, rev)
        with_blobs = self.query.get("blobs") == ["true"]
        siblings = [
            {"rfilename": name} | ({"size": blob.size, "blobId": blob.oid} | _describe_lfs(blob) if with_blobs else {})
            for name, blob in sorted(tree.items())
        ]
        self.send_json(
            {
                "_id": "0" * 24,
                "id": repo,
                "author": repo.split("/")[0],
                "sha": sha,
                "lastModified": _DATE,
                "createdAt": _DATE,
                "private": repository.token is not None and not repository.gated,
                "gated": "auto" if repository.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": siblings,
            }
        )

    def answer_tree(self, kind: str, repo: str, rev: str, path: str | None) -> None:
        repository, sha, tree = self.find_tree(kind, repo, rev)
        is_recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        entries = _list_tree(tree, (path or "").strip("/"), is_recursive)
        if entries is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {rev!r}")
        entries = [self._expand(entry, repository, sha) for entry in entries]
        start = int(base64.b64decode(self.query["cursor"][0])) if "cursor" in self.query else 0
        stop = start + self.hub.page_size
        headers = {}
        if stop < len(entries):
            cursor = base64.b64encode(str(stop).encode()).decode()
            url = urlsplit(self.path)
            query = "&".join([part for part in url.query.split("&") if part and not part.startswith("cursor=")])
            headers["Link"] = f'<{self.hub.url}{url.path}?{query}&cursor={cursor}>; rel="next"'
        self.send_json(entries[start:stop], headers)

    def _expand(self, entry: dict[str, Any], repository: Repository, sha: str) -> dict[str, Any]:
        if self.query.get("expand", [""])[0].lower() not in ("true", "1"):
            return entry
        return entry | {"lastCommit": {"id": sha, "title": repository.titles[sha], "date": _DATE}}

    def answer_paths_info(self, kind: str, repo: str, rev: str) -> None:
        _, _, tree = self.find_tree(kind, repo, rev)
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        found = []
        for path in paths:
            if path in tree:
                found.append(_describe_file(path, tree[path]))
            elif path and _list_tree(tree, path, False) is not None:
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        self.send_json(found)

    def answer_file(self, kind: str | None, repo: str, rev: str, path: str) -> None:
        _, sha, tree = self.find_tree(kind, repo, rev)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if path not in tree:
            message = "Entry not found"
            raise Refusal(404, "EntryNotFound", message)
        blob = tree[path]
        if blob.is_lfs:
            headers |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.etag}"'}
            self.send(302, b"", headers | {"Location": f"{self.hub.blob_url}/blobs/{blob.sha256}"})
            return
        self._send_blob(blob.sha256, headers | {"ETag": f'"{blob.etag}"'})

    def answer_blob(self, sha256: str) -> None:
        if not self.hub.find_blob(sha256).is_file():
            raise Refusal(404, "EntryNotFound", "Entry not found")
        self._send_blob(sha256, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def _send_blob(self, sha256: str, headers: Mapping[str, str]) -> None:
        content = self.hub.find_blob(sha256).read_bytes()
        headers = {"Content-Type": "application/octet-stream", **headers}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not wanted or wanted.groups() == ("", ""):
            self._send_content(sha256, 200, content, headers)
            return
        first, last = wanted.groups()
        start = int(first) if first else max(len(content) - int(last), 0)
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            self.send(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
            return
        place = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send_content(sha256, 206, content[start:stop], {**headers, "Content-Range": place})

    def _send_content(self, sha256: str, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        if self.command != "HEAD":
            self.hub.bytes_sent[sha256] += len(content)
        self.send(status, content, headers)


def _describe_lfs(blob: Blob) -> dict[str, Any]:
    if not blob.is_lfs:
        return {}
    return {"lfs": {"oid": blob.sha256, "sha256": blob.sha256, "size": blob.size, "pointerSize": 130}}


def _describe_file(path: str, blob: Blob) -> dict[str, Any]:
    return {"type": "file", "oid": blob.oid, "size": blob.size, "path": path} | _describe_lfs(blob)


def _list_tree(tree: Mapping[str, Blob], folder: str, recursive: bool) -> list[dict[str, Any]] | None:
    """List a folder of a commit: files and folders by path; ``None`` when there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in tree.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            entries[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        if recursive or len(parts) == 1:
            entries[path] = _describe_file(path, blob)
    if not entries and folder:
        return None
    return [entries[name] for name in sorted(entries)]


@contextmanager
def serve_hub(folder: Path, handler: type[HubHandler] = HubHandler, hub: Hub | None = None) -> Iterator[Any]:
    """Serve a new, empty Hub on a free loopback port for as long as the context lasts."""
    hub = hub or Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (handler,), {"hub": hub}))
    server.daemon_threads = True
    port = server.server_address[1]
    hub.url, hub.blob_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client_environment(hub: Hub, home: Path, **extra: str) -> dict[str, str]:
    """Environment of a client process: this Hub, and caches of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **extra,
    }


def run_client(code: str, hub: Hub, home: Path, *, timeout_s: float = 120, **extra: str) -> Any:
    """Run client code in a process of its own; its last line of output must be JSON, which is returned.

    Args:
        code: Python source.
        hub: The Hub that it is to talk to.
        home: Folder for its caches, ``HF_HOME``.
        timeout_s: Seconds after which it is stopped.
        extra: More environment variables.

    Raises:
        AssertionError: The process failed; its output is in the message.
    """
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=client_environment(hub, home, **extra),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr[-6000:]}"
    return json.loads(result.stdout.strip().splitlines()[-1])
