"""What a reply was made of is known, and makes it once more."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from modules.chat.about import compare
from modules.chat.service import ChatService
from modules.chat.store import StoredMessage
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import LoadModel
from modules.errors import InvalidInputError
from tests.chats import asked

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams(temperature=1.5, stop=("END",))


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


async def last(chats: ChatService, chat: int) -> StoredMessage:
    return (await chats.branch(chat, OWNER))[-1]


async def replayed(chats: ChatService, chat: int, message: int) -> StoredMessage:
    new = await chats.replays.replay(chat, OWNER, message)
    await chats.wait(chat)
    assert (await last(chats, chat)).id == new
    return await last(chats, chat)


# -- what is known ----------------------------------------------------------------------


async def test_a_reply_knows_its_model_its_chat_and_its_lantern(chats: ChatService) -> None:
    chat = (await chats.create(OWNER)).id
    await chats.change(chat, OWNER, system="Be brief.")
    await chats.send(chat, OWNER, "Hi", PARAMS)
    await chats.wait(chat)
    about = (await last(chats, chat)).about
    assert about["checkpoint"]["path"] == "models/fake-model"
    assert about["checkpoint"]["dtype"] == "float32"
    assert (about["system"], about["mode"], about["character"]) == ("Be brief.", "instruct", "")
    assert about["lantern"] and about["prompt"] and about["seed"] == 4711


async def test_an_edited_reply_says_so_and_one_after_it_does_not(chats: ChatService) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    reply = await last(chats, chat)
    await chats.edit(chat, OWNER, reply.id, "By hand.")
    assert (await last(chats, chat)).about["edited"]
    assert "edited" not in reply.about


# -- the prompt -------------------------------------------------------------------------


async def test_the_prompt_is_made_anew_and_recognised(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    prompt = await chats.replays.prompt(chat, OWNER, (await last(chats, chat)).id)
    assert (prompt.text, prompt.same) == (engine.requests[-1].prompt, True)


async def test_a_prompt_with_a_beginning_of_the_reply_is_recognised(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    await chats.continue_reply(chat, OWNER, (await last(chats, chat)).id, PARAMS)
    await chats.wait(chat)
    prompt = await chats.replays.prompt(chat, OWNER, (await last(chats, chat)).id)
    assert prompt.same and prompt.text == engine.requests[-1].prompt
    assert prompt.text.endswith("The capital of France is Paris.")


async def test_the_system_message_of_then_is_in_it(chats: ChatService) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    await chats.change(chat, OWNER, system="Be rude.")
    assert (await chats.replays.prompt(chat, OWNER, (await last(chats, chat)).id)).same


async def test_a_prompt_of_other_messages_is_not_what_was_sent(chats: ChatService) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    question, reply = await chats.branch(chat, OWNER)
    await chats.delete_message(chat, OWNER, question.id)
    assert (await chats.replays.prompt(chat, OWNER, reply.id)).same is False


async def test_a_message_of_the_user_has_no_prompt(chats: ChatService) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    question = (await chats.branch(chat, OWNER))[0]
    with pytest.raises(InvalidInputError, match="No model wrote this"):
        await chats.replays.prompt(chat, OWNER, question.id)


# -- again ------------------------------------------------------------------------------


async def test_a_replay_is_the_same_request_with_the_seed_that_was_drawn(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    await chats.change(chat, OWNER, system="Be rude.")
    reply = await replayed(chats, chat, (await last(chats, chat)).id)
    first, second = engine.requests
    assert second.params == first.params.replace(seed=4711)
    assert (second.prompt, second.adapters) == (first.prompt, first.adapters)
    assert len(reply.versions) == 2
    origin = await chats.replays.origin(chat, OWNER, reply.id)
    assert origin.comparison is not None and origin.comparison.identical


async def test_a_replay_that_differs_says_where(chats: ChatService, engine: FakeEngine) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    engine.reply = lambda request: "The capital of Spain is Madrid."
    reply = await replayed(chats, chat, (await last(chats, chat)).id)
    found = (await chats.replays.origin(chat, OWNER, reply.id)).comparison
    assert found is not None and (found.identical, found.at) == (False, 15)
    assert found.before == "The capital of "
    assert (found.original, found.replay) == ("France is Paris.", "Spain is Madrid.")


async def test_a_continued_reply_is_replayed_from_where_it_was_continued(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    engine.reply = lambda request: " And more."
    await chats.continue_reply(chat, OWNER, (await last(chats, chat)).id, PARAMS)
    await chats.wait(chat)
    reply = await replayed(chats, chat, (await last(chats, chat)).id)
    assert reply.content == "The capital of France is Paris. And more."
    assert engine.requests[-1].prompt == engine.requests[-2].prompt


async def test_the_loras_of_the_reply_are_used_whatever_the_chat_has_now(
    chats: ChatService, engine: FakeEngine
) -> None:
    await engine.load_adapter("poet", "loras/poet")
    chat = await asked(chats, "Hi", params=PARAMS)
    await chats.change(chat, OWNER, adapters=())
    await replayed(chats, chat, (await last(chats, chat)).id)
    assert engine.requests[-1].adapters == (("poet", 1.0),)


async def test_a_lora_that_is_gone_is_named_and_left_out(
    chats: ChatService, engine: FakeEngine
) -> None:
    await engine.load_adapter("poet", "loras/poet")
    chat = await asked(chats, "Hi", params=PARAMS)
    await engine.unload_adapter("poet")
    reply = await last(chats, chat)
    told = (await chats.replays.origin(chat, OWNER, reply.id)).differences
    assert told == ["Not applied now, and left out by a replay: poet."]
    assert (await replayed(chats, chat, reply.id)).state == "complete"


async def test_another_model_and_none_are_named(chats: ChatService, engine: FakeEngine) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    reply = await last(chats, chat)
    assert (await chats.replays.origin(chat, OWNER, reply.id)).differences == []
    await engine.load(LoadModel("models/other"))
    told = (await chats.replays.origin(chat, OWNER, reply.id)).differences
    assert told == ["It was written by fake-model; other is loaded now."]
    await engine.unload()
    told = (await chats.replays.origin(chat, OWNER, reply.id)).differences
    assert told == ["It was written by fake-model; no model is loaded now."]


async def test_the_same_model_loaded_otherwise_is_told(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    assert engine.state.info is not None
    info = dataclasses.replace(engine.state.info, dtype="bfloat16")
    engine.state = dataclasses.replace(engine.state, info=info)
    told = (await chats.replays.origin(chat, OWNER, (await last(chats, chat)).id)).differences
    assert told == ["fake-model is loaded differently: dtype float32, now bfloat16."]


async def test_what_an_older_lantern_wrote_is_replayed_as_far_as_it_is_known(
    chats: ChatService,
) -> None:
    chat = await asked(chats, "Hi", params=PARAMS)
    reply = await last(chats, chat)
    about = {"model": "fake-model", "seed": 5, "params": {"temperature": 0.5, "gone": 1}}
    with chats._stores.kept.transaction() as db:
        db.execute("UPDATE messages SET about = ? WHERE id = ?", (_json(about), reply.id))
    told = (await chats.replays.origin(chat, OWNER, reply.id)).differences
    assert told == ["This Lantern does not know: gone."]
    assert (await chats.replays.prompt(chat, OWNER, reply.id)).same is None
    assert (await replayed(chats, chat, reply.id)).about["params"]["temperature"] == 0.5


def _json(about: dict[str, Any]) -> str:
    import json

    return json.dumps(about)


@pytest.mark.parametrize(
    ("then", "now", "state", "at"),
    [
        ("abc", "abc", "complete", None),
        ("abc", "abcd", "complete", 3),
        ("abcd", "abc", "complete", 3),
        ("abc", "abcd", "stopped", None),
        ("abc", "abd", "stopped", 2),
        ("", "a", "cut", None),
    ],
)
def test_texts_are_compared_as_far_as_the_original_goes(
    then: str, now: str, state: Any, at: int | None
) -> None:
    def reply(text: str) -> StoredMessage:
        return StoredMessage(1, 1, None, "assistant", text, state, "", {}, 0.0)

    found = compare(reply(then), reply(now))
    assert (found.identical, None if found.identical else found.at) == (at is None, at)
