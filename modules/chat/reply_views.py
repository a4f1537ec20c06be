"""`ReplyViews`: what extensions of the page look at: a reply's tokens, and what it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from modules.chat.cast import Cast, Casting
from modules.chat.history import history_before
from modules.chat.messages import Message
from modules.chat.reply_tokens import Part, aligned, tokens_of
from modules.chat.store import StoredMessage
from modules.chat.stores import Stores

__all__ = ["ReplyView", "ReplyViews"]


@dataclass(frozen=True, slots=True)
class ReplyView:
    """A message with what came before it, and all the versions of it, itself among them.

    `history` begins with what the model was told of the character and by the system message.
    """

    message: StoredMessage
    history: tuple[Message, ...]
    versions: tuple[StoredMessage, ...]


class ReplyViews:
    """Reads messages for who only looks at them.

    Every method raises NotFoundError where the chat is not that owner's.
    """

    def __init__(self, stores: Stores, casting: Casting) -> None:
        self._stores = stores
        self._casting = casting

    async def view(self, chat_id: int, owner: str, message_id: int) -> ReplyView:
        """A message as it stands in its chat. Raises SettingsError for a damaged character."""
        return await asyncio.to_thread(self._view, chat_id, owner, message_id)

    async def tokens(self, chat_id: int, owner: str, message_id: int) -> list[Part]:
        """The text of a reply by its tokens; empty where none were written down."""
        return await asyncio.to_thread(self._tokens, chat_id, owner, message_id)

    def _view(self, chat_id: int, owner: str, message_id: int) -> ReplyView:
        store = self._stores.of(chat_id)
        chat = store.chat(chat_id, owner)
        message = store.message(message_id, chat_id)
        before = history_before(store, chat, message)
        cast = self._casting.cast(owner, chat.mode, chat.character)
        ids = store.versions_of(message)
        versions = tuple(store.message(one, chat_id) for one in ids)
        return ReplyView(message, _told(cast, before), versions)

    def _tokens(self, chat_id: int, owner: str, message_id: int) -> list[Part]:
        store = self._stores.of(chat_id)
        store.chat(chat_id, owner)
        message = store.message(message_id, chat_id)
        kept = tokens_of(store, message_id)
        return aligned(message.content, kept) if kept else []


def _told(cast: Cast, messages: list[Message]) -> tuple[Message, ...]:
    """The messages after what is told of the character, in one system message with the chat's."""
    if not cast.context:
        return tuple(messages)
    system = [m.content for m in messages[:1] if m.role == "system"]
    return (
        Message("system", "\n\n".join([cast.context, *system])),
        *messages[len(system) :],
    )
