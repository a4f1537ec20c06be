"""`Message`: one turn of a conversation, as a chat template sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Message", "Role", "ToolCall"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the assistant wants called; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """Who says what.

    A turn with a `pinned` message is never left out. `sources` are the ids of the stored
    messages that it is made of. An assistant may have `tool_calls`; a tool's message is what
    came of the one with the id `call_id`.
    """

    role: Role | Literal["tool"]
    content: str
    pinned: bool = field(default=False, compare=False)
    sources: tuple[int, ...] = field(default=(), compare=False)
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
