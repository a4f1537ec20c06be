"""The API on a real server: uvicorn in a thread, over a fake engine in its loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.api.keys import Keys
from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel
from modules.settings import Settings
from tests.api.helpers import make_api


@dataclass
class Served:
    """A running API. The engine belongs to the server's loop: see `soon`."""

    url: str
    engine: Any
    loop: asyncio.AbstractEventLoop
    key: str

    @property
    def client(self) -> openai.OpenAI:
        """The official client, as a user would make it."""
        return openai.OpenAI(base_url=self.url, api_key=self.key or "none", max_retries=0)

    def soon(self, call: Callable[[], object]) -> None:
        """Do `call` in the server's loop."""
        self.loop.call_soon_threadsafe(call)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """A request that the official client would not send."""
        return httpx.post(f"{self.url}{path}", timeout=30, **options)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Whether `condition` comes true; a test that fails takes the full 20 s."""
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        return condition()


Serve = Callable[..., Served]
FAKE_MODEL = LoadModel("models/fake-model")


@pytest.fixture
def serve(settings: Settings) -> Iterator[Serve]:
    """Start servers: `serve(engine, command)` loads what the command says, or nothing."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(
        engine: FakeEngine | LocalEngine | None = None,
        command: LoadModel | None = FAKE_MODEL,
        api_key: str = "",
        admin_key: str = "",
    ) -> Served:
        engine = engine or FakeEngine()
        loops: list[asyncio.AbstractEventLoop] = []

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            loops.append(asyncio.get_running_loop())
            if command is not None:
                await engine.load(command)
            yield
            await engine.close()

        app = FastAPI(lifespan=lifespan)
        keys = Keys(api_key, admin_key)
        app.include_router(build_router(make_api(engine, settings, keys)))
        app.add_middleware(AccessMiddleware, access=Access())
        app.add_api_route("/page", lambda: 1 / 0)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        return Served(url, engine, loops[0], api_key)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def api(serve: Serve) -> Served:
    """An open server whose fake model is loaded."""
    return serve()
