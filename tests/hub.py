"""A hub on loopback that speaks as much of the Hugging Face API as a download needs, and lies.

`hub.add("owner/name", {"config.json": b"{}"})` makes a repository; the attributes of
`hub.faults` say what goes wrong from then on; `hub.requests` is what was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin", ".pt", ".onnx")  # kept in LFS, so with a sha256


@dataclass
class Faults:
    """What goes wrong. Offsets count from the beginning of a file."""

    cuts: list[int] = field(default_factory=list)
    """Each is used once: the connection ends before the byte at that offset is sent."""
    reset: bool = False
    """It ends with a reset, so that bytes on the way are lost too."""
    corrupt: int = 0
    """So many answers with a file's content have their first byte changed."""
    unavailable: int = 0
    """So many answers are 503."""
    status: int = 0
    """Every request for content gets this status."""
    error_code: str = ""
    """X-Error-Code of that status."""
    retry_after: str = ""
    ignore_range: bool = False
    wrong_range: bool = False
    too_long: bool = False
    too_short: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    """What the listing says of these files instead of their size."""
    paths: dict[str, str] = field(default_factory=dict)
    """What the listing says of these files instead of their path."""
    info: dict[str, Any] = field(default_factory=dict)
    """Replaces keys of the listing."""
    redirect: str = ""
    """Content is at this address instead."""
    token: str = ""
    """Who does not send it is told that there is no such model."""
    pause_at: int = -1
    """Content stops at this offset until `go` is set."""
    go: threading.Event = field(default_factory=threading.Event)
    block: int = 65536
    delay_s: float = 0.0
    """The wait after each `block` bytes."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Message

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


class Hub:
    """A running hub."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[Asked] = []
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> None:
        self.repos.setdefault(repo, {})[branch] = files

    def content_requests(self) -> list[Asked]:
        return [asked for asked in self.requests if "/resolve/" in asked.path]

    def close(self) -> None:
        self.faults.go.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def commit_of(files: dict[str, bytes]) -> str:
    named = sorted((path, git_name(content)) for path, content in files.items())
    return hashlib.sha1(repr(named).encode()).hexdigest()


@lru_cache(maxsize=1000)
def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@lru_cache(maxsize=1000)
def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, self.headers)
        with self.hub.lock:
            self.hub.requests.append(asked)
        path = unquote(urlsplit(self.path).path)
        try:
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
                self._refs(match[1])
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._info(match[1], match[2] or "main", asked)
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._content(match[1], match[2], match[3], asked)
            else:
                self._refuse(404, "")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    # -- the listing --------------------------------------------------------------------

    def _info(self, repo: str, branch: str, asked: Asked) -> None:
        faults = self.hub.faults
        if repo not in self.hub.repos or (faults.token and asked.token != faults.token):
            self._refuse(401, "RepoNotFound")
        elif branch not in self.hub.repos[repo]:
            self._refuse(404, "RevisionNotFound")
        else:
            files = self.hub.repos[repo][branch]
            siblings = [self._sibling(path, content) for path, content in files.items()]
            self._json({"id": repo, "sha": commit_of(files), "siblings": siblings} | faults.info)

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        faults = self.hub.faults
        size = faults.sizes.get(path, len(content))
        told = {"rfilename": faults.paths.get(path, path), "size": size}
        if path.endswith(LARGE):
            told["lfs"] = {"size": size, "sha256": sha256_of(content), "pointerSize": 130}
        return told | {"blobId": git_name(content)}

    def _refs(self, repo: str) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(files)}
            for name, files in self.hub.repos[repo].items()
        ]
        self._json({"branches": branches, "converts": [], "tags": []})

    # -- the content --------------------------------------------------------------------

    def _content(self, repo: str, revision: str, path: str, asked: Asked) -> None:
        faults = self.hub.faults
        branches = self.hub.repos.get(repo, {}).values()
        files = next((files for files in branches if commit_of(files) == revision), None)
        real = next((real for real, told in faults.paths.items() if told == path), path)
        if faults.token and asked.token != faults.token:
            self._refuse(401, "RepoNotFound")
        elif faults.status:
            self._refuse(faults.status, faults.error_code)
        elif self._take("unavailable"):
            self._refuse(503, "")
        elif faults.redirect:
            self._head(302, {"Location": faults.redirect, "Content-Length": "0"})
        elif files is None or real not in files:
            self._refuse(404, "EntryNotFound")
        else:
            self._send_content(files[real], revision)

    def _send_content(self, content: bytes, revision: str) -> None:
        faults, size, start, stop = self.hub.faults, len(content), 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        ranged = asked is not None and not faults.ignore_range
        if asked is not None and ranged:
            start, stop = int(asked[1]), min(int(asked[2] or size) + 1, size)
            if start >= size:
                self._refuse(416, "")
                return
        if self._take("corrupt"):
            content = content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]
        body = content[start:stop]
        body = body + b"more" if faults.too_long else body[:-4] if faults.too_short else body
        etag = sha256_of(content)
        headers = {
            "Content-Length": str(len(body)),
            "ETag": f'"{etag}"',
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(size),
            "X-Repo-Commit": revision,
            "Accept-Ranges": "bytes",
        }
        if ranged:
            told = 0 if faults.wrong_range else start
            headers["Content-Range"] = f"bytes {told}-{stop - 1}/{size}"
        self._head(206 if ranged else 200, headers)
        if self.command == "GET":
            self._send_body(body, start)

    def _send_body(self, body: bytes, start: int) -> None:
        faults = self.hub.faults
        with self.hub.lock:
            cut = next((cut for cut in faults.cuts if start <= cut < start + len(body)), None)
            if cut is not None:
                faults.cuts.remove(cut)
        end = len(body) if cut is None else cut - start
        position = 0
        while position < end:
            step = min(faults.block, end - position)
            wait_at = faults.pause_at - start
            if not faults.go.is_set() and position <= wait_at < position + step:
                step = wait_at - position
                if step == 0:
                    faults.go.wait(60)
                    continue
            self.wfile.write(body[position : position + step])
            position += step
            if faults.delay_s:
                time.sleep(faults.delay_s)
        if cut is not None:
            self.close_connection = True
            if faults.reset:
                at_once = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    # -- answers ------------------------------------------------------------------------

    def _take(self, fault: str) -> bool:
        """Use a fault up once."""
        with self.hub.lock:
            left = getattr(self.hub.faults, fault)
            setattr(self.hub.faults, fault, max(0, left - 1))
        return bool(left > 0)

    def _json(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"Content-Length": "0"} | ({"X-Error-Code": code} if code else {})
        if self.hub.faults.retry_after:
            headers["Retry-After"] = self.hub.faults.retry_after
        self._head(status, headers)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
