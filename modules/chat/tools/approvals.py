"""`Approvals`: what the owner chooses and decides about the tools of a chat."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

from modules.access import OWNER
from modules.chat.notices import Notices
from modules.chat.store import Chat, StoredMessage
from modules.chat.stores import Stores
from modules.chat.tools.call import CallState, ended
from modules.chat.tools.desk import ToolDesk
from modules.chat.tools.toolbox import Source
from modules.chat.writer import ReplyWriter
from modules.errors import ForbiddenError, InvalidInputError

__all__ = ["Approvals", "Decision"]

Slot = Callable[[int, str], AbstractAsyncContextManager[Chat]]
Decision = Literal["run", "always", "refuse"]

_STATES: dict[Decision, CallState] = {"run": "approved", "always": "approved", "refuse": "refused"}
_MOST_TOOLS = 64


class Approvals:
    """Belongs to the event loop. Methods with a `chat_id` raise NotFoundError for another's chat.

    Those that have something run raise ForbiddenError for a chat of a guest.
    """

    def __init__(
        self, stores: Stores, desk: ToolDesk, writer: ReplyWriter, notices: Notices, slot: Slot
    ) -> None:
        self._stores = stores
        self._desk = desk
        self._writer = writer
        self._notices = notices
        self._slot = slot

    async def sources(self, *, start: bool) -> list[Source]:
        """The tools that there are; with `start`, once their servers are up."""
        return await self._desk.box.sources(start=start)

    async def choose(self, chat_id: int, owner: str, names: Sequence[str]) -> None:
        """Have a chat use these tools. Those that are taken from it must be asked about again."""
        store = self._stores.of(chat_id)
        chat = await self._chat(chat_id, owner)
        _require_owner(chat)
        chosen = tuple(dict.fromkeys(names))
        if len(chosen) > _MOST_TOOLS:
            raise InvalidInputError(
                f"A chat can have {_MOST_TOOLS} tools, and these are {len(chosen)}.",
                "Choose those that it needs; each takes room in the context.",
            )
        always = {name: mark for name, mark in chat.always.items() if name in chosen}
        await asyncio.to_thread(store.change_chat, chat_id, tools=chosen, always=always)
        self._notices.tell(chat_id, owner)

    async def decide(
        self, chat_id: int, owner: str, message_id: int, call_id: str, decision: Decision
    ) -> None:
        """Decide about one call; with the last of them, the reply goes on.

        `always` also has the tool run unasked in this chat from now on, as long as it stays what
        it is. Raises InvalidInputError for a call that does not wait any more.
        """
        async with self._slot(chat_id, owner) as chat:
            _require_owner(chat)
            store = self._stores.of(chat_id)
            message = await asyncio.to_thread(store.message, message_id, chat_id)
            call = next((c for c in message.calls if c.id == call_id), None)
            if call is None or call.state != "asked" or chat.leaf_id != message.id:
                raise InvalidInputError("This call does not wait any more.", "Look at the chat.")
            names = set()
            if decision == "always":
                names = {call.name}
                always = {**chat.always, call.name: self._desk.box.mark(call.name)}
                await asyncio.to_thread(store.change_chat, chat_id, always=always)
            calls = tuple(
                dataclasses.replace(c, state=_STATES[decision])
                if c.id == call_id or (c.state == "asked" and c.name in names)
                else c
                for c in message.calls
            )
            await asyncio.to_thread(store.set_calls, message_id, calls)
            if not any(c.state == "asked" for c in calls):
                decided = dataclasses.replace(message, calls=calls)
                await self._writer.resume(await self._chat(chat_id, owner), decided)

    async def give_up(self, chat_id: int, owner: str) -> None:
        """Run nothing of what the shown branch's last reply waits for."""
        store = self._stores.of(chat_id)
        branch = await asyncio.to_thread(store.branch, chat_id)
        if branch and branch[-1].waits:
            last: StoredMessage = branch[-1]
            await asyncio.to_thread(store.set_calls, last.id, ended(last.calls))
            self._notices.tell(chat_id, owner)

    async def _chat(self, chat_id: int, owner: str) -> Chat:
        return await asyncio.to_thread(self._stores.of(chat_id).chat, chat_id, owner)


def _require_owner(chat: Chat) -> None:
    if chat.owner != OWNER.user:
        raise ForbiddenError(
            "Only the owner may use tools, which run with their rights.", "Ask them."
        )
