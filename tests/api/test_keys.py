"""Every route of the API for every kind of caller; the list is read from the router."""

from __future__ import annotations

import re

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from modules.access import Access, AccessMiddleware
from modules.api.keys import Keys
from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.settings import Settings
from tests.api.helpers import make_api

pytestmark = pytest.mark.anyio

KEY, ADMIN = "the-api-key", "the-admin-key"
BOTH, KEY_ALONE, NONE = Keys(KEY, ADMIN), Keys(KEY), Keys()
TOKEN = Keys(KEY, owner_free=True)
GIVEN = {"nobody": "", "wrong": "wrong", "key": KEY, "admin": ADMIN, "owner": "", "owner+key": KEY}
ADMINISTRATION = {
    "/v1/internal/model/list", "/v1/internal/model/load", "/v1/internal/model/unload",
    "/v1/internal/lora/list", "/v1/internal/lora/load", "/v1/internal/lora/unload",
}  # fmt: skip


def app_of(engine: FakeEngine, settings: Settings, keys: Keys) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    router = build_router(make_api(engine, settings, keys))
    app.include_router(router)
    app.state.router = router
    app.add_middleware(AccessMiddleware, access=Access("the-token"))
    return app


def routes(app: FastAPI) -> list[tuple[str, str]]:
    found = [r for r in app.state.router.routes if isinstance(r, APIRoute)]
    return [(method, r.path) for r in found for method in sorted(r.methods or ())]


def caller(app: FastAPI, who: str) -> httpx.AsyncClient:
    local = who.startswith("owner")
    transport = httpx.ASGITransport(app, client=("127.0.0.1" if local else "203.0.113.5", 5000))
    host = "127.0.0.1:7860" if local else "lantern.example"
    headers = {"authorization": f"Bearer {GIVEN[who]}"} if GIVEN[who] else {}
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


async def status(app: FastAPI, who: str, method: str, path: str) -> int:
    async with caller(app, who) as client:
        filled = re.sub(r"\{[^}]*\}", "x", path)
        return (await client.request(method, filled, json={})).status_code


def test_the_router_has_the_routes_of_administration(
    settings: Settings, engine: FakeEngine
) -> None:
    paths = {path for _, path in routes(app_of(engine, settings, NONE))}
    assert paths >= ADMINISTRATION
    assert len(paths) > 2 * len(ADMINISTRATION)


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        (BOTH, {"nobody", "wrong", "owner"}),
        (KEY_ALONE, {"nobody", "wrong", "admin", "owner"}),
        (NONE, {"nobody", "wrong", "key", "admin"}),
        (TOKEN, {"nobody", "wrong", "admin"}),
    ],
)
async def test_each_route_is_refused_to_those_without_its_key(
    settings: Settings, engine: FakeEngine, keys: Keys, refused: set[str]
) -> None:
    app, state = app_of(engine, settings, keys), engine.state
    for method, path in routes(app):
        for who in refused:
            assert (path, who, await status(app, who, method, path)) == (path, who, 401)
    assert engine.state is state


@pytest.mark.parametrize(
    ("keys", "let_in", "kept_out"),
    [
        (BOTH, {"admin"}, {"key": 401, "owner+key": 401}),
        (KEY_ALONE, {"owner+key"}, {"key": 403}),
        (NONE, {"owner", "owner+key"}, {}),
        (TOKEN, {"owner", "owner+key"}, {"key": 403}),
    ],
)
async def test_what_is_loaded_is_changed_with_the_admin_key_or_else_by_the_owner(
    settings: Settings, engine: FakeEngine, keys: Keys, let_in: set[str], kept_out: dict[str, int]
) -> None:
    app = app_of(engine, settings, keys)
    for method, path in routes(app):
        if path in ADMINISTRATION:
            for who, answer in kept_out.items():
                assert (path, await status(app, who, method, path)) == (path, answer)
            for who in let_in:
                assert await status(app, who, method, path) not in (401, 403), path


async def test_the_api_key_opens_everything_else(settings: Settings, engine: FakeEngine) -> None:
    app = app_of(engine, settings, BOTH)
    for method, path in routes(app):
        if path not in ADMINISTRATION:
            for who in ("key", "admin"):
                assert await status(app, who, method, path) not in (401, 403), path


async def test_the_key_may_come_as_anthropics_client_sends_it(
    settings: Settings, engine: FakeEngine
) -> None:
    async with caller(app_of(engine, settings, BOTH), "nobody") as client:
        answer = await client.get("/v1/models", headers={"x-api-key": KEY})
    assert answer.status_code == 200


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Bearer é", "Basic x", KEY])
async def test_a_malformed_key_is_a_wrong_one(
    settings: Settings, engine: FakeEngine, given: str
) -> None:
    async with caller(app_of(engine, settings, NONE), "nobody") as client:
        headers = {"authorization": given.encode("latin-1")}
        assert (await client.get("/v1/models", headers=headers)).status_code == 401


async def test_another_site_cannot_have_the_owners_browser_unload_the_model(
    settings: Settings, engine: FakeEngine
) -> None:
    async with caller(app_of(engine, settings, NONE), "owner") as client:
        foreign = {"origin": "http://evil.example"}
        answer = await client.post("/v1/internal/model/unload", headers=foreign)
    assert answer.status_code == 403
    assert engine.state.phase == "ready"
