"""`ChatService`: what people do with chats, and the replies that are being written.

A reply belongs to its chat. It runs as a task of this process from the moment a message
is sent until the engine has finished, whoever is looking; a page reads `live(chat_id)`
and waits on `changed(chat_id)`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import defaultdict

from modules.chat.messages import Message
from modules.chat.prompt import ChatPrompt, build_chat_prompt
from modules.chat.replies import LiveReply, stream_reply
from modules.chat.store import Chat, ChatStore, State, StoredMessage
from modules.chat.template_choice import TemplateChoices
from modules.engine.client import EngineClient
from modules.engine.mix import Mix, checked_mix
from modules.engine.params import SamplingParams
from modules.errors import InvalidInputError, LanternError
from modules.signals import Signal

__all__ = ["ChatService"]

log = logging.getLogger(__name__)

_STOP_S = 5.0


class ChatService:
    """All chats of all owners. Belongs to the event loop; the store's work is done in threads.

    Every method that takes a `chat_id` and an `owner` raises NotFoundError when the chat
    is not that owner's.
    """

    def __init__(self, store: ChatStore, engine: EngineClient, templates: TemplateChoices) -> None:
        self._store = store
        self._engine = engine
        self._templates = templates
        self._live: dict[int, LiveReply] = {}
        self._busy: set[int] = set()
        self._changed: defaultdict[int, Signal] = defaultdict(Signal)
        self._revisions: defaultdict[int, int] = defaultdict(int)
        self._listed: defaultdict[str, Signal] = defaultdict(Signal)

    # -- reading ------------------------------------------------------------------------

    def changed(self, chat_id: int) -> Signal:
        """Raised when a message of the chat, or its reply in progress, changes."""
        return self._changed[chat_id]

    def revision(self, chat_id: int) -> int:
        """Counts what changes in a chat besides the text of its reply in progress."""
        return self._revisions[chat_id]

    def listed(self, owner: str) -> Signal:
        """Raised when the owner's list of chats changes."""
        return self._listed[owner]

    def live(self, chat_id: int) -> LiveReply | None:
        """The reply that is being written in this chat."""
        return self._live.get(chat_id)

    async def chats(self, owner: str) -> list[Chat]:
        """The owner's chats, the latest first."""
        return await asyncio.to_thread(self._store.chats, owner)

    async def chat(self, chat_id: int, owner: str) -> Chat:
        """One chat."""
        return await asyncio.to_thread(self._store.chat, chat_id, owner)

    async def branch(self, chat_id: int, owner: str) -> list[StoredMessage]:
        """The shown messages; a reply in progress has its latest text."""
        await self.chat(chat_id, owner)
        idle = chat_id not in self._live and chat_id not in self._busy
        messages = await asyncio.to_thread(self._store.branch, chat_id)
        live = self._live.get(chat_id)
        if live is not None:
            return [
                dataclasses.replace(m, content=live.text) if m.id == live.message_id else m
                for m in messages
            ]
        if idle and chat_id not in self._busy:  # else a reply may have ended while we read
            return [_unsaved(m) if m.state == "streaming" else m for m in messages]
        return messages

    async def text(self, chat_id: int, owner: str, message_id: int) -> str:
        """The source of one message, to copy or to edit."""
        await self.chat(chat_id, owner)
        live = self._live.get(chat_id)
        if live is not None and live.message_id == message_id:
            return live.text
        return (await asyncio.to_thread(self._store.message, message_id, chat_id)).content

    async def preview(
        self, chat_id: int | None, owner: str, text: str, params: SamplingParams
    ) -> ChatPrompt:
        """What would be sent if `text` were: its size, and what would be left out."""
        history: list[Message] = []
        if chat_id is not None:
            chat = await self.chat(chat_id, owner)
            branch = await asyncio.to_thread(self._store.branch, chat_id)
            history = _history(chat, branch)
        messages = [*history, Message("user", text)]
        return await build_chat_prompt(self._engine, messages, params, self._templates)

    # -- chats --------------------------------------------------------------------------

    async def create(self, owner: str) -> Chat:
        """A new, empty chat."""
        chat = await asyncio.to_thread(self._store.create_chat, owner)
        self._listed[owner].notify()
        return chat

    async def rename(self, chat_id: int, owner: str, title: str) -> None:
        """Give a chat another title."""
        await self.chat(chat_id, owner)
        await asyncio.to_thread(self._store.rename_chat, chat_id, title)
        self._notify(chat_id, owner)

    async def set_system(self, chat_id: int, owner: str, system: str) -> None:
        """Give a chat another system message."""
        await self.chat(chat_id, owner)
        await asyncio.to_thread(self._store.set_system, chat_id, system)
        self._notify(chat_id, owner)

    async def set_adapters(self, chat_id: int, owner: str, mix: Mix | None) -> None:
        """Choose the LoRAs of a chat's replies to come; None: what is applied to all.

        Raises InvalidInputError for weights out of bounds. A name need not be applied now.
        """
        await self.chat(chat_id, owner)
        chosen = None if mix is None else checked_mix(mix)
        await asyncio.to_thread(self._store.set_adapters, chat_id, chosen)
        self._notify(chat_id, owner)

    async def delete(self, chat_id: int, owner: str) -> None:
        """Hide a chat, and stop its reply."""
        await self.chat(chat_id, owner)
        await self.stop(chat_id, owner)
        await asyncio.to_thread(self._store.delete_chat, chat_id, owner)
        self._notify(chat_id, owner)

    async def restore(self, chat_id: int, owner: str) -> None:
        """Bring a hidden chat back."""
        await asyncio.to_thread(self._store.delete_chat, chat_id, owner, undo=True)
        self._notify(chat_id, owner)

    # -- messages -----------------------------------------------------------------------

    async def send(self, chat_id: int, owner: str, text: str, params: SamplingParams) -> None:
        """Store the message, then have it answered. It is on the disk when this returns."""
        _require_text(text)
        async with self._reply_slot(chat_id, owner) as chat:
            await asyncio.to_thread(self._store.append, chat_id, chat.leaf_id, "user", text)
            if not chat.title:
                await asyncio.to_thread(self._store.rename_chat, chat_id, _title_from(text))
            await self._start_reply(chat_id, owner, params)

    async def regenerate(
        self, chat_id: int, owner: str, message_id: int, params: SamplingParams
    ) -> None:
        """Another version of a reply, or an answer to a message that has none."""
        async with self._reply_slot(chat_id, owner):
            old = await asyncio.to_thread(self._store.message, message_id, chat_id)
            if old.role == "user":
                await asyncio.to_thread(self._store.show, chat_id, old.id)
            else:
                if old.state == "failed":
                    await asyncio.to_thread(self._store.delete_message, chat_id, old.id)
                await asyncio.to_thread(self._store.show, chat_id, old.parent_id)
            await self._start_reply(chat_id, owner, params)

    async def continue_reply(
        self, chat_id: int, owner: str, message_id: int, params: SamplingParams
    ) -> None:
        """A version of a reply that goes on where it ended."""
        async with self._reply_slot(chat_id, owner):
            old = await asyncio.to_thread(self._store.message, message_id, chat_id)
            if old.role != "assistant":
                raise InvalidInputError("Only a reply can be continued.", "Send a message.")
            await asyncio.to_thread(self._store.show, chat_id, old.parent_id)
            await self._start_reply(chat_id, owner, params, beginning=old.content)

    async def edit(
        self,
        chat_id: int,
        owner: str,
        message_id: int,
        text: str,
        params: SamplingParams | None = None,
    ) -> None:
        """A version of a message with other text; with `params`, it is answered anew."""
        _require_text(text)
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(
                self._store.edit, chat_id, message_id, text, keep_tail=params is None
            )
            if params is not None:
                await self._start_reply(chat_id, owner, params)

    async def show_version(self, chat_id: int, owner: str, message_id: int) -> None:
        """Show another version of a message, with what followed it."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._store.show_version, chat_id, message_id)

    async def delete_message(self, chat_id: int, owner: str, message_id: int) -> None:
        """Hide a message."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._store.delete_message, chat_id, message_id)

    async def restore_message(self, chat_id: int, owner: str, message_id: int) -> None:
        """Bring a hidden message back."""
        async with self._reply_slot(chat_id, owner):
            await asyncio.to_thread(self._store.restore_message, chat_id, message_id)

    # -- replies ------------------------------------------------------------------------

    async def stop(self, chat_id: int, owner: str) -> None:
        """End the reply in progress, and return when it is stored."""
        await self.chat(chat_id, owner)
        live = self._live.get(chat_id)
        if live is None or live.task is None:
            return
        if live.requested:
            await self._engine.cancel(live.request_id)
        else:  # the engine has not heard of it yet
            live.task.cancel()
        await asyncio.wait([live.task], timeout=_STOP_S)
        if not live.task.done():  # the engine hangs
            live.task.cancel()
            await asyncio.wait([live.task], timeout=_STOP_S)

    async def wait(self, chat_id: int) -> None:
        """Return when no reply is in progress in this chat."""
        live = self._live.get(chat_id)
        if live is not None and live.task is not None:
            await asyncio.wait([live.task])

    async def close(self) -> None:
        """Store what every reply in progress has so far, and end it."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _reply_slot(self, chat_id: int, owner: str) -> _ReplySlot:
        return _ReplySlot(self, chat_id, owner)

    def _notify(self, chat_id: int, owner: str) -> None:
        self._revisions[chat_id] += 1
        self._changed[chat_id].notify()
        self._listed[owner].notify()

    async def _start_reply(
        self, chat_id: int, owner: str, params: SamplingParams, beginning: str = ""
    ) -> None:
        chat = await self.chat(chat_id, owner)
        reply = await asyncio.to_thread(
            self._store.append, chat_id, chat.leaf_id, "assistant", beginning, state="streaming"
        )
        # With the reply's own beginning, if it has one; what is empty is no message.
        history = _history(chat, await asyncio.to_thread(self._store.branch, chat_id))
        live = LiveReply(
            chat_id, owner, reply.id, history, params, adapters=chat.adapters, text=beginning
        )
        self._live[chat_id] = live
        live.task = asyncio.create_task(self._write_reply(live), name=f"reply-{reply.id}")

    async def _write_reply(self, live: LiveReply) -> None:
        """The life of one reply, from the prompt to the stored end."""
        live.about["params"] = dataclasses.asdict(live.params)
        state: State = "cut"
        error = ""
        try:
            state = await stream_reply(
                self._engine,
                live,
                self._templates,
                self._changed[live.chat_id],
                self._save_progress,
            )
        except LanternError as failure:
            error = str(failure)
        except asyncio.CancelledError:
            state = "stopped"
        except Exception as failure:  # a fault of ours must not leave a reply in mid-air
            log.exception("reply %s", live.message_id)
            error = f"Lantern failed: {type(failure).__name__}. See the terminal."
        finally:
            if error:
                state = "cut" if live.text else "failed"
            try:
                await asyncio.shield(asyncio.to_thread(self._save, live, state, error))
            except LanternError:
                log.exception("saving reply %s", live.message_id)
            finally:  # also when a second stop cancels the saving
                self._live.pop(live.chat_id, None)
                self._notify(live.chat_id, live.owner)

    def _save(self, live: LiveReply, state: State, error: str = "") -> None:
        self._store.save_reply(live.message_id, live.text, state, error, live.about)

    async def _save_progress(self, live: LiveReply) -> None:
        """What cannot be saved now may be at the end; the reply goes on."""
        try:
            await asyncio.to_thread(self._save, live, "streaming")
        except LanternError as error:
            log.warning("reply %s: %s", live.message_id, error)


class _ReplySlot:
    """One change to one chat at a time, and none while a reply is written into it."""

    def __init__(self, service: ChatService, chat_id: int, owner: str) -> None:
        self._service, self._chat_id, self._owner = service, chat_id, owner

    async def __aenter__(self) -> Chat:
        service = self._service
        if self._chat_id in service._busy or self._chat_id in service._live:
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
        self._service._notify(self._chat_id, self._owner)


def _unsaved(message: StoredMessage) -> StoredMessage:
    """A reply whose end the store refused; the next start marks it so for good."""
    error = "The end of this reply could not be saved. Free some disk space, then regenerate it."
    return dataclasses.replace(message, state="cut", error=error)


def _history(chat: Chat, branch: list[StoredMessage]) -> list[Message]:
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


def _require_text(text: str) -> None:
    if not text.strip():
        raise InvalidInputError("The message is empty.", "Write something first.")


def _title_from(text: str) -> str:
    """A title out of a first message: its first line, cut at a word."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip(" #*`>")
    return line if len(line) <= 60 else line[:60].rsplit(" ", 1)[0] + "…"
