"""`Tools`: the functions and the MCP servers of this machine, as one `ToolBox`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.chat.tool_prompt import Tool
from modules.chat.tools.arguments import problem_with
from modules.chat.tools.functions import Functions
from modules.chat.tools.mcp_config import McpConfig, read_mcp_config
from modules.chat.tools.mcp_server import McpServer, Waits
from modules.chat.tools.toolbox import Answer, Offer, Source, mark_of
from modules.errors import SettingsError
from modules.settings import Settings

__all__ = ["EXTENSION", "Tools", "open_tools"]

EXTENSION = "tools"
"""The extension without which there are no tools, and which brings the first functions."""


def open_tools(settings: Settings, is_on: Callable[[], bool]) -> Tools:
    """The tools of a launch: the user's own functions, then those of the extension."""
    own, brought = settings.paths.user_data, settings.extension_dir / EXTENSION
    return Tools([own / "tools", brought / "functions"], own / "mcp.json", is_on)


class Tools:
    """Functions in `folders`, and the servers in the file `servers`.

    Nothing is read or started unless `is_on`; servers end when it no longer is. Belongs to the
    event loop.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        servers: Path,
        is_on: Callable[[], bool] = lambda: True,
        waits: Waits | None = None,
    ) -> None:
        self._functions = Functions(folders)
        self._path = servers
        self._is_on = is_on
        self._waits = waits
        self._servers: dict[str, McpServer] = {}
        self._wrong: dict[str, str] = {}

    @property
    def enabled(self) -> bool:
        """Whether the extension is on."""
        return self._is_on()

    def known(self, names: Sequence[str]) -> tuple[Tool, ...]:
        """See ToolBox."""
        if not self.enabled:
            return ()
        found = [*(f.tool for f in self._functions.read().values()), *self._served()]
        return tuple(tool for tool in found if tool.name in names)

    async def ready(self, names: Sequence[str]) -> Offer:
        """See ToolBox."""
        if not self.enabled or not names:
            return Offer()
        await self._refresh()
        wanted = {name.partition(".")[0] for name in names if "." in name}
        servers = [self._servers[name] for name in sorted(wanted & self._servers.keys())]
        await asyncio.gather(*(server.start() for server in servers))
        faults = [
            f"The tools of {s.config.name} are missing: {s.fault}" for s in servers if s.fault
        ]
        return Offer(self.known(names), tuple(faults))

    def mark(self, name: str) -> str:
        """See ToolBox."""
        if function := self._functions.find(name):
            return function.mark
        return next((mark_of(tool) for tool in self._served() if tool.name == name), "")

    async def call(self, name: str, arguments: str) -> Answer:
        """See ToolBox."""
        tool = next(iter(self.known([name])), None)
        if tool is None:
            return Answer(f"There is no tool {name} any more.", failed=True)
        given = json.loads(arguments)
        if problem := problem_with(given, tool.schema):
            return Answer(f"The arguments do not fit: {problem}", failed=True)
        if function := self._functions.find(name):
            return await self._functions.call(function, given)
        server, _, own = name.partition(".")
        return await self._servers[server].call(own, given)

    async def sources(self, *, start: bool) -> list[Source]:
        """See ToolBox."""
        if not self.enabled:
            await self.close()
            return []
        fault = await self._refresh()
        functions = await asyncio.to_thread(self._functions.read)
        if start:
            await asyncio.gather(*(server.start() for server in self._servers.values()))
        found = [
            Source("Functions", "functions", "on", tuple(f.tool for f in functions.values()),
                   self._functions.problems),
            *(_source(server) for server in self._servers.values()),
            *(Source(name, "mcp", "failed", (), (why,)) for name, why in self._wrong.items()),
        ]  # fmt: skip
        return [*found, Source(self._path.name, "mcp", "failed", (), (fault,))] if fault else found

    async def close(self) -> None:
        """See ToolBox."""
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(server.close() for server in servers.values()))

    def _served(self) -> list[Tool]:
        return [tool for server in self._servers.values() for tool in server.tools]

    async def _refresh(self) -> str:
        """Read which servers there are, and end those that are no more; what is wrong, if it is."""
        configs: dict[str, McpConfig] = {}
        fault = ""
        try:
            configs, self._wrong = await asyncio.to_thread(read_mcp_config, self._path)
        except SettingsError as error:
            self._wrong, fault = {}, str(error)
        kept = {n: s for n, s in self._servers.items() if configs.get(n) == s.config}
        gone = [server for name, server in self._servers.items() if name not in kept]
        self._servers = {
            name: kept.get(name) or McpServer(config, self._waits)
            for name, config in configs.items()
        }
        await asyncio.gather(*(server.close() for server in gone))
        return fault


def _source(server: McpServer) -> Source:
    problems = ((server.fault,) if server.fault else ()) + server.problems
    return Source(server.config.name, "mcp", server.state, server.tools, problems)
