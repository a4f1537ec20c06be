"""Servers of other processes on loopback, for the engine that writes with their models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modules.settings import ROOT

__all__ = ["Peer", "free_port", "lantern_with", "second_lantern", "transformers_serve"]


@dataclass
class Peer:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def running(self) -> list[str]:
        """The replies that a scripted peer writes now."""
        found: list[str] = httpx.get(f"{self.url}/running").json()
        return found

    def kill(self) -> None:
        """As `kill -9` does it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def wait_until_idle(self) -> bool:
        """Whether it comes to write nothing any more."""
        deadline = time.monotonic() + 20
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.running


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def second_lantern(port: int = 0, **about: Any) -> contextlib.AbstractContextManager[Peer]:
    """Lantern's API over a scripted model, see tests/second_lantern.py."""
    port = port or free_port()
    told = json.dumps({"port": port} | about)
    return _running([sys.executable, "-m", "tests.second_lantern", told], port, about.get("key"))


def lantern_with(model: Path, data: Path) -> contextlib.AbstractContextManager[Peer]:
    """Lantern as its users start it, with a real model."""
    port = free_port()
    flags = ["--listen-port", str(port), "--model", str(model), "--cpu"]
    flags += ["--user-data-dir", str(data)]
    return _running([sys.executable, "server.py", *flags], port)


def transformers_serve(model: Path) -> contextlib.AbstractContextManager[Peer]:
    """`transformers serve`, the peer that no one here wrote."""
    port = free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    return _running([program, "serve", str(model), "--port", str(port), "--device", "cpu"], port)


@contextlib.contextmanager
def _running(command: list[str], port: int, key: str | None = None) -> Iterator[Peer]:
    """The server of a command, from when it serves a model to the end of the block."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LANTERN_")}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, key)
        yield Peer(url, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v1/models", headers=headers, timeout=10).json().get("data"):
                return
        time.sleep(0.1)
    raise AssertionError("the server did not come up")
