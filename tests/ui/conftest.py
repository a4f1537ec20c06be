"""The page's routes, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.context import AppContext
from modules.ui.routes import add_routes


@pytest.fixture
async def client(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    """The owner on loopback, below /page. With `sekrit-token`, others are guests."""
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=Access("sekrit-token"))
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/page") as opened:
        yield opened
