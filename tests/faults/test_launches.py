"""Launches that meet a taken port, a machine without a card, or no internet: one line says so.

That of `--share` without any network is in `tests/test_launch.py`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modules.settings import ROOT
from tests.faults.conftest import Found

DEADLINE_S = 45


class Launch:
    """A `python server.py` of its own, which ends with the block, or after its time."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items()
                 if not name.startswith("LANTERN_") and "proxy" not in name.lower()}  # fmt: skip
        self.begun = time.monotonic()
        command = [sys.executable, "server.py", "--no-starter", *flags]
        self.process = subprocess.Popen(
            [*command, "--user-data-dir", folder / "data"],
            cwd=ROOT, env=clean | {"OMP_NUM_THREADS": "1"} | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.late = threading.Timer(DEADLINE_S + 10, self.process.kill)
        self.late.start()

    def line(self, beginning: str) -> str:
        """The next line of the terminal that begins so; empty where there is none."""
        assert self.process.stdout is not None
        lines = (line.strip() for line in self.process.stdout)
        return next((line for line in lines if line.startswith(beginning)), "")

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.begun

    def end(self) -> None:
        """Stop it."""
        self.late.cancel()
        self.process.terminate()
        self.process.communicate(timeout=20)


@contextlib.contextmanager
def launched(folder: Path, *flags: str, **environment: str) -> Iterator[Launch]:
    launch = Launch(folder, *flags, **environment)
    try:
        yield launch
    finally:
        launch.end()


def test_a_taken_port_ends_a_launch_by_one_line(tmp_path: Path, found: Found) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        with launched(tmp_path, "--listen-port", port) as launch:
            assert launch.process.stdout is not None
            said = launch.process.stdout.read().strip().splitlines()
            seconds = launch.seconds
            assert launch.process.wait(20) == 2
    (line,) = said
    assert f"port {port}" in line
    assert "try another --listen-port" in line
    found("`python server.py` on a taken port",
          f"ended with status 2 and one line after {seconds:.1f} s: {line}")  # fmt: skip


@pytest.mark.soak
def test_without_a_card_the_model_is_on_the_processor_and_it_is_said_why(
    checkpoint: Path, tmp_path: Path, found: Found
) -> None:
    flags = ("--listen-port", "0", "--model", str(checkpoint), "--gpu-memory", "10GiB")
    with launched(tmp_path, *flags, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1") as launch:
        page = launch.line("Page:").split()[1]
        said = launch.line("Loaded ")
        seconds = launch.seconds
        assert "on the processor" in said
        assert "There is no graphics card, so" in said
        body = {"prompt": "the capital", "max_tokens": 2}
        answer = httpx.post(f"{page}/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] > 0
    found("A launch with `--gpu-memory 10GiB` on a machine without a card",
          f"the model answers; after {seconds:.1f} s it says: {said}")  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("network", ["gone", "silent"])
def test_a_share_link_that_cannot_be_is_said_in_time_and_the_page_goes_on(
    network: str, tmp_path: Path, found: Found
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = f"http://127.0.0.1:{listener.getsockname()[1] if network == 'silent' else 9}"
        environment = {"HF_HOME": str(tmp_path), "HTTPS_PROXY": proxy, "https_proxy": proxy}
        with launched(tmp_path, "--share", "--listen-port", "0", **environment) as launch:
            page = launch.line("Page:").split()[1]
            up = launch.seconds
            said = launch.line("No share link:")
            seconds = launch.seconds - up
            assert "ssh -L" in said
            assert httpx.get(page, timeout=20).status_code == 200
    cause = said.partition(" The page")[0]
    found(f"`--share` where the network is {network}",
          f"{seconds:.1f} s after the page was up, with other ways: {cause}")  # fmt: skip
