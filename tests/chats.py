"""Chats with something in them."""

from __future__ import annotations

from modules.chat.service import ChatService
from modules.chat.store import Mode
from modules.engine.params import SamplingParams

_FEW = SamplingParams(max_new_tokens=20)


async def asked(
    chats: ChatService,
    *questions: str,
    owner: str = "owner",
    params: SamplingParams = _FEW,
    mode: Mode = "instruct",
) -> int:
    """A new chat in which the questions were answered; its id."""
    chat = (await chats.create(owner, mode=mode)).id
    for question in questions:
        await chats.send(chat, owner, question, params)
        await chats.wait(chat)
    return chat
