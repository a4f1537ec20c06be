"""Conversations as training data has them: ShareGPT's form, and OpenAI's messages."""

from __future__ import annotations

from typing import Any

from modules.chat.copies import ChatCopy, MessageCopy
from modules.chat.messages import Role
from modules.chat.titles import title_from
from modules.chat.transfer.place import Place, shown

__all__ = ["chain", "from_openai", "from_sharegpt", "to_sharegpt"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def to_sharegpt(copy: ChatCopy) -> dict[str, Any]:
    """The shown branch in ShareGPT's form, with the texts of its files as the model saw them."""
    turns = [{"from": "system", "value": copy.system}] if copy.system.strip() else []
    turns += [
        {"from": _SPEAKERS[message.role], "value": copy.whole_text(message)}
        for message in copy.branch()
    ]
    return {"id": copy.title, "conversations": turns}


def from_sharegpt(value: dict[str, Any], place: Place) -> ChatCopy:
    """`{"conversations": [{"from", "value"}, …]}`, with a title or a system text beside it."""
    turns = []
    for at, one in place.rows(value["conversations"], "message"):
        turn = at.mapping(one)
        turns.append((_role(turn, "from", at), at.text(turn, "value")))
    return chain(turns, _title(value), _beside(value, "system"))


def from_openai(value: dict[str, Any], place: Place) -> ChatCopy:
    """`{"messages": [{"role", "content"}, …]}`, of which the content may be a list of texts."""
    turns = []
    for at, one in place.rows(value["messages"], "message"):
        turn = at.mapping(one)
        turns.append((_role(turn, "role", at), _content(turn, at)))
    return chain(turns, _title(value), _beside(value, "system"))


def chain(turns: list[tuple[Role, str]], title: str = "", system: str = "") -> ChatCopy:
    """A chat without branches. A system message at its beginning becomes the chat's own."""
    if turns and turns[0][0] == "system" and not system:
        system, turns = turns[0][1], turns[1:]
    messages = tuple(
        MessageCopy(i, i - 1 if i > 1 else None, role, content)
        for i, (role, content) in enumerate(turns, 1)
    )
    first = next((content for role, content in turns if role == "user"), "")
    return ChatCopy(
        title=title or title_from(first),
        system=system,
        messages=messages,
        leaf=len(messages) or None,
    )


def _role(turn: dict[str, Any], key: str, place: Place) -> Role:
    name = place.text(turn, key, most=100)
    if name.lower() not in _ROLES:
        raise place.wrong(f"{shown(name)} is a role that Lantern's chats do not have")
    return _ROLES[name.lower()]


def _content(turn: dict[str, Any], place: Place) -> str:
    content = turn.get("content")
    if not isinstance(content, list):
        return place.text(turn, "content")
    texts = []
    for at, part in place.rows(content, "part"):
        kind = at.mapping(part).get("type")
        if kind not in ("text", "input_text", "output_text"):
            raise at.wrong(f"it is {shown(kind)}, and only text can be imported")
        texts.append(at.text(part, "text"))
    return "\n\n".join(texts)


def _title(value: dict[str, Any]) -> str:
    return next((t for key in ("title", "name", "id") if (t := _beside(value, key))), "")


def _beside(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
