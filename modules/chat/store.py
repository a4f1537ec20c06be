"""`ChatStore`: every chat, durable, in one SQLite file.

Messages form a tree: an edit or a new reply adds a sibling and overwrites nothing, and
what is deleted is only marked, so that it can be brought back. A chat remembers the leaf
of the branch that is shown; the branch is the way from there to the root.

Each method is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from modules.chat.attachments import Attachment, by_message, inherit, take_waiting
from modules.chat.database import Database, no_chat, storable
from modules.chat.messages import Role
from modules.chat.reply_tokens import inherit_tokens
from modules.chat.tools.call import ReplyCall, calls_of, moved, settled, written
from modules.engine.mix import Mix
from modules.errors import InvalidInputError, NotFoundError

__all__ = ["MAX_MESSAGE_CHARS", "Chat", "ChatStore", "Mode", "State", "StoredMessage"]

Mode = Literal["instruct", "chat-instruct", "chat"]
"""How a prompt is made: by the chat template; by it, around a transcript; or as a transcript."""

State = Literal["complete", "streaming", "stopped", "cut", "failed"]
"""`stopped`: by the user. `cut`: by a fault, with some text. `failed`: without any."""

MAX_MESSAGE_CHARS = 1_000_000
_MAX_TITLE_CHARS = 120
_CHATS = (
    "SELECT id, owner, title, system, leaf_id, updated_at, adapters, mode, character, folder,"
    " pinned, tools, always FROM chats WHERE owner = ? AND deleted_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation. Times are Unix seconds; `leaf_id` is None while it is empty.

    `adapters` are the LoRAs that its replies are written with; None: what is applied to all.
    `tools` are the names of those that its replies may call; by name, `always` has the marks of
    those that run without being asked about.
    """

    id: int
    owner: str
    title: str
    system: str
    leaf_id: int | None
    updated_at: float
    adapters: Mix | None = None
    mode: Mode = "instruct"
    character: str = ""
    folder: str = ""
    pinned: bool = False
    tools: tuple[str, ...] = ()
    always: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One turn on the shown branch.

    `versions` are the ids of the alternatives in this place, itself included, oldest
    first. The model sees `content`, and the page shows `visible` in its place where there is
    one. `about` holds what produced a reply: model, seed, parameters, speed.
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
    pinned: bool = False
    attachments: tuple[Attachment, ...] = ()
    calls: tuple[ReplyCall, ...] = ()
    visible: str | None = None

    @property
    def shown(self) -> str:
        """What the page shows of it, which an extension may have altered."""
        return self.content if self.visible is None else self.visible

    @property
    def waits(self) -> bool:
        """Whether it is a reply that wants to call a tool, and the owner has not said so."""
        return any(call.state == "asked" for call in self.calls)


class ChatStore(Database):
    """The chats in a database."""

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
        with self.reading() as db:
            rows = db.execute(_CHATS + " ORDER BY updated_at DESC, id DESC", (owner,))
            return [_chat(row) for row in rows]

    def chat(self, chat_id: int, owner: str) -> Chat:
        """One chat. Raises NotFoundError where there is none, or it is another's."""
        with self.reading() as db:
            row = db.execute(_CHATS + " AND id = ?", (owner, chat_id)).fetchone()
        if row is None:
            raise no_chat()
        return _chat(row)

    def change_chat(self, chat_id: int, **columns: Any) -> None:
        """Give a chat other values in some of the columns that `Chat` names.

        Raises InvalidInputError for a text that is too long.
        """
        stored = {name: _column(name, value) for name, value in columns.items()}
        names = ", ".join(f"{name} = ?" for name in stored)
        with self.transaction() as db:
            db.execute(f"UPDATE chats SET {names} WHERE id = ?", (*stored.values(), chat_id))  # noqa: S608 - names of ours

    def delete_chat(self, chat_id: int, owner: str, *, undo: bool = False) -> None:
        """Hide a chat, or bring it back. Raises NotFoundError."""
        with self.transaction() as db:
            when = None if undo else time.time()
            cursor = db.execute(
                "UPDATE chats SET deleted_at = ? WHERE id = ? AND owner = ?",
                (when, chat_id, owner),
            )
            if not cursor.rowcount:
                raise no_chat()

    # -- messages -----------------------------------------------------------------------

    def branch(self, chat_id: int, leaf_id: int | None = None) -> list[StoredMessage]:
        """The shown branch, from its first message to its last, without deleted ones.

        With `leaf_id`, the branch that ends there instead.
        """
        with self.reading() as db:
            rows = db.execute(
                "WITH RECURSIVE branch(id, parent_id, depth) AS ("
                "  SELECT m.id, m.parent_id, 0 FROM messages m"
                "  JOIN chats c ON m.id = coalesce(?, c.leaf_id) WHERE c.id = ?"
                "  UNION ALL SELECT m.id, m.parent_id, b.depth + 1 FROM messages m"
                "  JOIN branch b ON m.id = b.parent_id)"
                " SELECT m.* FROM messages m JOIN branch b ON b.id = m.id"
                " WHERE m.deleted_at IS NULL ORDER BY b.depth DESC",
                (leaf_id, chat_id),
            ).fetchall()
            versions = self._versions(chat_id)
            files = by_message(db, chat_id)
        return [
            _message(row, versions[(row["parent_id"], row["role"])], files.get(row["id"], ()))
            for row in rows
        ]

    def message(self, message_id: int, chat_id: int) -> StoredMessage:
        """One message of a chat, whether it is shown or not. Raises NotFoundError."""
        with self.reading() as db:
            row = db.execute(
                "SELECT * FROM messages WHERE id = ? AND chat_id = ?", (message_id, chat_id)
            ).fetchone()
        if row is None:
            raise NotFoundError("This message does not exist.", "Reload the page.")
        return _message(row, ())

    def versions_of(self, message: StoredMessage) -> tuple[int, ...]:
        """The ids of the alternatives in the place of a message, oldest first."""
        with self.reading():
            return self._versions(message.chat_id).get((message.parent_id, message.role), ())

    def append(
        self,
        chat_id: int,
        parent_id: int | None,
        role: Role,
        content: str,
        *,
        state: State = "complete",
        about: dict[str, Any] | None = None,
        visible: str | None = None,
    ) -> StoredMessage:
        """Add a message below `parent_id`, and show the branch that ends in it."""
        now = time.time()
        with self.transaction() as db:
            if parent_id is not None:
                self.message(parent_id, chat_id)
            cursor = db.execute(
                "INSERT INTO messages"
                " (chat_id, parent_id, role, content, state, about, created_at, visible)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    chat_id, parent_id, role, _content(content), state, json.dumps(about or {}),
                    now, _visible(content, visible),
                ),
            )  # fmt: skip
            assert cursor.lastrowid is not None
            self.show(chat_id, cursor.lastrowid)
            return self.message(cursor.lastrowid, chat_id)

    def send(
        self, chat_id: int, parent_id: int | None, text: str, visible: str | None = None
    ) -> StoredMessage:
        """Add a message of the user's, with the attachments that wait in the chat."""
        with self.transaction() as db:
            message = self.append(chat_id, parent_id, "user", text, visible=visible)
            take_waiting(db, chat_id, message.id)
            return message

    def pin(self, chat_id: int, message_id: int, pinned: bool) -> None:
        """Have a message stay in the context, or not. Raises NotFoundError."""
        with self.transaction() as db:
            self.message(message_id, chat_id)
            db.execute("UPDATE messages SET pinned = ? WHERE id = ?", (pinned, message_id))

    def save_reply(
        self,
        message_id: int,
        content: str,
        state: State,
        error: str = "",
        about: dict[str, Any] | None = None,
        calls: tuple[ReplyCall, ...] = (),
        visible: str | None = None,
    ) -> None:
        """Write down how far a reply is. Only a streaming reply is ever written again."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET content = ?, state = ?, error = ?, about = ?, calls = ?,"
                " visible = ? WHERE id = ? AND state = 'streaming'",
                (
                    storable(content), state, error, json.dumps(about or {}),
                    storable(written(calls)), None if visible is None else storable(visible),
                    message_id,
                ),
            )  # fmt: skip

    def set_calls(self, message_id: int, calls: tuple[ReplyCall, ...]) -> None:
        """Write down what was decided about the calls of a reply."""
        with self.transaction() as db:
            text = storable(written(calls))
            db.execute("UPDATE messages SET calls = ? WHERE id = ?", (text, message_id))

    def resume(self, message_id: int) -> None:
        """Have a reply that waited be written on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET state = 'streaming', error = '' WHERE id = ?", (message_id,)
            )

    def edit(
        self,
        chat_id: int,
        message_id: int,
        content: str,
        *,
        keep_tail: bool,
        visible: str | None = None,
    ) -> StoredMessage:
        """A version of a message with other text; the former stays as it was.

        With `keep_tail`, what follows it on the shown branch follows the new version too.
        """
        with self.transaction() as db:
            old = self.message(message_id, chat_id)
            tail = self._after(chat_id, message_id) if keep_tail else []
            about = old.about and old.about | {"edited": True}
            calls = moved(old.calls, old.content, content)
            edited = replace(
                old, content=content, state="complete", about=about, calls=calls, visible=visible
            )
            new = last = self._version(db, edited, old.parent_id)
            for message in tail:
                last = self._version(db, message, last.id)
                inherit_tokens(db, message.id, last.id)
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
        """Bring a hidden message back, with what was hidden together with it, and show it."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET deleted_at = NULL WHERE chat_id = ?"
                " AND deleted_at = (SELECT deleted_at FROM messages WHERE id = ?)",
                (chat_id, message_id),
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

    def _version(
        self, db: sqlite3.Connection, message: StoredMessage, parent_id: int | None
    ) -> StoredMessage:
        """Add `message` once more, below `parent_id`: pinned as it is, with its attachments."""
        new = self.append(
            message.chat_id, parent_id, message.role, message.content,
            state="complete" if message.state == "streaming" else message.state,
            about=message.about, visible=message.visible,
        )  # fmt: skip
        inherit(db, message.id, new.id)
        if message.calls:
            self.set_calls(new.id, message.calls)
        if message.pinned:
            self.pin(message.chat_id, new.id, True)
        return new

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
    pinned = bool(fields.pop("pinned"))
    tools, always = tuple(json.loads(fields.pop("tools"))), json.loads(fields.pop("always"))
    return Chat(**fields, adapters=mix, pinned=pinned, tools=tools, always=always)


def _column(name: str, value: Any) -> Any:
    """`value` as the table holds it."""
    match name:
        case "title" | "folder":
            return _title(value)
        case "adapters":
            return None if value is None else json.dumps(value)
        case "tools" | "always":
            return json.dumps(value)
        case _:
            return _content(value) if isinstance(value, str) else value


def _message(
    row: sqlite3.Row, versions: tuple[int, ...], attachments: tuple[Attachment, ...] = ()
) -> StoredMessage:
    calls = calls_of(row["calls"])
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
        pinned=bool(row["pinned"]),
        attachments=attachments,
        visible=row["visible"],
        calls=calls if row["state"] == "streaming" else settled(calls),
    )


def _content(text: str) -> str:
    if len(text) > MAX_MESSAGE_CHARS:
        raise InvalidInputError(
            f"The text has {len(text):,} characters; a message holds {MAX_MESSAGE_CHARS:,}.",
            "Shorten it.",
        )
    return storable(text)


def _visible(content: str, visible: str | None) -> str | None:
    return None if visible in (None, content) else _content(visible)


def _title(text: str) -> str:
    return " ".join(_content(text).split())[:_MAX_TITLE_CHARS]
