"""The context, piece by piece."""

from __future__ import annotations

import pytest

from modules.chat.service import ChatService
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import NoModelError
from tests.chats import asked

pytestmark = pytest.mark.anyio

OWNER = "owner"
PARAMS = SamplingParams(max_new_tokens=20)


@pytest.fixture
def chats(ctx: AppContext) -> ChatService:
    return ctx.chats


async def test_everything_that_is_sent_is_listed_in_its_order(chats: ChatService) -> None:
    chat = await asked(chats, "Where is Paris?")
    await chats.change(chat, OWNER, system="Be brief.")
    await chats.files.add(chat, OWNER, "notes.txt", b"one two three")
    view = await chats.context(chat, OWNER, "And Rome?", PARAMS)
    assert [(s.kind, s.label, s.tokens) for s in view.segments] == [
        ("system", "Be brief.", 2),
        ("user", "Where is Paris?", 3),
        ("assistant", "The capital of France is Paris.", 6),
        ("file", "notes.txt", 3),
        ("user", "And Rome?", 2),
    ]
    assert all(segment.kept for segment in view.segments)


async def test_its_numbers_add_up_to_the_prompt(chats: ChatService) -> None:
    chat = await asked(chats, "Where is Paris?")
    view = await chats.context(chat, OWNER, "And Rome?", PARAMS)
    prompt = await chats.preview(chat, OWNER, "And Rome?", PARAMS)
    assert view.tokens == prompt.tokens
    assert sum(s.tokens for s in view.segments) + view.template == view.tokens
    assert view.tokens + view.free == view.context == 2048


async def test_turns_that_do_not_fit_are_marked_and_a_pin_takes_their_place(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = await asked(chats, "one " * 20, "two " * 20, "three " * 20)
    narrow = PARAMS.replace(truncation_length=90)
    left_out = [s.kept for s in (await chats.context(chat, OWNER, "?", narrow)).segments]
    assert left_out == [False, False, True, True, True, True, True]
    first = (await chats.branch(chat, OWNER))[0].id
    await chats.pin(chat, OWNER, first, True)
    view = await chats.context(chat, OWNER, "?", narrow)
    assert [s.kept for s in view.segments] == [True, True, False, False, True, True, True]
    assert view.segments[0].pinned and "unpinned" in view.sentence
    await chats.pin(chat, OWNER, first, False)
    assert not (await chats.context(chat, OWNER, "?", narrow)).segments[0].kept


async def test_what_cannot_be_sent_at_all_is_still_shown(chats: ChatService) -> None:
    chat = await asked(chats, "Where is Paris?")
    narrow = PARAMS.replace(truncation_length=30)
    view = await chats.context(chat, OWNER, "word " * 50, narrow)
    assert "The last turn alone makes" in view.sentence
    assert view.tokens > view.context and view.free == 0 and len(view.segments) == 3


async def test_a_chat_that_is_not_made_yet_has_what_is_typed(chats: ChatService) -> None:
    view = await chats.context(None, OWNER, "Hello there", PARAMS)
    assert [(s.kind, s.tokens) for s in view.segments] == [("user", 2)]


async def test_500_messages_take_a_handful_of_counts(
    chats: ChatService, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    count = FakeEngine.count_tokens

    async def counting(self: FakeEngine, texts: list[str], special: bool = False) -> list[int]:
        nonlocal calls
        calls += 1
        return await count(self, texts, special)

    monkeypatch.setattr(FakeEngine, "count_tokens", counting)
    chat = await asked(chats, "Begin.")
    store, parent = chats._stores.kept, None
    with store.transaction():
        for k in range(500):
            role = "user" if k % 2 == 0 else "assistant"
            parent = store.append(chat, parent, role, f"<{k}>" + " word" * 20).id
    calls = 0
    view = await chats.context(chat, OWNER, "And now?", PARAMS)
    assert len(view.segments) == 501 and not all(s.kept for s in view.segments)
    assert calls <= 8


async def test_without_a_model_there_is_nothing_to_see(
    chats: ChatService, engine: FakeEngine
) -> None:
    await engine.unload()
    with pytest.raises(NoModelError):
        await chats.context(None, OWNER, "Hi", PARAMS)
