"""`ChatFeed`: what one open tab must be told to show its chat as it is now.

The tab is not sent events but differences: the feed remembers what it sent, compares
that with the present state, and sends what is new. A slow tab therefore skips states
instead of queueing them, a reopened one starts from the whole, and while a reply
streams only its last block travels.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from modules.access import Caller
from modules.chat.replies import LiveReply
from modules.chat.service import ChatService
from modules.chat.store import StoredMessage
from modules.chat.stores import is_incognito
from modules.ui.attachment_routes import attachment_json
from modules.ui.faces import Faces, faces_of
from modules.ui.reply_body import WRITING_A_CALL, ReplyBody, body_blocks

__all__ = ["ChatFeed", "message_json", "stats_line"]

WINDOW = 60
"""Messages that a tab is sent when it opens a chat; it asks for more."""


class ChatFeed:
    """One tab on one chat. `changes()` returns what to send, or None when nothing is new."""

    def __init__(
        self, chats: ChatService, chat_id: int, caller: Caller, window: int = WINDOW
    ) -> None:
        self._chats = chats
        self._chat_id = chat_id
        self._caller = caller
        self._window = window
        self._revision = -1
        self._sent: dict[int, str] = {}
        self._head: dict[str, Any] = {}
        self._faces = Faces()
        self._growing: ReplyBody | None = None
        self._growing_id = 0
        self._shown_text = ("", False)

    async def changes(self) -> dict[str, Any] | None:
        """The difference between what the tab shows and what is."""
        revision = self._chats.notices.revision(self._chat_id)
        if revision != self._revision:
            self._revision = revision
            return await self._whole()
        live = self._chats.live(self._chat_id)
        if live is None or live.message_id != self._growing_id or _shown(live) == self._shown_text:
            return None
        if self._growing is None or self._growing.calls is not live.calls:
            return await self._whole()
        return {"live": self._grow(live)}

    async def _whole(self) -> dict[str, Any] | None:
        """Everything but what was sent already."""
        chat = await self._chats.chat(self._chat_id, self._caller.user)
        files = await self._chats.files.waiting(self._chat_id, self._caller.user)
        branch = await self._chats.branch(self._chat_id, self._caller.user)
        live = self._chats.live(self._chat_id)
        faces = await asyncio.to_thread(faces_of, self._chats.casting, chat)
        if faces != self._faces:
            self._faces = faces
            self._sent.clear()
        shown = branch[-self._window :]
        # A tab drops what is not shown, and must be sent it again when it comes back.
        ids = {message.id for message in shown}
        self._sent = {id_: mark for id_, mark in self._sent.items() if id_ in ids}
        changed = {}
        for message in shown:
            asking = message.waits and message is branch[-1] and live is None
            mark = f"{_mark(message)} {asking}"
            if self._sent.get(message.id) != mark or (live and live.message_id == message.id):
                changed[message.id] = await self._message(message, live, asking)
                self._sent[message.id] = mark
        head = {
            "id": chat.id,
            "title": chat.title,
            "incognito": is_incognito(chat.id),
            "system": chat.system,
            "adapters": chat.adapters,
            "mode": chat.mode,
            "character": faces.character,
            "order": [message.id for message in shown],
            "earlier": len(branch) - len(shown),
            "busy": live is not None,
            "tools": list(chat.tools),
            "files": [attachment_json(one) for one in files],
        }
        if not changed and head == self._head:
            return None
        self._head = head
        return {"chat": head, "messages": list(changed.values())}

    async def _message(
        self, message: StoredMessage, live: LiveReply | None, asking: bool
    ) -> dict[str, Any]:
        if live is None or live.message_id != message.id:
            text = message.content if message.calls else message.shown
            blocks = await asyncio.to_thread(body_blocks, text, message.calls, asking)
            return message_json(message, blocks, self._faces)
        self._shown_text = (_shown(live)[0], False)
        self._growing = ReplyBody(self._shown_text[0], live.calls)
        self._growing_id = message.id
        return message_json(message, tuple(self._growing.blocks), self._faces)

    def _grow(self, live: LiveReply) -> dict[str, Any]:
        assert self._growing is not None
        self._shown_text = _shown(live)
        first = self._growing.update(self._shown_text[0])
        return {
            "id": live.message_id,
            "from": first,
            "blocks": self._growing.blocks[first:] + [WRITING_A_CALL] * live.calling,
            "stats": f"{live.tokens_per_s:.0f} tok/s" if live.tokens > 3 else "",
        }


def message_json(message: StoredMessage, blocks: tuple[str, ...], faces: Faces) -> dict[str, Any]:
    """A message as the page draws it."""
    versions = message.versions or (message.id,)
    return {
        "id": message.id,
        "role": message.role,
        "state": message.state,
        "error": message.error,
        "blocks": list(blocks),
        **faces.of(message),
        "versions": list(versions),
        "version": versions.index(message.id) if message.id in versions else 0,
        "stats": stats_line(message.about),
        "notes": [str(note) for note in message.about.get("tool_faults", ())],
        "pinned": message.pinned,
        "files": [attachment_json(one) for one in message.attachments],
    }


def stats_line(about: dict[str, Any]) -> str:
    """Speed, time to the first token and context of a finished reply, with units."""
    if "completion_tokens" not in about:
        return ""
    parts = [str(about["model"])] if "name" in about and "model" in about else []
    if about["tokens_per_s"]:
        parts.append(f"{about['tokens_per_s']:.0f} tok/s")
    parts.append(f"first token {_duration(about['first_token_s'])}")
    used = about["prompt_tokens"] + about["completion_tokens"]
    parts.append(f"{used:,} of {about['context']:,} tokens")
    parts += [f"LoRA {name} at {weight:g}" for name, weight in about.get("adapters", ())]
    if about.get("dropped"):
        turns = "turn" if about["dropped"] == 1 else "turns"
        parts.append(f"{about['dropped']} oldest {turns} left out")
    if about.get("finish_reason") == "length":
        parts.append("ended at the token limit")
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _shown(live: LiveReply) -> tuple[str, bool]:
    """What a tab shows of a reply that is being written: its text, and that it makes a call.

    Calls have their places in the text as the model wrote it.
    """
    return live.text if live.calls else live.shown, live.calling


def _mark(message: StoredMessage) -> str:
    """A fingerprint of all that `message_json` shows."""
    shown = (
        message.content, message.state, message.error, message.versions, message.about,
        message.pinned, message.attachments, message.visible, message.calls,
    )  # fmt: skip
    return hashlib.blake2b(repr(shown).encode(), digest_size=12).hexdigest()
