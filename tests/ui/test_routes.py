"""Every route of the page, for every kind of caller; the list is read from the router."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from modules.access import OWNER, Access, AccessMiddleware, Caller
from modules.chat.service import ChatService
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.jobs import Job
from modules.ui.components.knobs import to_widgets
from modules.ui.routes import add_routes, build_routes
from server import build_app

pytestmark = pytest.mark.anyio

TOKEN = "the-right-token"
VALUES = to_widgets(SamplingParams())
BODY = {
    "text": "words",
    "values": VALUES,
    "name": "x",
    "chat": 1,
    "mode": "chat",
    "role": "user",
    "on": True,
    "names": [],
    "decision": "run",
}
JSON = {"content-type": "application/json"}
GUEST = Caller("guest-1", admin=False)
OPEN = {"/page/events", "/page/preview", "/page/chats", "/page/presets", "/page/draft",
        "/page/context",
        "/page/prompts", "/page/prompts/read", "/page/look/count", "/page/look/tokens",
        "/page/look/next", "/page/characters", "/page/characters/picture", "/page/profile",
        "/page/profile/picture", "/page/profile/save", "/page/modes", "/page/search",
        "/page/export", "/page/import", "/page/folders/rename", "/page/tools",
        "/page/extensions/looks", "/page/extensions/{name}/script.js"}  # fmt: skip
"""For every caller who is let in at all: their own chats."""


@pytest.fixture
def public(ctx: AppContext) -> AppContext:
    """The same Lantern, as it is with --listen."""
    return dataclasses.replace(ctx, access=Access(TOKEN))


def client(ctx: AppContext, caller: str) -> httpx.AsyncClient:
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    address = ("127.0.0.1" if caller == "owner" else "203.0.113.5", 5000)
    host = "127.0.0.1:7860" if caller == "owner" else "lantern.example"
    transport = httpx.ASGITransport(app, client=address)
    opened = httpx.AsyncClient(transport=transport, base_url=f"http://{host}")
    if caller == "guest":
        cookies = {"lantern_token": TOKEN, "lantern_guest": "a-guest-of-twenty-letters"}
        opened.cookies.update(cookies)
    return opened


def routes(ctx: AppContext) -> list[tuple[str, str]]:
    """(method, path) of each route, as the router has them."""
    found = [r for r in build_routes(ctx).routes if isinstance(r, APIRoute)]
    return [(method, route.path) for route in found for method in sorted(route.methods or ())]


def kind(path: str) -> str:
    if "{chat}" in path:
        return "chat"
    return "open" if path in OPEN else "admin"


async def asked(chats: ChatService, owner: str = "owner") -> int:
    chat = (await chats.create(owner)).id
    await chats.send(chat, owner, "Hi", SamplingParams())
    await chats.wait(chat)
    return chat


def filled(path: str, chat: int = 1, message: int = 2) -> str:
    return path.format(chat=chat, message=message, job=1, file=1, run="r", call="c", name="x")


def stored(ctx: AppContext) -> list[tuple[Any, ...]]:
    with ctx.chats._stores.kept.transaction() as db:
        return [tuple(row) for row in db.execute("SELECT * FROM messages")]


# -- the matrix -------------------------------------------------------------------------


async def test_the_router_has_routes_of_all_kinds(ctx: AppContext) -> None:
    kinds = [kind(path) for _, path in routes(ctx)]
    assert (kinds.count("chat"), kinds.count("admin"), kinds.count("open")) >= (12, 5, 3)


async def test_without_a_login_every_route_is_refused(public: AppContext) -> None:
    async with client(public, "nobody") as nobody:
        for method, path in routes(public):
            answer = await nobody.request(method, filled(path), json=BODY)
            assert (path, answer.status_code) == (path, 401)


async def test_from_another_site_every_write_is_refused(public: AppContext) -> None:
    async with client(public, "owner") as owner:
        for method, path in routes(public):
            if method != "GET":
                foreign = {"origin": "http://evil.example"}
                answer = await owner.request(method, filled(path), json=BODY, headers=foreign)
                assert (path, answer.status_code) == (path, 403)


async def test_a_guest_finds_no_chat_of_another_by_any_route(public: AppContext) -> None:
    chat, before = await asked(public.chats), stored(public)
    async with client(public, "guest") as guest:
        for method, path in routes(public):
            if kind(path) == "chat":
                answer = await guest.request(method, filled(path, chat), json=BODY)
                assert (path, answer.status_code) == (path, 404)
                assert answer.json()["message"] == "This chat does not exist."
    assert stored(public) == before
    assert len(await public.chats.chats("owner")) == 1


async def test_the_owner_finds_no_chat_of_a_guest_either(public: AppContext) -> None:
    chat = await asked(public.chats, "guest-1")
    async with client(public, "owner") as owner:
        for method, path in routes(public):
            if kind(path) == "chat":
                answer = await owner.request(method, filled(path, chat), json=BODY)
                assert (path, answer.status_code) == (path, 404)


async def test_a_guest_reaches_no_route_of_the_model(
    public: AppContext, engine: FakeEngine
) -> None:
    state = engine.state
    async with client(public, "guest") as guest:
        for method, path in routes(public):
            if kind(path) == "admin":
                answer = await guest.request(method, filled(path), json=BODY)
                assert (path, answer.status_code) == (path, 403)
                assert "Only the owner" in answer.json()["message"]
    assert (engine.state, public.jobs.jobs()) == (state, [])


async def test_no_route_answers_a_damaged_request_with_a_fault(public: AppContext) -> None:
    bodies = [b"", b"{", b"[]", b"null", b"\xff", b'{"text": 7, "values": {}}', b"[" * 5000,
              json.dumps(BODY | {"values": [None] * 3}).encode(),
              json.dumps(BODY | {"values": [[]] * len(VALUES)}).encode()]  # fmt: skip
    await asked(public.chats)
    async with client(public, "owner") as owner:
        for method, path in routes(public):
            for body in bodies if "events" not in path else []:
                answer = await owner.request(method, filled(path), content=body, headers=JSON)
                assert (path, body[:20], answer.status_code < 500) == (path, body[:20], True)
    await public.jobs.close()


@pytest.mark.parametrize("body", [b"\xff", json.dumps(BODY | {"text": "\ud83e"}).encode()])
@pytest.mark.parametrize("headers", [{}, JSON])
async def test_a_body_that_is_no_text_is_refused_in_the_pages_own_form(
    body: bytes, headers: dict[str, str], ctx: AppContext
) -> None:
    async with client(ctx, "owner") as owner:
        answer = await owner.post("/page/preview", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json().keys() == {"message", "remedy"}


@pytest.mark.parametrize("wrong", ["0", "-1", "9007199254740993", "9" * 30, "x", "1.5", "%00"])
async def test_no_id_is_a_fault(wrong: str, ctx: AppContext) -> None:
    async with client(ctx, "owner") as owner:
        for method, path in routes(ctx):
            if "{" in path:
                address = path.format(chat=wrong, message=wrong, job=wrong, file=wrong, run=wrong,
                                      call=wrong, name=wrong)  # fmt: skip
                answer = await owner.request(method, address, json=BODY)
                assert (path, 400 <= answer.status_code < 500) == (path, True)


async def test_the_whole_application_is_closed_without_a_login(public: AppContext) -> None:
    app: Any = build_app(public, lambda ctx: None)
    transport = httpx.ASGITransport(app, client=("203.0.113.5", 1), raise_app_exceptions=False)
    paths = ["/", "/config", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/upload",
             "/gradio_api/file=user_data/lantern.sqlite3", "/page/static/page.js", "/login",
             "/docs", "/openapi.json", "/theme.css", "/v1/models", "/v1/config", "/v1/",
             "/v1/../config", "/v1/%2e%2e/page/models"]  # fmt: skip
    async with httpx.AsyncClient(transport=transport, base_url="http://lantern.example") as nobody:
        for path in paths:
            for method in ("GET", "POST"):
                answer = await nobody.request(method, path)
                assert (method, path, answer.status_code in (401, 404, 405)) == (method, path, True)
                assert "gradio" not in answer.text


# -- what they do -----------------------------------------------------------------------


async def test_a_guest_chats_in_a_chat_of_their_own(public: AppContext) -> None:
    async with client(public, "guest") as guest:
        chat = (await guest.post("/page/chats")).json()["id"]
        sent = await guest.post(f"/page/chats/{chat}/send", json={"text": "Hi", "values": VALUES})
        assert sent.status_code == 200
        await public.chats.wait(chat)
        text = (await guest.get(f"/page/chats/{chat}/messages/2")).json()["text"]
    assert text == "The capital of France is Paris."
    assert await public.chats.chats("owner") == []


async def test_the_routes_of_a_chat_do_what_they_say(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    base = f"/page/chats/{chat}"
    async with client(ctx, "owner") as owner:
        for path, body in (
            ("/rename", {"text": "Renamed"}),
            ("/system", {"text": "Be brief."}),
            ("/adapters", {"adapters": [["poet", 0.8]]}),
            ("/adapters", {"adapters": None}),
            ("/adapters", {"adapters": []}),
            ("/messages/2/regenerate", {"values": VALUES}),
            ("/messages/3/continue", {"values": VALUES}),
            ("/messages/2/show", {}),
            ("/messages/1/edit", {"text": "Hello", "values": VALUES}),
            ("/messages/5/delete", {}),
            ("/messages/5/restore", {}),
            ("/stop", {}),
        ):
            answer = await owner.post(base + path, json=body)
            assert (path, answer.status_code, answer.text) == (path, 200, "null")
            await ctx.chats.wait(chat)
    shown = await ctx.chats.chat(chat, "owner")
    assert (shown.title, shown.system, shown.adapters) == ("Renamed", "Be brief.", ())
    assert (await ctx.chats.branch(chat, "owner"))[0].content == "Hello"


async def test_a_deleted_chat_comes_back(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    async with client(ctx, "owner") as owner:
        await owner.post(f"/page/chats/{chat}/delete")
        assert (await owner.get(f"/page/chats/{chat}/messages/1")).status_code == 404
        await owner.post(f"/page/chats/{chat}/restore")
        assert (await owner.get(f"/page/chats/{chat}/messages/1")).status_code == 200


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "seed"])
async def test_a_negative_number_is_a_sentence_with_a_remedy(name: str, ctx: AppContext) -> None:
    values = list(VALUES)
    values[list(dataclasses.asdict(SamplingParams())).index(name)] = -7
    chat = await asked(ctx.chats)
    async with client(ctx, "owner") as owner:
        answer = await owner.post(f"/page/chats/{chat}/send", json={"text": "x", "values": values})
    assert answer.status_code == 400
    assert answer.json()["message"] == f"{name} cannot be -7."
    assert answer.json()["remedy"]
    assert len(stored(ctx)) == 2


async def test_a_preview_of_a_new_chat_and_of_anothers(public: AppContext) -> None:
    chat = await asked(public.chats)
    async with client(public, "guest") as guest:
        own = await guest.post("/page/preview", json={"text": "one two", "values": VALUES})
        other = await guest.post("/page/preview", json=BODY | {"chat": chat})
    assert own.json()["tokens"] > 0
    assert other.status_code == 404


async def test_a_preview_without_a_model_is_empty(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.unload()
    async with client(ctx, "owner") as owner:
        answer = await owner.post("/page/preview", json={"text": "x", "values": VALUES})
    assert answer.json() == {"tokens": 0, "context": 0, "sentence": ""}


async def test_an_unknown_model_is_a_sentence_at_once(ctx: AppContext) -> None:
    async with client(ctx, "owner") as owner:
        for name in ("none", "../secret", "/etc"):
            answer = await owner.post("/page/models/load", json={"name": name})
            assert (answer.status_code, bool(answer.json()["remedy"])) == (400, True)
    assert ctx.jobs.jobs() == []


async def test_the_owner_lists_and_unloads(ctx: AppContext, engine: FakeEngine) -> None:
    async with client(ctx, "owner") as owner:
        assert (await owner.get("/page/models")).json()["models"] == []
        await owner.post("/page/models/unload")
    assert engine.state.phase == "empty"


async def test_the_owner_cancels_a_job(ctx: AppContext) -> None:
    async def forever(job: Job) -> None:
        await anext(aiter(Never()))

    job = ctx.jobs.submit("Work", forever)
    async with client(ctx, "owner") as owner:
        await owner.post(f"/page/jobs/{job.id}/cancel")
    await job.wait()
    assert job.state == "cancelled"


class Never:
    """An iterator whose next item does not come."""

    def __aiter__(self) -> Never:
        return self

    async def __anext__(self) -> None:
        await asyncio.Event().wait()


# -- the stream -------------------------------------------------------------------------


async def events(ctx: AppContext, caller: Caller, **query: int) -> AsyncIterator[dict[str, Any]]:
    """The updates that a tab gets, as long as it listens."""
    (endpoint,) = [
        r.endpoint for r in build_routes(ctx).routes
        if isinstance(r, APIRoute) and r.path == "/page/events"
    ]  # fmt: skip
    response = await endpoint(caller=caller, **query)
    async for text in response.body_iterator:
        if text.startswith("data: "):
            yield json.loads(text[6:])


async def test_a_tab_is_told_everything_at_first(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    first = await anext(events(ctx, OWNER, chat=chat))
    assert first["engine"]["phase"] == "ready"
    assert first["jobs"] == []
    assert [c["title"] for c in first["chats"]] == ["Hi"]
    assert len(first["messages"]) == 2


async def test_a_tab_without_a_chat_gets_no_messages(ctx: AppContext) -> None:
    await asked(ctx.chats)
    assert "messages" not in await anext(events(ctx, OWNER))


async def test_a_tab_follows_a_reply_to_its_end(ctx: AppContext) -> None:
    chat = (await ctx.chats.create("owner")).id
    stream = events(ctx, OWNER, chat=chat)
    await anext(stream)
    await ctx.chats.send(chat, "owner", "Hi", SamplingParams())
    states: set[str] = set()
    async for update in stream:
        states |= {m["state"] for m in update.get("messages", []) if m["role"] == "assistant"}
        if "complete" in states:
            break
    assert states >= {"complete"}


async def test_a_tab_is_told_that_the_engine_died(ctx: AppContext, engine: FakeEngine) -> None:
    stream = events(ctx, OWNER)
    await anext(stream)
    engine.die()
    told = (await anext(stream))["engine"]
    assert told["phase"] == "crashed"
    assert told["error"]["remedy"] == "Load the model again."


async def test_a_tab_on_anothers_chat_is_told_that_it_is_gone(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    stream = events(ctx, GUEST, chat=chat)
    assert "does not exist" in (await anext(stream))["gone"]
    rest = await anext(stream)
    assert rest["chats"] == []
    assert "messages" not in rest


async def test_a_tab_on_a_chat_that_is_deleted_is_told(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    stream = events(ctx, OWNER, chat=chat)
    await anext(stream)
    await ctx.chats.delete(chat, "owner")
    async for update in stream:
        if "gone" in update:
            break
    assert update["chats"] == []


async def test_only_the_owner_is_shown_the_controls(ctx: AppContext) -> None:
    assert (await anext(events(ctx, OWNER)))["engine"]["admin"]
    assert not (await anext(events(ctx, GUEST)))["engine"]["admin"]


@pytest.mark.parametrize("chat", [-1, 999, 2**53, 2**80])
async def test_a_chat_that_is_none_is_gone(chat: int, ctx: AppContext) -> None:
    assert "gone" in await anext(events(ctx, OWNER, chat=chat))


@pytest.mark.parametrize("window", [-5, 0, 10**9])
async def test_any_window_is_taken_within_bounds(window: int, ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    first = await anext(events(ctx, OWNER, chat=chat, window=window))
    assert 1 <= len(first["messages"]) <= 2
