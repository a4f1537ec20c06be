"""`McpServer`: one MCP server through the official client, from its start to its end.

A connection belongs to the task that opened it, so each server has a task of its own, which
holds it open until it is told to stop. Nothing but tools is used of a server: it is offered
no sampling, no roots and no questions to the user.
"""

from __future__ import annotations

import asyncio
import collections
import importlib
import json
import logging
import os
import threading
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modules.chat.tool_prompt import Tool
from modules.chat.tools.mcp_config import McpConfig
from modules.chat.tools.toolbox import Answer, described
from modules.errors import InvalidInputError

if TYPE_CHECKING:  # imported where a server is started: it takes half a second
    import anyio
    from mcp import Client
    from mcp.types import CallToolResult

__all__ = ["McpServer", "Waits"]

_MAX_TOOLS = 200
_MAX_PAGES = 20
_MAX_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a server may take, in seconds: to start, to list its tools again, to answer a call,
    and to end."""

    start: float = 20.0
    look: float = 5.0
    call: float = 60.0
    end: float = 8.0


class McpServer:
    """A server that is started when it is wanted. Belongs to the event loop.

    `fault` says why it is not up, or how it ended.
    """

    def __init__(self, config: McpConfig, waits: Waits | None = None) -> None:
        self.config = config
        self.state: Literal["off", "starting", "on", "failed"] = "off"
        self.fault = ""
        self.tools: tuple[Tool, ...] = ()
        self.problems: tuple[str, ...] = ()
        self._waits = waits or Waits()
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._client: Client | None = None
        self._said = _Said()

    async def start(self) -> None:
        """Have it up, with its present tools; returns also where it fails, see `fault`."""
        async with self._starting:
            if self.state == "on" and await self._answers():
                return
            await self.close()
            self.state, self.fault = "starting", ""
            up = asyncio.Event()
            self._task = asyncio.create_task(self._live(up), name=f"mcp-{self.config.name}")
            waiting = asyncio.create_task(up.wait())
            try:
                await asyncio.wait(
                    {self._task, waiting},
                    timeout=self._waits.start,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                waiting.cancel()
            if not up.is_set():
                seconds = f"{self._waits.start:g}"
                await self._fail(self.fault or f"It did not answer within {seconds} seconds.")

    async def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Call one of its tools by its own name. What goes wrong is the answer."""
        if self._client is None:
            return Answer(self._sentence(self.fault or "It is not running."), failed=True)
        try:
            async with asyncio.timeout(self._waits.call):
                result = await self._client.call_tool(name, arguments)
        except TimeoutError:
            await self._fail(f"{name} did not end within {self._waits.call:g} seconds.")
        except Exception as error:  # noqa: BLE001 - a server may break in any way
            if self._task is not None and not self._task.done() and await self._answers():
                return Answer(self._sentence(f"{name} failed: {_told(error)}."), failed=True)
            await self._fail(f"It ended while {name} ran.")
        else:
            return _answer(result)
        return Answer(self._sentence(self.fault), failed=True)

    async def close(self) -> None:
        """End it; a command that does not end by itself is killed."""
        task, self._task, self._client = self._task, None, None
        if task is not None and not task.done():
            if self._scope is not None:
                self._scope.cancel()
            else:
                task.cancel()
            await asyncio.wait({task}, timeout=self._waits.end)
        if self.state != "failed":
            self.state = "off"

    async def _fail(self, why: str) -> None:
        """End it because it is of no use, and keep what it said last."""
        self.state = "failed"
        await self.close()
        last = self._said.last
        self.fault = f"{why} It said last: {last}" if last else why

    async def _answers(self) -> bool:
        """Whether it lists its tools within a moment."""
        client = self._client
        if client is None:
            return False
        try:
            async with asyncio.timeout(self._waits.look):
                await self._list(client)
        except Exception:  # noqa: BLE001 - a server may break in any way
            return False
        return True

    async def _live(self, up: asyncio.Event) -> None:
        """The whole life of the connection, in one task."""
        await asyncio.to_thread(importlib.import_module, "mcp")
        # It writes a traceback for each line of a server that prints what is no message.
        logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)
        import anyio
        from mcp import Client

        try:
            with anyio.CancelScope() as self._scope:
                async with AsyncExitStack() as stack:
                    client = Client(await self._transport(stack), cache=None)
                    await stack.enter_async_context(client)
                    await self._list(client)
                    self._client, self.state = client, "on"
                    up.set()
                    await asyncio.Event().wait()
        except Exception as error:  # noqa: BLE001 - a server may break in any way
            self.fault = f"It could not be started: {_told(error)}."
        finally:
            self._client = None
            self._said.close()

    async def _transport(self, stack: AsyncExitStack) -> Any:
        import httpx2
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        config = self.config
        if config.url:
            times = httpx2.Timeout(self._waits.start, read=self._waits.call)
            http = httpx2.AsyncClient(headers=dict(config.headers), timeout=times)
            await stack.enter_async_context(http)
            return streamable_http_client(config.url, http_client=http)
        parameters = StdioServerParameters(
            command=config.command,
            args=list(config.args),
            env=dict(config.env),
            cwd=config.cwd or None,
        )
        self._said.close()
        self._said = _Said()
        return stdio_client(parameters, errlog=self._said.file())

    async def _list(self, client: Client) -> None:
        """Read which tools it has; what is no tool is left out, and named."""
        found: list[Tool] = []
        problems: list[str] = []
        cursor = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for one in page.tools:
                try:
                    name = self.config.name
                    found.append(described(one.name, one.description, one.input_schema, name))
                except InvalidInputError as error:
                    problems.append(str(error))
            cursor = page.next_cursor
            if cursor is None or len(found) > _MAX_TOOLS:
                break
        self.tools, self.problems = tuple(found[:_MAX_TOOLS]), tuple(problems[:5])

    def _sentence(self, why: str) -> str:
        return f"The MCP server {self.config.name}: {why}"


class _Said:
    """What a command writes to stderr: the last of it, in a thread that ends with the command."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=20)
        self._written: Any = None

    def file(self) -> Any:
        """A file for the command to write to."""
        reading, writing = os.pipe()
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()
        self._written = os.fdopen(writing, "w")
        return self._written

    def close(self) -> None:
        """Nothing more is written by us; a command that has ended is read to its end."""
        if self._written is not None:
            with suppress(OSError):
                self._written.close()
            self._written = None

    @property
    def last(self) -> str:
        """The last line that says something."""
        return next((line for line in reversed(self._lines) if line.strip()), "")[:300]

    def _read(self, reading: int) -> None:
        rest = b""
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while piece := pipe.read(4096):
                *lines, rest = (rest + piece).split(b"\n")
                self._lines.extend(line.decode("utf-8", "replace").strip() for line in lines)
                rest = rest[-4096:]
        self._lines.append(rest.decode("utf-8", "replace").strip())


def _told(error: BaseException) -> str:
    """One sentence of an exception; of a group, the first cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())[:300].rstrip(".")
    return text or type(error).__name__


def _answer(result: CallToolResult) -> Answer:
    """The text of a result; what is no text is named."""
    parts = [
        block.text if block.type == "text" else f"[{block.type}, which is not shown]"
        for block in result.content
    ]
    text = "\n".join(parts)
    if not parts and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if len(text) > _MAX_CHARS:
        text = f"{text[:_MAX_CHARS]}\n… (the first {_MAX_CHARS:,} of {len(text):,} characters)"
    return Answer(text, failed=result.is_error)
