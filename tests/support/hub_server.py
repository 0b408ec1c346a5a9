"""A small local server that speaks the part of the Hugging Face Hub's protocol which pushing and loading use.

It covers the client's side of the protocol; how the real service behaves beyond that is not tested by it.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
_REPOSITORY = r"(?P<repository>[\w.-]+/[\w.-]+)"


class HubServer:
    """Repositories in memory. Who pushes must show `TOKEN`; everybody may read.

    Attributes:
        repositories: by name, their commits by id, each the files by path.
        heads: by name, the id of the last commit.
        requests: method and path of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self._faults: list[tuple[re.Pattern[str], int | str]] = []
        owner = self

        class Handler(_Handler):
            hub = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def files(self, repository: str) -> dict[str, bytes]:
        """What a repository holds now."""
        return self.repositories[repository][self.heads[repository]]

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Makes these the files of a repository, as a new commit."""
        commits = self.repositories.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        self.heads[repository] = commit
        return commit

    @contextmanager
    def failing(self, requests: str, how: int | str) -> Iterator[None]:
        """Answers requests whose `METHOD path` matches with a status, or breaks off in the middle (`"cut"`)."""
        self._faults.append((re.compile(requests), how))
        try:
            yield
        finally:
            self._faults.pop()

    def fault(self, request: str) -> int | str | None:
        return next((how for pattern, how in self._faults if pattern.search(request)), None)

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._read_chunks()
        fault = self.hub.fault(request)
        if isinstance(fault, int):
            self._answer({"error": "as the test wants it"}, fault)
            return
        writes = self.command == "POST" and not path.startswith("/objects/")
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "log in first"}, 401)
            return
        for method, pattern, answer in _ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                answer(self, **match.groupdict())
                return
        self._answer({"error": f"no such page: {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _answer(self, values: Any, status: int = 200, **headers: str) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _commit_of(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """The files of a revision; answers when there is no such repository or revision."""
        commits = self.hub.repositories.get(repository)
        if commits is None:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        commit = self.hub.heads[repository] if revision == "main" else revision
        if commit not in commits:
            self._answer({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
            return None
        self.revision = commit
        return commits[commit]

    def create(self) -> None:
        values = json.loads(self.body)
        repository = f"{values.get('organization') or 'me'}/{values['name']}"
        if repository in self.hub.repositories:
            self._answer({"error": "You already created this model repo", "url": repository}, 409)
            return
        self.hub.commit(repository, {})
        self._answer({"url": f"{self.hub.url}/{repository}", "name": repository, "id": "0"})

    def validate(self) -> None:
        self._answer({"errors": [], "warnings": []})

    def who(self) -> None:
        self._answer({"name": "me", "type": "user", "orgs": []})

    def preupload(self, repository: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in files]
        listed = zip(files, modes, strict=True)
        self._answer({"files": [{"path": f["path"], "uploadMode": m, "shouldIgnore": False} for f, m in listed]})

    def batch(self, repository: str) -> None:
        def entry(wanted: dict[str, Any]) -> dict[str, Any]:
            upload = {"href": f"{self.hub.url}/objects/{wanted['oid']}"}
            return wanted | ({} if wanted["oid"] in self.hub.objects else {"actions": {"upload": upload}})

        objects = [entry(wanted) for wanted in json.loads(self.body)["objects"]]
        self._answer({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._answer({"error": "damaged on the way"}, 400)
            return
        self.hub.objects[oid] = self.body
        self._answer({})

    def make_commit(self, repository: str, revision: str) -> None:
        files = self._commit_of(repository, revision)
        if files is None:
            return
        files = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.commit(repository, files)
        url = f"{self.hub.url}/{repository}/commit/{commit}"
        self._answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def info(self, repository: str, revision: str = "main") -> None:
        files = self._commit_of(repository, revision)
        if files is not None:
            siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
            self._answer({"id": repository, "sha": self.revision, "siblings": siblings, "tags": [], "private": False})

    def tree(self, repository: str, revision: str, folder: str | None = None) -> None:
        files = self._commit_of(repository, revision)
        if files is not None:
            self._answer(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                    if path.startswith(f"{folder}/" if folder else "")
                ]
            )

    def resolve(self, repository: str, revision: str, file: str) -> None:
        files = self._commit_of(repository, revision)
        if files is None:
            return
        if file not in files:
            self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.revision)
            return
        content = files[file]
        start = int(re.sub(r"\D", "", (self.headers.get("Range") or "0").partition("-")[0]) or 0)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.revision)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.fault(f"GET /{repository}/resolve/{revision}/{file}") == "cut":
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(content[start:])


_ROUTES = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("GET",), "/api/whoami-v2", _Handler.who),
    (("POST",), rf"/api/models/{_REPOSITORY}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (("POST",), rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), r"/objects/(?P<oid>\w+)", _Handler.put),
    (("POST",), rf"/api/models/{_REPOSITORY}/commit/(?P<revision>[^/]+)", _Handler.make_commit),
    (("GET",), rf"/api/models/{_REPOSITORY}/revision/(?P<revision>[^/]+)", _Handler.info),
    (("GET",), rf"/api/models/{_REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    (("GET",), rf"/api/models/{_REPOSITORY}", _Handler.info),
    (("GET", "HEAD"), rf"/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
