"""The model writes the user's next message, as each mode opens a turn of the user's."""

from __future__ import annotations

import dataclasses

import pytest

from modules.chat.service import ChatService
from modules.chat.store import Mode
from modules.chat.template_library import LIBRARY
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import NoModelError, NotFoundError
from tests.chats import asked

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams()


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


async def imagined(chats: ChatService, chat: int, text: str = "") -> str:
    found = await chats.impersonate(chat, OWNER, text, PARAMS)
    return "".join([piece async for piece in found.pieces()])


async def test_the_prompt_ends_in_an_open_turn_of_the_users(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi")
    engine.reply = lambda request: "wonder why.<|im_end|>\n<|im_start|>assistant\nBecause"
    assert await imagined(chats, chat, "I") == "wonder why."
    assert engine.requests[-1].prompt.endswith(
        "The capital of France is Paris.<|im_end|>\n<|im_start|>user\nI"
    )
    assert len(await chats.branch(chat, OWNER)) == 2


async def test_in_a_new_chat_there_is_only_the_users_turn(
    chats: ChatService, engine: FakeEngine
) -> None:
    await imagined(chats, (await chats.create(OWNER)).id)
    assert engine.requests[-1].prompt == "<|im_start|>user\n"


async def test_a_template_that_closes_the_turn_in_words_is_stopped_by_them(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi")
    source = LIBRARY["llama-2"].source
    info = dataclasses.replace(engine.state.info, chat_template=source)  # type: ignore[type-var]
    engine.state = dataclasses.replace(engine.state, info=info)
    engine.reply = lambda request: "why? [/INST] Because"
    assert (await imagined(chats, chat)).strip() == "why?"


@pytest.mark.parametrize("mode", ["chat", "chat-instruct"])
async def test_in_a_transcript_it_is_the_users_line(
    mode: Mode, chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", mode=mode)
    engine.reply = lambda request: " why?\nAssistant: Because"
    assert await imagined(chats, chat, "But") == " why?"
    assert engine.requests[-1].prompt.endswith("You: But")


async def test_who_stops_listening_ends_the_request(chats: ChatService, engine: FakeEngine) -> None:
    engine.reply = lambda request: "word " * 1000
    found = await chats.impersonate(await asked(chats, "Hi"), OWNER, "", PARAMS)
    pieces = found.pieces()
    await anext(pieces)
    await pieces.aclose()
    assert engine.running == set()


async def test_anothers_chat_and_no_model_are_refused(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi")
    with pytest.raises(NotFoundError):
        await chats.impersonate(chat, "guest-1", "", PARAMS)
    await engine.unload()
    with pytest.raises(NoModelError):
        await chats.impersonate(chat, OWNER, "", PARAMS)
