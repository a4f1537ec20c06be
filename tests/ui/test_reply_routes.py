"""The context, pins, and what made a reply, as the page gets them."""

from __future__ import annotations

import pytest

from modules.context import AppContext
from modules.engine.params import SamplingParams
from modules.ui.components.knobs import from_widgets
from modules.ui.feed import ChatFeed
from tests.ui.test_routes import OWNER, VALUES, asked, client

pytestmark = pytest.mark.anyio


async def test_what_made_a_reply_is_told_with_what_is_not_neutral(ctx: AppContext) -> None:
    chat = (await ctx.chats.create("owner")).id
    params = SamplingParams.neutral(temperature=0.5, stop=("a\nb",))
    await ctx.chats.send(chat, "owner", "Hi", params)
    await ctx.chats.wait(chat)
    async with client(ctx, "owner") as owner:
        told = (await owner.get(f"/page/chats/{chat}/messages/2/about")).json()
    assert {"label": "Temperature", "value": 0.5, "neutral": 1.0} in told["parameters"]
    assert "Seed" not in [one["label"] for one in told["parameters"]]
    assert from_widgets(list(told["values"].values())) == params.replace(seed=4711)
    assert (told["differences"], told["comparison"]) == ([], None)


async def test_a_text_that_no_model_wrote_is_a_sentence(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    async with client(ctx, "owner") as owner:
        told = (await owner.get(f"/page/chats/{chat}/messages/1/about")).json()
        replay = await owner.post(f"/page/chats/{chat}/messages/1/replay")
    assert "No model wrote this text" in told["problem"]
    assert (replay.status_code, replay.json()["message"]) == (400, told["problem"].split(" Reg")[0])


async def test_a_replay_answers_with_its_message_and_its_comparison(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    async with client(ctx, "owner") as owner:
        made = (await owner.post(f"/page/chats/{chat}/messages/2/replay")).json()
        await ctx.chats.wait(chat)
        told = (await owner.get(f"/page/chats/{chat}/messages/{made['message']}/about")).json()
        prompt = (await owner.get(f"/page/chats/{chat}/messages/2/prompt")).json()
    assert told["comparison"]["identical"] and told["about"]["replay_of"] == 2
    assert prompt["same"] and prompt["text"].startswith("<|im_start|>user\nHi")


async def test_the_context_is_told_in_pieces(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    body = {"chat": chat, "text": "And now?", "values": VALUES}
    async with client(ctx, "owner") as owner:
        told = (await owner.post("/page/context", json=body)).json()
    assert [s["kind"] for s in told["segments"]] == ["user", "assistant", "user"]
    assert told["tokens"] + told["free"] == told["context"]


async def test_a_pin_is_told_to_the_tabs(ctx: AppContext) -> None:
    chat = await asked(ctx.chats)
    feed = ChatFeed(ctx.chats, chat, OWNER)
    await feed.changes()
    async with client(ctx, "owner") as owner:
        await owner.post(f"/page/chats/{chat}/messages/1/pin", json={"pinned": True})
    told = await feed.changes()
    assert told is not None and [(m["id"], m["pinned"]) for m in told["messages"]] == [(1, True)]
