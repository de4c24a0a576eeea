"""Servers on loopback that misbehave on demand: plain pages, a package index, and a small Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Answer:
    """``fault``: "" is none; "cut" ends after half of the body, "reset" breaks the connection there, "stall" waits
    there, "silent" never says anything, "corrupt" changes a byte."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: str = ""


class Site(ThreadingHTTPServer):
    """``pages`` maps a path to an answer, or to several: one after the other, the last for good. ``seen`` lists the
    requests as ``"GET /path"``, with the range if one is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Answer | list[Answer]] = {}
        self.seen: list[str] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> Answer:
        page = self.pages.get(urlsplit(request.path).path, Answer(404))
        if isinstance(page, list):
            return page.pop(0) if len(page) > 1 and request.command == "GET" else page[0]
        return page

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients hang up; that is what the tests are about


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.seen.append(f"{self.command} {self.path} {wanted}".rstrip())
        answer = self.server.answer(self)
        if answer.fault == "silent":
            self.server.closing.wait(20)
            return
        body, half = answer.body, len(answer.body) // 2
        if answer.fault == "corrupt":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.fault in ("cut", "reset", "stall"):
            self.wfile.write(body[:half])
            if answer.fault == "stall":
                self.server.closing.wait(20)
            if answer.fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        else:
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(server: Site) -> Iterator[Site]:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


@dataclass
class Repository:
    """``files``: path -> content; those in ``large`` are kept as the hub keeps large files (by SHA-256, redirected)."""

    files: dict[str, bytes]
    commit: str = COMMIT
    large: tuple[str, ...] = ()
    token: str | None = None  # gated: only who brings this token may read
    private: bool = False

    def name(self, path: str) -> str:
        """What the hub calls the content of a file."""
        content = self.files[path]
        if path in self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(Site):
    """``repositories``: "models/org/name" or "datasets/org/name" -> Repository. ``faults``: path of a file, or "api" ->
    answers that come first, one after the other; a fault without a body concerns the file's real content."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Answer]] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> Answer:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        if parts[0] == "api":
            return self._api("/".join(parts[1:4]), parts[4:], request)
        if parts[0] == "store":
            return self._content("/".join(parts[1:4]), "/".join(parts[4:]), request)
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        return self._resolve(f"{kind}/{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]), request)

    def _refused(self, name: str, request: BaseHTTPRequestHandler) -> Answer | None:
        repository = self.repositories.get(name)
        known = repository and request.headers.get("Authorization") == f"Bearer {repository.token}"
        if repository is None or (repository.private and not known):
            return Answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if repository.token and not known:
            return Answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this repository is gated"})
        return None

    def _api(self, name: str, rest: list[str], request: BaseHTTPRequestHandler) -> Answer:
        if self.faults.get("api"):
            return self.faults["api"].pop(0)
        repository = self.repositories.get(name)
        if rest == ["auth-check"] or repository is None or repository.private:
            if refused := self._refused(name, request):
                return refused
            return Answer(200, {}, b"{}")
        if rest and rest[-1] not in ("main", repository.commit):
            return Answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if rest[0] == "tree":
            return _json([self._listed(repository, path) for path in sorted(repository.files)])
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        return _json({"id": name.partition("/")[2], "sha": repository.commit, "siblings": siblings})

    def _listed(self, repository: Repository, path: str) -> dict[str, Any]:
        size = len(repository.files[path])
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": repository.name(path)[:40]}
        if path in repository.large:
            entry["lfs"] = {"oid": repository.name(path), "size": size, "pointerSize": 120}
        return entry

    def _resolve(self, name: str, revision: str, path: str, request: BaseHTTPRequestHandler) -> Answer:
        if refused := self._refused(name, request):
            return refused
        repository = self.repositories[name]
        if revision not in ("main", repository.commit):
            return Answer(404, {"X-Error-Code": "RevisionNotFound"})
        if path not in repository.files:
            return Answer(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{repository.name(path)}"'}
        if path in repository.large:
            size = str(len(repository.files[path]))
            linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": size}
            store = self.address.replace("127.0.0.1", "localhost")  # to another host the client follows no HEAD
            return Answer(302, {**headers, **linked, "Location": f"{store}/store/{name}/{path}"})
        answer = self._content(name, path, request)
        return Answer(answer.status, {**headers, **answer.headers}, answer.body, answer.fault)

    def _content(self, name: str, path: str, request: BaseHTTPRequestHandler) -> Answer:
        body, status, headers = self.repositories[name].files[path], 200, {}
        if asked := request.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body, status = body[start:], 206
        if request.command == "GET" and self.faults.get(path):
            fault = self.faults[path].pop(0)
            if fault.status != 200:
                return fault
            return Answer(status, headers, body, fault.fault)
        return Answer(status, headers, body)


def _json(content: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())
