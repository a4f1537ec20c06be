"""Chats are never lost: the tree, its versions, undo, and what a crash leaves behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modules.chat import migrations
from modules.chat.migrations import migrate
from modules.chat.store import MAX_MESSAGE_CHARS, ChatStore, StoredMessage
from modules.errors import InvalidInputError, NotFoundError, StorageError

OWNER, OTHER = "owner", "guest-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore(tmp_path / "chats.sqlite3")
    yield store
    store.close()


@pytest.fixture
def talk(store: ChatStore) -> list[StoredMessage]:
    """A chat of two turns: question, answer, question, answer."""
    chat = store.create_chat(OWNER)
    messages: list[StoredMessage] = []
    for i, role in enumerate(("user", "assistant", "user", "assistant")):
        parent = messages[-1].id if messages else None
        messages.append(store.append(chat.id, parent, role, f"text {i}"))  # type: ignore[arg-type]
    return messages


def shown(store: ChatStore, chat_id: int) -> list[str]:
    return [message.content for message in store.branch(chat_id)]


def everything(store: ChatStore) -> dict[int, str]:
    """Every stored message by its id, shown, hidden or on another branch."""
    with store.transaction() as db:
        return {row["id"]: row["content"] for row in db.execute("SELECT * FROM messages")}


# -- the tree ---------------------------------------------------------------------------


def test_messages_are_shown_in_the_order_of_the_conversation(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    assert shown(store, talk[0].chat_id) == ["text 0", "text 1", "text 2", "text 3"]


def test_another_reply_is_a_version_and_the_first_one_stays(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    second = store.append(chat, talk[2].id, "assistant", "better")
    assert shown(store, chat)[-1] == "better"
    assert store.branch(chat)[-1].versions == (talk[3].id, second.id)
    assert everything(store)[talk[3].id] == "text 3"


def test_an_edit_adds_and_overwrites_nothing(store: ChatStore, talk: list[StoredMessage]) -> None:
    before = everything(store)
    store.edit(talk[0].chat_id, talk[2].id, "asked otherwise", keep_tail=False)
    after = everything(store)
    assert len(after) == len(before) + 1
    assert after.items() >= before.items()
    assert shown(store, talk[0].chat_id) == ["text 0", "text 1", "asked otherwise"]


def test_an_edit_can_keep_what_followed(store: ChatStore, talk: list[StoredMessage]) -> None:
    before = everything(store)
    store.edit(talk[0].chat_id, talk[1].id, "answered otherwise", keep_tail=True)
    assert shown(store, talk[0].chat_id) == ["text 0", "answered otherwise", "text 2", "text 3"]
    assert everything(store).items() >= before.items()
    assert len(everything(store)) == len(before) + 3


def test_switching_back_shows_what_followed_the_old_version(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    new = store.edit(chat, talk[0].id, "another beginning", keep_tail=False)
    store.show_version(chat, talk[0].id)
    assert shown(store, chat) == ["text 0", "text 1", "text 2", "text 3"]
    store.show_version(chat, new.id)
    assert shown(store, chat) == ["another beginning"]


def test_versions_stand_in_the_order_of_their_making(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    ids = [talk[3].id, *(store.append(chat, talk[2].id, "assistant", str(i)).id for i in range(3))]
    store.show_version(chat, talk[3].id)
    assert store.branch(chat)[-1].versions == tuple(ids)


def test_a_question_and_an_answer_are_no_versions_of_each_other(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    follow_up = store.append(talk[0].chat_id, talk[2].id, "user", "and besides")
    assert store.branch(talk[0].chat_id)[-1].versions == (follow_up.id,)


def test_showing_a_version_goes_to_its_newest_end_that_is_not_hidden(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    hidden = store.append(chat, talk[2].id, "assistant", "hidden")
    store.delete_message(chat, hidden.id)
    store.show_version(chat, talk[0].id)
    assert shown(store, chat) == ["text 0", "text 1", "text 2", "text 3"]


# -- deleting and undoing ---------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
def test_a_deleted_message_is_hidden_alone_and_comes_back(
    place: int, store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat, all_four = talk[0].chat_id, [f"text {i}" for i in range(4)]
    store.delete_message(chat, talk[place].id)
    assert shown(store, chat) == [text for i, text in enumerate(all_four) if i != place]
    store.restore_message(chat, talk[place].id)
    assert shown(store, chat) == all_four


def test_nothing_is_ever_deleted_from_the_file(store: ChatStore, talk: list[StoredMessage]) -> None:
    before = everything(store)
    for message in talk:
        store.delete_message(message.chat_id, message.id)
    store.delete_chat(talk[0].chat_id, OWNER)
    assert everything(store) == before


def test_deleting_the_last_version_shows_the_one_before(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    second = store.append(chat, talk[2].id, "assistant", "better")
    store.delete_message(chat, second.id)
    assert shown(store, chat)[-1] == "text 3"
    store.restore_message(chat, second.id)
    assert shown(store, chat)[-1] == "better"


def test_deleting_from_the_end_upwards_never_strands_a_version(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    question = store.edit(chat, talk[2].id, "asked otherwise", keep_tail=False)
    answer = store.append(chat, question.id, "assistant", "answered")
    store.delete_message(chat, answer.id)
    store.delete_message(chat, question.id)
    assert shown(store, chat) == ["text 0", "text 1", "text 2", "text 3"]


def test_a_conversation_goes_on_below_a_hidden_message(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    store.delete_message(chat, talk[3].id)
    store.append(chat, store.chat(chat, OWNER).leaf_id, "user", "next")
    assert shown(store, chat) == ["text 0", "text 1", "text 2", "next"]


def test_a_deleted_chat_is_gone_from_the_list_and_comes_back(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    chat = talk[0].chat_id
    store.delete_chat(chat, OWNER)
    assert store.chats(OWNER) == []
    with pytest.raises(NotFoundError):
        store.chat(chat, OWNER)
    store.delete_chat(chat, OWNER, undo=True)
    assert [c.id for c in store.chats(OWNER)] == [chat]


# -- owners -----------------------------------------------------------------------------


def test_each_owner_sees_their_own_chats(store: ChatStore) -> None:
    mine, theirs = store.create_chat(OWNER), store.create_chat(OTHER)
    assert [c.id for c in store.chats(OWNER)] == [mine.id]
    assert [c.id for c in store.chats(OTHER)] == [theirs.id]


@pytest.mark.parametrize("undo", [False, True])
def test_anothers_chat_cannot_be_read_deleted_or_restored(undo: bool, store: ChatStore) -> None:
    chat = store.create_chat(OTHER)
    with pytest.raises(NotFoundError):
        store.chat(chat.id, OWNER)
    with pytest.raises(NotFoundError):
        store.delete_chat(chat.id, OWNER, undo=undo)
    assert store.chats(OTHER) == [chat]


def test_a_message_is_found_in_its_own_chat_alone(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    other, place = store.create_chat(OWNER).id, talk[1].id
    for reach in (
        lambda: store.message(place, other),
        lambda: store.append(other, place, "user", "x"),
        lambda: store.edit(other, place, "x", keep_tail=True),
        lambda: store.show_version(other, place),
        lambda: store.delete_message(other, place),
        lambda: store.restore_message(other, place),
    ):
        with pytest.raises(NotFoundError):
            reach()
    assert len(store.branch(talk[0].chat_id)) == 4
    assert store.branch(other) == []


# -- texts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "é 漢字 🦊", "a\x00b", "'; DROP TABLE messages; --", "\r\n\t ", "x" * MAX_MESSAGE_CHARS],
    ids=len,
)
def test_a_text_comes_back_as_it_was(text: str, store: ChatStore) -> None:
    chat = store.create_chat(OWNER)
    assert store.append(chat.id, None, "user", text).content == text


def test_half_an_emoji_is_stored_as_a_question_mark(store: ChatStore) -> None:
    chat = store.create_chat(OWNER, title="\ud83e")
    store.change_chat(chat.id, system="a\udd8ab")
    reply = store.append(chat.id, None, "assistant", "\ud83e", state="streaming")
    store.save_reply(reply.id, "x\ud83e", "complete")
    assert (store.chat(chat.id, OWNER).title, store.chat(chat.id, OWNER).system) == ("?", "a?b")
    assert shown(store, chat.id) == ["x?"]


def test_a_text_that_is_too_long_is_refused_and_nothing_is_stored(store: ChatStore) -> None:
    chat = store.create_chat(OWNER)
    with pytest.raises(InvalidInputError, match="1,000,001 characters"):
        store.append(chat.id, None, "user", "x" * (MAX_MESSAGE_CHARS + 1))
    assert everything(store) == {}


def test_a_title_is_one_line_of_120_characters(store: ChatStore) -> None:
    chat = store.create_chat(OWNER)
    store.change_chat(chat.id, title="a\n b\t" + "c" * 500)
    title = store.chat(chat.id, OWNER).title
    assert title.startswith("a b c")
    assert len(title) == 120


# -- replies in progress ----------------------------------------------------------------


def test_only_a_streaming_reply_is_written_again(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    store.save_reply(talk[3].id, "overwritten", "complete")
    assert shown(store, talk[0].chat_id)[-1] == "text 3"


def test_a_reply_keeps_what_produced_it(store: ChatStore, talk: list[StoredMessage]) -> None:
    chat = talk[0].chat_id
    reply = store.append(chat, talk[3].id, "assistant", "", state="streaming")
    store.save_reply(reply.id, "text", "complete", about={"seed": 7})
    stored = store.branch(chat)[-1]
    assert (stored.content, stored.state, stored.about) == ("text", "complete", {"seed": 7})


def test_replies_that_a_crash_interrupted_are_marked_at_the_next_start(tmp_path: Path) -> None:
    first = ChatStore(tmp_path / "x.sqlite3")
    chat = first.create_chat(OWNER).id
    done = first.append(chat, None, "assistant", "whole")
    first.append(chat, done.id, "assistant", "half a sen", state="streaming")
    first.close()
    second = ChatStore(tmp_path / "x.sqlite3")
    assert second.mark_interrupted_replies() == 1
    whole, half = second.branch(chat)
    assert (whole.state, half.state, half.content) == ("complete", "cut", "half a sen")
    assert half.error
    assert second.mark_interrupted_replies() == 0
    second.close()


def test_an_edit_leaves_no_copy_in_mid_air(store: ChatStore, talk: list[StoredMessage]) -> None:
    chat = talk[0].chat_id
    store.append(chat, talk[3].id, "assistant", "so far", state="streaming")
    store.edit(chat, talk[0].id, "x", keep_tail=True)
    assert {m.state for m in store.branch(chat)} == {"complete"}


# -- faults -----------------------------------------------------------------------------


def fill(store: ChatStore) -> None:
    """Let the file grow no further, as on a full disk."""
    with store.transaction() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_is_a_storage_error_and_the_old_data_stays_whole(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    fill(store)
    before = everything(store)
    with pytest.raises(StorageError, match=r"could not be saved.*disk space"):
        store.append(talk[0].chat_id, talk[3].id, "user", "x" * 100_000)
    assert everything(store) == before
    assert shown(store, talk[0].chat_id)[-1] == "text 3"


def test_an_edit_that_fails_halfway_leaves_nothing_of_itself(
    store: ChatStore, talk: list[StoredMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, calls = store.append, []

    def failing(*args: Any, **named: Any) -> StoredMessage:
        calls.append(args)
        if len(calls) == 3:
            raise sqlite3.OperationalError("disk I/O error")
        return appended(*args, **named)

    before = everything(store)
    monkeypatch.setattr(store, "append", failing)
    with pytest.raises(StorageError, match="disk I/O error"):
        store.edit(talk[0].chat_id, talk[0].id, "x", keep_tail=True)
    assert everything(store) == before
    assert shown(store, talk[0].chat_id)[0] == "text 0"


def test_after_a_full_disk_is_freed_the_store_goes_on(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    fill(store)
    with pytest.raises(StorageError):
        store.append(talk[0].chat_id, talk[3].id, "user", "x" * 100_000)
    store._db.execute("PRAGMA max_page_count = 100000")
    store.append(talk[0].chat_id, talk[3].id, "user", "x" * 100_000)
    assert len(store.branch(talk[0].chat_id)) == 5


def test_a_read_only_file_is_a_storage_error(store: ChatStore, talk: list[StoredMessage]) -> None:
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError, match="readonly"):
        store.create_chat(OWNER)
    assert len(store.branch(talk[0].chat_id)) == 4


def test_what_cannot_be_read_is_a_storage_error(
    store: ChatStore, talk: list[StoredMessage]
) -> None:
    store._db.execute("ALTER TABLE messages RENAME TO gone")
    for reach in (
        lambda: store.branch(talk[0].chat_id),
        lambda: store.message(talk[0].id, talk[0].chat_id),
    ):
        with pytest.raises(StorageError, match="could not be read"):
            reach()


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_a_file_that_is_no_database_is_a_storage_error(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "x.sqlite3"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(StorageError, match="--user-data-dir"):
        ChatStore(file)


def test_a_message_is_on_the_disk_when_append_returns(store: ChatStore) -> None:
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_many_threads_may_write_at_once(store: ChatStore) -> None:
    chats = [store.create_chat(OWNER).id for _ in range(8)]

    def write(chat: int) -> None:
        for i in range(10):
            store.append(chat, store.chat(chat, OWNER).leaf_id, "user", f"{chat} {i}")

    threads = [threading.Thread(target=write, args=(chat,)) for chat in chats]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [shown(store, c) for c in chats] == [[f"{c} {i}" for i in range(10)] for c in chats]


# -- kill -9 ----------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from modules.chat.store import ChatStore
store = ChatStore(Path(sys.argv[1]))
chats = store.chats("owner")
chat = chats[0] if chats else store.create_chat("owner")
leaf = chat.leaf_id
while True:
    question = store.append(chat.id, leaf, "user", "q" * 3000)
    reply = store.append(chat.id, question.id, "assistant", "", state="streaming")
    store.save_reply(reply.id, "half", "streaming")
    store.save_reply(reply.id, f"answer to {question.id}", "complete")
    leaf = reply.id
    print(question.id, reply.id, flush=True)
"""


def test_kill_9_while_writing_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite3"
    acknowledged: list[tuple[int, int]] = []
    for round_ in range(20):
        acknowledged += killed_after(file, lines=1 + round_ % 4)
    store = ChatStore(file)
    stored = everything(store)
    assert len(acknowledged) >= 50
    for question, reply in acknowledged:
        assert stored[question] == "q" * 3000
        assert stored[reply] == f"answer to {question}"
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert [m.id for m in store.branch(1)][:2] == list(acknowledged[0])
    store.close()


def killed_after(file: Path, lines: int) -> list[tuple[int, int]]:
    """Run the writer, kill it after some lines; returns what it acknowledged."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True,
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    pairs = [line.split() for line in said if line.endswith("\n")]
    return [(int(question), int(reply)) for question, reply in pairs]


# -- migrations -------------------------------------------------------------------------


def test_opening_again_runs_no_migration_twice(tmp_path: Path) -> None:
    for _ in range(3):
        ChatStore(tmp_path / "x.sqlite3").close()
    with sqlite3.connect(tmp_path / "x.sqlite3") as db:
        numbers = [row[0] for row in db.execute("SELECT number FROM migrations ORDER BY number")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_migration_that_fails_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None)
    steps = ("CREATE TABLE good (x);", "CREATE TABLE half (x); CREATE TABLE half (x);")
    monkeypatch.setattr("modules.chat.migrations._STEPS", steps)
    with pytest.raises(sqlite3.Error):
        migrate(db)
    db.close()
    db = sqlite3.connect(tmp_path / "x.sqlite3")
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    assert "good" in tables
    assert "half" not in tables
    db.close()


def test_chats_from_before_there_were_loras_follow_what_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations._STEPS
    monkeypatch.setattr(migrations, "_STEPS", steps[:2])
    with closing(sqlite3.connect(tmp_path / "old.sqlite3")) as db:
        migrate(db)
        db.execute(
            "INSERT INTO chats (owner, title, created_at, updated_at) VALUES ('owner', 'Old', 1, 1)"
        )
        db.commit()
    monkeypatch.setattr(migrations, "_STEPS", steps)
    with closing(ChatStore(tmp_path / "old.sqlite3")) as store:
        (chat,) = store.chats("owner")
        assert (chat.title, chat.adapters) == ("Old", None)
        store.change_chat(chat.id, adapters=(("a", 0.5),))
        assert store.chat(chat.id, "owner").adapters == (("a", 0.5),)
        store.change_chat(chat.id, adapters=None)
        assert store.chats("owner")[0].adapters is None
