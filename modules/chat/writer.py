"""`ReplyWriter`: the replies that are being written, each in a task of this process.

A reply belongs to its chat. It runs from the moment it is started until the engine has
finished, whoever is looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging

from modules.chat.about import about_request, params_of
from modules.chat.cast import Casting
from modules.chat.history import read_history
from modules.chat.hooked import finish_shown
from modules.chat.hooks import NO_HOOKS, ChatHooks
from modules.chat.notices import Notices
from modules.chat.replies import LiveReply, stream_reply
from modules.chat.reply_tokens import keep_tokens
from modules.chat.store import Chat, State, StoredMessage
from modules.chat.stores import Stores
from modules.chat.template_choice import TemplateChoices
from modules.chat.tools.call import ReplyCall
from modules.chat.tools.desk import ToolDesk
from modules.chat.tools.rounds import Writing, write_rounds
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.errors import LanternError

__all__ = ["ReplyWriter"]

log = logging.getLogger(__name__)

_STOP_S = 5.0


class ReplyWriter:
    """Writes replies into a store, and says so in `notices`. Belongs to the event loop."""

    def __init__(
        self,
        stores: Stores,
        engine: EngineClient,
        templates: TemplateChoices,
        casting: Casting,
        notices: Notices,
        desk: ToolDesk,
    ) -> None:
        self._stores = stores
        self._engine = engine
        self._templates = templates
        self._casting = casting
        self._notices = notices
        self._desk = desk
        self._live: dict[int, LiveReply] = {}
        self.hooks: ChatHooks = NO_HOOKS

    def live(self, chat_id: int) -> LiveReply | None:
        """The reply that is being written in this chat."""
        return self._live.get(chat_id)

    async def start(
        self,
        chat: Chat,
        params: SamplingParams,
        beginning: str = "",
        replay_of: int | None = None,
        calls: tuple[ReplyCall, ...] = (),
    ) -> int:
        """Have the shown branch of a chat answered; the reply is in the store on return.

        Returns its id. A replay remembers of which message it is one. `calls` are in the
        `beginning`.
        """
        reply = await asyncio.to_thread(self._begun, chat, beginning, calls)
        about = about_request(chat, params, beginning, len(calls))
        if replay_of is not None:
            about["replay_of"] = replay_of
        reply = dataclasses.replace(reply, about=about, calls=calls)
        await self._go_on(chat, reply, params)
        return reply.id

    async def resume(self, chat: Chat, reply: StoredMessage) -> None:
        """Go on with a reply that waited for a word about its calls, by its own parameters."""
        params = params_of(reply.about)
        await asyncio.to_thread(self._stores.of(chat.id).resume, reply.id)
        await self._go_on(chat, reply, params)

    def _begun(self, chat: Chat, beginning: str, calls: tuple[ReplyCall, ...]) -> StoredMessage:
        store = self._stores.of(chat.id)
        with store.transaction():
            reply = store.append(chat.id, chat.leaf_id, "assistant", beginning, state="streaming")
            store.set_calls(reply.id, calls)
            return reply

    async def _go_on(self, chat: Chat, reply: StoredMessage, params: SamplingParams) -> None:
        # With the reply's own beginning, if it has one; what is empty is no message.
        history = await asyncio.to_thread(read_history, self._stores.of(chat.id), chat)
        live = LiveReply(
            chat.id, chat.owner, reply.id, history, params, chat.adapters, text=reply.content,
            about=dict(reply.about), calls=reply.calls, hooks=self.hooks,
        )  # fmt: skip
        self._live[chat.id] = live
        live.task = asyncio.create_task(self._write_reply(live, chat), name=f"reply-{reply.id}")

    async def stop(self, chat_id: int) -> None:
        """End the reply in progress, and return when it is stored."""
        live = self._live.get(chat_id)
        if live is None or live.task is None:
            return
        live.stopping = True
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

    async def _write_reply(self, live: LiveReply, chat: Chat) -> None:
        """The life of one reply, from the prompt to the stored end."""
        state: State = "cut"
        error = ""
        try:
            live.cast = await asyncio.to_thread(
                self._casting.cast, chat.owner, chat.mode, chat.character
            )
            if chat.character:
                live.about["name"] = live.cast.name
            state = await write_rounds(live, chat, self._desk, self._writing(live, chat))
        except LanternError as failure:
            error = str(failure)
        except asyncio.CancelledError:
            state = "stopped"
        except Exception as failure:  # a fault of ours must not leave a reply in mid-air
            log.exception("reply %s", live.message_id)
            error = f"Lantern failed: {type(failure).__name__}. See the terminal."
        finally:
            if error:
                state = "cut" if live.text or live.calls else "failed"
            with contextlib.suppress(asyncio.CancelledError):  # what is shown is not what counts
                await finish_shown(live)
            try:
                await asyncio.shield(asyncio.to_thread(self._save, live, state, error))
            except LanternError:
                log.exception("saving reply %s", live.message_id)
            finally:  # also when a second stop cancels the saving
                self._live.pop(live.chat_id, None)
                self._notices.tell(live.chat_id, live.owner)

    def _writing(self, live: LiveReply, chat: Chat) -> Writing:
        """What the rounds of a reply are written with."""
        store, changed = self._stores.of(chat.id), self._notices.changed(chat.id)

        async def keep() -> None:
            await asyncio.to_thread(self._save, live, "streaming")
            self._notices.tell(chat.id, chat.owner)

        return Writing(
            stream=lambda: stream_reply(
                self._engine, live, self._templates, changed, self._save_progress
            ),
            keep=keep,
            history=lambda: asyncio.to_thread(read_history, store, chat),
            context=lambda: info.context_length if (info := self._engine.state.info) else 0,
        )

    def _save(self, live: LiveReply, state: State, error: str = "") -> None:
        store, ended = self._stores.of(live.chat_id), state != "streaming"
        store.save_reply(
            live.message_id, live.text, state, error, live.about, live.calls,
            live.visible if ended else None,
        )  # fmt: skip
        if ended and live.heard:
            keep_tokens(store, live.message_id, live.heard_from, live.heard)

    async def _save_progress(self, live: LiveReply) -> None:
        """What cannot be saved now may be at the end; the reply goes on."""
        try:
            await asyncio.to_thread(self._save, live, "streaming")
        except LanternError as error:
            log.warning("reply %s: %s", live.message_id, error)
