"""Replies belong to their chats: they run on, stop, fail and are stored, one chat at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modules.chat.service import ChatService
from modules.chat.store import ChatStore, StoredMessage
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, LoadModel, TokenChunk
from modules.errors import InvalidInputError, NotFoundError, StorageError
from tests.chats import asked

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams(max_new_tokens=8000)
PARIS = "The capital of France is Paris."


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


@pytest.fixture
def store(chats: ChatService) -> ChatStore:
    return chats._stores.kept


async def started(chats: ChatService, engine: FakeEngine) -> int:
    """A new chat with a reply under way that takes seconds; some of its text is there."""
    engine.reply = lambda request: "word " * 5000
    engine.delay = 0.001
    chat = (await chats.create(OWNER)).id
    await chats.send(chat, OWNER, "Tell me everything.", PARAMS)
    await progress(chats, chat)
    return chat


async def progress(chats: ChatService, chat: int, words: int = 3) -> None:
    """Return when the reply under way has some words."""
    live = chats.live(chat)
    assert live is not None
    seen = -1
    while live.tokens < words:
        seen = await chats.notices.changed(chat).wait(seen)


async def branch(chats: ChatService, chat: int) -> list[StoredMessage]:
    return await chats.branch(chat, OWNER)


async def contents(chats: ChatService, chat: int) -> list[str]:
    return [message.content for message in await branch(chats, chat)]


def rows(store: ChatStore) -> dict[int, str]:
    with store.transaction() as db:
        return {row["id"]: row["content"] for row in db.execute("SELECT id, content FROM messages")}


def prompted(engine: FakeEngine) -> str:
    """The last prompt that the engine got."""
    return engine.requests[-1].prompt


# -- asking -----------------------------------------------------------------------------


async def test_a_message_is_answered_and_both_are_stored(chats: ChatService) -> None:
    question, reply = await branch(chats, await asked(chats, "What is the capital of France?"))
    assert (question.role, question.content) == ("user", "What is the capital of France?")
    assert (reply.content, reply.state, reply.error) == (PARIS, "complete", "")


async def test_a_reply_remembers_what_produced_it(chats: ChatService) -> None:
    about = (await branch(chats, await asked(chats, "Hi", params=SamplingParams(seed=7))))[1].about
    assert (about["model"], about["seed"], about["finish_reason"]) == ("fake-model", 7, "stop")
    assert about["completion_tokens"] == 6
    assert about["params"]["temperature"] == 0.7


async def test_the_message_is_stored_when_send_returns(
    chats: ChatService, store: ChatStore, engine: FakeEngine
) -> None:
    await started(chats, engine)
    assert "Tell me everything." in rows(store).values()


async def test_the_stop_strings_of_the_template_come_beside_as_many_as_a_user_may_have(
    chats: ChatService, engine: FakeEngine
) -> None:
    info = engine.state.info
    assert info is not None
    info = dataclasses.replace(info, path="models/Llama-2-7B-Chat-GPTQ", chat_template=None)
    engine.state = dataclasses.replace(engine.state, info=info)
    engine.reply = lambda request: "Fine. [INST] And you?"
    stop = tuple(f"stop{i}" for i in range(16))
    chat = await asked(chats, "How are you?", params=PARAMS.replace(stop=stop))
    assert (await contents(chats, chat))[1] == "Fine. "
    assert engine.requests[-1].stops == (*stop, "[INST]")
    assert (await branch(chats, chat))[1].about["template"] == "llama-2"


async def test_a_chat_is_titled_by_its_first_message(chats: ChatService) -> None:
    chat = await asked(chats, "\n # What is the *capital*?\nmore", "Another thing")
    assert (await chats.chat(chat, OWNER)).title == "What is the *capital*?"


async def test_a_long_title_is_cut_at_a_word(chats: ChatService) -> None:
    title = (await chats.chat(await asked(chats, "wording " * 30), OWNER)).title
    assert title.endswith("wording…")
    assert len(title) <= 61


@pytest.mark.parametrize("text", ["", "  \n\t"])
async def test_an_empty_message_is_refused(text: str, chats: ChatService, store: ChatStore) -> None:
    chat = await asked(chats, "Hi")
    before = rows(store)
    question = (await branch(chats, chat))[0].id
    with pytest.raises(InvalidInputError, match="empty"):
        await chats.send(chat, OWNER, text, PARAMS)
    with pytest.raises(InvalidInputError, match="empty"):
        await chats.edit(chat, OWNER, question, text, PARAMS)
    assert rows(store) == before


# -- the prompt -------------------------------------------------------------------------


async def test_the_system_message_always_comes_first(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One")
    await chats.change(chat, OWNER, system="Be brief.")
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    assert prompted(engine).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    assert prompted(engine).count("system") == 1


async def test_the_history_is_in_the_prompt(chats: ChatService, engine: FakeEngine) -> None:
    await asked(chats, "One", "Two")
    assert prompted(engine) == (
        f"<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n{PARIS}<|im_end|>\n"
        "<|im_start|>user\nTwo<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_neighbours_of_one_role_become_one_turn(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One")
    await chats.delete_message(chat, OWNER, (await branch(chats, chat))[1].id)
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    assert "<|im_start|>user\nOne\n\nTwo<|im_end|>" in prompted(engine)


async def test_a_continued_reply_is_one_turn_with_the_reply_before_it(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One", "Two")
    messages = await branch(chats, chat)
    await chats.delete_message(chat, OWNER, messages[2].id)
    await chats.continue_reply(chat, OWNER, messages[3].id, PARAMS)
    await chats.wait(chat)
    assert prompted(engine).count("<|im_start|>assistant") == 1
    assert prompted(engine).endswith(f"{PARIS}\n\n{PARIS}")


async def test_preview_says_what_would_be_sent_and_sends_nothing(
    chats: ChatService, engine: FakeEngine, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    before, requests = rows(store), len(engine.requests)
    prompt = await chats.preview(chat, OWNER, "Two", PARAMS)
    assert "Two" in prompt.text
    assert "One" in prompt.text
    assert prompt.tokens > 0
    assert (await chats.preview(None, OWNER, "Two", PARAMS)).tokens < prompt.tokens
    assert (rows(store), len(engine.requests)) == (before, requests)


# -- versions ---------------------------------------------------------------------------


async def test_regenerating_makes_a_version_and_keeps_the_first(
    chats: ChatService, engine: FakeEngine, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    before, first = rows(store), (await branch(chats, chat))[1]
    engine.reply = lambda request: "Rome."
    await chats.regenerate(chat, OWNER, first.id, PARAMS)
    await chats.wait(chat)
    reply = (await branch(chats, chat))[1]
    assert (reply.content, len(reply.versions), reply.versions[0]) == ("Rome.", 2, first.id)
    assert rows(store).items() >= before.items()
    await chats.show_version(chat, OWNER, first.id)
    assert (await contents(chats, chat))[1] == PARIS


async def test_a_question_without_an_answer_can_be_answered(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    question, reply = await branch(chats, chat)
    await chats.delete_message(chat, OWNER, reply.id)
    await chats.regenerate(chat, OWNER, question.id, PARAMS)
    await chats.wait(chat)
    assert await contents(chats, chat) == ["One", PARIS]


async def test_continuing_makes_a_version_that_begins_like_the_first(
    chats: ChatService, engine: FakeEngine, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    before, first = rows(store), (await branch(chats, chat))[1]
    engine.reply = lambda request: " And more."
    await chats.continue_reply(chat, OWNER, first.id, PARAMS)
    await chats.wait(chat)
    assert (await contents(chats, chat))[1] == PARIS + " And more."
    assert prompted(engine).endswith(f"<|im_start|>assistant\n{PARIS}")
    assert rows(store).items() >= before.items()


async def test_only_a_reply_can_be_continued(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    with pytest.raises(InvalidInputError, match="Only a reply"):
        await chats.continue_reply(chat, OWNER, (await branch(chats, chat))[0].id, PARAMS)


async def test_an_edited_question_is_answered_anew_and_the_old_branch_stays(
    chats: ChatService, store: ChatStore
) -> None:
    chat = await asked(chats, "One", "Two")
    before, question = rows(store), (await branch(chats, chat))[0]
    await chats.edit(chat, OWNER, question.id, "Uno", PARAMS)
    await chats.wait(chat)
    assert await contents(chats, chat) == ["Uno", PARIS]
    assert rows(store).items() >= before.items()
    await chats.show_version(chat, OWNER, question.id)
    assert await contents(chats, chat) == ["One", PARIS, "Two", PARIS]


async def test_an_edited_reply_keeps_what_followed_and_asks_nobody(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "One", "Two")
    requests = len(engine.requests)
    await chats.edit(chat, OWNER, (await branch(chats, chat))[1].id, "Lyon.")
    assert await contents(chats, chat) == ["One", "Lyon.", "Two", PARIS]
    assert len(engine.requests) == requests


async def test_deleting_and_undoing_a_message(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    question = (await branch(chats, chat))[0].id
    await chats.delete_message(chat, OWNER, question)
    assert await contents(chats, chat) == [PARIS]
    await chats.restore_message(chat, OWNER, question)
    assert await contents(chats, chat) == ["One", PARIS]


async def test_deleting_and_undoing_a_chat(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    await chats.delete(chat, OWNER)
    assert await chats.chats(OWNER) == []
    await chats.restore(chat, OWNER)
    assert await contents(chats, chat) == ["One", PARIS]


# -- replies in progress ----------------------------------------------------------------


async def test_a_reply_runs_on_with_nobody_looking_and_is_stored(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.delay = 0.001
    chat = (await chats.create(OWNER)).id
    await chats.send(chat, OWNER, "Hi", PARAMS)
    await chats.live(chat).task  # type: ignore[misc, union-attr]
    assert (await contents(chats, chat))[1] == PARIS
    assert chats.live(chat) is None


async def test_a_reply_in_progress_is_read_as_far_as_it_is(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await started(chats, engine)
    reply = (await branch(chats, chat))[1]
    assert reply.state == "streaming"
    assert reply.content.startswith("word word word")
    assert (await chats.text(chat, OWNER, reply.id)).startswith("word word word")
    await chats.close()


async def test_stop_keeps_the_text_so_far(chats: ChatService, engine: FakeEngine) -> None:
    chat = await started(chats, engine)
    await chats.stop(chat, OWNER)
    reply = (await branch(chats, chat))[1]
    assert (reply.state, reply.error) == ("stopped", "")
    assert reply.content.startswith("word word word")
    assert chats.live(chat) is None
    assert engine.running == set()


async def test_stop_ends_the_reply_of_its_chat_alone(
    chats: ChatService, engine: FakeEngine
) -> None:
    mine, other = await started(chats, engine), await started(chats, engine)
    await chats.stop(mine, OWNER)
    live = chats.live(other)
    assert live is not None
    await progress(chats, other, words=live.tokens + 5)
    await chats.stop(other, OWNER)
    assert {(await branch(chats, chat))[1].state for chat in (mine, other)} == {"stopped"}


async def test_a_reply_that_waits_for_a_model_can_be_stopped_twice(
    chats: ChatService, engine: FakeEngine, store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.delay = 3600
    loading = asyncio.create_task(engine.load(LoadModel("models/x")))
    await engine.changed.wait(engine.changed.version)
    chat = (await chats.create(OWNER)).id
    await chats.send(chat, OWNER, "One", PARAMS)
    save, saving, go_on = store.save_reply, threading.Event(), threading.Event()

    def slow_save(*args: Any) -> None:
        saving.set()
        go_on.wait(20)
        save(*args)

    monkeypatch.setattr(store, "save_reply", slow_save)
    first = asyncio.create_task(chats.stop(chat, OWNER))
    await asyncio.to_thread(saving.wait, 20)
    await chats.stop(chat, OWNER)
    go_on.set()
    await first
    assert chats.live(chat) is None
    loading.cancel()


async def test_stop_without_a_reply_does_nothing(chats: ChatService) -> None:
    chat = await asked(chats, "One")
    await chats.stop(chat, OWNER)
    assert (await branch(chats, chat))[1].state == "complete"


@pytest.mark.parametrize(
    "change",
    ["send", "regenerate", "continue_reply", "edit", "delete_message", "restore_message",
     "show_version"],
)  # fmt: skip
async def test_while_a_chat_is_answered_nothing_else_changes_it(
    change: str, chats: ChatService, engine: FakeEngine, store: ChatStore
) -> None:
    chat = await started(chats, engine)
    ids = [m.id for m in await branch(chats, chat)]
    arguments: dict[str, tuple[Any, ...]] = {
        "send": ("Two", PARAMS),
        "edit": (ids[0], "x", PARAMS),
        "regenerate": (ids[1], PARAMS),
        "continue_reply": (ids[1], PARAMS),
    }
    with pytest.raises(InvalidInputError, match="being answered"):
        await getattr(chats, change)(chat, OWNER, *arguments.get(change, (ids[0],)))
    assert sorted(rows(store)) == ids
    await chats.stop(chat, OWNER)


async def test_of_two_messages_at_once_one_is_refused_and_not_stored(
    chats: ChatService, store: ChatStore
) -> None:
    chat = (await chats.create(OWNER)).id
    sends = [chats.send(chat, OWNER, text, PARAMS) for text in ("One", "Two")]
    results = await asyncio.gather(*sends, return_exceptions=True)
    await chats.wait(chat)
    assert [type(r) for r in results] == [type(None), InvalidInputError]
    assert list(rows(store).values()) == ["One", PARIS]


async def test_deleting_a_chat_stops_its_reply(chats: ChatService, engine: FakeEngine) -> None:
    chat = await started(chats, engine)
    await chats.delete(chat, OWNER)
    assert chats.live(chat) is None
    assert engine.running == set()


async def test_closing_stores_every_reply_in_progress(
    chats: ChatService, engine: FakeEngine
) -> None:
    both = [await started(chats, engine) for _ in range(2)]
    await chats.close()
    for chat in both:
        reply = (await branch(chats, chat))[1]
        assert reply.content.startswith("word word")
        assert reply.state in ("stopped", "cut")


async def test_sixteen_chats_at_once_get_each_their_own_words(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = lambda request: request.prompt.split("\n")[1] + " word" * 20
    many = [(await chats.create(OWNER)).id for _ in range(16)]
    await asyncio.gather(*(chats.send(c, OWNER, f"secret-{c}", PARAMS) for c in many))
    for chat in many:
        await chats.wait(chat)
        expected = f"secret-{chat}<|im_end|>" + " word" * 20
        assert (await contents(chats, chat))[1] == expected


# -- faults -----------------------------------------------------------------------------


async def test_without_a_model_the_message_is_kept_and_the_reply_says_what_to_do(
    chats: ChatService, engine: FakeEngine
) -> None:
    await engine.unload()
    question, reply = await branch(chats, await asked(chats, "One"))
    assert question.content == "One"
    assert (reply.content, reply.state) == ("", "failed")
    assert reply.error == "No model is loaded. Load one from the strip at the top of the page."


async def test_after_a_load_a_failed_reply_is_made_good_and_gone(
    chats: ChatService, engine: FakeEngine
) -> None:
    await engine.unload()
    chat = await asked(chats, "One")
    await engine.load(LoadModel("models/x"))
    await chats.regenerate(chat, OWNER, (await branch(chats, chat))[1].id, PARAMS)
    await chats.wait(chat)
    reply = (await branch(chats, chat))[1]
    assert (reply.content, reply.versions) == (PARIS, (reply.id,))


async def test_an_engine_that_dies_leaves_the_text_and_the_reason(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await started(chats, engine)
    engine.die()
    await chats.wait(chat)
    reply = (await branch(chats, chat))[1]
    assert reply.state == "cut"
    assert reply.content.startswith("word word word")
    assert reply.error == "The engine worker was killed (signal 9). Load the model again."


async def test_after_the_engine_died_and_was_loaded_the_next_message_works(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await started(chats, engine)
    engine.die()
    await chats.wait(chat)
    await engine.load(LoadModel("models/x"))
    engine.reply, engine.delay = lambda request: PARIS, 0
    await chats.send(chat, OWNER, "And now?", PARAMS)
    await chats.wait(chat)
    assert (await branch(chats, chat))[3].content == PARIS


async def test_a_prompt_that_is_too_long_is_a_failed_reply_with_a_remedy(
    chats: ChatService,
) -> None:
    reply = (await branch(chats, await asked(chats, "word " * 5000)))[1]
    assert reply.state == "failed"
    assert "Shorten" in reply.error


class Strange(FakeEngine):
    """An engine with a fault of its own."""

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """One word, then what the reply says."""
        yield TokenChunk(request.id, "half", 1)
        if self.reply(request):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("text", "reason"), [("raise", "ZeroDivisionError"), ("", "without a word")]
)
async def test_a_fault_of_ours_does_not_leave_a_reply_in_mid_air(
    text: str, reason: str, ctx: AppContext
) -> None:
    engine = Strange(reply=lambda request: text)
    await engine.load(LoadModel("models/x"))
    chats = ChatService(ctx.chats._stores.kept, engine, ctx.templates)
    reply = (await branch(chats, await asked(chats, "One")))[1]
    assert (reply.state, reply.content) == ("cut", "half")
    assert reason in reply.error


async def test_half_an_emoji_from_the_engine_does_not_lock_the_chat(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = lambda request: "x\ud83e"
    chat = await asked(chats, "One", "Two")
    assert (await contents(chats, chat))[1] == "x?"


def refuse(*_: object, **__: object) -> None:
    raise StorageError("The change could not be saved: disk full.", "Free some disk space.")


async def test_a_message_that_cannot_be_stored_is_an_error_and_not_sent(
    chats: ChatService, engine: FakeEngine, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    before, requests = rows(store), len(engine.requests)
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError, match="could not be saved"):
        await chats.send(chat, OWNER, "Two", PARAMS)
    assert (rows_read_only(store), len(engine.requests)) == (before, requests)
    store._db.execute("PRAGMA query_only = 0")
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    assert len(await branch(chats, chat)) == 4


def rows_read_only(store: ChatStore) -> dict[int, str]:
    return {r["id"]: r["content"] for r in store._db.execute("SELECT id, content FROM messages")}


async def test_a_reply_whose_end_cannot_be_stored_is_shown_as_cut(
    chats: ChatService, monkeypatch: pytest.MonkeyPatch, store: ChatStore
) -> None:
    monkeypatch.setattr(store, "save_reply", refuse)
    chat = await asked(chats, "One")
    reply = (await branch(chats, chat))[1]
    assert reply.state == "cut"
    assert "disk space" in reply.error
    assert chats.live(chat) is None
    monkeypatch.undo()
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    assert (await contents(chats, chat))[-1] == PARIS


async def test_a_chat_that_could_not_be_read_once_is_not_locked(
    chats: ChatService, monkeypatch: pytest.MonkeyPatch, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    with monkeypatch.context() as patch:
        patch.setattr(store, "chat", refuse)
        with pytest.raises(StorageError):
            await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.send(chat, OWNER, "Two", PARAMS)
    await chats.wait(chat)
    assert len(await branch(chats, chat)) == 4


# -- owners -----------------------------------------------------------------------------


def positional(call: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(call).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def owned_methods() -> list[str]:
    """Every method that takes a chat and an owner, read from the class."""
    return [
        name
        for name, method in inspect.getmembers(ChatService, inspect.iscoroutinefunction)
        if not name.startswith("_")
        and {"chat_id", "owner"} <= {*inspect.signature(method).parameters}
    ]


def test_the_list_of_owned_methods_is_read_from_the_class() -> None:
    assert len(owned_methods()) >= 15


@pytest.mark.parametrize("method", owned_methods())
async def test_anothers_chat_is_not_found(
    method: str, chats: ChatService, store: ChatStore
) -> None:
    chat = await asked(chats, "One")
    before, message = rows(store), (await branch(chats, chat))[1].id
    revision = chats.notices.revision(chat)
    values = {"chat_id": chat, "owner": "guest-1", "message_id": message, "params": PARAMS}
    call: Callable[..., Any] = getattr(chats, method)
    arguments = [values.get(name, "text") for name in positional(call)]
    with pytest.raises(NotFoundError, match="This chat does not exist"):
        await call(*arguments)
    assert rows(store) == before
    assert [c.id for c in await chats.chats(OWNER)] == [chat]
    assert chats._busy == set()
    assert chats.notices.revision(chat) == revision


@pytest.mark.parametrize("method", [m for m in owned_methods() if "restore" not in m])
async def test_a_deleted_chat_is_not_found(method: str, chats: ChatService) -> None:
    chat = await asked(chats, "One")
    await chats.delete(chat, OWNER)
    values = {"chat_id": chat, "owner": OWNER, "message_id": 1, "params": PARAMS}
    call: Callable[..., Any] = getattr(chats, method)
    with pytest.raises(NotFoundError):
        await call(*[values.get(name, "text") for name in positional(call)])


async def test_a_message_of_another_chat_is_not_found(chats: ChatService) -> None:
    first, second = await asked(chats, "One"), await asked(chats, "Two")
    foreign = (await branch(chats, first))[1].id
    for attempt in (
        chats.text(second, OWNER, foreign),
        chats.regenerate(second, OWNER, foreign, PARAMS),
        chats.continue_reply(second, OWNER, foreign, PARAMS),
        chats.edit(second, OWNER, foreign, "x"),
        chats.show_version(second, OWNER, foreign),
        chats.delete_message(second, OWNER, foreign),
        chats.restore_message(second, OWNER, foreign),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    assert await contents(chats, second) == ["Two", PARIS]


# -- signals ----------------------------------------------------------------------------


async def test_the_list_of_chats_tells_its_owner_alone(chats: ChatService) -> None:
    other = chats.notices.listed("guest-1").version
    mine = chats.notices.listed(OWNER).version
    chat = await asked(chats, "One")
    await chats.change(chat, OWNER, title="Renamed")
    assert chats.notices.listed(OWNER).version > mine
    assert chats.notices.listed("guest-1").version == other
    assert (await chats.chat(chat, OWNER)).title == "Renamed"


async def test_new_text_raises_the_signal_but_not_the_revision(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await started(chats, engine)
    revision, version = chats.notices.revision(chat), chats.notices.changed(chat).version
    live = chats.live(chat)
    assert live is not None
    await progress(chats, chat, words=live.tokens + 3)
    assert chats.notices.revision(chat) == revision
    assert chats.notices.changed(chat).version > version
    await chats.close()


# -- LoRAs of a chat --------------------------------------------------------------------


async def test_a_chat_follows_what_is_applied_until_it_chooses(
    chats: ChatService, engine: FakeEngine
) -> None:
    for name in ("a", "b"):
        await engine.load_adapter(name, name)
    engine.weigh_adapters({"b": 0.5})
    chat = await asked(chats, "Hi")
    assert engine.requests[-1].adapters == (("a", 1.0), ("b", 0.5))
    await chats.change(chat, OWNER, adapters=(("b", -2.0), ("a", 0.0)))
    await chats.send(chat, OWNER, "Again", PARAMS)
    await chats.wait(chat)
    assert engine.requests[-1].adapters == (("b", -2.0),)
    await chats.change(chat, OWNER, adapters=None)
    await chats.send(chat, OWNER, "And again", PARAMS)
    await chats.wait(chat)
    about = [m.about.get("adapters") for m in await branch(chats, chat) if m.role == "assistant"]
    assert about == [[["a", 1.0], ["b", 0.5]], [["b", -2.0]], [["a", 1.0], ["b", 0.5]]]


async def test_a_chat_may_do_without_any(chats: ChatService, engine: FakeEngine) -> None:
    await engine.load_adapter("a", "a")
    chat = (await chats.create(OWNER)).id
    await chats.change(chat, OWNER, adapters=())
    await chats.send(chat, OWNER, "Hi", PARAMS)
    await chats.wait(chat)
    assert engine.requests[-1].adapters == ()
    assert "adapters" not in (await branch(chats, chat))[1].about


async def test_a_lora_that_is_not_applied_is_named_by_the_reply(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = (await chats.create(OWNER)).id
    await chats.change(chat, OWNER, adapters=(("poet", 1.0),))
    await chats.send(chat, OWNER, "Hi", PARAMS)
    await chats.wait(chat)
    reply = (await branch(chats, chat))[1]
    assert (reply.state, engine.requests) == ("failed", [])
    assert "The LoRA poet is not applied. Apply it in the Model tab" in reply.error


@pytest.mark.parametrize("weight", [4.01, -9.0, float("nan")])
async def test_a_weight_out_of_bounds_is_refused(weight: float, chats: ChatService) -> None:
    chat = (await chats.create(OWNER)).id
    with pytest.raises(InvalidInputError):
        await chats.change(chat, OWNER, adapters=(("a", weight),))
    assert (await chats.chat(chat, OWNER)).adapters is None


async def test_anothers_chat_gets_no_loras(chats: ChatService) -> None:
    chat = (await chats.create(OWNER)).id
    with pytest.raises(NotFoundError):
        await chats.change(chat, "guest", adapters=())
