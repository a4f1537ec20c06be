"""`ToolBox`: what the chats know of tools; and `NoTools`, where there are none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from modules.chat.tool_prompt import Tool
from modules.errors import InvalidInputError

__all__ = ["Answer", "NoTools", "Offer", "Source", "ToolBox", "described", "mark_of"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_MOST_CHARS = 20_000
"""Of what describes one tool to the model: some 5,000 tokens, which is a lot already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to. A tool that `failed` says how."""

    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools that a reply may call, and a sentence for each server that did not come up."""

    tools: tuple[Tool, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where tools come from: the functions, or one MCP server.

    `problems` say what of it cannot be used, and how to mend it.
    """

    name: str
    kind: Literal["functions", "mcp"]
    state: Literal["off", "starting", "on", "failed"]
    tools: tuple[Tool, ...] = ()
    problems: tuple[str, ...] = ()


class ToolBox(Protocol):
    """Every tool that there is. Belongs to the event loop."""

    @property
    def enabled(self) -> bool:
        """Whether there are tools at all."""
        ...

    def known(self, names: Sequence[str]) -> tuple[Tool, ...]:
        """Those of these tools that are known without starting anything."""
        ...

    async def ready(self, names: Sequence[str]) -> Offer:
        """These tools, once the servers that have them are up."""
        ...

    def mark(self, name: str) -> str:
        """What changes when the tool does; empty where it is not known."""
        ...

    async def call(self, name: str, arguments: str) -> Answer:
        """Run a tool. What goes wrong is its answer."""
        ...

    async def sources(self, *, start: bool) -> list[Source]:
        """All there is, for choosing; with `start`, once every server is up."""
        ...

    async def close(self) -> None:
        """End every server."""
        ...


class NoTools:
    """The box of a Lantern whose extension `tools` is off."""

    enabled = False

    def known(self, names: Sequence[str]) -> tuple[Tool, ...]:
        """None."""
        return ()

    async def ready(self, names: Sequence[str]) -> Offer:
        """None."""
        return Offer()

    def mark(self, name: str) -> str:
        """Of nothing."""
        return ""

    async def call(self, name: str, arguments: str) -> Answer:
        """Nothing runs."""
        return Answer("The tools are switched off.", failed=True)

    async def sources(self, *, start: bool) -> list[Source]:
        """None."""
        return []

    async def close(self) -> None:
        """Nothing is held."""


def described(name: Any, description: Any, parameters: Any, server: str = "") -> Tool:
    """A tool by what it says of itself; one of an MCP server has that server's name before it.

    Raises InvalidInputError for what is no description of a tool.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{str(name)[:80]!r} is no name of a tool.",
            "Use up to 64 letters, digits, - and _, beginning with a letter.",
        )
    if not isinstance(description, str | None) or not isinstance(parameters, Mapping | None):
        raise InvalidInputError(
            f"{name}: its description is no text, or its parameters are no JSON schema.",
            "Describe it as an OpenAI function.",
        )
    tool = Tool(f"{server}.{name}" if server else name, description or "", dict(parameters or {}))
    try:
        size = len(json.dumps(tool.as_variable()))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name}: its parameters are no JSON.", "Correct them.") from error
    if tool.schema["type"] != "object" or size > _MOST_CHARS:
        raise InvalidInputError(
            f"{name}: its parameters are no object, or it has more than {_MOST_CHARS:,} "
            "characters.",
            "Shorten its description.",
        )
    return tool


def mark_of(tool: Tool, code: bytes = b"") -> str:
    """A mark of what a tool says, and of its code where that is known."""
    said = json.dumps(tool.as_variable(), sort_keys=True).encode("utf-8", "replace")
    return hashlib.blake2b(said + b"\0" + code, digest_size=12).hexdigest()
