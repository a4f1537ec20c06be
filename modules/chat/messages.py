"""`Message`: one turn of a conversation, as a chat template sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Message", "Role"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """Who says what."""

    role: Role
    content: str
