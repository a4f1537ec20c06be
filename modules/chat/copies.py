"""`ChatCopy`: a whole chat apart from any store, to be written into a file or another chat."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

from modules.chat.attachments import Attachment, AttachmentStore, by_message
from modules.chat.database import storable
from modules.chat.history import with_files
from modules.chat.messages import Role
from modules.chat.store import Chat, ChatStore, Mode, State, StoredMessage
from modules.chat.tools.call import ReplyCall, calls_of, ended, written
from modules.engine.mix import Mix

__all__ = ["ChatCopy", "FileCopy", "MessageCopy", "add_copy", "copy_of", "copy_of_branch"]


@dataclass(frozen=True, slots=True)
class FileCopy:
    """An attachment: what `Attachment` says of it, and its text."""

    id: int
    name: str
    size: int
    note: str
    text: str


@dataclass(frozen=True, slots=True)
class MessageCopy:
    """One message. `id`, `parent` and those of the files are of this copy alone."""

    id: int
    parent: int | None
    role: Role
    content: str
    state: State = "complete"
    error: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    pinned: bool = False
    files: tuple[int, ...] = ()
    calls: tuple[ReplyCall, ...] = ()
    visible: str | None = None


@dataclass(frozen=True, slots=True)
class ChatCopy:
    """A chat with its messages, each after its parent; `leaf` ends the shown branch."""

    title: str = ""
    system: str = ""
    mode: Mode = "instruct"
    character: str = ""
    folder: str = ""
    pinned: bool = False
    adapters: Mix | None = None
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    messages: tuple[MessageCopy, ...] = ()
    leaf: int | None = None
    files: tuple[FileCopy, ...] = ()

    def branch(self) -> list[MessageCopy]:
        """The messages of the shown branch, the first one first."""
        by_id = {message.id: message for message in self.messages}
        branch, at = [], self.leaf
        while at is not None:
            branch.append(by_id[at])
            at = by_id[at].parent
        return branch[::-1]

    def whole_text(self, message: MessageCopy) -> str:
        """A message after the texts of its files, as the model sees it."""
        own = [file for file in self.files if file.id in message.files]
        files = [Attachment(f.id, f.name, f.size, len(f.text), f.note) for f in own]
        return with_files(message.content, files, {file.id: file.text for file in own})


def copy_of(store: ChatStore, chat: Chat) -> ChatCopy:
    """The whole tree, without what is deleted."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT * FROM messages WHERE chat_id = ? ORDER BY id", (chat.id,)
        ).fetchall()
        files = by_message(db, chat.id)
        (created_at,) = db.execute(
            "SELECT created_at FROM chats WHERE id = ?", (chat.id,)
        ).fetchone()
    standing: dict[int | None, int | None] = {None: None}
    messages = []
    for row in rows:
        parent = standing[row["parent_id"]]
        standing[row["id"]] = row["id"] if row["deleted_at"] is None else parent
        if row["deleted_at"] is None:
            messages.append(
                MessageCopy(
                    row["id"], parent, row["role"], row["content"],
                    state=_ended(row["state"]), error=row["error"],
                    about=json.loads(row["about"]), created_at=row["created_at"],
                    pinned=bool(row["pinned"]),
                    files=tuple(file.id for file in files.get(row["id"], ())),
                    calls=ended(calls_of(row["calls"])), visible=row["visible"],
                )
            )  # fmt: skip
    copy = _copy(store, chat, messages, [file for some in files.values() for file in some])
    return replace(copy, leaf=standing[chat.leaf_id], created_at=created_at)


def copy_of_branch(store: ChatStore, chat: Chat, branch: list[StoredMessage]) -> ChatCopy:
    """A branch, or its beginning, as a chat of its own."""
    messages: list[MessageCopy] = []
    for stored in branch:
        messages.append(
            MessageCopy(
                stored.id, messages[-1].id if messages else None, stored.role, stored.content,
                state=_ended(stored.state), error=stored.error, about=stored.about,
                created_at=stored.created_at, pinned=stored.pinned,
                files=tuple(file.id for file in stored.attachments), calls=ended(stored.calls),
                visible=stored.visible,
            )
        )  # fmt: skip
    files = [file for stored in branch for file in stored.attachments]
    leaf = messages[-1].id if messages else None
    return replace(_copy(store, chat, messages, files), leaf=leaf, updated_at=time.time())


def add_copy(store: ChatStore, owner: str, copy: ChatCopy) -> int:
    """Write a copy into a store as a new chat, and return its id. Raises InvalidInputError."""
    ids: dict[int | None, int | None] = {None: None}
    file_ids: dict[int, int | None] = {}
    with store.transaction() as db:
        chat = store.create_chat(owner, copy.title)
        store.change_chat(
            chat.id, system=copy.system, mode=copy.mode, character=copy.character,
            folder=copy.folder, pinned=copy.pinned, adapters=copy.adapters,
        )  # fmt: skip
        for file in copy.files:
            cursor = db.execute(
                "INSERT INTO attachments (chat_id, name, size, text, characters, note, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (chat.id, file.name, file.size, file.text, len(file.text), file.note, time.time()),
            )
            file_ids[file.id] = cursor.lastrowid
        for message in copy.messages:
            cursor = db.execute(
                "INSERT INTO messages (chat_id, parent_id, role, content, state, error, about,"
                " created_at, pinned, calls, visible) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    chat.id, ids[message.parent], message.role, storable(message.content),
                    message.state, storable(message.error), json.dumps(message.about),
                    message.created_at, message.pinned,
                    storable(written(message.calls)),
                    None if message.visible is None else storable(message.visible),
                ),
            )  # fmt: skip
            ids[message.id] = cursor.lastrowid
            db.executemany(
                "INSERT INTO message_attachments (message_id, attachment_id) VALUES (?, ?)",
                [(cursor.lastrowid, file_ids[file]) for file in message.files],
            )
        db.execute(
            "UPDATE chats SET leaf_id = ?, created_at = ?, updated_at = ? WHERE id = ?",
            (ids[copy.leaf], copy.created_at, copy.updated_at, chat.id),
        )
    return chat.id


def _copy(
    store: ChatStore, chat: Chat, messages: list[MessageCopy], attachments: list[Attachment]
) -> ChatCopy:
    once = {one.id: one for one in attachments}
    texts = AttachmentStore(store).texts(once.values()) if once else {}
    files = tuple(
        FileCopy(one.id, one.name, one.size, one.note, texts[one.id]) for one in once.values()
    )
    return ChatCopy(
        title=chat.title, system=chat.system, mode=chat.mode, character=chat.character,
        folder=chat.folder, pinned=chat.pinned, adapters=chat.adapters,
        updated_at=chat.updated_at, messages=tuple(messages), files=files,
    )  # fmt: skip


def _ended(state: State) -> State:
    """A reply that is being written is, in a copy, one that was stopped."""
    return "stopped" if state == "streaming" else state
