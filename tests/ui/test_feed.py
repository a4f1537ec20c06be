"""A tab is told what is new and nothing else, and every tab shows the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modules.access import OWNER, Caller
from modules.chat.service import ChatService, LiveReply
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import NotFoundError
from modules.ui.feed import ChatFeed, stats_line
from modules.ui.markdown import render_blocks
from tests.chats import asked

pytestmark = pytest.mark.anyio

PARAMS = SamplingParams()


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


class Tab:
    """What page.js does with the updates: keeps the messages, replaces what changed."""

    def __init__(self, chats: ChatService, chat: int, **options: Any) -> None:
        self.feed = ChatFeed(chats, chat, OWNER, **options)
        self.head: dict[str, Any] = {}
        self.messages: dict[int, dict[str, Any]] = {}

    async def update(self) -> dict[str, Any] | None:
        update = await self.feed.changes()
        if update is None:
            return None
        self.head = update.get("chat", self.head)
        self.messages |= {m["id"]: m for m in update.get("messages", [])}
        self.messages = {i: m for i, m in self.messages.items() if i in self.head["order"]}
        if live := update.get("live"):
            self.messages[live["id"]]["blocks"][live["from"] :] = live["blocks"]
        return update

    @property
    def shown(self) -> list[tuple[str, list[str]]]:
        return [(m["state"], m["blocks"]) for m in map(self.messages.get, self.head["order"]) if m]


async def writing(chats: ChatService, engine: FakeEngine, question: str = "Go") -> LiveReply:
    """A reply under way that says only what the test makes it say."""
    engine.delay = 3600
    chat = (await chats.create("owner")).id
    await chats.send(chat, "owner", question, PARAMS)
    live = chats.live(chat)
    assert live is not None
    while live.request_id not in engine.running:
        await asyncio.sleep(0)
    return live


async def test_an_opened_tab_gets_the_whole_chat(chats: ChatService) -> None:
    tab = Tab(chats, await asked(chats, "**Hi**"))
    await tab.update()
    assert tab.shown == [
        ("complete", ["<p><strong>Hi</strong></p>\n"]),
        ("complete", ["<p>The capital of France is Paris.</p>\n"]),
    ]
    assert (tab.head["title"], tab.head["busy"], tab.head["earlier"]) == ("Hi", False, 0)


async def test_nothing_new_sends_nothing(chats: ChatService) -> None:
    tab = Tab(chats, await asked(chats, "Hi"))
    await tab.update()
    assert await tab.update() is None


async def test_only_the_new_messages_are_sent(chats: ChatService) -> None:
    chat = await asked(chats, "One", "Two")
    tab = Tab(chats, chat)
    await tab.update()
    await chats.send(chat, "owner", "Three", PARAMS)
    await chats.wait(chat)
    update = await tab.update()
    assert update is not None
    assert [m["id"] for m in update["messages"]] == tab.head["order"][-2:]


async def test_a_renamed_chat_sends_its_head_alone(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    tab = Tab(chats, chat)
    await tab.update()
    await chats.change(chat, "owner", title="Other")
    update = await tab.update()
    assert update is not None
    assert update["messages"] == []
    assert update["chat"]["title"] == "Other"


async def test_a_change_of_another_chat_sends_nothing(chats: ChatService) -> None:
    tab = Tab(chats, await asked(chats, "One"))
    await tab.update()
    await asked(chats, "elsewhere")
    assert await tab.update() is None


# -- while a reply is written -----------------------------------------------------------


async def test_new_text_sends_only_the_blocks_that_changed(
    chats: ChatService, engine: FakeEngine
) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, 1)
    await tab.update()
    live.text = "".join(f"paragraph {i}\n\n" for i in range(50))
    await tab.update()
    live.text += "the last"
    update = await tab.update()
    assert update is not None
    assert update.keys() == {"live"}
    assert update["live"]["from"] >= 48
    assert len(update["live"]["blocks"]) <= 3
    assert tab.shown[1] == ("streaming", list(render_blocks(live.text)))
    await chats.close()


async def test_the_same_text_is_not_sent_twice(chats: ChatService, engine: FakeEngine) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, 1)
    await tab.update()
    live.text = "so far"
    assert await tab.update() is not None
    assert await tab.update() is None
    await chats.close()


async def test_every_tab_shows_the_same_whenever_it_was_opened(
    chats: ChatService, engine: FakeEngine
) -> None:
    live = await writing(chats, engine)
    tabs = [Tab(chats, 1)]
    for piece in ("# Ti", "tle\n\n- a\n", "-", "--\n", "\n```py\nx", " = 1\n```\n", "end"):
        live.text += piece
        tabs.append(Tab(chats, 1))
        for tab in tabs[::2]:
            await tab.update()
    for tab in tabs:
        await tab.update()
        assert tab.shown == [
            ("complete", ["<p>Go</p>\n"]),
            ("streaming", list(render_blocks(live.text))),
        ]
    await chats.close()


async def test_a_slow_tab_skips_what_it_missed(chats: ChatService, engine: FakeEngine) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, 1)
    await tab.update()
    for i in range(1000):
        live.text += f"{i} "
    await tab.update()
    assert await tab.update() is None
    assert tab.shown[1][1] == list(render_blocks(live.text))
    await chats.close()


async def test_the_end_of_a_reply_is_told(chats: ChatService, engine: FakeEngine) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, 1)
    live.text = "so far"
    await tab.update()
    assert tab.head["busy"]
    await chats.close()
    await tab.update()
    assert not tab.head["busy"]
    assert tab.shown[1] == ("stopped", ["<p>so far</p>\n"])


async def test_a_renaming_in_mid_reply_loses_no_text(
    chats: ChatService, engine: FakeEngine
) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, 1)
    for i in range(5):
        live.text += f"part {i}\n\n"
        await tab.update()
        await chats.change(1, "owner", title=f"title {i}")
        live.text += "more "
        await tab.update()
        await tab.update()
        assert tab.shown[1][1] == list(render_blocks(live.text))
    await chats.close()


async def test_a_reply_streams_through_a_tab_to_its_end(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = lambda request: "one\n\ntwo\n\n```\nthree\n```\n\nfour " * 20
    chat = (await chats.create("owner")).id
    tab = Tab(chats, chat)
    await tab.update()
    await chats.send(chat, "owner", "Go", PARAMS)
    seen = -1
    while chats.live(chat) is not None:
        await tab.update()
        seen = await chats.notices.changed(chat).wait(seen)
    await tab.update()
    text = (await chats.branch(chat, "owner"))[1].content
    assert tab.shown[1] == ("complete", list(render_blocks(text)))


# -- the window -------------------------------------------------------------------------


async def test_a_tab_is_sent_the_last_messages_and_how_many_came_before(
    chats: ChatService,
) -> None:
    chat = await asked(chats, "One", "Two", "Three")
    tab = Tab(chats, chat, window=4)
    await tab.update()
    assert len(tab.shown) == 4
    assert tab.head["earlier"] == 2


async def test_with_a_larger_window_the_earlier_ones_come(chats: ChatService) -> None:
    tab = Tab(chats, await asked(chats, "One", "Two", "Three"), window=100)
    await tab.update()
    assert tab.shown[0] == ("complete", ["<p>One</p>\n"])
    assert tab.head["earlier"] == 0


async def test_what_left_the_window_and_came_back_is_sent_again(chats: ChatService) -> None:
    chat = await asked(chats, "One", "Two")
    tab = Tab(chats, chat, window=4)
    await tab.update()
    await chats.send(chat, "owner", "Three", PARAMS)
    await chats.wait(chat)
    await tab.update()
    for message in tab.head["order"][-2:]:
        await chats.delete_message(chat, "owner", message)
    await tab.update()
    assert tab.shown[0] == ("complete", ["<p>One</p>\n"])
    assert len(tab.shown) == 4


# -- versions, owners, stats ------------------------------------------------------------


async def test_versions_are_counted(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    tab = Tab(chats, chat)
    await tab.update()
    first = tab.head["order"][1]
    await chats.regenerate(chat, "owner", first, PARAMS)
    await chats.wait(chat)
    await tab.update()
    second = tab.messages[tab.head["order"][1]]
    assert (len(second["versions"]), second["version"]) == (2, 1)
    await chats.show_version(chat, "owner", first)
    await tab.update()
    assert tab.messages[first]["version"] == 0
    assert len(tab.messages[first]["versions"]) == 2


async def test_the_error_of_a_reply_is_told(chats: ChatService, engine: FakeEngine) -> None:
    await engine.unload()
    tab = Tab(chats, await asked(chats, "One"))
    await tab.update()
    reply = tab.messages[tab.head["order"][1]]
    assert reply["state"] == "failed"
    assert reply["error"].startswith("No model is loaded.")


async def test_a_feed_on_anothers_chat_is_not_found(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    with pytest.raises(NotFoundError):
        await ChatFeed(chats, chat, Caller("guest-1", admin=False)).changes()


async def test_a_feed_on_a_chat_that_is_deleted_is_not_found(chats: ChatService) -> None:
    tab = Tab(chats, await asked(chats, "One"))
    await tab.update()
    await chats.delete(tab.head["id"], "owner")
    with pytest.raises(NotFoundError):
        await tab.update()


ABOUT = {
    "completion_tokens": 20, "prompt_tokens": 1180, "context": 2048, "tokens_per_s": 41.6,
    "first_token_s": 0.0834,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "42 tok/s · first token 83 ms · 1,200 of 2,048 tokens"),
        ({"tokens_per_s": 0}, "first token 83 ms · 1,200 of 2,048 tokens"),
        ({"first_token_s": 2.34}, "42 tok/s · first token 2.3 s · 1,200 of 2,048 tokens"),
        ({"dropped": 1}, "1,200 of 2,048 tokens · 1 oldest turn left out"),
        ({"dropped": 3}, "3 oldest turns left out"),
        ({"finish_reason": "length"}, "ended at the token limit"),
    ],
)
async def test_the_line_below_a_reply(more: dict[str, Any], line: str) -> None:
    assert stats_line(ABOUT | more).endswith(line)


async def test_without_an_end_there_is_no_line() -> None:
    assert stats_line({"model": "x"}) == ""


async def test_a_tab_shows_what_an_extension_makes_of_a_growing_reply(
    chats: ChatService, engine: FakeEngine
) -> None:
    live = await writing(chats, engine)
    tab = Tab(chats, live.chat_id)
    await tab.update()
    live.text, live.visible = "one\n\ntwo\n\nthree\n\nfour", "ONE\n\nTWO\n\nTHREE\n\nFOUR"
    await tab.update()
    live.visible = "1\n\nTWO\n\nTHREE\n\nFOUR!"
    await tab.update()
    assert tab.shown[-1][1] == list(render_blocks("1\n\nTWO\n\nTHREE\n\nFOUR!"))
    assert await tab.update() is None
    await chats.stop(live.chat_id, "owner")


async def test_a_tab_shows_what_an_extension_made_of_a_message(
    chats: ChatService, ctx: AppContext
) -> None:
    chat = await asked(chats, "Hi")
    store = chats._stores.kept
    leaf = (await chats.chat(chat, "owner")).leaf_id
    store.send(chat, leaf, "what the model sees", "what is shown")
    tab = Tab(chats, chat)
    await tab.update()
    assert tab.shown[-1][1] == ["<p>what is shown</p>\n"]
