"""`AttachmentStore`: the text of files that people attach to their messages.

An attachment belongs to a chat. It waits there until a message is sent, and then belongs to
that message and to each later version of it. What is never sent is forgotten after a day.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from modules.chat.database import Database, storable
from modules.chat.document_text import Extracted
from modules.errors import InvalidInputError, NotFoundError

__all__ = ["Attachment", "AttachmentStore", "by_message", "inherit", "take_waiting"]

_MAX_WAITING = 20
_KEPT_S = 24 * 3600.0
_FACTS = "a.id, a.name, a.size, a.characters, a.note"
_WAITING = "NOT EXISTS (SELECT 1 FROM message_attachments l WHERE l.attachment_id = a.id)"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of which the text was taken. `size` is the file's, in bytes.

    `note` says what of it is missing from the text, if something is.
    """

    id: int
    name: str
    size: int
    characters: int
    note: str


class AttachmentStore:
    """The attachments in the file of a `Database`."""

    def __init__(self, store: Database) -> None:
        self._store = store

    def add(self, chat_id: int, name: str, size: int, found: Extracted) -> Attachment:
        """Have a file wait for the next message of a chat. Raises InvalidInputError."""
        self.sweep()
        with self._store.transaction() as db:
            if len(waiting := self.waiting(chat_id)) >= _MAX_WAITING:
                raise InvalidInputError(
                    f"{len(waiting)} files wait to be sent, and a message holds no more.",
                    "Send them, or remove one.",
                    field="file",
                )
            db.execute(
                "INSERT INTO attachments (chat_id, name, size, text, characters, note, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    chat_id,
                    storable(name),
                    size,
                    storable(found.text),
                    len(found.text),
                    found.note,
                    time.time(),
                ),
            )
            return self.waiting(chat_id)[-1]

    def waiting(self, chat_id: int) -> tuple[Attachment, ...]:
        """What the next message of a chat will have, oldest first."""
        with self._store.reading() as db:
            rows = db.execute(
                f"SELECT {_FACTS} FROM attachments a"  # noqa: S608 - text of ours
                f" WHERE a.chat_id = ? AND {_WAITING} ORDER BY a.id",
                (chat_id,),
            )
            return tuple(Attachment(**dict(row)) for row in rows)

    def remove(self, chat_id: int, attachment_id: int) -> None:
        """Forget a file that waits; one that was sent stays. Raises NotFoundError."""
        with self._store.transaction() as db:
            cursor = db.execute(
                f"DELETE FROM attachments AS a WHERE a.id = ? AND a.chat_id = ? AND {_WAITING}",  # noqa: S608
                (attachment_id, chat_id),
            )
            if not cursor.rowcount:
                raise _no_file()

    def read(self, chat_id: int, attachment_id: int) -> tuple[Attachment, str]:
        """A file of a chat, and its text. Raises NotFoundError."""
        with self._store.reading() as db:
            row = db.execute(
                f"SELECT {_FACTS}, a.text FROM attachments a WHERE a.id = ? AND a.chat_id = ?",  # noqa: S608
                (attachment_id, chat_id),
            ).fetchone()
        if row is None:
            raise _no_file()
        facts = dict(row)
        text = facts.pop("text")
        return Attachment(**facts), text

    def texts(self, attachments: Iterable[Attachment]) -> dict[int, str]:
        """The texts by the ids of their files."""
        ids = json.dumps([one.id for one in attachments])
        with self._store.reading() as db:
            rows = db.execute(
                "SELECT id, text FROM attachments WHERE id IN (SELECT value FROM json_each(?))",
                (ids,),
            )
            return {row["id"]: row["text"] for row in rows}

    def sweep(self) -> None:
        """Forget what has waited for more than a day, in all chats."""
        with self._store.transaction() as db:
            db.execute(
                f"DELETE FROM attachments AS a WHERE a.created_at < ? AND {_WAITING}",  # noqa: S608
                (time.time() - _KEPT_S,),
            )


# -- inside a transaction of the chats ------------------------------------------------------


def by_message(db: sqlite3.Connection, chat_id: int) -> dict[int, tuple[Attachment, ...]]:
    """The files of each message of a chat that has some."""
    found: defaultdict[int, tuple[Attachment, ...]] = defaultdict(tuple)
    for row in db.execute(
        f"SELECT l.message_id, {_FACTS} FROM attachments a"  # noqa: S608 - text of ours
        " JOIN message_attachments l ON l.attachment_id = a.id WHERE a.chat_id = ? ORDER BY a.id",
        (chat_id,),
    ):
        facts = dict(row)
        found[facts.pop("message_id")] += (Attachment(**facts),)
    return found


def take_waiting(db: sqlite3.Connection, chat_id: int, message_id: int) -> None:
    """Give a message what waits in its chat."""
    db.execute(
        "INSERT INTO message_attachments (message_id, attachment_id)"  # noqa: S608 - text of ours
        f" SELECT ?, a.id FROM attachments a WHERE a.chat_id = ? AND {_WAITING}",
        (message_id, chat_id),
    )


def inherit(db: sqlite3.Connection, old_id: int, new_id: int) -> None:
    """Give a version of a message the files of the former one."""
    db.execute(
        "INSERT INTO message_attachments (message_id, attachment_id)"
        " SELECT ?, attachment_id FROM message_attachments WHERE message_id = ?",
        (new_id, old_id),
    )


def _no_file() -> NotFoundError:
    return NotFoundError("This file is not in the chat.", "Reload the page.")
