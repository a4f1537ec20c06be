"""How likely the tokens of a reply were: kept, inherited, and found again in the text."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from modules.chat.reply_tokens import (
    Part,
    ReplyToken,
    aligned,
    inherit_tokens,
    keep_tokens,
    tokens_of,
)
from modules.chat.store import ChatStore
from modules.engine.protocol import TokenLogprob
from modules.settings import Settings


@pytest.fixture
def store(settings: Settings) -> Iterator[ChatStore]:
    store = ChatStore(settings.paths.database)
    yield store
    store.close()


def tokens(*texts: str) -> list[ReplyToken]:
    return [ReplyToken(text, 0.5) for text in texts]


def found(content: str, *texts: str, start: int = 0) -> list[tuple[str, bool]]:
    parts = aligned(content, [(start, tokens(*texts))])
    assert "".join(part.text for part in parts) == content
    return [(part.text, part.token is not None) for part in parts]


def test_tokens_are_kept_with_their_alternatives(store: ChatStore) -> None:
    chat = store.create_chat("owner")
    message = store.append(chat.id, None, "assistant", "Yes")
    keep_tokens(store, message.id, 2, [TokenLogprob("Yes", -0.25, (("No", -math.inf),))])
    token = ReplyToken("Yes", round(math.exp(-0.25), 5), (("No", 0.0),))
    assert tokens_of(store, message.id) == [(2, [token])]
    keep_tokens(store, message.id, 5, [TokenLogprob("!", -1.0)])
    assert [start for start, _ in tokens_of(store, message.id)] == [2, 5], "a reply that went on"


def test_a_copy_has_them_and_what_is_deleted_leaves_none(store: ChatStore) -> None:
    chat = store.create_chat("owner")
    message = store.append(chat.id, None, "assistant", "Yes")
    other = store.append(chat.id, message.id, "assistant", "Yes")
    keep_tokens(store, message.id, 0, [TokenLogprob("Yes", -0.25)])
    with store.transaction() as db:
        inherit_tokens(db, message.id, other.id)
        db.execute("UPDATE messages SET parent_id = NULL")
        db.execute("DELETE FROM messages WHERE id = ?", (message.id,))
    assert tokens_of(store, message.id) == []
    assert [token.text for _, some in tokens_of(store, other.id) for token in some] == ["Yes"]


def test_an_edit_before_it_leaves_a_reply_its_tokens_and_an_edit_of_it_does_not(
    store: ChatStore,
) -> None:
    chat = store.create_chat("owner")
    asked = store.append(chat.id, None, "user", "Well?")
    reply = store.append(chat.id, asked.id, "assistant", "Yes")
    keep_tokens(store, reply.id, 0, [TokenLogprob("Yes", -0.25)])
    store.edit(chat.id, asked.id, "So?", keep_tail=True)
    copy = store.branch(chat.id)[-1]
    assert copy.id != reply.id and len(tokens_of(store, copy.id)) == 1
    edited = store.edit(chat.id, copy.id, "No", keep_tail=True)
    assert tokens_of(store, edited.id) == []


def test_what_the_tokenizer_left_out_and_what_is_no_text_has_no_token() -> None:
    assert found("I am.", "I", "am", ".", "</s>") == [
        ("I", True), (" ", False), ("am", True), (".", True),
    ]  # fmt: skip
    assert found("a ☃ b", "a", " \ufffd", "\ufffd", " b") == [
        ("a", True), (" ☃", False), (" b", True),
    ]  # fmt: skip


def test_a_beginning_and_what_a_stop_string_cut_off_have_none() -> None:
    assert found("Sure: yes", " yes", "\nUser", ":", start=5) == [("Sure:", False), (" yes", True)]
    assert found("", "a") == []


def test_a_short_token_is_not_found_far_away() -> None:
    assert found("one two. three", "one", ".", " three") == [
        ("one", True), (" two.", False), (" three", True),
    ]  # fmt: skip


def test_parts_that_were_written_apart_each_have_their_place() -> None:
    parts = aligned("ab (a call) ab", [(0, tokens("ab")), (12, tokens("ab"))])
    assert parts[0] == Part("ab", ReplyToken("ab", 0.5))
    assert [part.text for part in parts] == ["ab", " (a call) ", "ab"]
    assert parts[2].token is not None
