"""`ChatLibrary`: finding, arranging, copying, exporting and importing chats, and their branches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import IO

from modules.chat.copies import ChatCopy, add_copy, copy_of, copy_of_branch
from modules.chat.messages import Role
from modules.chat.notices import Notices
from modules.chat.search import Hit, search
from modules.chat.store import Chat
from modules.chat.stores import Stores
from modules.chat.titles import title_from
from modules.chat.transfer.reading import read_chats
from modules.chat.tree import Node, Removed, after, remove_turn, tree_of
from modules.errors import InvalidInputError, NotFoundError

__all__ = ["ChatLibrary"]

Slot = Callable[[int, str], AbstractAsyncContextManager[Chat]]


class ChatLibrary:
    """What is done with chats besides talking in them. Belongs to the event loop.

    Every method that takes a `chat_id` and an `owner` raises NotFoundError when the chat
    is not that owner's. `slot` is held while a chat is changed that may be being answered.
    """

    def __init__(self, stores: Stores, notices: Notices, slot: Slot) -> None:
        self._stores = stores
        self._notices = notices
        self._slot = slot
        self._importing = asyncio.Lock()

    # -- all chats ----------------------------------------------------------------------

    async def search(self, owner: str, text: str) -> list[Hit]:
        """The owner's messages that have the words of `text`, the newest first."""
        stores = self._stores.both
        return [hit for s in stores for hit in await asyncio.to_thread(search, s, owner, text)]

    async def rename_folder(self, owner: str, name: str, to: str) -> None:
        """Move all chats of one folder to another; to "": out of all folders."""

        def move() -> None:
            for chat in self._stores.chats(owner):
                if chat.folder == name:
                    self._stores.of(chat.id).change_chat(chat.id, folder=to)

        await asyncio.to_thread(move)
        self._notices.listed(owner).notify()

    def export_all(self, owner: str) -> Iterator[ChatCopy]:
        """Every chat that is on the disk; reads one at a time, in the caller's thread."""
        store = self._stores.kept
        for chat in store.chats(owner):
            yield copy_of(store, chat)

    async def import_file(self, owner: str, file: IO[bytes], name: str) -> list[int]:
        """Store every chat in a file, or none of them. Returns their ids.

        Raises InvalidInputError, which names the file and the place in it.
        """

        def store_all() -> list[int]:
            copies = read_chats(file, name)
            with self._stores.kept.transaction():
                return [add_copy(self._stores.kept, owner, copy) for copy in copies]

        async with self._importing:  # a large file takes much memory: one at a time
            ids = await asyncio.to_thread(store_all)
        self._notices.listed(owner).notify()
        return ids

    # -- one chat -----------------------------------------------------------------------

    async def tree(self, chat_id: int, owner: str) -> list[Node]:
        """Every message of a chat that is not deleted."""
        await self._chat(chat_id, owner)
        return await asyncio.to_thread(tree_of, self._stores.of(chat_id), chat_id)

    async def export(self, chat_id: int, owner: str) -> ChatCopy:
        """The whole chat."""
        chat = await self._chat(chat_id, owner)
        return await asyncio.to_thread(copy_of, self._stores.of(chat_id), chat)

    async def new_from(self, chat_id: int, owner: str, message_id: int | None = None) -> int:
        """Copy the shown branch, up to a message, into a new chat; an incognito one stays so."""
        chat = await self._chat(chat_id, owner)
        store = self._stores.of(chat_id)

        def copied() -> int:
            branch = store.branch(chat_id)
            if message_id is not None:
                ids = [message.id for message in branch]
                if message_id not in ids:
                    raise _no_message()
                branch = branch[: ids.index(message_id) + 1]
            copy = copy_of_branch(store, chat, branch)
            copy = replace(copy, title=_title_of_copy(chat), pinned=False)
            made = add_copy(store, owner, copy)
            store.change_chat(made, tools=chat.tools)
            return made

        made = await asyncio.to_thread(copied)
        self._notices.listed(owner).notify()
        return made

    # -- its branches -------------------------------------------------------------------

    async def reveal(self, chat_id: int, owner: str, message_id: int) -> int:
        """Show a message's branch, unless it is shown, and return how many follow it there."""
        await self._chat(chat_id, owner)
        store = self._stores.of(chat_id)
        following = await asyncio.to_thread(after, store, chat_id, message_id)
        if following is None:
            async with self._slot(chat_id, owner):
                await asyncio.to_thread(store.show_version, chat_id, message_id)
                following = await asyncio.to_thread(after, store, chat_id, message_id)
        if following is None:  # it is deleted
            raise _no_message()
        return following

    async def branch_from(self, chat_id: int, owner: str, message_id: int) -> None:
        """Show the branch that ends in this message; what followed it stays in the tree."""
        async with self._slot(chat_id, owner):
            store = self._stores.of(chat_id)
            if await asyncio.to_thread(after, store, chat_id, message_id) is None:
                raise _no_message()
            await asyncio.to_thread(store.show, chat_id, message_id)

    async def add(self, chat_id: int, owner: str, role: Role, text: str) -> None:
        """Put a message at the end, without having anything answered."""
        if not text.strip():
            raise InvalidInputError("The message is empty.", "Write something first.")
        async with self._slot(chat_id, owner) as chat:
            store = self._stores.of(chat_id)
            await asyncio.to_thread(store.append, chat_id, chat.leaf_id, role, text)
            if not chat.title:
                await asyncio.to_thread(store.change_chat, chat_id, title=title_from(text))

    async def remove_last(self, chat_id: int, owner: str) -> Removed:
        """Hide the user's last message and what answers it; restoring the one undoes it."""
        async with self._slot(chat_id, owner):
            return await asyncio.to_thread(remove_turn, self._stores.of(chat_id), chat_id)

    async def _chat(self, chat_id: int, owner: str) -> Chat:
        return await asyncio.to_thread(self._stores.of(chat_id).chat, chat_id, owner)


def _title_of_copy(chat: Chat) -> str:
    """The title with a mark, which does not grow with each copy."""
    title = chat.title.removesuffix(" (branch)")
    return f"{title} (branch)" if title else ""


def _no_message() -> NotFoundError:
    return NotFoundError("This message is not in the shown branch.", "Reload the page.")
