"""`PageSessions`: whose session of gradio's is which.

A tab chooses its own `session_hash`, and gradio asks for nothing else: whoever names another's
would read its events and act on its state. So the first login that names one keeps it.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = [
    "MAX_BODY_BYTES",
    "PageSessions",
    "body_of",
    "carries_event",
    "named_by_address",
    "named_by_body",
]

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of an event: more than the longest text, escaped."""
_MAX_SESSIONS = 100_000
_UPLOADS = ("/gradio_api/upload",)


class PageSessions:
    """Which user each session belongs to; the oldest are forgotten."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}

    def claim(self, session: str, user: str) -> bool:
        """Whether `session` is `user`'s, as it is from now on if it was nobody's."""
        if len(self._users) >= _MAX_SESSIONS:
            del self._users[next(iter(self._users))]
        return self._users.setdefault(session, user) == user


def named_by_address(path: str, query: bytes) -> str:
    """The session whose stream or state an address asks for; empty where it names none."""
    if not path.startswith("/gradio_api/"):
        return ""
    parts = path.split("/")
    if len(parts) > 3 and parts[2] in ("heartbeat", "stream"):
        return parts[3]
    return str(dict(urllib.parse.parse_qsl(query.decode("latin-1"))).get("session_hash", ""))


def named_by_body(body: bytes) -> str | None:
    """The session that an event names; None for a body that is no event of gradio's."""
    try:
        event = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return None
    session = event.get("session_hash") if isinstance(event, dict) else 0
    return "" if session is None else session if isinstance(session, str) else None


def carries_event(method: str, path: str) -> bool:
    """Whether a request has a body that may name a session."""
    return method == "POST" and path.startswith("/gradio_api/") and not path.startswith(_UPLOADS)


async def body_of(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes | None:
    """What was sent; None where it is longer than MAX_BODY_BYTES, or the sender left."""
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_BODY_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(pieces)
