"""`user_data/mcp.json`: the MCP servers that the owner names, in the form that clients share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import SettingsError

__all__ = ["McpConfig", "read_mcp_config"]

_MAX_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_KEYS = {"command", "args", "env", "cwd", "url", "headers", "type", "disabled"}


@dataclass(frozen=True, slots=True)
class McpConfig:
    """One server: a `command` that is started here, or a `url` where one runs.

    `env` is added to the few variables that such a command inherits.
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def read_mcp_config(path: Path) -> tuple[dict[str, McpConfig], dict[str, str]]:
    """The servers in a file, and by name what is wrong with those that cannot be used.

    Raises SettingsError for a file that is no such list; without a file there are none.
    """
    try:
        data = path.read_bytes() if path.exists() else b'{"mcpServers": {}}'
        value = json.loads(data) if len(data) <= _MAX_BYTES else None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Check it.") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no JSON: {error}.", "Correct it.") from error
    servers = value.get("mcpServers") if isinstance(value, dict) else None
    if not isinstance(servers, dict):
        raise SettingsError(
            f"{path} has no object mcpServers, or more than {_MAX_BYTES // 1024} KB.",
            'Write {"mcpServers": {"name": {"command": "…", "args": []}}}.',
        )
    found: dict[str, McpConfig] = {}
    wrong: dict[str, str] = {}
    for name, one in servers.items():
        problem = _problem(name, one)
        if problem:
            wrong[str(name)[:40]] = problem
        elif not one.get("disabled"):
            found[name] = _config(name, one)
    return found, wrong


def _problem(name: str, one: Any) -> str:
    """What keeps an entry from being used, as a sentence with what to do."""
    if not _NAME.fullmatch(name):
        return "Its name has more than letters, digits, - and _; give it another one."
    if not isinstance(one, dict):
        return "It is no object; write its command or its url."
    unknown = sorted(one.keys() - _KEYS)
    if unknown:
        return f"The key {unknown[0]!r} is unknown; remove it."
    if ("command" in one) == ("url" in one):
        return "It must have a command or a url, and not both."
    if one.get("type", "stdio") not in ("stdio", "http", "streamable-http"):
        return f"Lantern does not speak {one['type']!r}; use stdio, or http."
    for key in ("command", "url", "cwd"):
        if not isinstance(one.get(key, ""), str) or (key in one and not one[key]):
            return f"{key!r} must be text."
    if "url" in one and not re.match(r"https?://", one["url"]):
        return "'url' must begin with http:// or https://."
    args = one.get("args", [])
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        return "'args' must be a list of texts."
    for key in ("env", "headers"):
        pairs = one.get(key, {})
        if not isinstance(pairs, dict) or not all(isinstance(v, str) for v in pairs.values()):
            return f"{key!r} must be names with texts."
    return ""


def _config(name: str, one: dict[str, Any]) -> McpConfig:
    return McpConfig(
        name,
        one.get("command", ""),
        tuple(one.get("args", ())),
        one.get("env", {}),
        one.get("cwd", ""),
        one.get("url", ""),
        one.get("headers", {}),
    )
