"""Lantern's own API in a process of its own, over a scripted model.

What a test says of the model comes as JSON in the first argument: `port`, and perhaps `delay`
(seconds a word), `reply`, `key` and `context`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.api.keys import Keys
from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.engine.protocol import GenerateRequest, LoadModel
from modules.settings import Settings
from tests.api.helpers import make_api


def build(about: dict[str, Any], folder: Path) -> FastAPI:
    """The API over a model that says what it was asked, unless it has a `reply`."""

    def reply(request: GenerateRequest) -> str:
        return str(about.get("reply") or f"You sent: {request.prompt}")

    engine = FakeEngine(reply, about.get("delay", 0.0), about.get("context", 2048))
    settings = Settings(user_data_dir=folder, model_dir=folder, lora_dir=folder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.load(LoadModel("models/second-model"))
        yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(build_router(make_api(engine, settings, Keys(about.get("key", ""), ""))))
    app.add_middleware(AccessMiddleware, access=Access())
    # What a test asks of its peer, and no user can.
    app.add_api_route("/running", lambda: sorted(engine.running))
    return app


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    with TemporaryDirectory() as place:
        config = uvicorn.Config(
            build(told, Path(place)),
            port=told["port"],
            log_level="critical",
            timeout_graceful_shutdown=1,
        )
        asyncio.run(uvicorn.Server(config).serve())
