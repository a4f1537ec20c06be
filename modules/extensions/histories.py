"""A chat as text-generation-webui's hooks know it, pairs of texts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.chat.messages import Message

__all__ = ["messages_from", "pairs_of"]

History = dict[str, list[list[str]]]


def pairs_of(messages: Sequence[Message]) -> History:
    """`internal` and `visible`, the same: what was said, in pairs of a message and its reply.

    What a tool was asked and answered, and what the system says, is not in it.
    """
    pairs: list[list[str]] = []
    for message in messages:
        if message.role == "user" and _is_plain(message):
            pairs.append([message.content, ""])
        elif message.role == "assistant" and _is_plain(message):
            if pairs and not pairs[-1][1]:
                pairs[-1][1] = message.content
            else:
                pairs.append(["", message.content])
    return {"internal": pairs, "visible": [list(pair) for pair in pairs]}


def messages_from(history: Any, before: Sequence[Message]) -> tuple[Message, ...]:
    """The messages of a history that a hook returned, where `before` was what it got.

    What is the same keeps its place, its pin, and the calls around it. Raises ValueError for
    what is no history.
    """
    pairs = _checked(history)
    if pairs == pairs_of(before)["internal"]:
        return tuple(before)
    known: dict[tuple[str, str], list[Message]] = {}
    for message in before:
        known.setdefault((message.role, message.content), []).append(message)
    made = [message for message in before if message.role == "system"]
    for pair in pairs:
        for role, content in zip(("user", "assistant"), pair, strict=True):
            if content:
                same = known.get((role, content))
                made.append(same.pop(0) if same else Message(role, content))  # type: ignore[arg-type]
    return tuple(made)


def _checked(history: Any) -> list[list[str]]:
    internal = history.get("internal") if isinstance(history, dict) else None
    if not isinstance(internal, list):
        raise ValueError("a history has a list of pairs under internal")
    pairs = []
    for pair in internal:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("an entry of a history is a pair of texts")
        if not all(isinstance(text, str) for text in pair):
            raise ValueError("an entry of a history is a pair of texts")
        pairs.append(["" if pair[0] == _BEGIN else pair[0], pair[1]])
    return pairs


_BEGIN = "<|BEGIN-VISIBLE-CHAT|>"
"""What stands there for the message that a greeting answers."""


def _is_plain(message: Message) -> bool:
    return not message.tool_calls
