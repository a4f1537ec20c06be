"""From an uploaded file to the chats in it, whichever known form it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from modules.chat.copies import ChatCopy
from modules.chat.transfer.foreign import from_openai, from_sharegpt
from modules.chat.transfer.ours import from_ours
from modules.chat.transfer.place import Place
from modules.chat.transfer.webui import from_webui

__all__ = ["MAX_FILE_BYTES", "read_chats"]

MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_CHATS = 20_000
_MAX_MESSAGES = 500_000
_MB = 1024 * 1024
_FORMS = {
    "lantern": from_ours,
    "conversations": from_sharegpt,
    "messages": from_openai,
    "internal": from_webui,
    "data": from_webui,
}
"""By the key that tells them apart, looked for in this order."""


def read_chats(file: IO[bytes], name: str) -> list[ChatCopy]:
    """Every chat in a JSON or JSONL file.

    Raises InvalidInputError, which names the file and the place, for one that has none.
    """
    place = Place(name)
    chats: list[ChatCopy] = []
    messages = 0
    for at, value in _values(file, place):
        chat = _chat(value, at)
        chats.append(chat)
        messages += len(chat.messages)
        if len(chats) > _MAX_CHATS or messages > _MAX_MESSAGES:
            raise at.wrong(f"a file may have {_MAX_CHATS:,} chats and {_MAX_MESSAGES:,} messages")
    if not chats:
        raise place.wrong("there is no chat in it")
    return chats


def _chat(value: Any, place: Place) -> ChatCopy:
    if isinstance(value, list):
        value = {_key_of(value): value}
    value = place.mapping(value)
    for key, read in _FORMS.items():
        if key in value:
            return read(value, place)
    raise place.wrong("this is no chat in a form that Lantern knows")


def _key_of(turns: list[Any]) -> str:
    """Which form a bare list of turns has."""
    first = turns[0] if turns else None
    return "conversations" if isinstance(first, dict) and "from" in first else "messages"


def _values(file: IO[bytes], place: Place) -> Iterator[tuple[Place, Any]]:
    """What may be a chat each, with its place."""
    text = file.read(_MAX_JSON_BYTES + 1)
    if len(text) <= _MAX_JSON_BYTES and not place.file.lower().endswith((".jsonl", ".ndjson")):
        try:
            yield from _members(_parsed(text, place), place)
            return
        except _SeveralError:
            pass
    file.seek(0)
    for number in range(1, 2**31):
        line = file.readline(_MAX_JSON_BYTES + 1)
        if not line:
            return
        at = place.at(f"line {number}")
        if len(line) > _MAX_JSON_BYTES:
            most = _MAX_JSON_BYTES // _MB
            raise at.wrong(f"it has more than {most} MB; a larger file has a chat on each line")
        if line.strip():
            yield at, _parsed(line, at)


def _members(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """The chats in a value: itself, or those that it lists."""
    if isinstance(value, dict) and isinstance(value.get("chats"), list):
        value = value["chats"]
    turns = isinstance(value, list) and value and isinstance(value[0], dict)
    if isinstance(value, dict) or (turns and value[0].keys() & {"from", "role"}):
        yield place, value
    else:
        yield from place.rows(value, "chat")


class _SeveralError(Exception):
    """After a whole JSON value, there is more."""


def _parsed(data: bytes, place: Place) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise place.wrong(f"byte {error.start:,} is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and not place.steps:
            raise _SeveralError from error
        where = f"column {error.colno}" if place.steps else f"line {error.lineno}"
        raise place.wrong(f"{where} is no JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        raise place.wrong("it is nested too deeply, or has a number without end") from error
