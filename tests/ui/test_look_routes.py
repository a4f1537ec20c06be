"""What the page is told of tokens: how many, which, and what may come next."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.ui.components.knobs import to_widgets
from modules.ui.look_routes import SHOWN_TOKENS

pytestmark = pytest.mark.anyio

VALUES = to_widgets(SamplingParams())


async def look(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    body = {"plain": False, "text": "", "values": VALUES, **body}
    return await client.post("/look/next", json=body)


async def test_tokens_are_counted_as_they_would_be_sent(client: httpx.AsyncClient) -> None:
    answer = await client.post("/look/count", json={"text": "one two three"})
    assert answer.json() == {"tokens": 4, "context": 2048}


async def test_the_tokens_of_a_text_are_told_with_their_ids(client: httpx.AsyncClient) -> None:
    found = (await client.post("/look/tokens", json={"text": "one two one"})).json()
    assert [text for _, text in found["tokens"]] == ["<|im_start|>", "one", " two", " one"]
    assert found["count"] == 4


async def test_of_a_long_text_the_end_is_told(client: httpx.AsyncClient) -> None:
    words = " ".join(f"w{i}" for i in range(50_000))
    found = (await client.post("/look/tokens", json={"text": words})).json()
    assert (found["count"], len(found["tokens"])) == (50_001, SHOWN_TOKENS)
    assert found["tokens"][-1][1] == " w49999"


async def test_a_plain_text_is_looked_at_as_it_stands(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    found = (await look(client, plain=True, text="Once", asker="x")).json()
    asked = engine.looks[-1]
    assert (asked.request.prompt, asked.request.special_tokens) == ("Once", True)
    assert asked.asker == "owner x"
    assert (found["kept"], found["vocabulary"]) == (6, 1000)
    assert found["tokens"][0].keys() == {"id", "text", "before", "after"}


async def test_a_message_is_looked_at_as_it_would_be_sent(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = (await ctx.chats.create("owner")).id
    await engine.load_adapter("poet", "loras/poet")
    await ctx.chats.change(chat, "owner", adapters=(("poet", 0.5),))
    await look(client, chat=chat, text="Hi?")
    await ctx.chats.send(chat, "owner", "Hi?", SamplingParams())
    await ctx.chats.wait(chat)
    asked, sent = engine.looks[-1].request, engine.requests[-1]
    assert (asked.prompt, asked.adapters, asked.stop) == (sent.prompt, sent.adapters, sent.stop)
    assert not asked.special_tokens


async def test_without_a_message_the_last_answer_is_looked_at_anew(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = (await ctx.chats.create("owner")).id
    await ctx.chats.send(chat, "owner", "Hi?", SamplingParams())
    await ctx.chats.wait(chat)
    await look(client, chat=chat, text=" \n")
    assert engine.looks[-1].request.prompt == engine.requests[-1].prompt


async def test_a_guest_looks_into_no_chat_of_the_owner(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = (await ctx.chats.create("owner")).id
    client.headers["x-forwarded-for"] = "203.0.113.9"
    client.cookies.set("lantern_token", "sekrit-token")
    answer = await look(client, chat=chat, text="Hi")
    assert (answer.status_code, engine.looks) == (404, [])
    assert (await look(client, plain=True, text="Hi", asker="x")).status_code == 200
    assert engine.looks[-1].asker.startswith("guest")


@pytest.mark.parametrize(
    ("path", "body"),
    [("count", {}), ("tokens", {}), ("next", {"plain": True, "values": VALUES})],
)
async def test_without_a_model_there_is_a_sentence(
    path: str, body: dict[str, Any], client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await engine.unload()
    answer = await client.post(f"/look/{path}", json={"text": "Hi", **body})
    assert (answer.status_code, answer.json()["message"]) == (400, "No model is loaded.")


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": 101}, {"asker": "x" * 41}, {"text": "x" * 1_000_001},
              {"values": [99.0, *VALUES[1:]]}, {"chat": 0}]
)  # fmt: skip
async def test_numbers_out_of_bounds_ask_nothing(
    wrong: dict[str, Any], client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert (await look(client, **{"plain": True, "text": "Hi", **wrong})).status_code == 400
    assert engine.looks == []


async def test_a_prompt_that_is_too_long_is_a_sentence(client: httpx.AsyncClient) -> None:
    answer = await look(client, plain=True, text="word " * 3000)
    assert "the context holds 2,048" in answer.json()["message"]
