"""A title for a chat, out of its first message."""

from __future__ import annotations

__all__ = ["title_from"]


def title_from(text: str) -> str:
    """The first line of a first message, cut at a word."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip(" #*`>")
    return line if len(line) <= 60 else line[:60].rsplit(" ", 1)[0] + "…"
