"""`Message`: one turn of a conversation, as a chat template sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Message", "Role"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """Who says what.

    A turn with a `pinned` message is never left out. `sources` are the ids of the stored
    messages that it is made of.
    """

    role: Role
    content: str
    pinned: bool = field(default=False, compare=False)
    sources: tuple[int, ...] = field(default=(), compare=False)
