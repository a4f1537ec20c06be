"""Stop, a closed tab, a dropped connection: nothing is written on, and nothing is left."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from modules.engine.params import SamplingParams
from modules.ui.components.knobs import to_widgets
from tests.engine.helpers import ENDLESS, ask
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.site import Site
from tests.test_authorisation import blocks_of

VALUES = to_widgets(SamplingParams.neutral(**ENDLESS, do_sample=False))


class Line:
    """A connection that can be cut without a word, as a lost network cuts it."""

    def __init__(self, url: str, method: str, path: str, body: object = None) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\norigin: {url}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self._socket.sendall(head.encode() + data)

    def read_until(self, text: bytes, times: int = 1) -> None:
        """Read until `text` has come so often."""
        read = b""
        while read.count(text) < times:
            part = self._socket.recv(65536)
            assert part, read
            read += part

    def cut(self) -> None:
        """Reset the connection."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """End it in good order, as a tab that is closed does."""
        self._socket.close()


# -- the three ways, each returning how long it took ----------------------------------------


def stop(running: Site, number: int) -> float:
    """The Stop button below a chat."""
    with httpx.Client(base_url=running.url, timeout=20) as tab:
        chat = tab.post("/page/chats").json()["id"]
        tab.post(f"/page/chats/{chat}/send", json={"text": f"Go {number}", "values": VALUES})
        running.wait_until(lambda: _tokens(running, chat) > 3)
        begun = time.perf_counter()
        assert tab.post(f"/page/chats/{chat}/stop").status_code == 200
        running.until_silent()
        return time.perf_counter() - begun


def _tokens(running: Site, chat: int) -> int:
    live = running.ctx.chats.live(chat)
    return live.tokens if live else 0


def close_tab(running: Site, number: int) -> float:
    """A tab that goes while the Default mode writes for it."""
    (function,) = [n for n, fn in blocks_of(running.app).fns.items() if _is_generate(fn)]
    session = f"tab{number}-{time.monotonic_ns()}"
    event = {"fn_index": function, "data": ["the capital", *VALUES], "session_hash": session}
    joined = httpx.post(f"{running.url}/gradio_api/queue/join", json=event, timeout=20)
    assert joined.status_code == 200
    beat = Line(running.url, "GET", f"/gradio_api/heartbeat/{session}")
    data = Line(running.url, "GET", f"/gradio_api/queue/data?session_hash={session}")
    data.read_until(b"process_generating", 2)
    begun = time.perf_counter()
    data.close()
    beat.close()
    running.until_silent()
    return time.perf_counter() - begun


def _is_generate(fn: Any) -> bool:
    """Whether it is what the button of the Default mode does."""
    shown = {block.elem_id for block in fn.outputs}
    return "default-raw" in shown and len(fn.inputs) == 1 + len(VALUES)


def drop(running: Site, number: int) -> float:
    """A program that streams from the API, and whose network goes; every other one waits for
    a whole reply."""
    streams = number % 2 == 0
    body = {"prompt": f"the capital {number}", "max_tokens": 8192, "stream": streams,
            "temperature": 0, "ban_eos_token": True}  # fmt: skip
    line = Line(running.url, "POST", "/v1/completions", body)
    if streams:
        line.read_until(b"data: ", 4)
    else:
        running.wait_until(lambda: bool(running.engine.tally.running))
    begun = time.perf_counter()
    line.cut()
    running.until_silent()
    return time.perf_counter() - begun


NAMES = {stop: "Stop in a chat", close_tab: "A tab closed in the Default mode",
         drop: "A connection of the API reset"}  # fmt: skip

# -- all of them ----------------------------------------------------------------------------


def token_s(running: Site) -> float:
    """The median time between two tokens of a reply that nothing disturbs."""

    async def gaps() -> list[float]:
        reply = running.engine.generate(ask("timed", **ENDLESS | {"max_new_tokens": 60}))
        times = [time.perf_counter() async for _ in reply]
        return [b - a for a, b in pairwise(times)]

    return statistics.median(running.do(gaps()))


@counts(5, 50)
@pytest.mark.parametrize("way", [stop, close_tab, drop], ids=lambda way: way.__name__)
def test_nothing_is_written_on_and_nothing_is_left(
    way: Callable[[Site, int], float], count: int, running: Site, found: Found
) -> None:
    way(running, 0)
    way(running, 1)
    token, before = token_s(running), running.held()
    took = [way(running, number) for number in range(count)]
    assert running.worker_busy() < 0.2, "the worker computes for nobody"
    running.wait_until(lambda: running.tasks <= before.tasks, pause=0.1)
    running.wait_until(lambda: running.files <= before.files, pause=0.1)
    after = running.held()
    assert after.threads == before.threads
    assert after.worker_files <= before.worker_files
    assert after.memory - before.memory < 50
    assert after.worker_memory - before.worker_memory < 50
    assert token_s(running) > 0, "the next reply is written"
    late = max(took) - token
    found(
        f"{NAMES[way]}, {count} times in mid-reply",
        f"the worker had ended it after {statistics.median(took) * 1000:.0f} ms (median), "
        f"{max(took) * 1000:.0f} ms at most, which is {late * 1000:.0f} ms more than a token; no "
        f"thread, task or file left; memory {after.memory - before.memory:+.1f} MB, the worker's "
        f"{after.worker_memory - before.worker_memory:+.1f} MB",
    )
