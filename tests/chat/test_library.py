"""What is done with chats besides talking in them: branches, copies, folders, files."""

from __future__ import annotations

import io
import json

import pytest

from modules.chat.service import ChatService
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import InvalidInputError, NotFoundError
from tests.chats import asked

pytestmark = pytest.mark.anyio

OWNER, OTHER = "owner", "guest-1"
PARAMS = SamplingParams()


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


async def texts(chats: ChatService, chat: int) -> list[str]:
    return [message.content for message in await chats.branch(chat, OWNER)]


async def ids(chats: ChatService, chat: int) -> list[int]:
    return [message.id for message in await chats.branch(chat, OWNER)]


async def test_a_branch_from_a_message_leaves_what_followed_in_the_tree(chats: ChatService) -> None:
    chat = await asked(chats, "One", "Two")
    before = await ids(chats, chat)
    await chats.library.branch_from(chat, OWNER, before[1])
    await chats.send(chat, OWNER, "Another two", PARAMS)
    await chats.wait(chat)
    assert [t for t in await texts(chats, chat) if "wo" in t] == ["Another two"]
    assert {node.id for node in await chats.library.tree(chat, OWNER)} > set(before)
    assert await chats.library.reveal(chat, OWNER, before[2]) == 1
    assert await ids(chats, chat) == before


async def test_to_reveal_what_is_shown_changes_nothing_and_waits_for_no_reply(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One")
    first = (await ids(chats, chat))[0]
    engine.delay = 0.05
    await chats.send(chat, OWNER, "Two", PARAMS)
    assert chats.live(chat) is not None
    assert await chats.library.reveal(chat, OWNER, first) == 3
    await chats.stop(chat, OWNER)


@pytest.mark.parametrize("act", ["reveal", "branch_from", "new_from"])
async def test_a_message_that_is_not_there_is_a_sentence(act: str, chats: ChatService) -> None:
    chat = await asked(chats, "One")
    gone = (await ids(chats, chat))[-1]
    await chats.delete_message(chat, OWNER, gone)
    for message in (gone, 999):
        with pytest.raises(NotFoundError):
            await getattr(chats.library, act)(chat, OWNER, message)


async def test_a_new_chat_from_a_message_has_what_led_to_it(chats: ChatService) -> None:
    chat = await asked(chats, "One", "Two")
    await chats.change(chat, OWNER, system="Be brief.", folder="Work", pinned=True)
    made = await chats.library.new_from(chat, OWNER, (await ids(chats, chat))[2])
    copied = await chats.chat(made, OWNER)
    assert await texts(chats, made) == (await texts(chats, chat))[:3]
    assert (copied.title, copied.system, copied.folder) == ("One (branch)", "Be brief.", "Work")
    assert not copied.pinned
    again = await chats.library.new_from(made, OWNER)
    assert (await chats.chat(again, OWNER)).title == "One (branch)"


async def test_a_message_without_a_reply_and_a_reply_without_a_message(chats: ChatService) -> None:
    chat = (await chats.create(OWNER)).id
    await chats.library.add(chat, OWNER, "user", "I say")
    await chats.library.add(chat, OWNER, "assistant", "So be it.")
    assert await texts(chats, chat) == ["I say", "So be it."]
    assert (await chats.chat(chat, OWNER)).title == "I say"
    with pytest.raises(InvalidInputError, match="empty"):
        await chats.library.add(chat, OWNER, "user", " ")


async def test_a_reply_starts_as_it_was_told(chats: ChatService, engine: FakeEngine) -> None:
    chat = (await chats.create(OWNER)).id
    await chats.send(chat, OWNER, "Hi", PARAMS, beginning="Sure,")
    await chats.wait(chat)
    await chats.regenerate(chat, OWNER, (await ids(chats, chat))[-1], PARAMS, beginning="No,")
    await chats.wait(chat)
    assert (await texts(chats, chat))[-1] == "No,The capital of France is Paris."
    assert [r.prompt.rpartition("\n")[2] for r in engine.requests] == ["Sure,", "No,"]


async def test_a_reply_in_the_middle_is_continued_and_what_followed_stays(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One", "Two")
    before = await ids(chats, chat)
    engine.reply = lambda request: " And more."
    await chats.continue_reply(chat, OWNER, before[1], PARAMS)
    await chats.wait(chat)
    assert await texts(chats, chat) == ["One", "The capital of France is Paris. And more."]
    await chats.show_version(chat, OWNER, before[1])
    assert await ids(chats, chat) == before


async def test_a_folder_is_renamed_for_its_owner_alone(chats: ChatService) -> None:
    mine, other = await asked(chats), (await chats.create(OTHER)).id
    await chats.change(mine, OWNER, folder=" Wo\nrk ")
    await chats.change(other, OTHER, folder="Wo rk")
    await chats.library.rename_folder(OWNER, "Wo rk", "Play")
    assert (await chats.chat(mine, OWNER)).folder == "Play"
    assert (await chats.chat(other, OTHER)).folder == "Wo rk"
    await chats.library.rename_folder(OWNER, "Play", "")
    assert (await chats.chat(mine, OWNER)).folder == ""


async def test_of_a_file_with_a_fault_nothing_is_imported(chats: ChatService) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    with pytest.raises(InvalidInputError, match=r"f\.jsonl, line 2"):
        await chats.library.import_file(OWNER, io.BytesIO(good + b"\n{}\n" + good), "f.jsonl")
    assert await chats.chats(OWNER) == []
    made = await chats.library.import_file(OWNER, io.BytesIO(good + b"\n" + good), "f.jsonl")
    assert sorted(made) == sorted(chat.id for chat in await chats.chats(OWNER))
    assert await chats.chats(OTHER) == []


async def test_an_imported_chat_goes_on(chats: ChatService, engine: FakeEngine) -> None:
    file = io.BytesIO(b'[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]')
    (chat,) = await chats.library.import_file(OWNER, file, "f.json")
    await chats.send(chat, OWNER, "And?", PARAMS)
    await chats.wait(chat)
    assert "<|im_start|>assistant\nHello<|im_end|>" in engine.requests[-1].prompt
    assert (await texts(chats, chat))[:3] == ["Hi", "Hello", "And?"]
