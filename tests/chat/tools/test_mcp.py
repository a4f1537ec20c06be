"""MCP servers: what the file says, real servers in processes of their own, and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modules.chat.tools.box import Tools
from modules.chat.tools.mcp_config import McpConfig, read_mcp_config
from modules.chat.tools.mcp_server import McpServer, Waits
from modules.chat.tools.toolbox import Answer
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import SettingsError
from tests.chat.tools.helpers import SERVER, function

pytestmark = pytest.mark.anyio


SHORT = Waits(call=3.0)


def command(folder: Path, code: str = SERVER, **more: Any) -> dict[str, Any]:
    """An entry for a server with this code."""
    path = folder / "server.py"
    path.write_text(code)
    return {"command": sys.executable, "args": [str(path)], **more}


def box(folder: Path, servers: dict[str, Any]) -> Tools:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return Tools([folder / "tools"], path, waits=SHORT)


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[Tools]:
    """A box with one good server."""
    opened = box(tmp_path, {"test": command(tmp_path, env={"GIVEN": "given"})})
    yield opened
    await opened.close()


def running(folder: Path) -> list[int]:
    """The processes that run this folder's server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder / "server.py").encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


# -- a server that works ------------------------------------------------------------------


async def test_its_tools_are_offered_once_it_was_started(tools: Tools, tmp_path: Path) -> None:
    (_, server) = await tools.sources(start=False)
    assert (server.state, server.tools, running(tmp_path)) == ("off", (), [])
    offer = await tools.ready(["test.add", "test.gone"])
    assert [tool.name for tool in offer.tools] == ["test.add"]
    assert (offer.tools[0].description, offer.faults) == ("Add two numbers.", ())
    assert offer.tools[0].schema["required"] == ["a", "b"]
    (_, server) = await tools.sources(start=False)
    assert server.state == "on" and len(server.tools) == 5
    assert len(running(tmp_path)) == 1


async def test_its_tools_are_called_and_their_faults_are_answers(tools: Tools) -> None:
    await tools.ready(["test.add"])
    assert await tools.call("test.add", '{"a": 2, "b": 3}') == Answer("5")
    answer = await tools.call("test.add", '{"a": 2}')
    assert answer == Answer("The arguments do not fit: b is missing.", failed=True)
    failed = await tools.call("test.fail", "{}")
    assert failed.failed and failed.text == "Error executing tool fail"
    assert (await tools.call("test.none", "{}")).text == "There is no tool test.none any more."


async def test_a_server_inherits_no_secrets(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_GIVEN", "secret")
    await tools.ready(["test.secret"])
    assert await tools.call("test.secret", "{}") == Answer("given")


async def test_functions_and_servers_are_called_side_by_side(tools: Tools, tmp_path: Path) -> None:
    function(tmp_path / "tools", "probe")
    await tools.ready(["test.add", "probe"])
    added, probed = await asyncio.gather(
        tools.call("test.add", '{"a": 1, "b": 1}'), tools.call("probe", "{}")
    )
    assert (added.text, probed.text) == ("2", "called")


async def test_closing_ends_the_process(tools: Tools, tmp_path: Path) -> None:
    await tools.ready(["test.add"])
    await tools.close()
    assert running(tmp_path) == []


async def test_a_server_that_is_taken_from_the_file_is_ended(tools: Tools, tmp_path: Path) -> None:
    await tools.ready(["test.add"])
    (tmp_path / "mcp.json").write_text('{"mcpServers": {}}')
    assert [source.kind for source in await tools.sources(start=False)] == ["functions"]
    assert running(tmp_path) == []


async def test_switching_the_extension_off_ends_the_servers(tmp_path: Path) -> None:
    on = True
    box(tmp_path, {"test": command(tmp_path)})
    tools = Tools([], tmp_path / "mcp.json", is_on=lambda: on, waits=SHORT)
    await tools.ready(["test.add"])
    on = False
    assert await tools.sources(start=True) == []
    assert running(tmp_path) == []


async def test_a_server_at_an_address_is_spoken_to(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = SERVER.replace("server.run()", f"server.run('streamable-http', port={port})")
    entry = command(tmp_path, code)
    with subprocess.Popen([entry["command"], *entry["args"]], stderr=subprocess.DEVNULL) as child:
        try:
            await listening(port)
            tools = box(tmp_path, {"web": {"url": f"http://127.0.0.1:{port}/mcp"}})
            await tools.ready(["web.add"])
            assert await tools.call("web.add", '{"a": 2, "b": 3}') == Answer("5")
            child.kill()
            answer = await tools.call("web.add", '{"a": 2, "b": 3}')
            assert answer.failed and "The MCP server web" in answer.text
            await tools.close()
        finally:
            child.kill()


async def listening(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not come up")


# -- servers that do not ------------------------------------------------------------------


async def test_a_server_that_dies_in_a_call_is_named_and_comes_back(
    tools: Tools, tmp_path: Path
) -> None:
    await tools.ready(["test.die"])
    answer = await tools.call("test.die", "{}")
    assert answer.failed
    assert answer.text == (
        "The MCP server test: It ended while die ran. It said last: the last words"
    )
    assert running(tmp_path) == []
    assert [source.state for source in await tools.sources(start=False)] == ["on", "failed"]
    again = await tools.ready(["test.add"])
    assert again.faults == ()
    assert await tools.call("test.add", '{"a": 2, "b": 3}') == Answer("5")


async def test_a_server_that_was_killed_meanwhile_is_started_again(
    tools: Tools, tmp_path: Path
) -> None:
    await tools.ready(["test.add"])
    (pid,) = running(tmp_path)
    os.kill(pid, 9)
    assert (await tools.ready(["test.add"])).faults == ()
    assert running(tmp_path) != [pid]
    assert await tools.call("test.add", '{"a": 2, "b": 3}') == Answer("5")


async def test_a_call_that_hangs_ends_with_its_server(tools: Tools, tmp_path: Path) -> None:
    await tools.ready(["test.sleep"])
    answer = await tools.call("test.sleep", "{}")
    assert answer.failed and "sleep did not end within 3 seconds" in answer.text
    assert running(tmp_path) == []


async def test_stopping_a_call_leaves_the_server_up(tools: Tools) -> None:
    await tools.ready(["test.sleep"])
    task = asyncio.create_task(tools.call("test.sleep", "{}"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [source.state for source in await tools.sources(start=False)] == ["on", "on"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import sys; sys.exit('no such database')", "It said last: no such database"),
        ("print('this is no protocol', flush=True)", "could not be started"),
        ("import time; time.sleep(600)", "did not answer within 2 seconds"),
        ("while True: print('x' * 1000)", ""),
    ],
)
async def test_a_server_that_does_not_start_is_named_and_the_others_work(
    tmp_path: Path, code: str, fault: str
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    tools = box(tmp_path, {"bad": command(bad, code), "test": command(tmp_path)})
    await tools.ready(["test.add"])
    tools._servers["bad"]._waits = Waits(start=2.0)
    offer = await tools.ready(["bad.x", "test.add"])
    assert [tool.name for tool in offer.tools] == ["test.add"]
    (told,) = offer.faults
    assert told.startswith("The tools of bad are missing: ") and fault in told
    assert running(bad) == []
    await tools.close()


async def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = McpServer(McpConfig("x", "no-such-command-here"))
    await server.start()
    assert server.state == "failed" and "no-such-command-here" in server.fault
    await server.close()


# -- the file -----------------------------------------------------------------------------


def test_without_a_file_there_are_no_servers(tmp_path: Path) -> None:
    assert read_mcp_config(tmp_path / "mcp.json") == ({}, {})


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"mcpServers": []}', "\x00", "[" * 100_000, " " * 300_000]
)
def test_a_file_that_is_no_list_of_servers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mcp.json").write_text(text)
    with pytest.raises(SettingsError):
        read_mcp_config(tmp_path / "mcp.json")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ([], "no object"),
        ({}, "a command or a url"),
        ({"command": "x", "url": "http://x"}, "not both"),
        ({"command": 7}, "must be text"),
        ({"command": ""}, "must be text"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"url": "http://x", "type": "sse"}, "does not speak 'sse'"),
        ({"command": "x", "args": "y"}, "list of texts"),
        ({"command": "x", "args": [1]}, "list of texts"),
        ({"command": "x", "env": {"A": 1}}, "names with texts"),
        ({"command": "x", "autoApprove": ["y"]}, "'autoApprove' is unknown"),
    ],
)
def test_an_entry_that_is_wrong_is_named_and_the_others_stay(
    tmp_path: Path, entry: Any, told: str
) -> None:
    servers = {"bad": entry, "a b": {"command": "x"}, "off": {"command": "x", "disabled": True},
               "good": {"command": "x", "args": ["y"], "env": {"A": "1"}}}  # fmt: skip
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    found, wrong = read_mcp_config(tmp_path / "mcp.json")
    assert found == {"good": McpConfig("good", "x", ("y",), {"A": "1"})}
    assert told in wrong["bad"] and "Its name" in wrong["a b"]


async def test_a_damaged_file_is_told_where_tools_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text("{")
    functions, fault = await Tools([], tmp_path / "mcp.json").sources(start=True)
    assert (functions.kind, fault.name, fault.state) == ("functions", "mcp.json", "failed")
    assert "is no JSON" in fault.problems[0]


async def test_ending_lantern_ends_its_servers(ctx: AppContext, tmp_path: Path) -> None:
    ctx.chats.desk.box = box(tmp_path, {"test": command(tmp_path)})
    await ctx.chats.approvals.sources(start=True)
    assert len(running(tmp_path)) == 1
    await ctx.chats.close()
    assert running(tmp_path) == []


async def test_a_reply_says_which_tools_are_missing_and_is_written_without_them(
    ctx: AppContext, engine: FakeEngine, tmp_path: Path
) -> None:
    ctx.chats.desk.box = box(tmp_path, {"lost": {"command": "no-such-command-here"}})
    chat = (await ctx.chats.create("owner")).id
    await ctx.chats.approvals.choose(chat, "owner", ["lost.find"])
    await ctx.chats.send(chat, "owner", "Hi", SamplingParams())
    await ctx.chats.wait(chat)
    reply = (await ctx.chats.branch(chat, "owner"))[-1]
    assert (reply.state, reply.content) == ("complete", "The capital of France is Paris.")
    (told,) = reply.about["tool_faults"]
    assert told.startswith("The tools of lost are missing: ")
    await ctx.chats.close()
