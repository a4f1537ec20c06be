"""Attachments wait in a chat, go with a message and its versions, and are swept when forgotten."""

from __future__ import annotations

import pytest

from modules.chat.attachments import AttachmentStore
from modules.chat.document_text import Extracted
from modules.chat.service import ChatService
from modules.chat.store import ChatStore
from modules.chat.uploads import _shown_name
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import InvalidInputError, NotFoundError

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams()


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


@pytest.fixture
def store(chats: ChatService) -> ChatStore:
    return chats._stores.kept


async def chat_with(chats: ChatService, **files: str) -> int:
    chat = (await chats.create(OWNER)).id
    for name, text in files.items():
        await chats.files.add(chat, OWNER, f"{name}.txt", text.encode())
    return chat


async def names(chats: ChatService, chat: int) -> list[list[str]]:
    return [[file.name for file in m.attachments] for m in await chats.branch(chat, OWNER)]


async def test_a_file_goes_before_the_text_of_the_next_message(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await chat_with(chats, notes="Milk, eggs.", more="Bread.")
    await chats.send(chat, OWNER, "What do I buy?", PARAMS)
    await chats.wait(chat)
    assert engine.requests[-1].prompt.startswith(
        "<|im_start|>user\n[File: notes.txt]\nMilk, eggs.\n[End of notes.txt]\n\n"
        "[File: more.txt]\nBread.\n[End of more.txt]\n\nWhat do I buy?<|im_end|>"
    )
    assert await names(chats, chat) == [["notes.txt", "more.txt"], []]
    assert await chats.files.waiting(chat, OWNER) == ()


async def test_the_preview_counts_what_waits(chats: ChatService) -> None:
    chat = await chat_with(chats)
    before = await chats.preview(chat, OWNER, "And?", PARAMS)
    await chats.files.add(chat, OWNER, "a.txt", b"one two three")
    after = await chats.preview(chat, OWNER, "And?", PARAMS)
    assert after.tokens > before.tokens + 3 and "one two three" in after.text


async def test_a_file_needs_no_words_and_names_the_chat(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await chat_with(chats, notes="Milk.")
    await chats.send(chat, OWNER, "", PARAMS)
    await chats.wait(chat)
    assert "[End of notes.txt]<|im_end|>" in engine.requests[-1].prompt
    assert (await chats.chat(chat, OWNER)).title == "notes.txt"


async def test_an_edit_and_what_follows_it_keep_their_files(chats: ChatService) -> None:
    chat = await chat_with(chats, first="1")
    await chats.send(chat, OWNER, "One", PARAMS)
    await chats.wait(chat)
    await chats.files.add(chat, OWNER, "second.txt", b"2")
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    first = (await chats.branch(chat, OWNER))[0].id
    await chats.edit(chat, OWNER, first, "Uno")
    assert await names(chats, chat) == [["first.txt"], [], ["second.txt"], []]
    await chats.show_version(chat, OWNER, first)
    assert await names(chats, chat) == [["first.txt"], [], ["second.txt"], []]


async def test_a_deleted_message_takes_its_file_along_and_brings_it_back(
    chats: ChatService,
) -> None:
    chat = await chat_with(chats, notes="Milk.")
    await chats.send(chat, OWNER, "What?", PARAMS)
    await chats.wait(chat)
    message = (await chats.branch(chat, OWNER))[0].id
    await chats.delete_message(chat, OWNER, message)
    assert "Milk" not in (await chats.preview(chat, OWNER, "And?", PARAMS)).text
    await chats.restore_message(chat, OWNER, message)
    assert "Milk" in (await chats.preview(chat, OWNER, "And?", PARAMS)).text


async def test_a_waiting_file_is_removed_and_a_sent_one_is_not(chats: ChatService) -> None:
    chat = await chat_with(chats, sent="1")
    await chats.send(chat, OWNER, "One", PARAMS)
    await chats.wait(chat)
    waiting = await chats.files.add(chat, OWNER, "waiting.txt", b"2")
    await chats.files.remove(chat, OWNER, waiting.id)
    assert await chats.files.waiting(chat, OWNER) == ()
    (sent,) = (await chats.branch(chat, OWNER))[0].attachments
    with pytest.raises(NotFoundError):
        await chats.files.remove(chat, OWNER, sent.id)


async def test_a_file_is_read_through_its_own_chat_alone(chats: ChatService) -> None:
    chat, other = await chat_with(chats, notes="Milk."), await chat_with(chats)
    (file,) = await chats.files.waiting(chat, OWNER)
    assert (await chats.files.read(chat, OWNER, file.id))[1] == "Milk."
    with pytest.raises(NotFoundError):
        await chats.files.read(other, OWNER, file.id)
    with pytest.raises(NotFoundError):
        await chats.files.read(chat, "another", file.id)


async def test_a_message_holds_twenty_files(chats: ChatService, store: ChatStore) -> None:
    chat = await chat_with(chats)
    files = AttachmentStore(store)
    for number in range(20):
        files.add(chat, f"{number}.txt", 1, Extracted("x"))
    with pytest.raises(InvalidInputError, match="20 files wait"):
        files.add(chat, "one too many.txt", 1, Extracted("x"))


async def test_what_was_not_sent_is_forgotten_after_a_day(
    chats: ChatService, store: ChatStore
) -> None:
    chat = await chat_with(chats, sent="1")
    await chats.send(chat, OWNER, "One", PARAMS)
    await chats.wait(chat)
    await chats.files.add(chat, OWNER, "old.txt", b"2")
    with store.transaction() as db:
        db.execute("UPDATE attachments SET created_at = created_at - 90000")
    await chats.files.add(chat, OWNER, "new.txt", b"3")
    assert [file.name for file in await chats.files.waiting(chat, OWNER)] == ["new.txt"]
    assert (await names(chats, chat))[0] == ["sent.txt"]


async def test_an_incognito_chat_keeps_its_files_off_the_disk(
    chats: ChatService, store: ChatStore
) -> None:
    chat = (await chats.create(OWNER, incognito=True)).id
    await chats.files.add(chat, OWNER, "a.txt", b"secret")
    assert [file.name for file in await chats.files.waiting(chat, OWNER)] == ["a.txt"]
    with store.reading() as db:
        assert db.execute("SELECT count(*) FROM attachments").fetchone()[0] == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [("../../etc/passwd", "passwd"), ("C:\\a\\b.txt", "b.txt"),
     ("a\n[End of b]\x1b.txt", "aEnd of b.txt"), ("", "file"),
     ("x" * 300 + ".txt", "x" * 116 + ".txt")],
)  # fmt: skip
def test_a_name_is_shown_without_folders_marks_and_controls(name: str, shown: str) -> None:
    assert _shown_name(name) == shown
