"""`DraftStore`: the texts of the Default and Notebook modes, as an append-only history.

Each generation adds an entry, so that *undo* steps back and nothing typed is lost when
the page is reloaded. What is being typed is one entry that grows; taking much away begins
another.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import Literal

from modules.chat.database import Database, storable

__all__ = ["Draft", "DraftKind", "DraftStore"]

DraftKind = Literal["default", "notebook"]

_KEPT = 200
"""Entries kept for each owner and kind."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What stood in a mode at one moment; `reply` is empty in the notebook."""

    text: str = ""
    reply: str = ""

    @property
    def checksum(self) -> int:
        """Adler-32 of both texts, by which a page tells which draft it began to change."""
        return zlib.adler32(f"{self.text}\0{self.reply}".encode("utf-8", "replace"))


class DraftStore:
    """The drafts in the file of a `Database`."""

    def __init__(self, store: Database) -> None:
        self._store = store
        self._growing: dict[tuple[str, DraftKind], int] = {}

    def latest(self, owner: str, kind: DraftKind) -> Draft:
        """What stands there now; an empty draft where there is none."""
        with self._store.transaction() as db:
            row = db.execute(
                "SELECT text, reply FROM drafts WHERE owner = ? AND kind = ?"
                " AND undone_at IS NULL ORDER BY id DESC LIMIT 1",
                (owner, kind),
            ).fetchone()
        return Draft(row["text"], row["reply"]) if row else Draft()

    def save(self, owner: str, kind: DraftKind, draft: Draft) -> None:
        """Add an entry, unless it says what the latest one says."""
        draft = Draft(storable(draft.text), storable(draft.reply))
        with self._store.transaction():
            self._growing.pop((owner, kind), None)
            if draft == self.latest(owner, kind):
                return
            self._insert(owner, kind, draft)

    def keep(self, owner: str, kind: DraftKind, draft: Draft, before: int | None) -> Draft | None:
        """Save what is being typed over the draft with the checksum `before`.

        Where another one stands there by now, nothing is saved, and that one is returned.
        Without `before` it becomes the latest in any case, and the other stays in the history.
        """
        draft = Draft(storable(draft.text), storable(draft.reply))
        with self._store.transaction() as db:
            latest = self.latest(owner, kind)
            if draft == latest:
                return None
            if before is not None and before != latest.checksum:
                return latest
            growing = self._growing.get((owner, kind))
            if growing and before is not None and len(draft.text) >= len(latest.text):
                db.execute(
                    "UPDATE drafts SET text = ?, reply = ? WHERE id = ?",
                    (draft.text, draft.reply, growing),
                )
            else:
                self._growing[owner, kind] = self._insert(owner, kind, draft)
        return None

    def _insert(self, owner: str, kind: DraftKind, draft: Draft) -> int:
        """Add an entry within a transaction; returns its id."""
        with self._store.transaction() as db:
            made = db.execute(
                "INSERT INTO drafts (owner, kind, text, reply, created_at) VALUES (?, ?, ?, ?, ?)",
                (owner, kind, draft.text, draft.reply, time.time()),
            ).lastrowid
            db.execute(
                "DELETE FROM drafts WHERE owner = ? AND kind = ? AND id NOT IN (SELECT id FROM"
                " drafts WHERE owner = ? AND kind = ? ORDER BY id DESC LIMIT ?)",
                (owner, kind, owner, kind, _KEPT),
            )
        return int(made or 0)

    def undo(self, owner: str, kind: DraftKind) -> Draft:
        """Step back to the entry before the latest, and return it."""
        with self._store.transaction() as db:
            self._growing.pop((owner, kind), None)
            db.execute(
                "UPDATE drafts SET undone_at = ? WHERE id = (SELECT max(id) FROM drafts"
                " WHERE owner = ? AND kind = ? AND undone_at IS NULL)",
                (time.time(), owner, kind),
            )
        return self.latest(owner, kind)
