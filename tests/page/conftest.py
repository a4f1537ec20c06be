"""The page in a real browser, on a real server, over an engine that is fake."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from modules.context import AppContext
from modules.engine.choice import engine_for
from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.settings import ROOT, Settings
from modules.ui.web import make_access
from server import build_app, build_context, make_server

expect.set_options(timeout=20_000)

CHROMIUM = Path("/usr/bin/chromium")
# Without these, Chromium looks for its maker's hosts at every start.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclasses.dataclass
class Served:
    """A running server, and the engine behind it."""

    url: str
    ctx: AppContext
    engine: FakeEngine
    loop: asyncio.AbstractEventLoop

    def do(self, act: Callable[[], Any]) -> None:
        """Run `act` in the server's event loop."""
        self.loop.call_soon_threadsafe(act)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Ended with its module: playwright's event loop, while it runs in
    this thread, keeps async tests from having theirs."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh browser profile; an error in the page's own script fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.set_default_timeout(20_000)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert errors == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Lantern with a fake model loaded."""
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Served]]:
    """`served`, with the settings that a test gives."""
    return functools.partial(serving, tmp_path)


@contextlib.contextmanager
def serving(tmp_path: Path, **changed: Any) -> Iterator[Served]:
    """Lantern with a fake model loaded, and some settings of its own.

    With `api_base`, the model is that of a server, and no fake.
    """
    settings = Settings(
        **changed,
        user_data_dir=tmp_path / "user_data",
        model_dir=tmp_path / "models",
        lora_dir=tmp_path / "loras",
        prompt_dir=Path(shutil.copytree(ROOT / "prompts", tmp_path / "prompts")),
    )
    settings.paths.prepare()
    engine: Any = engine_for(settings) if settings.api_base else FakeEngine(delay=0.01)
    ctx = build_context(settings, engine, make_access(settings))
    up = threading.Event()
    found: dict[str, asyncio.AbstractEventLoop] = {}
    tasks: list[asyncio.Task[Any]] = []

    def started(ctx: AppContext) -> None:
        found["loop"] = asyncio.get_running_loop()
        path = str(settings.model_dir / "Tiny")
        command = LoadModel("" if settings.api_base else path)
        tasks.append(found["loop"].create_task(engine.load(command)))
        up.set()

    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(build_app(ctx, started))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    assert up.wait(60)
    port = listener.getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", ctx, engine, found["loop"])
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
