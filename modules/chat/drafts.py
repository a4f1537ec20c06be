"""`DraftStore`: the texts of the Default and Notebook modes, as an append-only history.

Each generation adds an entry, so that *undo* steps back and nothing typed is lost when
the page is reloaded.
"""

from __future__ import annotations

import time
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


class DraftStore:
    """The drafts in the file of a `Database`."""

    def __init__(self, store: Database) -> None:
        self._store = store

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
        with self._store.transaction() as db:
            if draft == self.latest(owner, kind):
                return
            db.execute(
                "INSERT INTO drafts (owner, kind, text, reply, created_at) VALUES (?, ?, ?, ?, ?)",
                (owner, kind, draft.text, draft.reply, time.time()),
            )
            db.execute(
                "DELETE FROM drafts WHERE owner = ? AND kind = ? AND id NOT IN (SELECT id FROM"
                " drafts WHERE owner = ? AND kind = ? ORDER BY id DESC LIMIT ?)",
                (owner, kind, owner, kind, _KEPT),
            )

    def undo(self, owner: str, kind: DraftKind) -> Draft:
        """Step back to the entry before the latest, and return it."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE drafts SET undone_at = ? WHERE id = (SELECT max(id) FROM drafts"
                " WHERE owner = ? AND kind = ? AND undone_at IS NULL)",
                (time.time(), owner, kind),
            )
        return self.latest(owner, kind)
