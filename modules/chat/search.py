"""Finding messages by their words, in SQLite's full-text index (see migrations.py).

The index has every message but replies that are being written; triggers fill it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modules.chat.database import Database, storable

__all__ = ["HIT_BEGINS", "HIT_ENDS", "MAX_QUERY_CHARS", "Hit", "search"]

HIT_BEGINS, HIT_ENDS = "\x02", "\x03"
"""What stands around the words that were looked for, in a passage."""

MAX_QUERY_CHARS = 20_000
_MAX_WORDS = 12
_MAX_WORD_CHARS = 64
_HITS = 60
_SCANNED = 240
_PASSAGE_WORDS = 16


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that has all the words. `at` is Unix seconds."""

    chat_id: int
    message_id: int
    title: str
    role: str
    at: float
    passage: str


def search(store: Database, owner: str, text: str) -> list[Hit]:
    """The newest messages of an owner's chats that have each word of `text`, or begin one with it.

    Nothing in `text` is an operator. Upper case and accents make no difference. What is
    deleted is not found, and a passage that stands in several branches is found once.
    """
    query = _query(text)
    if not query:
        return []
    with store.reading() as db:
        # CROSS JOIN: the index is read newest first, and no further than is shown.
        rows = db.execute(
            "SELECT m.chat_id, m.id AS message_id, c.title, m.role, m.created_at AS at,"
            " snippet(messages_found, 0, ?, ?, '…', ?) AS passage FROM messages_found"
            " CROSS JOIN messages m ON m.id = messages_found.rowid"
            " CROSS JOIN chats c ON c.id = m.chat_id"
            " WHERE messages_found MATCH ? AND c.owner = ?"
            " AND c.deleted_at IS NULL AND m.deleted_at IS NULL"
            " ORDER BY messages_found.rowid DESC LIMIT ?",
            (HIT_BEGINS, HIT_ENDS, _PASSAGE_WORDS, query, owner, _SCANNED),
        )
        found: dict[tuple[int, str], Hit] = {}
        for row in rows:
            hit = Hit(**dict(row) | {"passage": " ".join(row["passage"].split())})
            found.setdefault((hit.chat_id, hit.passage), hit)
            if len(found) == _HITS:
                break
    return list(found.values())


def _query(text: str) -> str:
    """`text` in the index's own language: each word quoted, and a prefix."""
    words = [word for word in storable(text).replace("\0", " ").split() if re.search(r"\w", word)]
    quoted = (word[:_MAX_WORD_CHARS].replace('"', '""') for word in words[:_MAX_WORDS])
    return " ".join(f'"{word}"*' for word in quoted)
