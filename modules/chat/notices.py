"""`Notices`: who is told when a chat, or somebody's list of chats, changes."""

from __future__ import annotations

from collections import defaultdict

from modules.signals import Signal

__all__ = ["Notices"]


class Notices:
    """Signals by chat and by owner. Belongs to the event loop."""

    def __init__(self) -> None:
        self._changed: defaultdict[int, Signal] = defaultdict(Signal)
        self._revisions: defaultdict[int, int] = defaultdict(int)
        self._listed: defaultdict[str, Signal] = defaultdict(Signal)

    def changed(self, chat_id: int) -> Signal:
        """Raised when a message of the chat, or its reply in progress, changes."""
        return self._changed[chat_id]

    def revision(self, chat_id: int) -> int:
        """Counts what changes in a chat besides the text of its reply in progress."""
        return self._revisions[chat_id]

    def listed(self, owner: str) -> Signal:
        """Raised when the owner's list of chats changes."""
        return self._listed[owner]

    def tell_all(self) -> None:
        """Say that every chat may look other than it did: a character has changed, say."""
        for chat_id, signal in self._changed.items():
            self._revisions[chat_id] += 1
            signal.notify()

    def tell(self, chat_id: int, owner: str) -> None:
        """Say that a chat of this owner is not what it was."""
        self._revisions[chat_id] += 1
        self._changed[chat_id].notify()
        self._listed[owner].notify()
