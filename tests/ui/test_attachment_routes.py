"""Uploads: what comes in is bounded, and goes to its own chat."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.ui import attachment_routes
from modules.ui.feed import ChatFeed
from tests.ui.test_routes import OWNER, client

pytestmark = pytest.mark.anyio


async def new_chat(ctx: AppContext) -> str:
    return f"/page/chats/{(await ctx.chats.create('owner')).id}/attachments"


async def test_a_file_is_taken_listed_read_and_removed(ctx: AppContext) -> None:
    place = await new_chat(ctx)
    async with client(ctx, "owner") as owner:
        made = await owner.post(place, params={"name": "a.txt"}, content=b"one two three")
        listed = (await owner.get(place)).json()
        read = (await owner.get(f"{place}/{made.json()['id']}")).json()
        await owner.post(f"{place}/{made.json()['id']}/remove")
        assert (await owner.get(place)).json() == []
    assert listed == [made.json() | {"tokens": 3}]
    assert (read["name"], read["text"], read["size"]) == ("a.txt", "one two three", 13)


async def test_without_a_model_nothing_is_counted(ctx: AppContext, engine: FakeEngine) -> None:
    place = await new_chat(ctx)
    await engine.unload()
    async with client(ctx, "owner") as owner:
        await owner.post(place, content=b"words")
        assert (await owner.get(place)).json()[0]["tokens"] is None


async def test_the_tab_is_told_what_waits_and_what_was_sent(ctx: AppContext) -> None:
    chat = (await ctx.chats.create("owner")).id
    feed = ChatFeed(ctx.chats, chat, OWNER)
    await feed.changes()
    await ctx.chats.files.add(chat, "owner", "a.txt", b"words")
    told = await feed.changes()
    assert told is not None and [f["name"] for f in told["chat"]["files"]] == ["a.txt"]


async def test_a_body_that_says_it_is_too_large_is_not_read(
    ctx: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_routes, "MAX_FILE_BYTES", 10)
    async with client(ctx, "owner") as owner:
        answer = await owner.post(await new_chat(ctx), content=b"x" * 11)
    assert (answer.status_code, answer.json()["message"][:18]) == (400, "The file is larger")


async def test_a_body_that_turns_out_too_large_is_read_no_further(
    ctx: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_routes, "MAX_FILE_BYTES", 10)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"four"

    async with client(ctx, "owner") as owner:
        answer = await owner.post(await new_chat(ctx), content=endless())
    assert (answer.status_code, sent < 10) == (400, True)


async def test_what_has_no_text_is_a_sentence(ctx: AppContext) -> None:
    async with client(ctx, "owner") as owner:
        answer = await owner.post(await new_chat(ctx), params={"name": "x"}, content=bytes(100))
    assert answer.status_code == 400
    assert answer.json() == {
        "message": "x is no text.", "remedy": "Attach text, PDF or DOCX."
    }  # fmt: skip


async def test_a_name_that_is_too_long_is_refused(ctx: AppContext) -> None:
    async with client(ctx, "owner") as owner:
        answer: httpx.Response = await owner.post(
            await new_chat(ctx), params={"name": "x" * 1001}, content=b"x"
        )
    assert answer.status_code == 400
