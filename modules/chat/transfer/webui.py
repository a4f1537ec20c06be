"""text-generation-webui's histories: pairs of what the user said and what was answered.

`internal` has the texts as the model sees them, `visible` as HTML for the page; up to the
spring of 2023 they were called `data` and `data_visible`. The present form keeps versions
and times in `metadata`, by keys like "assistant_3".
"""

from __future__ import annotations

import html
import time
from datetime import datetime
from typing import Any

from modules.chat.copies import ChatCopy, MessageCopy
from modules.chat.messages import Role
from modules.chat.titles import title_from
from modules.chat.transfer.place import Place

__all__ = ["from_webui", "to_webui"]

_GREETS = "<|BEGIN-VISIBLE-CHAT|>"
"""Stands for the user before a character's greeting."""
_TIME = "%b %d, %Y %H:%M"


def to_webui(copy: ChatCopy) -> dict[str, Any]:
    """The shown branch as pairs. The system message has no place in this form."""
    pairs: list[list[str]] = []
    for message in copy.branch():
        text = copy.whole_text(message)
        if message.role == "assistant" and pairs and not pairs[-1][1]:
            pairs[-1][1] = text
        elif message.role == "assistant":
            pairs.append(["" if pairs else _GREETS, text])
        else:
            pairs.append([text, ""])
    visible = [["" if user == _GREETS else html.escape(user), html.escape(bot)]
               for user, bot in pairs]  # fmt: skip
    return {"internal": pairs, "visible": visible}


def from_webui(value: dict[str, Any], place: Place) -> ChatCopy:
    """The chat in a history file, with the versions of its messages."""
    key = "internal" if "internal" in value else "data"
    metadata = value.get("metadata") or {}
    chat = _Builder(place.at("metadata").mapping(metadata), place)
    for row, (at, pair) in enumerate(place.at(key).rows(value[key], "row")):
        texts = pair if isinstance(pair, list) else []
        if len(texts) != 2:
            raise at.wrong("this is no pair of texts")
        user, bot = (at.text({side: texts[i]}, side) for i, side in enumerate(("user", "reply")))
        if user not in ("", _GREETS):
            chat.add("user", row, user)
        if bot:
            chat.add("assistant", row, bot)
    first = next((m.content for m in chat.messages if m.role == "user"), "")
    return ChatCopy(title=title_from(first), messages=tuple(chat.messages), leaf=chat.leaf)


class _Builder:
    """Puts messages with their versions one after another."""

    def __init__(self, metadata: dict[str, Any], place: Place) -> None:
        self.messages: list[MessageCopy] = []
        self.leaf: int | None = None
        self._metadata = metadata
        self._place = place

    def add(self, role: Role, row: int, text: str) -> None:
        """A message, which is shown, among its versions."""
        name = f"{role}_{row}"
        place = self._place.at("metadata").at(name)
        known = place.mapping(self._metadata.get(name) or {})
        versions = [
            (at.text(at.mapping(one), "content"), one.get("timestamp"))
            for at, one in place.at("versions").rows(known.get("versions") or [], "version")
        ]
        if text not in [content for content, _ in versions]:
            versions.append((text, known.get("timestamp")))
        at = known.get("current_version_index")
        shown = [i for i, (content, _) in enumerate(versions) if content == text]
        chosen = at if at in shown else shown[-1]
        attached = place.at("attachments").rows(known.get("attachments") or [], "file")
        files = "".join(_file(at.mapping(one)) for at, one in attached)
        parent, first = self.leaf, len(self.messages) + 1
        for i, (content, when) in enumerate(versions):
            model = known.get("model_name")
            about = {"model": model} if role == "assistant" and isinstance(model, str) else {}
            self.messages.append(
                MessageCopy(
                    first + i, parent, role, files + content, about=about, created_at=_time(when)
                )
            )
        self.leaf = first + chosen


def _file(file: dict[str, Any]) -> str:
    """An attached text, as Lantern puts one before the message."""
    name, content = (file.get(key) for key in ("name", "content"))
    if not isinstance(content, str):
        return ""
    return f"[File: {name}]\n{content}\n[End of {name}]\n\n"


def _time(written: Any) -> float:
    try:
        return datetime.strptime(written, _TIME).astimezone().timestamp()
    except (TypeError, ValueError, OverflowError):
        return time.time()
