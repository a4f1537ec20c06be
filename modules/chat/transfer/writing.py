"""The forms in which a chat is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules.chat.copies import ChatCopy, MessageCopy
from modules.chat.transfer.foreign import to_sharegpt
from modules.chat.transfer.ours import to_ours
from modules.chat.transfer.webui import to_webui

__all__ = ["FORMS", "Form", "file_name", "line_of"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a chat is written, and what such a file is."""

    suffix: str
    media_type: str
    write: Callable[[ChatCopy], str]


def line_of(copy: ChatCopy) -> str:
    """A chat as one line of a JSONL file."""
    return json.dumps(to_ours(copy), ensure_ascii=False) + "\n"


def file_name(title: str, suffix: str) -> str:
    """A name that every file system takes, out of a title."""
    words = re.sub(r"[^\w .()-]+", " ", title).strip(" .")
    return f"{' '.join(words.split())[:80].rstrip(' .') or 'chat'}{suffix}"


def _markdown(copy: ChatCopy) -> str:
    """The shown branch, to be read."""
    parts = [f"# {copy.title or 'Chat'}"]
    if copy.system.strip():
        parts += ["## System", copy.system.strip()]
    names = {file.id: file.name for file in copy.files}
    for message in copy.branch():
        speaker = message.about.get("model") or "Assistant"
        who = {"user": "You", "system": "System", "assistant": speaker}
        parts.append(f"## {who[message.role]}")
        parts += [f"*Attached: {names[file]}*" for file in message.files]
        parts += _said(message)
    return "\n\n".join(parts) + "\n"


def _said(message: MessageCopy) -> list[str]:
    """The text of a message, and between its parts what tools were asked and answered."""
    parts, start = [], 0
    for call in message.calls:
        parts.append(message.content[start : call.at].strip())
        answer = call.told.strip().replace("\n", "\n> ")
        parts.append(f"> **{call.name}** {call.arguments}\n>\n> {answer}")
        start = max(start, call.at)
    return [part for part in (*parts, message.content[start:].strip()) if part]


def _json(convert: Callable[[ChatCopy], dict[str, Any]]) -> Callable[[ChatCopy], str]:
    return lambda copy: json.dumps(convert(copy), ensure_ascii=False, indent=1) + "\n"


FORMS = {
    "lantern": Form(".json", "application/json", _json(to_ours)),
    "markdown": Form(".md", "text/markdown", _markdown),
    "sharegpt": Form(".sharegpt.json", "application/json", _json(to_sharegpt)),
    "webui": Form(".webui.json", "application/json", _json(to_webui)),
}
