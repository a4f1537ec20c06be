"""`ChatService`: what people do with chats, and the replies that are being written.

A reply belongs to its chat. It runs as a task of this process from the moment a message
is sent until the engine has finished, whoever is looking; a page reads `live(chat_id)`
and waits on `notices.changed(chat_id)`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from modules.chat.cast import Cast, Casting
from modules.chat.context_view import ContextView, Piece, pieces_of, view_context
from modules.chat.history import next_history, read_history
from modules.chat.hooks import NO_HOOKS, ChatHooks, Turn
from modules.chat.impersonation import Impersonation
from modules.chat.library import ChatLibrary
from modules.chat.messages import Message
from modules.chat.notices import Notices
from modules.chat.openings import open_chat
from modules.chat.prompt import ChatPrompt, build_chat_prompt
from modules.chat.replays import Replays
from modules.chat.replies import LiveReply
from modules.chat.reply_views import ReplyViews
from modules.chat.store import Chat, ChatStore, Mode, StoredMessage
from modules.chat.stores import Stores
from modules.chat.template_choice import TemplateChoices
from modules.chat.titles import title_from
from modules.chat.tools.approvals import Approvals
from modules.chat.tools.call import ended
from modules.chat.tools.desk import ToolDesk
from modules.chat.uploads import Uploads
from modules.chat.writer import ReplyWriter
from modules.engine.client import EngineClient
from modules.engine.mix import checked_mix
from modules.engine.params import SamplingParams
from modules.errors import InvalidInputError, PromptTooLongError

__all__ = ["ChatService"]


class ChatService:
    """All chats of all owners. Belongs to the event loop; the store's work is done in threads.

    Every method that takes a `chat_id` and an `owner` raises NotFoundError when the chat
    is not that owner's.
    """

    def __init__(
        self,
        store: ChatStore,
        engine: EngineClient,
        templates: TemplateChoices,
        casting: Casting | None = None,
        hooks: ChatHooks = NO_HOOKS,
    ) -> None:
        self._stores = Stores(store)
        self._engine = engine
        self._templates = templates
        self.casting = casting or Casting()
        self.notices = Notices()
        self.desk = ToolDesk()
        self._writer = ReplyWriter(
            self._stores, engine, templates, self.casting, self.notices, self.desk
        )
        self.hooks = self._writer.hooks = hooks
        self._busy: set[int] = set()
        self.library = ChatLibrary(self._stores, self.notices, self._reply_slot)
        self.files = Uploads(self._stores, self.notices)
        self.views = ReplyViews(self._stores, self.casting)
        self.replays = Replays(
            self._stores, engine, templates, self.casting, self._writer, self._reply_slot,
            self.desk,
        )  # fmt: skip
        self.approvals = Approvals(
            self._stores, self.desk, self._writer, self.notices, self._reply_slot
        )

    # -- reading ------------------------------------------------------------------------

    def live(self, chat_id: int) -> LiveReply | None:
        """The reply that is being written in this chat."""
        return self._writer.live(chat_id)

    async def chats(self, owner: str) -> list[Chat]:
        """The owner's chats, the latest first."""
        return await asyncio.to_thread(self._stores.chats, owner)

    async def chat(self, chat_id: int, owner: str) -> Chat:
        """One chat."""
        return await asyncio.to_thread(self._stores.of(chat_id).chat, chat_id, owner)

    async def branch(self, chat_id: int, owner: str) -> list[StoredMessage]:
        """The shown messages; a reply in progress has its latest text."""
        await self.chat(chat_id, owner)
        idle = self.live(chat_id) is None and chat_id not in self._busy
        messages = await asyncio.to_thread(self._stores.of(chat_id).branch, chat_id)
        live = self.live(chat_id)
        if live is not None:
            return [
                dataclasses.replace(m, content=live.text, calls=live.calls, visible=live.visible)
                if m.id == live.message_id
                else m
                for m in messages
            ]
        if idle and chat_id not in self._busy:  # else a reply may have ended while we read
            return [_unsaved(m) if m.state == "streaming" else m for m in messages]
        return messages

    async def text(self, chat_id: int, owner: str, message_id: int) -> str:
        """The source of one message, to copy or to edit.

        Of the user's it is what they see, which hooks get when it is sent; of a reply it is what
        the model sees.
        """
        await self.chat(chat_id, owner)
        live = self.live(chat_id)
        if live is not None and live.message_id == message_id:
            return live.text
        message = await asyncio.to_thread(self._stores.of(chat_id).message, message_id, chat_id)
        return message.shown if message.role == "user" else message.content

    async def preview(
        self,
        chat_id: int | None,
        owner: str,
        text: str | None,
        params: SamplingParams,
        mode: Mode = "instruct",
        character: str = "",
    ) -> ChatPrompt:
        """What would be sent if `text` were: its size, and what would be left out.

        Without a text, what would be if the last message of the user were answered anew.
        Without a chat, in one that is made with `mode` and `character`.
        """
        messages = await self.next_messages(chat_id, owner, text)
        if chat_id is None:
            cast = await asyncio.to_thread(self.casting.cast, owner, mode, character)
        else:
            cast = await self._cast_with_tools(chat_id, owner)
        return await build_chat_prompt(self._engine, messages, params, self._templates, cast=cast)

    async def context(
        self,
        chat_id: int | None,
        owner: str,
        text: str,
        params: SamplingParams,
        mode: Mode = "instruct",
        character: str = "",
    ) -> ContextView:
        """The same piece by piece."""
        if chat_id is None:
            cast = await asyncio.to_thread(self.casting.cast, owner, mode, character)
            pieces = [Piece("character", cast.context), Piece("user", text)]
        else:
            chat = await self.chat(chat_id, owner)
            cast = await self._cast_with_tools(chat_id, owner)
            store = self._stores.of(chat_id)
            pieces = await asyncio.to_thread(pieces_of, store, chat, cast, text)
        prompt: ChatPrompt | PromptTooLongError
        try:
            prompt = await self.preview(chat_id, owner, text, params, mode, character)
        except PromptTooLongError as error:
            prompt = error
        return await view_context(self._engine, pieces, params, prompt)

    async def cast(self, chat_id: int, owner: str) -> Cast:
        """Who speaks in a chat. Raises SettingsError for a damaged character."""
        chat = await self.chat(chat_id, owner)
        return await asyncio.to_thread(self.casting.cast, owner, chat.mode, chat.character)

    async def _cast_with_tools(self, chat_id: int, owner: str) -> Cast:
        """The same with the tools that the next reply may call, as far as they are known."""
        chat = await self.chat(chat_id, owner)
        return dataclasses.replace(await self.cast(chat_id, owner), tools=self.desk.known(chat))

    async def next_messages(
        self, chat_id: int | None, owner: str, text: str | None
    ) -> list[Message]:
        """What the model would see then. Without a chat, of a new one."""
        if chat_id is None:
            return [Message("user", text or "")]
        chat = await self.chat(chat_id, owner)
        return await asyncio.to_thread(next_history, self._stores.of(chat.id), chat, text)

    # -- chats --------------------------------------------------------------------------

    async def create(
        self,
        owner: str,
        *,
        mode: Mode = "instruct",
        character: str = "",
        incognito: bool = False,
    ) -> Chat:
        """A new chat, with a character's greeting if it has one.

        An incognito one is never on the disk (see `Stores`). Raises NotFoundError where there
        is no such character, and SettingsError for a damaged one.
        """
        store = self._stores.incognito if incognito else self._stores.kept
        chat = await asyncio.to_thread(open_chat, store, self.casting, owner, mode, character)
        self.notices.listed(owner).notify()
        return chat

    async def change(self, chat_id: int, owner: str, **columns: Any) -> None:
        """Give a chat other values in some of what `Chat` names: its title, its LoRAs.

        Raises InvalidInputError for LoRA weights out of bounds; a name need not be applied
        now. None for `adapters` means what is applied to all chats.
        """
        await self.chat(chat_id, owner)
        if columns.get("adapters") is not None:
            columns["adapters"] = checked_mix(columns["adapters"])
        await asyncio.to_thread(self._stores.of(chat_id).change_chat, chat_id, **columns)
        self.notices.tell(chat_id, owner)

    async def delete(self, chat_id: int, owner: str) -> None:
        """Hide a chat, and stop its reply."""
        await self.chat(chat_id, owner)
        await self.stop(chat_id, owner)
        await asyncio.to_thread(self._stores.of(chat_id).delete_chat, chat_id, owner)
        self.notices.tell(chat_id, owner)

    async def restore(self, chat_id: int, owner: str) -> None:
        """Bring a hidden chat back."""
        await asyncio.to_thread(self._stores.of(chat_id).delete_chat, chat_id, owner, undo=True)
        self.notices.tell(chat_id, owner)

    # -- messages -----------------------------------------------------------------------

    async def send(
        self, chat_id: int, owner: str, text: str, params: SamplingParams, *, beginning: str = ""
    ) -> None:
        """Store the message, then have it answered. It is on the disk when this returns.

        It gets the files that wait in the chat, and with them it needs no text. The reply,
        here and below, starts with `beginning`.
        """
        files = await self.files.waiting(chat_id, owner)
        if not files:
            _require_text(text)
        async with self._reply_slot(chat_id, owner) as chat:
            store = self._stores.of(chat_id)
            text, visible = await self._sent(chat, text, params)
            await asyncio.to_thread(store.send, chat_id, chat.leaf_id, text, visible)
            if not chat.title:
                title = title_from(visible) or files[0].name
                await asyncio.to_thread(store.change_chat, chat_id, title=title)
            await self._writer.start(await self.chat(chat_id, owner), params, beginning)

    async def regenerate(
        self,
        chat_id: int,
        owner: str,
        message_id: int,
        params: SamplingParams,
        *,
        beginning: str = "",
    ) -> None:
        """Another version of a reply, or an answer to a message that has none."""
        async with self._reply_slot(chat_id, owner):
            old = await asyncio.to_thread(self._stores.of(chat_id).message, message_id, chat_id)
            if old.role == "user":
                await asyncio.to_thread(self._stores.of(chat_id).show, chat_id, old.id)
            else:
                if old.state == "failed":
                    await asyncio.to_thread(
                        self._stores.of(chat_id).delete_message, chat_id, old.id
                    )
                await asyncio.to_thread(self._stores.of(chat_id).show, chat_id, old.parent_id)
            await self._writer.start(await self.chat(chat_id, owner), params, beginning)

    async def continue_reply(
        self, chat_id: int, owner: str, message_id: int, params: SamplingParams
    ) -> None:
        """A version of a reply that goes on where it ended."""
        async with self._reply_slot(chat_id, owner):
            old = await asyncio.to_thread(self._stores.of(chat_id).message, message_id, chat_id)
            if old.role != "assistant":
                raise InvalidInputError("Only a reply can be continued.", "Send a message.")
            await asyncio.to_thread(self._stores.of(chat_id).show, chat_id, old.parent_id)
            chat = await self.chat(chat_id, owner)
            await self._writer.start(chat, params, old.content, calls=ended(old.calls))

    async def edit(
        self,
        chat_id: int,
        owner: str,
        message_id: int,
        text: str,
        params: SamplingParams | None = None,
        *,
        beginning: str = "",
    ) -> None:
        """A version of a message with other text; with `params`, it is answered anew."""
        _require_text(text)
        async with self._reply_slot(chat_id, owner) as chat:
            store, visible = self._stores.of(chat_id), None
            if self.hooks.active:
                old = await asyncio.to_thread(store.message, message_id, chat_id)
                if old.role == "user":
                    text, visible = await self._sent(chat, text, params)
            await asyncio.to_thread(
                store.edit, chat_id, message_id, text, keep_tail=params is None, visible=visible
            )
            if params is not None:
                await self._writer.start(await self.chat(chat_id, owner), params, beginning)

    async def pin(self, chat_id: int, owner: str, message_id: int, pinned: bool) -> None:
        """Have a message stay in the context when older turns are left out, or not."""
        await self.chat(chat_id, owner)
        await asyncio.to_thread(self._stores.of(chat_id).pin, chat_id, message_id, pinned)
        self.notices.tell(chat_id, owner)

    async def show_version(self, chat_id: int, owner: str, message_id: int) -> None:
        """Show another version of a message, with what followed it."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._stores.of(chat_id).show_version, chat_id, message_id)

    async def delete_message(self, chat_id: int, owner: str, message_id: int) -> None:
        """Hide a message."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._stores.of(chat_id).delete_message, chat_id, message_id)

    async def restore_message(self, chat_id: int, owner: str, message_id: int) -> None:
        """Bring a hidden message back."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._stores.of(chat_id).restore_message, chat_id, message_id)

    # -- replies ------------------------------------------------------------------------

    async def impersonate(
        self, chat_id: int, owner: str, text: str, params: SamplingParams
    ) -> Impersonation:
        """The user's next message, as the model would go on with `text`; nothing is stored."""
        chat = await self.chat(chat_id, owner)
        cast = await self.cast(chat_id, owner)
        messages = await self.next_messages(chat_id, owner, text)
        return await Impersonation.of(self._engine, chat, cast, messages, params, self._templates)

    def see(self, chat_id: int) -> None:
        """Note that a tab has this chat open."""
        self._stores.see(chat_id)

    async def stop(self, chat_id: int, owner: str) -> None:
        """End the reply in progress, or one that waits, and return when it is stored."""
        await self.chat(chat_id, owner)
        if self.live(chat_id) is None:
            await self.approvals.give_up(chat_id, owner)
        await self._writer.stop(chat_id)

    async def wait(self, chat_id: int) -> None:
        """Return when no reply is in progress in this chat."""
        await self._writer.wait(chat_id)

    async def close(self) -> None:
        """Store what every reply in progress has so far, and end it; then the tools' servers."""
        await self._writer.close()
        await self.desk.box.close()

    async def _sent(self, chat: Chat, text: str, params: SamplingParams | None) -> tuple[str, str]:
        """Of a message of the user's, what the model sees and what is shown."""
        if not self.hooks.active:
            return text, text
        store = self._stores.of(chat.id)
        history = await asyncio.to_thread(read_history, store, chat)
        cast = await self.cast(chat.id, chat.owner)
        return await self.hooks.sent(text, Turn(params or SamplingParams(), tuple(history), cast))

    def _reply_slot(self, chat_id: int, owner: str) -> _ReplySlot:
        return _ReplySlot(self, chat_id, owner)


class _ReplySlot:
    """One change to one chat at a time, and none while a reply is written into it."""

    def __init__(self, service: ChatService, chat_id: int, owner: str) -> None:
        self._service, self._chat_id, self._owner = service, chat_id, owner

    async def __aenter__(self) -> Chat:
        service = self._service
        if self._chat_id in service._busy or service.live(self._chat_id) is not None:
            raise InvalidInputError(
                "This chat is being answered.", "Stop the reply or wait for its end."
            )
        service._busy.add(self._chat_id)
        try:
            return await service.chat(self._chat_id, self._owner)
        except BaseException:
            service._busy.discard(self._chat_id)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._service._busy.discard(self._chat_id)
        self._service.notices.tell(self._chat_id, self._owner)


def _unsaved(message: StoredMessage) -> StoredMessage:
    """A reply whose end the store refused; the next start marks it so for good."""
    error = "The end of this reply could not be saved. Free some disk space, then regenerate it."
    return dataclasses.replace(message, state="cut", error=error)


def _require_text(text: str) -> None:
    if not text.strip():
        raise InvalidInputError("The message is empty.", "Write something first.")
