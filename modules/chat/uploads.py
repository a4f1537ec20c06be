"""`Uploads`: the files that wait to be sent, for the owners of the chats that they wait in."""

from __future__ import annotations

import asyncio
import re
import unicodedata

from modules.chat.attachments import Attachment, AttachmentStore
from modules.chat.document_text import extract_text
from modules.chat.notices import Notices
from modules.chat.stores import Stores

__all__ = ["Uploads"]

_MAX_NAME_CHARS = 120
_AT_ONCE = 2
"""Files read at a time, so that many uploads leave the processor to the model."""


class Uploads:
    """Files by chat. Belongs to the event loop.

    Every method raises NotFoundError when the chat is not the owner's.
    """

    def __init__(self, stores: Stores, notices: Notices) -> None:
        self._stores = stores
        self._notices = notices
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def waiting(self, chat_id: int, owner: str) -> tuple[Attachment, ...]:
        """What the next message will have."""
        files = await self._files(chat_id, owner)
        return await asyncio.to_thread(files.waiting, chat_id)

    async def add(self, chat_id: int, owner: str, name: str, data: bytes) -> Attachment:
        """Take the text of a file. Raises InvalidInputError, saying why it has none."""
        files = await self._files(chat_id, owner)
        name = _shown_name(name)
        async with self._turns:
            found = await extract_text(name, data)
        added = await asyncio.to_thread(files.add, chat_id, name, len(data), found)
        self._notices.tell(chat_id, owner)
        return added

    async def remove(self, chat_id: int, owner: str, attachment_id: int) -> None:
        """Forget a file that was not sent."""
        files = await self._files(chat_id, owner)
        await asyncio.to_thread(files.remove, chat_id, attachment_id)
        self._notices.tell(chat_id, owner)

    async def read(self, chat_id: int, owner: str, attachment_id: int) -> tuple[Attachment, str]:
        """A file, sent or not, and its text."""
        files = await self._files(chat_id, owner)
        return await asyncio.to_thread(files.read, chat_id, attachment_id)

    async def _files(self, chat_id: int, owner: str) -> AttachmentStore:
        store = self._stores.of(chat_id)
        await asyncio.to_thread(store.chat, chat_id, owner)
        return AttachmentStore(store)


def _shown_name(name: str) -> str:
    """A file's name as it is shown, and told to the model: no folders, quotes or controls."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    name = "".join(c for c in name if c.isprintable() and c not in '"<>[]').strip()
    return name[-_MAX_NAME_CHARS:] or "file"
