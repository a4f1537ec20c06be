"""Tools, as the page gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.chat.tools.box import Tools
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.ui.feed import ChatFeed
from modules.ui.reply_body import WRITING_A_CALL
from tests.chat.tools.helpers import function, hermes, saying
from tests.ui.test_routes import OWNER, VALUES, client, public  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tools(ctx: AppContext, tmp_path: Path) -> AsyncIterator[AppContext]:
    """A Lantern with one tool."""
    function(tmp_path / "tools", "probe")
    ctx.chats.desk.box = Tools([tmp_path / "tools"], tmp_path / "mcp.json")
    yield ctx
    await ctx.chats.close()


async def test_the_owner_chooses_and_decides(tools: AppContext, engine: FakeEngine) -> None:
    engine.reply = saying(f"Look. {hermes('probe')}", "Done.")
    async with client(tools, "owner") as owner:
        assert (await owner.get("/page/tools")).json() == {"available": True}
        (found,) = (await owner.post("/page/tools/sources", json={})).json()["sources"]
        assert found["tools"] == [{"name": "probe", "about": "About probe."}]
        chat = (await owner.post("/page/chats")).json()["id"]
        feed = ChatFeed(tools.chats, chat, OWNER)
        await owner.post(f"/page/chats/{chat}/tools", json={"names": ["probe"]})
        await owner.post(f"/page/chats/{chat}/send", json={"text": "Hi", "values": VALUES})
        await tools.chats.wait(chat)
        told = await feed.changes()
        assert told is not None and told["chat"]["tools"] == ["probe"]
        assert all(p in told["messages"][1]["blocks"][1] for p in ("call-run", "probe"))
        reply = (await tools.chats.branch(chat, "owner"))[-1]
        address = f"/page/chats/{chat}/messages/{reply.id}/calls/{reply.calls[0].id}"
        wrong = await owner.post(address, json={"decision": "perhaps"})
        assert wrong.status_code == 400
        assert (await owner.post(address, json={"decision": "run"})).status_code == 200
        await tools.chats.wait(chat)
        assert (await owner.post(address, json={"decision": "run"})).status_code == 400
    told = await feed.changes()
    assert told is not None and [m["id"] for m in told["messages"]] == [reply.id]
    assert "call-run" not in told["messages"][0]["blocks"][1]
    assert told["messages"][0]["blocks"][2] == "<p>Done.</p>\n"


async def test_a_card_loses_its_buttons_when_the_chat_goes_on(
    tools: AppContext, engine: FakeEngine
) -> None:
    engine.reply = saying(hermes("probe"), "All right.")
    chat = (await tools.chats.create("owner")).id
    await tools.chats.approvals.choose(chat, "owner", ["probe"])
    feed = ChatFeed(tools.chats, chat, OWNER)
    async with client(tools, "owner") as owner:
        for text in ("Hi", "Never mind."):
            await owner.post(f"/page/chats/{chat}/send", json={"text": text, "values": VALUES})
            await tools.chats.wait(chat)
            told = await feed.changes()
            assert told is not None
            cards = [b for m in told["messages"] for b in m["blocks"] if "data-call" in b]
            assert ("call-run" in cards[0]) == (text == "Hi")


async def test_a_call_that_is_being_written_is_told(tools: AppContext, engine: FakeEngine) -> None:
    engine.reply = saying(f"Look. {hermes('probe', text=' '.join('word' for _ in range(60)))}")
    engine.delay = 0.01
    chat = (await tools.chats.create("owner")).id
    await tools.chats.approvals.choose(chat, "owner", ["probe"])
    feed = ChatFeed(tools.chats, chat, OWNER)
    await tools.chats.send(chat, "owner", "Hi", SamplingParams(max_new_tokens=200))
    blocks: list[str] = []
    while tools.chats.live(chat):
        told = await feed.changes() or {}
        blocks += told.get("live", {}).get("blocks", [])
        await asyncio.sleep(0.01)
    assert WRITING_A_CALL in blocks
    assert not any("word" in block for block in blocks)


async def test_a_guest_sees_and_uses_no_tools(public: AppContext, tmp_path: Path) -> None:  # noqa: F811
    function(tmp_path / "tools", "probe")
    public.chats.desk.box = Tools([tmp_path / "tools"], tmp_path / "mcp.json")
    async with client(public, "guest") as guest:
        assert (await guest.get("/page/tools")).json() == {"available": False}
        assert (await guest.post("/page/tools/sources", json={})).status_code == 403
        chat = (await guest.post("/page/chats")).json()["id"]
        for what, body in (
            ("tools", {"names": ["probe"]}),
            ("messages/1/calls/c", {"decision": "always"}),
        ):
            answer = await guest.post(f"/page/chats/{chat}/{what}", json=body)
            assert answer.status_code == 403
            assert "Only the owner may use tools" in answer.json()["message"]
