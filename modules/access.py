"""Who is calling, and whether they may.

A page on loopback is the owner's and open. Beyond loopback, everything asks for the
token that is printed once at start; who brings it is a guest, who chats and sees only
their own chats. A pure ASGI middleware, so that it stands before every route, those of
gradio included; each handler asks for its `Caller` again.
"""

from __future__ import annotations

import hashlib
import http.cookies
import ipaddress
import json
import secrets
import time
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OWNER", "Access", "AccessMiddleware", "Caller", "caller_of"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_TOKEN_COOKIE = "lantern_token"  # noqa: S105 - the name of a cookie
_GUEST_COOKIE = "lantern_guest"
_FREE_TRIES = 5
_MAX_BACK_OFF_S = 60.0
_MAX_CLIENTS = 10_000
_READ_METHODS = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose chats are seen, and whether the model may be changed."""

    user: str
    admin: bool


OWNER = Caller("owner", admin=True)


@dataclass(slots=True)
class _Tries:
    failed: int = 0
    until: float = 0.0
    wrong: str = ""


@dataclass(slots=True)
class Access:
    """The rules of one launch. An empty `token` means that only loopback is served."""

    token: str = ""
    _tries: dict[str, _Tries] = field(default_factory=dict)

    @classmethod
    def for_host(cls, host: str) -> Access:
        """Open on loopback; with a fresh token on any other address."""
        return cls("" if _is_loopback(host) else secrets.token_urlsafe(18))

    def token_fits(self, token: str, client: str) -> bool:
        """Compare in constant time. Wrong tokens make their sender wait, longer each time."""
        if len(self._tries) > _MAX_CLIENTS:
            self._tries.clear()
        tries = self._tries.setdefault(client, _Tries())
        if time.monotonic() < tries.until:
            return False
        if secrets.compare_digest(token.encode(), self.token.encode()):
            self._tries.pop(client, None)
            return True
        if token in ("", tries.wrong):
            # No guess: a visitor without a token, or an open tab with that of the last start.
            return False
        tries.failed, tries.wrong = tries.failed + 1, token
        if tries.failed >= _FREE_TRIES:
            pause = min(_MAX_BACK_OFF_S, 2.0 ** (tries.failed - _FREE_TRIES))
            tries.until = time.monotonic() + pause
        return False


def caller_of(scope: Scope) -> Caller:
    """Who sent a request that passed the middleware; nobody in particular otherwise."""
    caller = scope.get("lantern.caller")
    return caller if isinstance(caller, Caller) else Caller("", admin=False)


class AccessMiddleware:
    """Lets a request through with its `Caller`, or answers it with one sentence."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(  # noqa: D102 - what every ASGI application is
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # Lantern serves no websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in
                   scope["headers"]}  # fmt: skip
        host = _host_name(headers.get("host", ""))
        if scope["method"] not in _READ_METHODS and not _same_origin(headers):
            await _answer(send, 403, "This request came from another site's page.")
            return
        if self._is_local(scope, headers, host):
            scope["lantern.caller"] = OWNER
            await self._app(scope, receive, send)
        elif not self._access.token:
            # A foreign name that resolves to loopback is how DNS rebinding looks.
            await _answer(
                send, 403, "This page is served on this machine alone. Open it by 127.0.0.1, or "
                "start Lantern with --listen."
            )  # fmt: skip
        else:
            await self._serve_guest(scope, receive, send, headers)

    def _is_local(self, scope: Scope, headers: dict[str, str], host: str) -> bool:
        client = (scope.get("client") or ("",))[0]
        forwarded = "x-forwarded-for" in headers or "forwarded" in headers
        return _is_loopback(client) and _is_loopback(host) and not (
            self._access.token and forwarded
        )  # fmt: skip

    async def _serve_guest(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
    ) -> None:
        client = (scope.get("client") or ("",))[0]
        cookies = _cookies(headers.get("cookie", ""))
        if scope["path"].startswith("/v1/"):  # the API checks its key itself
            scope["lantern.caller"] = Caller("api", admin=False)
            await self._app(scope, receive, send)
            return
        query = urllib.parse.parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        offered = dict(query).get("token")
        if offered is not None and self._access.token_fits(offered, client):
            rest = urllib.parse.urlencode([(k, v) for k, v in query if k != "token"])
            # Quoted, and with one slash, so that it can name no other host and no header.
            here = "/" + urllib.parse.quote(scope["path"].lstrip("/"))
            await _redirect(send, here + (f"?{rest}" if rest else ""), self._access.token)
            return
        if not self._access.token_fits(cookies.get(_TOKEN_COOKIE, ""), client):
            await _answer(
                send, 401, "This page needs the token that Lantern printed when it started. Open "
                "the whole address that was printed, with ?token= at its end."
            )  # fmt: skip
            return
        guest = cookies.get(_GUEST_COOKIE, "")
        fresh = "" if len(guest) >= 20 else secrets.token_urlsafe(18)
        identity = hashlib.sha256((fresh or guest).encode()).hexdigest()[:24]
        scope["lantern.caller"] = Caller(f"guest-{identity}", admin=False)
        await self._app(scope, receive, _with_cookie(send, fresh) if fresh else send)


def _with_cookie(send: Send, guest: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _cookie(_GUEST_COOKIE, guest)]
        await send(message)

    return sending


async def _redirect(send: Send, location: str, token: str) -> None:
    headers = [(b"location", location.encode("latin-1")), _cookie(_TOKEN_COOKIE, token)]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"message": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _cookie(name: str, value: str) -> tuple[bytes, bytes]:
    text = f"{name}={value}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
    return b"set-cookie", text.encode("latin-1")


def _cookies(header: str) -> dict[str, str]:
    try:
        jar = http.cookies.SimpleCookie(header)
    except http.cookies.CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _same_origin(headers: dict[str, str]) -> bool:
    """Whether a writing request comes from our page, or from no page at all."""
    origin = headers.get("origin")
    try:
        return origin is None or urllib.parse.urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False


def _host_name(header: str) -> str:
    try:
        return urllib.parse.urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
