"""From a stored chat to the messages that the model should see."""

from __future__ import annotations

from modules.chat.messages import Message
from modules.chat.store import Chat, StoredMessage

__all__ = ["history_of"]


def history_of(chat: Chat, branch: list[StoredMessage]) -> list[Message]:
    """The messages of a branch as the model should see them.

    Neighbours of one role, as a deleted or failed reply leaves them, become one message,
    because most chat templates insist on turns that alternate.
    """
    history = [Message("system", chat.system)] if chat.system.strip() else []
    for stored in branch:
        if stored.content:
            _add(history, Message(stored.role, stored.content))
    return history


def _add(history: list[Message], message: Message) -> None:
    if history and history[-1].role == message.role:
        message = Message(message.role, f"{history[-1].content}\n\n{message.content}")
        history.pop()
    history.append(message)
