"""Figures for Prometheus, and the description of the API: who sees them, and what they say."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from modules.access import Access, AccessMiddleware
from modules.api.keys import Keys
from modules.api.pages import build_pages
from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.settings import Settings
from tests.api.helpers import make_api

pytestmark = pytest.mark.anyio

KEY = "the-api-key"
QUESTION = [{"role": "user", "content": "Where?"}]


def client(app: FastAPI, who: str) -> httpx.AsyncClient:
    local = who == "owner"
    transport = httpx.ASGITransport(app, client=("127.0.0.1" if local else "203.0.113.5", 5000))
    host = "http://127.0.0.1:7860" if local else "http://lantern.example"
    opened = httpx.AsyncClient(transport=transport, base_url=host)
    if who == "guest":
        opened.cookies.update({"lantern_token": "the-token", "lantern_guest": "x" * 24})
    if who == "key":
        opened.headers["authorization"] = f"Bearer {KEY}"
    return opened


@pytest.fixture
def app(engine: FakeEngine, settings: Settings) -> FastAPI:
    """The API as it is served to others."""
    api = make_api(engine, settings, Keys(KEY))
    app = FastAPI(openapi_url=None)
    app.include_router(build_router(api))
    app.include_router(build_pages(api))
    app.add_middleware(AccessMiddleware, access=Access("the-token"))
    return app


async def get(app: FastAPI, who: str, path: str) -> httpx.Response:
    async with client(app, who) as opened:
        return await opened.get(path)


async def figures(app: FastAPI) -> dict[str, float]:
    lines = (await get(app, "owner", "/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def ask(app: FastAPI, **body: Any) -> httpx.Response:
    async with client(app, "key") as opened:
        return await opened.post("/v1/chat/completions", json={"messages": QUESTION} | body)


# -- who -----------------------------------------------------------------------------------

ALLOWED = {"/metrics": {"owner", "key"}, "/docs": {"owner"}, "/openapi.json": {"owner"}}


@pytest.mark.parametrize("who", ["owner", "key", "guest", "nobody"])
async def test_each_page_is_shown_to_those_it_is_for(
    app: FastAPI, engine: FakeEngine, settings: Settings, who: str
) -> None:
    router = build_pages(make_api(engine, settings, Keys()))
    paths = {route.path for route in router.routes if isinstance(route, APIRoute)}
    assert paths == set(ALLOWED)
    for path, allowed in ALLOWED.items():
        status = (await get(app, who, path)).status_code
        assert (path, status == 200) == (path, who in allowed)
        assert status in (200, 401, 403)


# -- figures -------------------------------------------------------------------------------


async def test_tokens_and_answers_are_counted(app: FastAPI) -> None:
    await ask(app)
    await ask(app, temperature=99)
    found = await figures(app)
    assert found["lantern_completion_tokens_total"] == 6
    assert found["lantern_prompt_tokens_total"] > 3
    assert found['lantern_replies_total{reason="stop"}'] == 1
    route = 'lantern_http_requests_total{path="/v1/chat/completions",status='
    assert (found[f'{route}"200"}}'], found[f'{route}"400"}}']) == (1, 1)
    assert found["lantern_replies_running"] == found["lantern_replies_waiting"] == 0


async def test_large_numbers_are_told_to_the_last_digit(app: FastAPI, engine: FakeEngine) -> None:
    engine.tally.completion_tokens = 1_234_567_891
    assert (await figures(app))["lantern_completion_tokens_total"] == 1_234_567_891


async def test_a_reply_that_failed_is_no_longer_under_way(app: FastAPI, engine: FakeEngine) -> None:
    engine.reply = lambda request: engine.die() or "never"  # type: ignore[func-returns-value]
    await ask(app)
    found = await figures(app)
    assert found['lantern_replies_total{reason="failed"}'] == 1
    assert found["lantern_replies_waiting"] == 0
    assert found['lantern_model_state{state="crashed"}'] == 1


async def test_the_model_is_told(app: FastAPI, engine: FakeEngine) -> None:
    ready = await figures(app)
    assert ready['lantern_model_state{state="ready"}'] == 1
    assert any(name.startswith('lantern_model_info{model="fake-model"') for name in ready)
    await engine.unload()
    gone = await figures(app)
    assert gone['lantern_model_state{state="empty"}'] == 1
    assert not any(name.startswith("lantern_model_info") for name in gone)


async def test_the_text_is_that_of_prometheus(app: FastAPI) -> None:
    await ask(app)
    answer = await get(app, "key", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z_]+(\{([a-z]+="[^"\n]*",?)+\})? [0-9.e+]+')
    for line in answer.text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line), line


# -- description ---------------------------------------------------------------------------


async def test_the_document_has_every_route_and_its_body(app: FastAPI) -> None:
    document = (await get(app, "owner", "/openapi.json")).json()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/internal/model/load"} <= set(
        document["paths"]
    )
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["summary"], path
            if "requestBody" in route:
                schema = route["requestBody"]["content"]["application/json"]["schema"]
                assert schema["$ref"].rpartition("/")[2] in schemas


async def test_the_page_needs_nothing_from_elsewhere(app: FastAPI) -> None:
    answer = await get(app, "owner", "/docs")
    assert "POST /v1/chat/completions" in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
