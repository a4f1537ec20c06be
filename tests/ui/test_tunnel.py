"""The share link: what leads to it, and what is said when nothing does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gradio import networking, tunneling

from modules.errors import TunnelError
from modules.jobs import Job, JobManager
from modules.ui import tunnel
from modules.ui.tunnel import Tunnel, other_ways

pytestmark = pytest.mark.anyio

OPENS = """
print("[sub] login to server success", flush=True)
print("[sub] start proxy success: http://abc123.tunnel.example", flush=True)
time.sleep(600)
"""
CLOSED = "http://127.0.0.1:9/"
"""Where nobody listens."""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a script in the place of frp's client."""

    def put(script: str) -> Path:
        path = tmp_path / "frpc"
        path.write_text("#!/usr/bin/env python3\nimport os, sys, time\n" + script)
        path.chmod(0o755)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(tunneling, "BINARY_PATH", str(path))
        monkeypatch.setattr(tunneling, "BINARY_URL", CLOSED)
        monkeypatch.setattr(tunneling, "CHECKSUMS", {CLOSED: digest})
        return path

    return put


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A web server on loopback: what it answers, by path; `base` is its address."""
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers["base"] = f"http://127.0.0.1:{server.server_port}".encode()
    yield answers
    server.shutdown()


async def opened(tmp_path: Path, server: str = "tunnel.example:7000") -> tuple[Tunnel, Job]:
    found = Tunnel(4321, server, tmp_path)
    job = JobManager().submit("Opening the share link", found.open, kind="share")
    await job.wait()
    return found, job


async def refused(tmp_path: Path, server: str = "tunnel.example:7000") -> str:
    """The one line that is said of a tunnel that does not open."""
    found, job = await opened(tmp_path, server)
    assert found.url == ""
    assert isinstance(job.error, TunnelError)
    assert "\n" not in str(job.error)
    return str(job.error)


# -- what opens -------------------------------------------------------------------------


async def test_the_link_is_what_the_program_tells(
    program: Callable[[str], Path], tmp_path: Path
) -> None:
    program(f"open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:]))" + OPENS)
    found, job = await opened(tmp_path)
    found.close()
    arguments = (tmp_path / "arguments").read_text()
    assert (found.url, job.state) == ("http://abc123.tunnel.example", "done")
    assert "-l 4321 -i 127.0.0.1" in arguments
    assert "--server_addr tunnel.example:7000" in arguments


async def test_closing_a_tunnel_ends_its_program(
    program: Callable[[str], Path], tmp_path: Path
) -> None:
    program(OPENS)
    found, _ = await opened(tmp_path)
    found.close()
    assert "start proxy success" in await asyncio.wait_for(found.ended(), 20)


async def test_gradios_server_is_asked_for_and_its_certificate_is_kept(
    program: Callable[[str], Path], web: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program(f"open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:]))" + OPENS)
    told = [{"host": "frp.example", "port": 7000, "root_ca": "-----BEGIN"}]
    web["/v3"] = json.dumps(told).encode()
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", web["base"].decode() + "/v3")
    found, _ = await opened(tmp_path, "")
    found.close()
    assert found.url == "https://abc123.tunnel.example"
    assert (tmp_path / "share-certificate.pem").read_text() == "-----BEGIN"
    assert "--tls_trusted_ca_file" in (tmp_path / "arguments").read_text()


async def test_the_program_is_fetched_verified_and_kept(
    web: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web["/frpc"] = b"#!/usr/bin/env python3\nimport time\n" + OPENS.encode()
    url, path = web["base"].decode() + "/frpc", tmp_path / "cache" / "frpc"
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(path))
    monkeypatch.setattr(tunneling, "BINARY_URL", url)
    digest = hashlib.sha256(web["/frpc"]).hexdigest()
    monkeypatch.setattr(tunneling, "CHECKSUMS", {url: digest})
    found, _ = await opened(tmp_path)
    found.close()
    assert found.url
    assert path.read_bytes() == web["/frpc"]


# -- what does not ----------------------------------------------------------------------


async def test_what_was_fetched_and_is_something_else_is_never_kept_or_run(
    web: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web["/frpc"] = b"#!/bin/sh\ntouch " + str(tmp_path / "ran").encode()
    url = web["base"].decode() + "/frpc"
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(tmp_path / "cache" / "frpc"))
    monkeypatch.setattr(tunneling, "BINARY_URL", url)
    monkeypatch.setattr(tunneling, "CHECKSUMS", {url: "0" * 64})
    assert "is not frp's client" in await refused(tmp_path)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "ran").exists()


async def test_without_internet_the_program_that_is_missing_is_named(
    program: Callable[[str], Path], tmp_path: Path
) -> None:
    program(OPENS).unlink()
    assert "127.0.0.1 cannot be reached (no connection)" in await refused(tmp_path)


async def test_without_internet_the_service_that_does_not_answer_is_named(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(OPENS)
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", CLOSED)
    assert "cannot be reached" in await refused(tmp_path, "")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[1]", b'[{"host": "x"}]', b"<html>"])
async def test_a_service_that_answers_otherwise_is_named(
    body: bytes, program: Callable[[str], Path], web: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program(OPENS)
    web["/v3"] = body
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", web["base"].decode() + "/v3")
    assert "unknown form" in await refused(tmp_path, "")


async def test_a_service_that_hangs_ends_at_the_deadline(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(OPENS)
    monkeypatch.setattr(tunnel, "DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(networking, "GRADIO_API_SERVER", address)
        assert "asking for a tunnel server" in await refused(tmp_path, "")


async def test_a_program_that_hangs_is_ended_at_the_deadline(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    monkeypatch.setattr(tunnel, "DEADLINE_S", 1.5)
    assert "waiting for tunnel.example" in await refused(tmp_path)
    for _ in range(100):
        if not is_alive(int((tmp_path / "pid").read_text())):
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the program is still there")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print('login to server failed: late', flush=True); time.sleep(600)", "failed: late"),
        ("print('port blocked', file=sys.stderr); sys.exit(3)", "(status 3): port blocked"),
        ("", "(status 0)"),
        ("print('start proxy success: \\u2028 ; rm -rf', flush=True)", "(status 0)"),
    ],
)  # fmt: skip
async def test_a_program_that_fails_is_quoted(
    script: str, said: str, program: Callable[[str], Path], tmp_path: Path
) -> None:
    program(script)
    assert said in await refused(tmp_path)


async def test_a_program_that_was_damaged_is_not_run(
    program: Callable[[str], Path], tmp_path: Path
) -> None:
    path = program(OPENS)
    path.write_bytes(path.read_bytes() + b"#")
    assert f"{path} is not frp's client" in await refused(tmp_path)


async def test_a_machine_without_a_program_is_told(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(OPENS)
    monkeypatch.setattr(tunneling, "CHECKSUMS", {})
    assert "this kind of machine" in await refused(tmp_path)


def test_the_other_ways_name_the_real_port() -> None:
    assert "ssh -L 7999:127.0.0.1:7999 " in other_ways(7999)
    assert "--share-server-address" in other_ways(7999)
    assert "\n" not in other_ways(7999)
