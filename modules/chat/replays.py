"""`Replays`: what a reply was made of, and the same made once more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from modules.chat.about import (
    Comparison,
    beginning_of,
    calls_at_beginning,
    compare,
    differences,
    is_same_prompt,
    params_of,
    replayed_chat,
)
from modules.chat.cast import Casting
from modules.chat.history import add, history_before
from modules.chat.messages import Message
from modules.chat.prompt import build_chat_prompt
from modules.chat.store import Chat, StoredMessage
from modules.chat.stores import Stores
from modules.chat.template_choice import TemplateChoices
from modules.chat.tools.call import messages_of, tail_of
from modules.chat.tools.desk import ToolDesk
from modules.chat.writer import ReplyWriter
from modules.engine.client import EngineClient
from modules.errors import NotFoundError

__all__ = ["Origin", "Replays", "SentPrompt"]

Slot = Callable[[int, str], AbstractAsyncContextManager[Chat]]


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of how a reply came about.

    `differences` are sentences about what is other now. `comparison` is with the reply that
    this one is a replay of; None where it is none, or is still being written.
    """

    message: StoredMessage
    differences: list[str]
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """The prompt of a reply, made anew. `same`: whether it is what was sent; None: not known."""

    text: str
    tokens: int
    same: bool | None


class Replays:
    """Belongs to the event loop. Every method raises NotFoundError for a chat of another's."""

    def __init__(
        self,
        stores: Stores,
        engine: EngineClient,
        templates: TemplateChoices,
        casting: Casting,
        writer: ReplyWriter,
        slot: Slot,
        desk: ToolDesk,
    ) -> None:
        self._stores = stores
        self._engine = engine
        self._templates = templates
        self._casting = casting
        self._writer = writer
        self._slot = slot
        self._desk = desk

    async def origin(self, chat_id: int, owner: str, message_id: int) -> Origin:
        """What a reply was made of."""
        _, message = await self._message(chat_id, owner, message_id)
        first = message.about.get("replay_of")
        comparison = None
        if isinstance(first, int) and message.state != "streaming":
            with contextlib.suppress(NotFoundError):  # it stayed behind in another chat
                _, original = await self._message(chat_id, owner, first)
                comparison = compare(original, message)
        return Origin(message, differences(message.about, self._engine.state), comparison)

    async def prompt(self, chat_id: int, owner: str, message_id: int) -> SentPrompt:
        """The prompt of a reply, made from the messages before it as they are now.

        Raises what `build_chat_prompt` does, and InvalidInputError for a text that no model
        wrote.
        """
        chat, message = await self._message(chat_id, owner, message_id)
        about = message.about
        params = params_of(about)
        chat = replayed_chat(chat, about, self._engine.state)
        store = self._stores.of(chat_id)
        history = await asyncio.to_thread(history_before, store, chat, message)
        beginning, calls = beginning_of(message), calls_at_beginning(message)
        for one in messages_of(beginning, calls, Message("assistant", "")):
            add(history, one)
        cast = await asyncio.to_thread(self._casting.cast, owner, chat.mode, chat.character)
        cast = replace(cast, tools=self._desk.known(chat))
        prompt = await build_chat_prompt(
            self._engine, history, params, self._templates,
            continue_final=bool(tail_of(beginning, calls)), cast=cast,
        )  # fmt: skip
        return SentPrompt(prompt.text, prompt.tokens, is_same_prompt(about, prompt))

    async def replay(self, chat_id: int, owner: str, message_id: int) -> int:
        """Another version of a reply, made as that was; returns its id.

        LoRAs that are not applied now are left out. Raises InvalidInputError for a text that
        no model wrote.
        """
        async with self._slot(chat_id, owner):
            _, old = await self._message(chat_id, owner, message_id)
            params = params_of(old.about)
            await asyncio.to_thread(self._stores.of(chat_id).show, chat_id, old.parent_id)
            chat, _ = await self._message(chat_id, owner, message_id)
            chat = replayed_chat(chat, old.about, self._engine.state)
            return await self._writer.start(
                chat, params, beginning_of(old), replay_of=old.id, calls=calls_at_beginning(old)
            )

    async def _message(
        self, chat_id: int, owner: str, message_id: int
    ) -> tuple[Chat, StoredMessage]:
        store = self._stores.of(chat_id)
        chat = await asyncio.to_thread(store.chat, chat_id, owner)
        return chat, await asyncio.to_thread(store.message, message_id, chat_id)
