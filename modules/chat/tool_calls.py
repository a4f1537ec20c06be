"""`CallReader`: the calls of tools in a reply, in the forms in which models write them.

Hermes and Qwen write `<tool_call>{"name": …, "arguments": {…}}</tool_call>` amid text; Llama 3
an object with `parameters` and nothing else, Mistral a list after `[TOOL_CALLS]`, or later
`name[ARGS]{…}`. Marks that are special tokens are not in the text of a reply, so that those
without them count as well.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from modules.chat.messages import ToolCall

__all__ = ["CallReader"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKS = ("[TOOL_CALLS]", "<|python_tag|>")
_CALL = re.compile(r'\[?\s*\{\s*"(name|type|function|id|arguments|parameters)"')
_UNDECIDED = 60
"""Characters after which a reply that begins like JSON is a call, or none."""


class CallReader:
    """Takes a reply piece by piece; a call is known when the piece that ends it has come.

    `names` are the tools that there are; what calls another one is text, but between marks with
    `any_name`. `most` calls are taken, and the others left out.
    """

    def __init__(self, names: Collection[str], most: int = 128, *, any_name: bool = False) -> None:
        self._names = frozenset(names)
        self._any_name = any_name
        self._most = most
        self._held = ""
        self._begun = False
        self._whole = False
        self._after_call = False
        self.calls: list[ToolCall] = []

    @property
    def holds(self) -> bool:
        """Whether a call is being written, by the looks of it."""
        return len(self._held) > len(_OPEN)

    def push(self, text: str) -> str:
        """Take the next piece; returns the text that is certainly no call."""
        self._held += text
        if not self._begun:
            # The whole reply may be a call; until that is clear, nothing is shown.
            start = self._held.lstrip()
            if self._may_be_call(start):
                return ""
            self._begun = True
        return "" if self._whole else self._text()

    def finish(self) -> str:
        """The reply has ended; returns the text that turned out to be no call."""
        text, self._held = self._held, ""
        if text.lstrip().startswith(_OPEN):
            found = self._parsed(text.strip().removeprefix(_OPEN).removesuffix(_CLOSE), True)
        else:
            found = self._bare(text.strip())
        if not found:
            return text
        self._take(found)
        return ""

    def _may_be_call(self, start: str) -> bool:
        if self._whole or not start:
            return True
        if start.startswith(_MARKS):
            self._whole = True
            return True
        if start[0] in "{[" and not any(mark.startswith(start) for mark in _MARKS):
            self._whole = _CALL.match(start) is not None
            return self._whole or len(start) < _UNDECIDED
        for name in self._names:
            if start.startswith((f"{name}{{", f"{name}[ARGS]{{")):
                self._whole = True
        heads = (*_MARKS, *(f"{name}[ARGS]{{" for name in self._names), *(
            f"{name}{{" for name in self._names))  # fmt: skip
        return self._whole or any(head.startswith(start) for head in heads)

    def _text(self) -> str:
        """What stands before, between and after the calls that are complete."""
        shown = ""
        self._skip_space()
        while (begin := self._held.find(_OPEN)) >= 0:
            shown, self._held = shown + self._held[:begin], self._held[begin:]
            end = self._end_of_call()
            if end < 0:
                return shown
            self._held, self._after_call = self._held[end:], True
            self._skip_space()
        # The end may be the beginning of a mark.
        kept = next((n for n in range(len(_OPEN) - 1, 0, -1) if self._held.endswith(_OPEN[:n])), 0)
        edge = len(self._held) - kept
        shown, self._held = shown + self._held[:edge], self._held[edge:]
        return shown

    def _skip_space(self) -> None:
        """White space after a call is none of the reply's."""
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held

    def _end_of_call(self) -> int:
        """Where the call ends that the held text begins with; -1 while it goes on."""
        at = self._held.find(_CLOSE)
        while at >= 0:
            found = self._parsed(self._held[len(_OPEN) : at], True)
            if found:
                self._take(found)
                return at + len(_CLOSE)
            # An argument may have the mark in it.
            at = self._held.find(_CLOSE, at + 1)
        return -1

    def _take(self, calls: list[ToolCall]) -> None:
        self.calls += calls[: self._most - len(self.calls)]

    def _bare(self, text: str) -> list[ToolCall]:
        """The calls that are the whole of `text`; none where anything else is in it."""
        for mark in _MARKS:
            text = text.removeprefix(mark).strip()
        named = re.match(r"([A-Za-z0-9_.-]{1,64})(?:\[ARGS\])?(\{.*)", text, re.DOTALL)
        if named and named[1] in self._names:
            arguments = _json(named[2])
            return [_call(named[1], arguments)] if isinstance(arguments, dict) else []
        return self._parsed(text)

    def _parsed(self, text: str, marked: bool = False) -> list[ToolCall]:
        """The calls that JSON comes to: an object, several of them, or a list.

        `marked`: it stands between the marks of a call.
        """
        calls: list[ToolCall] = []
        for value in _values(text):
            for one in value if isinstance(value, list) else [value]:
                call = self._call_of(one, marked and self._any_name)
                if call is None:
                    return []
                calls.append(call)
        return calls

    def _call_of(self, value: Any, any_name: bool) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        if isinstance(value.get("function"), dict):
            value = value["function"]
        name = value.get("name", value.get("function"))
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _json(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        if name in self._names or (any_name and re.fullmatch(r"[\w.-]{1,64}", name)):
            return _call(name, arguments)
        return None


def _call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return ToolCall(uuid.uuid4().hex[:9], name, json.dumps(arguments, ensure_ascii=False))


def _refused(constant: str) -> None:
    """NaN and Infinity, which Python reads, are no JSON."""
    raise ValueError(constant)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        return None


def _values(text: str) -> Iterator[Any]:
    """The JSON values in `text`, which nothing but semicolons and space may part."""
    decoder, at = json.JSONDecoder(parse_constant=_refused), 0
    while at < len(text):
        if text[at] in "; \t\r\n":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, at = None, len(text)
        yield value
