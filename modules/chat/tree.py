"""A chat as the tree that it is: every branch, and the ways from one to another."""

from __future__ import annotations

import time
from dataclasses import dataclass

from modules.chat.messages import Role
from modules.chat.store import ChatStore, State
from modules.errors import InvalidInputError

__all__ = ["Node", "Removed", "after", "remove_turn", "tree_of"]

_FIRST_CHARS = 120


@dataclass(frozen=True, slots=True)
class Node:
    """A message in the tree. `parent_id` skips those that are deleted; `words` are its first."""

    id: int
    parent_id: int | None
    role: Role
    state: State
    words: str
    shown: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """A turn that was removed: what the user said, and the message to restore it by."""

    text: str
    message_id: int


def tree_of(store: ChatStore, chat_id: int) -> list[Node]:
    """The messages that are not deleted, parents before children, older versions first."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT id, parent_id, role, state, substr(content, 1, ?) AS words,"
            " deleted_at IS NOT NULL AS deleted FROM messages WHERE chat_id = ? ORDER BY id",
            (_FIRST_CHARS, chat_id),
        ).fetchall()
    shown = {message.id for message in store.branch(chat_id)}
    standing: dict[int | None, int | None] = {None: None}
    nodes = []
    for row in rows:
        parent = standing[row["parent_id"]]
        standing[row["id"]] = parent if row["deleted"] else row["id"]
        if not row["deleted"]:
            words = " ".join(row["words"].split())
            nodes.append(
                Node(row["id"], parent, row["role"], row["state"], words, row["id"] in shown)
            )
    return nodes


def after(store: ChatStore, chat_id: int, message_id: int) -> int | None:
    """How many messages follow this one on the shown branch; None if it is not on it."""
    shown = [message.id for message in store.branch(chat_id)]
    return len(shown) - 1 - shown.index(message_id) if message_id in shown else None


def remove_turn(store: ChatStore, chat_id: int) -> Removed:
    """Hide the last message of the user with all that answers it. Raises InvalidInputError."""
    with store.transaction() as db:
        branch = store.branch(chat_id)
        turn = next((message for message in reversed(branch) if message.role == "user"), None)
        turn = turn or (branch[0] if branch else None)
        if turn is None:
            raise InvalidInputError("The chat is empty.", "There is nothing to remove.")
        # One time for all of them, by which `restore_message` brings them back together.
        db.execute(
            "WITH RECURSIVE below(id) AS (VALUES (?) UNION ALL"
            " SELECT m.id FROM messages m JOIN below b ON m.parent_id = b.id)"
            " UPDATE messages SET deleted_at = ? WHERE deleted_at IS NULL"
            " AND id IN (SELECT id FROM below)",
            (turn.id, time.time()),
        )
        store.show(chat_id, turn.parent_id)
        return Removed(turn.content if turn.role == "user" else "", branch[-1].id)
