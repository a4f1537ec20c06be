"""The routes around chats: what they answer, and that each caller has their own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import EngineError
from modules.ui import library_routes
from modules.ui.components.knobs import to_widgets
from modules.ui.routes import add_routes

pytestmark = pytest.mark.anyio

TOKEN = "the-right-token"
VALUES = to_widgets(SamplingParams())
TALK = b'[{"role": "user", "content": "A dragon"}, {"role": "assistant", "content": "Where?"}]'


def client(ctx: AppContext, host: str = "127.0.0.1") -> httpx.AsyncClient:
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    transport = httpx.ASGITransport(app, client=(host, 5000))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}:7860")


@pytest.fixture
async def owner(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    async with client(ctx) as opened:
        yield opened


async def imported(owner: httpx.AsyncClient, data: bytes = TALK, name: str = "f.json") -> int:
    answer = await owner.post("/page/import", params={"name": name}, content=data)
    return int(answer.json()["ids"][0])


async def test_a_file_becomes_chats_and_they_are_found(owner: httpx.AsyncClient) -> None:
    chat = await imported(owner)
    (hit,) = (await owner.post("/page/search", json={"text": "drag"})).json()["hits"]
    assert (hit["chat_id"], hit["passage"]) == (chat, "A \x02dragon\x03")


async def test_a_bad_file_is_a_sentence_that_names_it(owner: httpx.AsyncClient) -> None:
    answer = await owner.post("/page/import?name=my.json", content=b'{"messages": [1]}')
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("my.json, message 1: 1 stands")


async def test_a_file_that_is_too_large_is_refused_while_it_comes(
    owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_routes, "MAX_FILE_BYTES", 1_000_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield b" " * 100_000

    answer = await owner.post("/page/import?name=big.json", content=endless())
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("big.json has more than")


@pytest.mark.parametrize(
    ("form", "kind", "suffix"),
    [("lantern", "application/json", ".json"), ("markdown", "text/markdown", ".md"),
     ("sharegpt", "application/json", ".sharegpt.json"),
     ("webui", "application/json", ".webui.json")],
)  # fmt: skip
async def test_a_chat_is_saved_as_a_file(
    form: str, kind: str, suffix: str, owner: httpx.AsyncClient
) -> None:
    chat = await imported(owner)
    answer = await owner.get(f"/page/chats/{chat}/export", params={"form": form})
    assert answer.headers["content-type"].startswith(kind)
    saved = answer.headers["content-disposition"]
    assert saved == f"attachment; filename*=UTF-8''A%20dragon{suffix}"
    assert "A dragon" in answer.text


async def test_an_unknown_form_is_refused(owner: httpx.AsyncClient) -> None:
    answer = await owner.get(f"/page/chats/{await imported(owner)}/export?form=exe")
    assert (answer.status_code, answer.json().keys()) == (400, {"message", "remedy"})


async def test_all_chats_are_saved_and_imported_again(owner: httpx.AsyncClient) -> None:
    for _ in range(3):
        await imported(owner)
    lines = (await owner.get("/page/export")).content
    assert [json.loads(line)["title"] for line in lines.splitlines()] == ["A dragon"] * 3
    again = await owner.post("/page/import?name=all.jsonl", content=lines)
    assert len(again.json()["ids"]) == 3


async def test_a_guest_imports_finds_and_exports_their_own_alone(ctx: AppContext) -> None:
    public = dataclasses.replace(ctx, access=Access(TOKEN))
    async with client(public) as owner, client(public, "203.0.113.5") as guest:
        guest.cookies.update({"lantern_token": TOKEN, "lantern_guest": "a-guest-of-twenty-letters"})
        await imported(owner)
        theirs = await imported(guest, TALK.replace(b"dragon", b"dragonfly"))
        for who, title in ((owner, "A dragon"), (guest, "A dragonfly")):
            hits = (await who.post("/page/search", json={"text": "dragon"})).json()["hits"]
            assert [hit["title"] for hit in hits] == [title]
            assert json.loads((await who.get("/page/export")).content)["title"] == title
        assert (await owner.get(f"/page/chats/{theirs}/export")).status_code == 404


async def test_another_sites_page_imports_nothing(
    owner: httpx.AsyncClient, ctx: AppContext
) -> None:
    foreign = {"origin": "http://evil.example", "content-type": "text/plain"}
    answer = await owner.post("/page/import", content=TALK, headers=foreign)
    assert (answer.status_code, await ctx.chats.chats("owner")) == (403, [])


async def test_the_routes_of_a_tree_and_a_list(owner: httpx.AsyncClient, ctx: AppContext) -> None:
    chat = await imported(owner)
    base = f"/page/chats/{chat}"
    nodes = (await owner.get(f"{base}/tree")).json()["nodes"]
    assert [(node["words"], node["shown"]) for node in nodes] == [
        ("A dragon", True),
        ("Where?", True),
    ]
    assert (await owner.post(f"{base}/messages/1/reveal")).json() == {"after": 1}
    await owner.post(f"{base}/messages/1/branch")
    await owner.post(f"{base}/add", json={"role": "assistant", "text": "There."})
    removed = (await owner.post(f"{base}/remove-last")).json()
    assert removed == {"text": "A dragon", "message_id": 3}
    await owner.post(f"{base}/messages/3/restore")
    assert (await owner.post(f"{base}/messages/1/copy")).json()["id"] > chat
    assert (await owner.post(f"{base}/copy")).json()["id"] > chat
    await owner.post(f"{base}/pin", json={"on": True})
    await owner.post(f"{base}/folder", json={"text": "Work"})
    await owner.post("/page/folders/rename", json={"name": "Work", "text": "Play"})
    shown = await ctx.chats.chat(chat, "owner")
    assert (shown.pinned, shown.folder) == (True, "Play")
    assert [m.content for m in await ctx.chats.branch(chat, "owner")] == ["A dragon", "There."]


async def test_an_incognito_chat_is_made_on_request(
    owner: httpx.AsyncClient, ctx: AppContext
) -> None:
    chat = (await owner.post("/page/chats", json={"incognito": True})).json()["id"]
    assert chat >= 2**40
    assert (await owner.get(f"/page/chats/{chat}/tree")).json() == {"nodes": []}
    with ctx.chats._stores.kept.reading() as db:
        assert db.execute("SELECT count(*) FROM chats").fetchone()[0] == 0


async def test_an_impersonation_comes_in_lines_and_ends_with_its_fault(
    owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = await imported(owner)
    body = {"text": "I", "values": VALUES}
    answer = await owner.post(f"/page/chats/{chat}/impersonate", json=body)
    pieces = [json.loads(line)["text"] for line in answer.text.splitlines()]
    assert "".join(pieces) == "The capital of France is Paris."

    def broken(request: object) -> str:
        raise EngineError("It broke.", "Try again.")

    engine.reply = broken
    answer = await owner.post(f"/page/chats/{chat}/impersonate", json=body)
    assert json.loads(answer.text) == {"message": "It broke.", "remedy": "Try again."}
