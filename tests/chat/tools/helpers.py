"""Tools for the tests, and an engine that calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.engine.protocol import GenerateRequest
from modules.settings import ROOT

SHIPPED = ROOT / "extensions" / "tools" / "functions"

FILE = """
tool = {"type": "function", "function": {
    "name": "NAME", "description": "About NAME.",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}}

def execute(arguments):
    BODY
"""

SERVER = '''
import os, sys, time
from mcp.server.mcpserver import MCPServer

server = MCPServer("test")

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("as it should")

@server.tool()
def die() -> str:
    """End the server."""
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)

@server.tool()
def sleep() -> str:
    """Take forever."""
    time.sleep(600)
    return "never"

@server.tool()
def secret() -> str:
    """What is in the environment."""
    return os.environ.get("GIVEN", "") + os.environ.get("NOT_GIVEN", "")

server.run()
'''


def function(folder: Path, name: str, body: str = "return 'called'") -> Path:
    """A tool in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(FILE.replace("NAME", name).replace("BODY", body.replace("\n", "\n    ")))
    return path


def hermes(name: str, **arguments: Any) -> str:
    """A call as Hermes and Qwen write it."""
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def llama(name: str, **arguments: Any) -> str:
    """A call as Llama 3 writes it."""
    return json.dumps({"name": name, "parameters": arguments})


def saying(*replies: str) -> Callable[[GenerateRequest], str]:
    """What a fake engine answers, one after another; the last one from then on."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]
