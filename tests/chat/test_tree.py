"""A chat as a tree: what is drawn of it, and how one goes from branch to branch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.chat.store import ChatStore
from modules.chat.tree import after, remove_turn, tree_of
from modules.errors import InvalidInputError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore(tmp_path / "chats.sqlite3")
    yield store
    store.close()


@pytest.fixture
def chat(store: ChatStore) -> int:
    """1 question, 2 and 3 answers to it; below 3 the question 4 and its answer 5."""
    chat = store.create_chat("owner").id
    store.append(chat, None, "user", "Why?\n\nReally?")
    store.append(chat, 1, "assistant", "So.")
    store.append(chat, 1, "assistant", "Thus.")
    store.append(chat, 3, "user", "And then?")
    store.append(chat, 4, "assistant", "Then this.")
    return chat


def shown(store: ChatStore, chat: int) -> list[int]:
    return [message.id for message in store.branch(chat)]


def test_a_tree_has_every_message_with_its_first_words(store: ChatStore, chat: int) -> None:
    nodes = tree_of(store, chat)
    assert [(n.id, n.parent_id) for n in nodes] == [(1, None), (2, 1), (3, 1), (4, 3), (5, 4)]
    assert nodes[0].words == "Why? Really?"
    assert [n.id for n in nodes if n.shown] == [1, 3, 4, 5]


def test_below_a_deleted_message_the_tree_goes_on(store: ChatStore, chat: int) -> None:
    store.delete_message(chat, 3)
    assert [(n.id, n.parent_id) for n in tree_of(store, chat)] == [
        (1, None),
        (2, 1),
        (4, 1),
        (5, 4),
    ]


def test_messages_after_one_are_counted_on_the_shown_branch(store: ChatStore, chat: int) -> None:
    assert [after(store, chat, id_) for id_ in (1, 5, 2, 99)] == [3, 0, None, None]


def test_the_last_turn_goes_as_a_whole_and_comes_back_as_a_whole(
    store: ChatStore, chat: int
) -> None:
    store.append(chat, 4, "assistant", "Another end.")
    store.show(chat, 5)
    removed = remove_turn(store, chat)
    assert (removed.text, removed.message_id) == ("And then?", 5)
    assert [n.id for n in tree_of(store, chat)] == [1, 2, 3]
    assert shown(store, chat) == [1, 3]
    store.restore_message(chat, removed.message_id)
    assert [n.id for n in tree_of(store, chat)] == [1, 2, 3, 4, 5, 6]
    assert shown(store, chat) == [1, 3, 4, 5]


def test_what_was_deleted_before_stays_deleted_when_a_turn_comes_back(
    store: ChatStore, chat: int
) -> None:
    store.append(chat, 4, "assistant", "Another end.")
    store.delete_message(chat, 5)
    store.restore_message(chat, remove_turn(store, chat).message_id)
    assert [n.id for n in tree_of(store, chat)] == [1, 2, 3, 4, 6]


def test_of_a_greeting_alone_the_greeting_is_the_turn(store: ChatStore) -> None:
    chat = store.create_chat("owner").id
    store.append(chat, None, "assistant", "Welcome.")
    assert remove_turn(store, chat).text == ""
    assert shown(store, chat) == []


def test_an_empty_chat_has_no_turn_to_remove(store: ChatStore) -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        remove_turn(store, store.create_chat("owner").id)
