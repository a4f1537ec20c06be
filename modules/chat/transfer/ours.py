"""Lantern's own form: a chat as JSON with everything that is in the store."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, fields
from typing import Any, get_args

from modules.chat.copies import ChatCopy, FileCopy, MessageCopy
from modules.chat.database import storable
from modules.chat.messages import Role
from modules.chat.store import Mode, State
from modules.chat.transfer.about import checked_about
from modules.chat.transfer.calls import checked_calls
from modules.chat.transfer.place import Place, shown
from modules.engine.mix import Mix, checked_mix
from modules.errors import InvalidInputError

__all__ = ["from_ours", "to_ours"]

_VERSION = 1
_LATEST = 2.0**33
"""Unix seconds; the year 2242."""
_IDS = 2**53
_STATES = tuple(state for state in get_args(State) if state != "streaming")


def to_ours(copy: ChatCopy) -> dict[str, Any]:
    """A chat as what `from_ours` reads."""
    return {"lantern": _VERSION, **asdict(copy)}


def from_ours(value: dict[str, Any], place: Place) -> ChatCopy:
    """The chat that `to_ours` wrote. Raises InvalidInputError, which names the place."""
    if value["lantern"] != _VERSION:
        raise place.wrong(f"this is form {shown(value['lantern'])}, and {_VERSION} is known here")
    _no_others(value, {"lantern", *(one.name for one in fields(ChatCopy))}, place)
    files = [_file(one, at) for at, one in place.rows(value.get("files", []), "file")]
    known = {file.id for file in files}
    messages = _in_order(
        [(at, _message(one, at, known)) for at, one in place.rows(value["messages"], "message")]
        if "messages" in value
        else []
    )
    leaf = None if value.get("leaf") is None else _id(value, "leaf", place)
    if leaf is not None and leaf not in {message.id for message in messages}:
        raise place.wrong(f"'leaf' is {leaf}, and no message has this id")
    return ChatCopy(
        title=place.text(value, "title"),
        system=place.text(value, "system"),
        mode=_one_of(value, "mode", get_args(Mode), place),
        character=place.text(value, "character", most=200),
        folder=place.text(value, "folder"),
        pinned=_flag(value, "pinned", place),
        adapters=_mix(value.get("adapters"), place),
        created_at=place.number(value, "created_at", 0, _LATEST),
        updated_at=place.number(value, "updated_at", 0, _LATEST),
        messages=tuple(messages),
        leaf=leaf,
        files=tuple(files),
    )


def _message(value: Any, place: Place, files: set[int]) -> MessageCopy:
    value = place.mapping(value)
    _no_others(value, {one.name for one in fields(MessageCopy)}, place)
    own_files = [
        _id({"id": one}, "id", at)
        for at, one in place.at("files").rows(value.get("files", []), "entry")
    ]
    for file in own_files:
        if file not in files or own_files.count(file) > 1:
            raise place.wrong(f"'files' names {file} twice, or no file has this id")
    content = place.text(value, "content")
    return MessageCopy(
        id=_id(value, "id", place),
        parent=None if value.get("parent") is None else _id(value, "parent", place),
        role=_one_of(value, "role", get_args(Role), place),
        content=content,
        state=_one_of(value, "state", _STATES, place),
        error=place.text(value, "error", most=2000),
        about=checked_about(value.get("about"), place),
        created_at=place.number(value, "created_at", 0, _LATEST),
        pinned=_flag(value, "pinned", place),
        files=tuple(own_files),
        visible=None if value.get("visible") is None else place.text(value, "visible"),
        calls=checked_calls(value.get("calls", []), len(content), place.at("calls")),
    )


def _file(value: Any, place: Place) -> FileCopy:
    value = place.mapping(value)
    _no_others(value, {one.name for one in fields(FileCopy)}, place)
    return FileCopy(
        id=_id(value, "id", place),
        name=place.text(value, "name", most=300),
        size=int(place.number(value, "size", 0, 2**40)),
        note=place.text(value, "note", most=2000),
        text=place.text(value, "text"),
    )


def _in_order(found: list[tuple[Place, MessageCopy]]) -> list[MessageCopy]:
    """Each message after its parent, and otherwise as in the file.

    Raises InvalidInputError for an id that is there twice, a parent that is missing, and
    messages that are each other's parents.
    """
    ids: set[int] = set()
    for place, message in found:
        if message.id in ids:
            raise place.wrong(f"the id {message.id} was there before")
        ids.add(message.id)
    waiting: defaultdict[int, list[MessageCopy]] = defaultdict(list)
    ordered: list[MessageCopy] = []
    placed: set[int | None] = {None}
    for place, message in found:
        if message.parent is not None and message.parent not in ids:
            raise place.wrong(f"its parent {message.parent} is not in the file")
        ready = [message]
        while ready:
            one = ready.pop()
            if one.parent not in placed:
                waiting[one.parent or 0].append(one)
                continue
            placed.add(one.id)
            ordered.append(one)
            ready += reversed(waiting.pop(one.id, []))
    for place, message in found:
        if message.id not in placed:
            raise place.wrong("it is below itself: the parents go in a circle")
    return ordered


def _id(value: dict[str, Any], key: str, place: Place) -> int:
    found = place.number(value, key, -_IDS, _IDS)
    if not found.is_integer():
        raise place.wrong(f"{key!r} is {found}, and no whole number")
    return int(found)


def _no_others(value: dict[str, Any], known: set[str], place: Place) -> None:
    unknown = next((key for key in value if key not in known), None)
    if unknown is not None:
        raise place.wrong(f"the key {storable(unknown[:40])!r} is unknown")


def _one_of(value: dict[str, Any], key: str, choices: tuple[str, ...], place: Place) -> Any:
    found = value.get(key)
    if found not in choices:
        raise place.wrong(f"{key!r} is {shown(found)}, and not {' or '.join(choices)}")
    return found


def _flag(value: dict[str, Any], key: str, place: Place) -> bool:
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise place.wrong(f"{key!r} is neither true nor false")
    return found


def _mix(value: Any, place: Place) -> Mix | None:
    """LoRA names with weights. Raises InvalidInputError."""
    if value is None:
        return None
    at = place.at("adapters")
    pairs = []
    for row, pair in at.rows(value, "entry"):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise row.wrong("this is no name with a weight")
        pairs.append((storable(pair[0]), row.number({"weight": pair[1]}, "weight", -100, 100)))
    try:
        return checked_mix(pairs)
    except InvalidInputError as error:
        raise at.wrong(error.message.rstrip(".")) from error
