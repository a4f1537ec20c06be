"""`Stores`: where a chat is, on the disk or in memory alone. Its id tells which.

An incognito chat never reaches the disk. It is gone when the process ends, or when
nobody has had it open for a day.
"""

from __future__ import annotations

import time
from pathlib import Path

from modules.chat.store import Chat, ChatStore

__all__ = ["Stores", "is_incognito"]

_FIRST = 2**40
"""Ids from here on are of incognito chats and their messages; no file has as many."""

_KEPT_S = 24 * 3600.0


def is_incognito(chat_id: int) -> bool:
    """Whether a chat is in memory alone."""
    return chat_id >= _FIRST


class Stores:
    """The chats on the disk, and those that are in memory alone."""

    def __init__(self, kept: ChatStore) -> None:
        self.kept = kept
        self.incognito = ChatStore(Path(":memory:"))
        self._seen: dict[int, float] = {}
        # From the present time on, so that a tab that was open during a restart cannot take
        # a new chat for its own.
        first = _FIRST + int(time.time() * 1000)
        with self.incognito.reading() as db:
            db.execute("PRAGMA temp_store = MEMORY")
        with self.incognito.transaction() as db:
            ids = [("chats", first), ("messages", first)]
            db.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", ids)

    def of(self, chat_id: int) -> ChatStore:
        """The store that has this chat, if there is one."""
        return self.incognito if is_incognito(chat_id) else self.kept

    @property
    def both(self) -> tuple[ChatStore, ChatStore]:
        """Both of them, what is in memory first."""
        return self.incognito, self.kept

    def chats(self, owner: str) -> list[Chat]:
        """The owner's chats: first those in memory, then the others; the latest first."""
        self._forget()
        return [chat for store in self.both for chat in store.chats(owner)]

    def see(self, chat_id: int) -> None:
        """Note that somebody has this chat open."""
        if is_incognito(chat_id):
            self._seen[chat_id] = time.time()

    def _forget(self) -> None:
        """Delete what was in memory for a day without being open or changed."""
        before = time.time() - _KEPT_S
        with self.incognito.transaction() as db:
            old = db.execute("SELECT id FROM chats WHERE updated_at < ?", (before,)).fetchall()
            for (chat_id,) in old:
                if self._seen.get(chat_id, 0.0) < before:
                    db.execute("DELETE FROM messages WHERE chat_id = ?", (chat_id,))
                    db.execute("DELETE FROM chats WHERE id = ?", (chat_id,))
                    self._seen.pop(chat_id, None)
