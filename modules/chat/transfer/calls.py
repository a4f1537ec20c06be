"""The calls of tools that a file says a reply made, checked. None of them can be run any more."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args

from modules.chat.tools.call import CallState, ReplyCall, ended
from modules.chat.transfer.place import Place, shown

__all__ = ["checked_calls"]

_MOST = 500
_NAME_CHARS = 120


def checked_calls(value: Any, length: int, place: Place) -> tuple[ReplyCall, ...]:
    """The calls in a reply of `length` characters. Raises InvalidInputError."""
    found: list[ReplyCall] = []
    for at, one in place.rows(value, "call"):
        found.append(_call(at.mapping(one), length, at))
        before = found[-2] if len(found) > 1 else found[-1]
        if before.at > found[-1].at or before.round > found[-1].round:
            raise at.wrong("it stands before the call that the file has before it")
        if len(found) > _MOST:
            raise place.wrong(f"there are more than {_MOST} of them")
    return ended(found)


def _call(one: dict[str, Any], length: int, at: Place) -> ReplyCall:
    unknown = sorted(one.keys() - {field.name for field in fields(ReplyCall)})
    if unknown:
        raise at.wrong(f"the key {shown(unknown[0])} is unknown")
    if one.get("state") not in get_args(CallState):
        raise at.wrong(f"{shown(one.get('state'))} is no state of a call")
    arguments = at.text(one, "arguments")
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise at.wrong("its arguments are no JSON object")
    return ReplyCall(
        id=at.text(one, "id", most=_NAME_CHARS),
        name=at.text(one, "name", most=_NAME_CHARS),
        arguments=arguments,
        at=int(at.number(one, "at", 0, length)),
        round=int(at.number(one, "round", 1, _MOST)),
        state=one["state"],
        result=at.text(one, "result"),
    )
