"""Incognito chats: complete chats, of which the disk knows nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modules.chat.service import ChatService
from modules.chat.stores import Stores, is_incognito
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import NotFoundError

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams()
SECRET = "xyzzy plugh"


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


async def whispered(chats: ChatService) -> int:
    """An incognito chat with an answered question."""
    chat = (await chats.create(OWNER, incognito=True)).id
    await chats.send(chat, OWNER, SECRET, PARAMS)
    await chats.wait(chat)
    return chat


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_an_incognito_chat_is_a_chat_and_reaches_no_file(
    chats: ChatService, engine: FakeEngine, ctx: AppContext
) -> None:
    engine.reply = lambda request: "a frobnicated answer"
    chat = await whispered(chats)
    reply = (await chats.branch(chat, OWNER))[-1]
    await chats.regenerate(chat, OWNER, reply.id, PARAMS)
    await chats.wait(chat)
    await chats.edit(chat, OWNER, reply.id, "an edited answer")
    await chats.change(chat, OWNER, system="a secret system", title="a secret title")
    assert [m.content for m in await chats.branch(chat, OWNER)] == [SECRET, "an edited answer"]
    files = on_disk(ctx.settings.user_data_dir)
    assert b"CREATE TABLE messages" in files
    for word in (b"xyzzy", b"frobnicated", b"edited", b"secret"):
        assert word not in files


async def test_it_is_gone_with_the_process(chats: ChatService, ctx: AppContext) -> None:
    chat = await whispered(chats)
    again = ChatService(chats._stores.kept, ctx.engine, ctx.templates)
    assert await again.chats(OWNER) == []
    with pytest.raises(NotFoundError):
        await again.chat(chat, OWNER)


async def test_its_ids_are_of_no_chat_on_the_disk_and_of_no_later_one(chats: ChatService) -> None:
    chat, kept = await whispered(chats), (await chats.create(OWNER)).id
    assert (is_incognito(chat), is_incognito(kept)) == (True, False)
    assert all(is_incognito(message.id) for message in await chats.branch(chat, OWNER))
    time.sleep(0.01)
    assert Stores(chats._stores.kept).incognito.create_chat(OWNER).id > chat
    assert chat < 2**53  # which a browser can count to


async def test_another_owner_neither_sees_nor_finds_it(chats: ChatService) -> None:
    chat = await whispered(chats)
    assert await chats.chats("guest-1") == []
    assert await chats.library.search("guest-1", "xyzzy") == []
    assert [hit.chat_id for hit in await chats.library.search(OWNER, "xyzzy")] == [chat]


async def test_all_chats_are_exported_without_it_and_itself_when_asked(chats: ChatService) -> None:
    chat = await whispered(chats)
    assert list(chats.library.export_all(OWNER)) == []
    assert (await chats.library.export(chat, OWNER)).messages[0].content == SECRET


async def test_a_copy_of_it_is_incognito_too(chats: ChatService) -> None:
    assert is_incognito(await chats.library.new_from(await whispered(chats), OWNER))


async def test_closed_for_a_day_it_is_gone_and_open_it_stays(
    chats: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, opened = await whispered(chats), await whispered(chats)
    later = time.time() + 25 * 3600
    monkeypatch.setattr("modules.chat.stores.time.time", lambda: later)
    chats.see(opened)
    assert [chat.id for chat in await chats.chats(OWNER)] == [opened]
    with chats._stores.incognito.reading() as db:
        rows = db.execute("SELECT chat_id FROM messages GROUP BY chat_id").fetchall()
        found = db.execute("SELECT count(*) FROM messages_found_docsize").fetchone()
    assert ([row[0] for row in rows], found[0]) == ([opened], 2)
    assert closed not in [row[0] for row in rows]
