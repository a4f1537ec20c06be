"""`ChatStore`: every chat, durable, in one SQLite file.

Messages form a tree: an edit or a new reply adds a sibling and overwrites nothing, and
what is deleted is only marked, so that it can be brought back. A chat remembers the leaf
of the branch that is shown; the branch is the way from there to the root.

Each method is one transaction that is on the disk when it returns (WAL with
`synchronous=FULL`). The store may be used from any thread.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modules.chat.messages import Role
from modules.chat.migrations import migrate
from modules.engine.mix import Mix
from modules.errors import InvalidInputError, NotFoundError, StorageError

__all__ = ["MAX_MESSAGE_CHARS", "Chat", "ChatStore", "State", "StoredMessage", "storable"]

State = Literal["complete", "streaming", "stopped", "cut", "failed"]
"""`stopped`: by the user. `cut`: by a fault, with some text. `failed`: without any."""

MAX_MESSAGE_CHARS = 1_000_000
_MAX_TITLE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation. Times are Unix seconds; `leaf_id` is None while it is empty.

    `adapters` are the LoRAs that its replies are written with; None: what is applied to all.
    """

    id: int
    owner: str
    title: str
    system: str
    leaf_id: int | None
    updated_at: float
    adapters: Mix | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One turn on the shown branch.

    `versions` are the ids of the alternatives in this place, itself included, oldest
    first. `about` holds what produced a reply: model, seed, parameters, speed.
    """

    id: int
    chat_id: int
    parent_id: int | None
    role: Role
    content: str
    state: State
    error: str
    about: dict[str, Any]
    created_at: float
    versions: tuple[int, ...] = field(default=())


class ChatStore:
    """The chats in the SQLite file at `path`. Raises StorageError if it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            migrate(self._db)
        except sqlite3.Error as error:
            raise StorageError(
                f"The chats in {path} cannot be opened: {error}.",
                "Check the folder, or give another one with --user-data-dir.",
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, joined by those opened within it.

        A full disk or a read-only file becomes a StorageError, and nothing is changed.
        """
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StorageError(
                    f"The change could not be saved: {error}.",
                    "Free some disk space or make user_data/ writable, then try again.",
                ) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except OverflowError as error:  # an id larger than SQLite's, which nothing has
                raise _no_chat() from error
            except sqlite3.Error as error:
                raise StorageError(
                    f"The chats could not be read: {error}.", "Check the disk, then try again."
                ) from error

    # -- chats --------------------------------------------------------------------------

    def create_chat(self, owner: str, title: str = "") -> Chat:
        """A new, empty chat."""
        now = time.time()
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO chats (owner, title, created_at, updated_at) VALUES (?, ?, ?, ?)",
                (owner, _title(title), now, now),
            )
            assert cursor.lastrowid is not None
            return self.chat(cursor.lastrowid, owner)

    def chats(self, owner: str) -> list[Chat]:
        """The chats of one owner, the latest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT id, owner, title, system, leaf_id, updated_at, adapters FROM chats"
                " WHERE owner = ? AND deleted_at IS NULL ORDER BY updated_at DESC, id DESC",
                (owner,),
            )
            return [_chat(row) for row in rows]

    def chat(self, chat_id: int, owner: str) -> Chat:
        """One chat. Raises NotFoundError where there is none, or it is another's."""
        with self._reading() as db:
            row = db.execute(
                "SELECT id, owner, title, system, leaf_id, updated_at, adapters FROM chats"
                " WHERE id = ? AND owner = ? AND deleted_at IS NULL",
                (chat_id, owner),
            ).fetchone()
        if row is None:
            raise _no_chat()
        return _chat(row)

    def rename_chat(self, chat_id: int, title: str) -> None:
        """Give a chat another title."""
        with self.transaction() as db:
            db.execute("UPDATE chats SET title = ? WHERE id = ?", (_title(title), chat_id))

    def set_system(self, chat_id: int, system: str) -> None:
        """Give a chat another system message; an empty one removes it."""
        with self.transaction() as db:
            db.execute("UPDATE chats SET system = ? WHERE id = ?", (_content(system), chat_id))

    def set_adapters(self, chat_id: int, mix: Mix | None) -> None:
        """Give a chat LoRAs of its own; None goes back to what is applied to all."""
        text = None if mix is None else json.dumps(mix)
        with self.transaction() as db:
            db.execute("UPDATE chats SET adapters = ? WHERE id = ?", (text, chat_id))

    def delete_chat(self, chat_id: int, owner: str, *, undo: bool = False) -> None:
        """Hide a chat, or bring it back. Raises NotFoundError."""
        with self.transaction() as db:
            when = None if undo else time.time()
            cursor = db.execute(
                "UPDATE chats SET deleted_at = ? WHERE id = ? AND owner = ?",
                (when, chat_id, owner),
            )
            if not cursor.rowcount:
                raise _no_chat()

    # -- messages -----------------------------------------------------------------------

    def branch(self, chat_id: int) -> list[StoredMessage]:
        """The shown branch, from its first message to its last, without deleted ones."""
        with self._reading() as db:
            rows = db.execute(
                "WITH RECURSIVE branch(id, parent_id, depth) AS ("
                "  SELECT m.id, m.parent_id, 0 FROM messages m"
                "  JOIN chats c ON c.leaf_id = m.id WHERE c.id = ?"
                "  UNION ALL SELECT m.id, m.parent_id, b.depth + 1 FROM messages m"
                "  JOIN branch b ON m.id = b.parent_id)"
                " SELECT m.* FROM messages m JOIN branch b ON b.id = m.id"
                " WHERE m.deleted_at IS NULL ORDER BY b.depth DESC",
                (chat_id,),
            ).fetchall()
            versions = self._versions(chat_id)
        return [_message(row, versions[(row["parent_id"], row["role"])]) for row in rows]

    def message(self, message_id: int, chat_id: int) -> StoredMessage:
        """One message of a chat, whether it is shown or not. Raises NotFoundError."""
        with self._reading() as db:
            row = db.execute(
                "SELECT * FROM messages WHERE id = ? AND chat_id = ?", (message_id, chat_id)
            ).fetchone()
        if row is None:
            raise NotFoundError("This message does not exist.", "Reload the page.")
        return _message(row, ())

    def append(
        self,
        chat_id: int,
        parent_id: int | None,
        role: Role,
        content: str,
        *,
        state: State = "complete",
        about: dict[str, Any] | None = None,
    ) -> StoredMessage:
        """Add a message below `parent_id`, and show the branch that ends in it."""
        now = time.time()
        with self.transaction() as db:
            if parent_id is not None:
                self.message(parent_id, chat_id)
            cursor = db.execute(
                "INSERT INTO messages"
                " (chat_id, parent_id, role, content, state, about, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (chat_id, parent_id, role, _content(content), state, json.dumps(about or {}), now),
            )
            assert cursor.lastrowid is not None
            self.show(chat_id, cursor.lastrowid)
            return self.message(cursor.lastrowid, chat_id)

    def save_reply(
        self,
        message_id: int,
        content: str,
        state: State,
        error: str = "",
        about: dict[str, Any] | None = None,
    ) -> None:
        """Write down how far a reply is. Only a streaming reply is ever written again."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET content = ?, state = ?, error = ?, about = ?"
                " WHERE id = ? AND state = 'streaming'",
                (storable(content), state, error, json.dumps(about or {}), message_id),
            )

    def edit(
        self, chat_id: int, message_id: int, content: str, *, keep_tail: bool
    ) -> StoredMessage:
        """A version of a message with other text; the former stays as it was.

        With `keep_tail`, what follows it on the shown branch follows the new version too.
        """
        with self.transaction():
            old = self.message(message_id, chat_id)
            tail = self._after(chat_id, message_id) if keep_tail else []
            new = self.append(chat_id, old.parent_id, old.role, content, about=old.about)
            last = new
            for message in tail:
                last = self.append(
                    chat_id, last.id, message.role, message.content,
                    state="complete" if message.state == "streaming" else message.state,
                    about=message.about,
                )  # fmt: skip
            return new

    def show(self, chat_id: int, leaf_id: int | None) -> None:
        """Show the branch that ends in `leaf_id`; None shows an empty chat."""
        with self.transaction() as db:
            db.execute(
                "UPDATE chats SET leaf_id = ?, updated_at = ? WHERE id = ?",
                (leaf_id, time.time(), chat_id),
            )

    def show_version(self, chat_id: int, message_id: int) -> None:
        """Show the branch through `message_id`, down to its newest end."""
        with self.transaction() as db:
            self.message(message_id, chat_id)
            self.show(chat_id, self._newest_end(db, message_id))

    def delete_message(self, chat_id: int, message_id: int) -> None:
        """Hide a message; what follows it stays. A version next to a hidden leaf is shown."""
        with self.transaction() as db:
            message = self.message(message_id, chat_id)
            shown = self.branch(chat_id)
            db.execute("UPDATE messages SET deleted_at = ? WHERE id = ?", (time.time(), message_id))
            if shown and shown[-1].id == message_id:
                others = self._versions(chat_id).get((message.parent_id, message.role), ())
                if others:
                    self.show_version(chat_id, others[-1])

    def restore_message(self, chat_id: int, message_id: int) -> None:
        """Bring a hidden message back, and show it."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET deleted_at = NULL WHERE id = ? AND chat_id = ?",
                (message_id, chat_id),
            )
            if message_id not in {m.id for m in self.branch(chat_id)}:
                self.show_version(chat_id, message_id)

    def mark_interrupted_replies(self) -> int:
        """After a start: replies that the last process left in the middle are cut."""
        with self.transaction() as db:
            cursor = db.execute(
                "UPDATE messages SET state = 'cut',"
                " error = 'Lantern was ended while this reply was being written.'"
                " WHERE state = 'streaming'"
            )
            return cursor.rowcount

    # -- inside a transaction -----------------------------------------------------------

    def _newest_end(self, db: sqlite3.Connection, message_id: int) -> int:
        """The newest message below this one that is not hidden; itself where there is none."""
        row = db.execute(
            "WITH RECURSIVE below(id, deleted_at) AS ("
            "  SELECT id, deleted_at FROM messages WHERE parent_id = ?"
            "  UNION ALL SELECT m.id, m.deleted_at FROM messages m"
            "  JOIN below b ON m.parent_id = b.id)"
            " SELECT max(id) AS id FROM below WHERE deleted_at IS NULL",
            (message_id,),
        ).fetchone()
        return message_id if row["id"] is None else int(row["id"])

    def _after(self, chat_id: int, message_id: int) -> list[StoredMessage]:
        branch = self.branch(chat_id)
        place = next((i for i, m in enumerate(branch) if m.id == message_id), len(branch))
        return branch[place + 1 :]

    def _versions(self, chat_id: int) -> dict[tuple[int | None, str], tuple[int, ...]]:
        found: dict[tuple[int | None, str], tuple[int, ...]] = {}
        for row in self._db.execute(
            "SELECT id, parent_id, role FROM messages"
            " WHERE chat_id = ? AND deleted_at IS NULL ORDER BY id",
            (chat_id,),
        ):
            key = (row["parent_id"], row["role"])
            found[key] = (*found.get(key, ()), row["id"])
        return found


def _chat(row: sqlite3.Row) -> Chat:
    fields = dict(row)
    text = fields.pop("adapters")
    mix = None if text is None else tuple((name, weight) for name, weight in json.loads(text))
    return Chat(**fields, adapters=mix)


def _message(row: sqlite3.Row, versions: tuple[int, ...]) -> StoredMessage:
    return StoredMessage(
        id=row["id"],
        chat_id=row["chat_id"],
        parent_id=row["parent_id"],
        role=row["role"],
        content=row["content"],
        state=row["state"],
        error=row["error"],
        about=json.loads(row["about"]),
        created_at=row["created_at"],
        versions=versions,
    )


def _content(text: str) -> str:
    if len(text) > MAX_MESSAGE_CHARS:
        raise InvalidInputError(
            f"The text has {len(text):,} characters; a message holds {MAX_MESSAGE_CHARS:,}.",
            "Shorten it.",
        )
    return storable(text)


def storable(text: str) -> str:
    """`text` without lone surrogates (half an emoji), which cannot be stored as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _no_chat() -> NotFoundError:
    return NotFoundError("This chat does not exist.", "Choose another one at the left.")


def _title(text: str) -> str:
    return " ".join(_content(text).split())[:_MAX_TITLE_CHARS]
