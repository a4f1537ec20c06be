"""`ToolDesk`: which tools a chat has, and which of them run without being asked about."""

from __future__ import annotations

from modules.access import OWNER
from modules.chat.store import Chat
from modules.chat.tool_prompt import Tool
from modules.chat.tools.toolbox import NoTools, Offer, ToolBox

__all__ = ["ToolDesk"]


class ToolDesk:
    """Between the chats and the tools. A tool has the owner's rights, so nobody else has any.

    `box` has the tools; without the extension, there are none.
    """

    def __init__(self) -> None:
        self.box: ToolBox = NoTools()

    def known(self, chat: Chat) -> tuple[Tool, ...]:
        """The tools of a chat, as far as they are known without starting anything."""
        return self.box.known(chat.tools) if self._may(chat) else ()

    async def available(self) -> bool:
        """Whether there are tools at all; where they were switched off, their servers end."""
        if not self.box.enabled:
            await self.box.close()
        return self.box.enabled

    async def ready(self, chat: Chat) -> Offer:
        """The tools of a chat, once their servers are up."""
        await self.available()
        return await self.box.ready(chat.tools) if self._may(chat) else Offer()

    def is_allowed(self, chat: Chat, name: str) -> bool:
        """Whether a tool runs in this chat without being asked about: as it was when allowed."""
        mark = self.box.mark(name)
        return bool(mark) and self._may(chat) and chat.always.get(name) == mark

    def _may(self, chat: Chat) -> bool:
        return chat.owner == OWNER.user and chat.mode == "instruct" and self.box.enabled
