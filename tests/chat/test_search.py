"""Search finds what was written, by its owner alone, whatever is typed into the box."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modules.chat import migrations
from modules.chat.search import HIT_BEGINS, HIT_ENDS, search
from modules.chat.store import ChatStore

OWNER, OTHER = "owner", "guest-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore(tmp_path / "chats.sqlite3")
    yield store
    store.close()


def written(store: ChatStore, text: str, owner: str = OWNER) -> tuple[int, int]:
    """A chat with one message; the ids of both."""
    chat = store.create_chat(owner, "A title")
    return chat.id, store.append(chat.id, None, "user", text).id


def found(store: ChatStore, text: str, owner: str = OWNER) -> list[int]:
    return [hit.message_id for hit in search(store, owner, text)]


def indexed(store: ChatStore) -> int:
    """Rows in the index; raises where it does not fit its own content."""
    with store.transaction() as db:
        db.execute("INSERT INTO messages_found (messages_found) VALUES ('integrity-check')")
        return int(db.execute("SELECT count(*) FROM messages_found_docsize").fetchone()[0])


@pytest.mark.parametrize(
    "query", ["dragon", "DRAGON", "drag", "cafe", "Café", "the dragon", "dragon café", "d"]
)
def test_a_message_is_found_by_its_words_and_how_they_begin(query: str, store: ChatStore) -> None:
    chat, message = written(store, "The Dragon sat in a café.")
    written(store, "Nobody here.")
    (hit,) = search(store, OWNER, query)
    assert (hit.chat_id, hit.message_id, hit.title, hit.role) == (chat, message, "A title", "user")


def test_every_word_must_be_there(store: ChatStore) -> None:
    written(store, "The dragon slept.")
    assert found(store, "dragon woke") == []


def test_the_passage_marks_what_was_found(store: ChatStore) -> None:
    written(store, "word " * 500 + "the needle\n\nin it " + "word " * 500)
    (hit,) = search(store, OWNER, "needle")
    assert f"the {HIT_BEGINS}needle{HIT_ENDS} in it" in hit.passage
    assert len(hit.passage) < 200


def test_the_newest_come_first(store: ChatStore) -> None:
    first, second = (written(store, f"dragon {i}")[1] for i in range(2))
    assert found(store, "dragon") == [second, first]


def test_nobody_finds_anothers_messages(store: ChatStore) -> None:
    _, mine = written(store, "dragon")
    _, theirs = written(store, "dragon", OTHER)
    assert (found(store, "dragon"), found(store, "dragon", OTHER)) == ([mine], [theirs])


def test_what_is_deleted_is_not_found_until_it_is_back(store: ChatStore) -> None:
    chat, message = written(store, "dragon")
    store.delete_message(chat, message)
    assert found(store, "dragon") == []
    store.restore_message(chat, message)
    store.delete_chat(chat, OWNER)
    assert found(store, "dragon") == []
    store.delete_chat(chat, OWNER, undo=True)
    assert found(store, "dragon") == [message]


def test_a_reply_enters_the_index_once_when_it_has_ended(store: ChatStore) -> None:
    chat, question = written(store, "Tell me.")
    reply = store.append(chat, question, "assistant", "A dra", state="streaming").id
    for text in ("A drag", "A dragon"):
        store.save_reply(reply, text, "streaming")
    assert (found(store, "dragon"), indexed(store)) == ([], 1)
    store.save_reply(reply, "A dragon came.", "complete")
    assert (found(store, "came"), indexed(store)) == ([reply], 2)
    store.save_reply(reply, "Something else.", "complete")
    assert (found(store, "came"), indexed(store)) == ([reply], 2)


def test_a_reply_that_a_crash_cut_is_found_after_the_next_start(store: ChatStore) -> None:
    chat, question = written(store, "Tell me.")
    reply = store.append(chat, question, "assistant", "A dragon", state="streaming").id
    store.mark_interrupted_replies()
    assert found(store, "dragon") == [reply]


def test_copies_on_several_branches_are_found_once(store: ChatStore) -> None:
    chat, question = written(store, "First")
    store.append(chat, question, "assistant", "A dragon came.")
    store.edit(chat, question, "Second", keep_tail=True)
    assert len(found(store, "dragon")) == 1


HOSTILE = [
    "", " ", '"', '""', "'", "*", "a*b", "NEAR(", "NEAR(a b, 5)", "a AND", "OR OR", "NOT a", "(",
    ")",
    "^a", "-a", "content:a", "{a b}: c", "a + b", "\\", "\0", "a\0b", "😀", "\ud83e", "_", "%",
    ";--",
    "'; DROP TABLE messages; --", "\uff41", "٣", "²", "a" * 10_000, "a " * 5_000, "\"' " * 3_000,
    "\u0301", "\u200d", "\x02a\x03",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_no_query_fails(query: str, store: ChatStore) -> None:
    written(store, "a b NEAR and or not content")
    assert len(found(store, query)) <= 1


def test_words_that_are_operators_are_words(store: ChatStore) -> None:
    _, message = written(store, "near AND or NOT far")
    assert found(store, "NOT OR near") == [message]


_OLD = f"""
INSERT INTO chats (owner, created_at, updated_at) VALUES ('{OWNER}', 0, 0);
INSERT INTO messages (chat_id, role, content, state, created_at)
VALUES (1, 'user', 'An old dragon', 'complete', 0);
INSERT INTO messages (chat_id, parent_id, role, content, state, created_at)
VALUES (1, 1, 'assistant', 'Half a drag', 'streaming', 0);
"""


def test_a_file_from_before_the_index_is_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.sqlite3"
    at = next(i for i, step in enumerate(migrations._STEPS) if "messages_found" in step)
    with monkeypatch.context() as before:
        before.setattr(migrations, "_STEPS", migrations._STEPS[:at])
        with closing(sqlite3.connect(path, isolation_level=None)) as old:
            migrations.migrate(old)
            old.executescript(_OLD)
    question, reply = 1, 2
    with closing(sqlite3.connect(path)) as db:
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name='messages_found'").fetchall()
    new = ChatStore(path)
    assert found(new, "dragon") == [question]
    new.mark_interrupted_replies()
    assert found(new, "half") == [reply]
    assert indexed(new) == 2
    new.close()
