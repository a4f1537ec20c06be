"""Who is calling, and whether they may.

A page on loopback is the owner's and open. Beyond loopback, everything asks for the token that
is printed once at start, or for a login where logins were given; who brings one is a guest, who
chats and sees only their own chats. With --admin-remote the owner has a token or a login as
well. A pure ASGI middleware, so that it stands before every route, those of gradio included;
each handler asks for its `Caller` again.
"""

from __future__ import annotations

import hashlib
import http.cookies
import ipaddress
import json
import secrets
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from modules import page_sessions
from modules.accounts import Accounts, key_of
from modules.backoff import BackOff
from modules.login_page import login_page
from modules.page_sessions import PageSessions
from modules.signals import Signal

__all__ = [
    "HERE",
    "OWNER",
    "Access",
    "AccessMiddleware",
    "Caller",
    "Scope",
    "caller_of",
    "is_loopback",
    "new_token",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Role = Literal["owner", "guest"]

_TOKEN_COOKIE = "lantern_token"  # noqa: S105 - the name of a cookie
_SESSION_COOKIE = "lantern_session"
_GUEST_COOKIE = "lantern_guest"
_READ_METHODS = {"GET", "HEAD", "OPTIONS"}
_MAX_FORM_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose chats are seen, and whether the model may be changed.

    `local` is the owner at this machine. `name` is the login, and `key` stands for the session
    or the token that let somebody in (see `Access.admits`).
    """

    user: str
    admin: bool
    local: bool = False
    name: str = ""
    key: str = ""


OWNER = Caller("owner", admin=True)
HERE = replace(OWNER, local=True)


@dataclass(slots=True)
class Access:
    """The rules of one launch. Without tokens and accounts, only loopback is served.

    Requests that come in at `public_port`, where the tunnel ends, are never the owner's by
    themselves, whatever their headers say. Below `subpath` the page is seen through a proxy.
    """

    token: str = ""
    owner_token: str = ""
    accounts: Accounts = field(default_factory=Accounts)
    admin_remote: bool = False
    multi_user: bool = False
    subpath: str = ""
    public_port: int = 0
    api_token: str = ""
    ended: Signal = field(default_factory=Signal)
    """Tells that sessions have ended, or tokens count no longer."""
    _senders: BackOff = field(default_factory=lambda: BackOff(free=5, max_pause_s=60.0))
    # A sender may invent the addresses that a proxy tells, so the proxy itself is counted too,
    # with a pause that is short enough for those who share it.
    _proxies: BackOff = field(default_factory=lambda: BackOff(free=50, max_pause_s=5.0))

    @property
    def remote(self) -> bool:
        """Whether others than this machine are served."""
        return bool(self.token or self.owner_token or self.accounts)

    def role_of(self, token: str, client: str, proxy: str = "") -> Role | None:
        """Whose token this is, compared in constant time. Wrong ones make their sender wait."""
        if self._waiting(client, proxy):
            return None
        given = token.encode("utf-8", "surrogatepass")
        owner = secrets.compare_digest(given, self.owner_token.encode())
        guest = secrets.compare_digest(given, self.token.encode())
        if not token:  # no guess: a visitor who has none yet
            return None
        if owner or guest:
            self._senders.forgive(client)
            return "owner" if owner else "guest"
        self._count(token, client, proxy)
        return None

    def log_in(self, name: str, password: str, client: str, proxy: str = "") -> str:
        """Begin a session for a login; empty for a wrong one, or while its sender must wait."""
        if self._waiting(client, proxy):
            return ""
        if self.accounts.fits(name, password):
            self._senders.forgive(client)
            return self.accounts.begin_session(name)
        self._count(f"{name}\n{password}", client, proxy)
        return ""

    def admits(self, caller: Caller) -> bool:
        """Whether what let `caller` in would still do so; the owner on this machine needs nothing.

        A stream that is open asks, since no middleware stands before what it goes on to send.
        """
        tokens = (key_of(token) for token in (self.token, self.owner_token) if token)
        return not caller.key or self.accounts.holds(caller.key) or caller.key in tokens

    def log_out(self, name: str) -> int:
        """End all sessions of a login; returns how many there were."""
        ended = self.accounts.end(name)
        self.ended.notify()
        return ended

    def renew_tokens(self) -> None:
        """Have every link that was given away lead nowhere, and make new ones."""
        if self.token:
            self.token = new_token()
        if self.owner_token:
            self.owner_token = new_token()
        if self.api_token:
            self.api_token = new_token()
        self.ended.notify()

    def _waiting(self, client: str, proxy: str) -> bool:
        return self._senders.waiting(client) or self._proxies.waiting(proxy)

    def _count(self, guess: str, client: str, proxy: str) -> None:
        self._senders.failed(client, guess)
        if proxy:
            self._proxies.failed(proxy, guess)


def new_token() -> str:
    """A secret for an address, which nobody guesses."""
    return secrets.token_urlsafe(18)


def caller_of(scope: Scope) -> Caller:
    """Who sent a request that passed the middleware; nobody in particular otherwise."""
    caller = scope.get("lantern.caller")
    return caller if isinstance(caller, Caller) else Caller("", admin=False)


@dataclass(slots=True)
class _Visit:
    """One request, as the rules look at it."""

    scope: Scope
    receive: Receive
    send: Send
    headers: dict[str, str]
    access: Access

    @property
    def address(self) -> str:
        """The machine that is connected: the sender's, or a proxy's."""
        return (self.scope.get("client") or ("",))[0]

    @property
    def forwarded(self) -> bool:
        """Whether a proxy says that it sends this for another."""
        return "x-forwarded-for" in self.headers or "forwarded" in self.headers

    @property
    def public(self) -> bool:
        """Whether it came through the tunnel."""
        port = (self.scope.get("server") or ("", 0))[1]
        return bool(self.access.public_port) and port == self.access.public_port

    @property
    def sender(self) -> tuple[str, str]:
        """Who makes a guess, and through which proxy of this machine, if any."""
        told = self.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()[:64]
        if told and is_loopback(self.address):
            return told, self.address
        return self.address, ""

    @property
    def local(self) -> bool:
        """Whether it comes from this machine, where the owner sits."""
        if self.public or (self.access.remote and self.forwarded):
            return False
        return is_loopback(self.address) and is_loopback(_host_name(self.headers.get("host", "")))

    @property
    def same_origin(self) -> bool:
        """Whether a writing request comes from our page, or from no page at all."""
        origin = self.headers.get("origin")
        if origin is None:
            return True
        hosts = {self.headers.get("host")}
        if self.access.subpath:  # a proxy, which may have put its own name into Host
            hosts.add(self.headers.get("x-forwarded-host"))
        try:
            return urllib.parse.urlsplit(origin).netloc in hosts - {None}
        except ValueError:
            return False

    def cookie(self, name: str, value: str, age_s: int = 31_536_000) -> tuple[bytes, bytes]:
        """The header that sets a cookie, or with an age of 0 has it forgotten."""
        proto = self.headers.get("x-forwarded-proto") if self.public else None
        text = f"{name}={value}; Path={self.access.subpath or ''}/; Max-Age={age_s}; HttpOnly"
        if proto == "https":
            # A notebook shows the page within its own: the cookie is kept apart for each site
            # that does so, so that another one's frame has no login.
            text += "; SameSite=None; Secure; Partitioned"
        else:
            text += "; SameSite=Lax" + ("; Secure" if self.scope.get("scheme") == "https" else "")
        return b"set-cookie", text.encode("latin-1")


class AccessMiddleware:
    """Lets a request through with its `Caller`, or answers it with one sentence."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access
        self._sessions = PageSessions()

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
        subpath = self._access.subpath
        if subpath and scope["path"] == subpath and scope["method"] in _READ_METHODS:
            await _redirect(send, f"{subpath}/")  # every address of the page is relative
            return
        if subpath and scope["path"].startswith(f"{subpath}/"):
            scope = {**scope, "path": scope["path"][len(subpath) :]}
        visit = _Visit(scope, receive, send, headers, self._access)
        if scope["method"] not in _READ_METHODS and not visit.same_origin:
            await _answer(send, 403, "This request came from another site's page.")
        elif visit.local:
            await self._serve(visit, HERE)
        elif not self._access.remote:
            # A foreign name that resolves to loopback is how DNS rebinding looks.
            await _answer(
                send, 403, "This page is served on this machine alone. Open it by 127.0.0.1, or "
                "start Lantern with --listen."
            )  # fmt: skip
        elif scope["path"].startswith("/v1/") or scope["path"] == "/metrics":
            # The API checks its key itself.
            await self._serve(visit, Caller("api", admin=False))
        else:
            await self._serve_stranger(visit)

    async def _serve(self, visit: _Visit, caller: Caller) -> None:
        scope = visit.scope
        scope["lantern.caller"] = caller
        named = {page_sessions.named_by_address(scope["path"], scope.get("query_string", b""))}
        if page_sessions.carries_event(scope["method"], scope["path"]):
            body = await page_sessions.body_of(visit.receive)
            session = None if body is None else page_sessions.named_by_body(body)
            if body is None or session is None:
                await _answer(visit.send, 400, "This is no event of the page.")
                return
            named.add(session)
            visit.receive = _with_body(body, visit.receive)
        if all(self._sessions.claim(session, caller.user) for session in named - {""}):
            await self._app(scope, visit.receive, visit.send)
        else:
            await _answer(visit.send, 403, "This session belongs to another login.")

    async def _serve_stranger(self, visit: _Visit) -> None:
        access, scope = self._access, visit.scope
        query = urllib.parse.parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        offered = dict(query).get("token")
        if offered is not None and access.role_of(offered, *visit.sender):
            rest = urllib.parse.urlencode([(k, v) for k, v in query if k != "token"])
            await _redirect(
                visit.send, _here(scope) + (f"?{rest}" if rest else ""),
                visit.cookie(_TOKEN_COOKIE, offered),
            )  # fmt: skip
        elif access.accounts and scope["path"] == "/login":
            await self._log_in(visit)
        elif caller := self._known(visit):
            if (scope["method"], scope["path"]) == ("POST", "/logout"):
                await self._log_out(visit)
            else:
                await self._serve(visit, caller)
        elif access.accounts:
            if "text/html" in visit.headers.get("accept", ""):
                await self._ask(visit)
            else:
                await _answer(visit.send, 401, "Log in first: open the page's address.")
        else:
            await _answer(
                visit.send, 401, "This page needs the token that Lantern printed when it started. "
                "Open the whole address that was printed, with ?token= at its end."
            )  # fmt: skip

    def _known(self, visit: _Visit) -> Caller | None:
        """Whoever brings a session or a token; a guest gets an identity of their own."""
        access, cookies = self._access, _cookies(visit.headers.get("cookie", ""))
        session, token = cookies.get(_SESSION_COOKIE, ""), cookies.get(_TOKEN_COOKIE, "")
        name = access.accounts.name_of(session)
        if name and access.admin_remote and name == access.accounts.first:
            return replace(OWNER, name=name, key=key_of(session))
        if name and access.multi_user:
            return Caller(f"login-{name}", admin=False, name=name, key=key_of(session))
        role = access.role_of(token, *visit.sender)
        if role == "owner":
            return replace(OWNER, key=key_of(token))
        if not name and role is None:
            return None
        guest = cookies.get(_GUEST_COOKIE, "")
        if len(guest) < 20:
            guest = secrets.token_urlsafe(18)
            visit.send = _with_header(visit.send, visit.cookie(_GUEST_COOKIE, guest))
        identity = hashlib.sha256(guest.encode()).hexdigest()[:24]
        key = key_of(session if name else token)
        return Caller(f"guest-{identity}", admin=False, name=name, key=key)

    async def _log_out(self, visit: _Visit) -> None:
        """End the session, here and in the browser, which forgets its token too.

        It keeps what it is known by as a guest: with that go the chats.
        """
        cookies = _cookies(visit.headers.get("cookie", ""))
        self._access.accounts.end_session(cookies.get(_SESSION_COOKIE, ""))
        self._access.ended.notify()
        forgotten = [visit.cookie(name, "", 0) for name in (_SESSION_COOKIE, _TOKEN_COOKIE)]
        await _redirect(visit.send, "./", *forgotten)

    async def _log_in(self, visit: _Visit) -> None:
        if visit.scope["method"] != "POST":
            await self._ask(visit, status=200)
            return
        form = dict(urllib.parse.parse_qsl(await _body(visit.receive, _MAX_FORM_BYTES)))
        name, password = form.get("username", ""), form.get("password", "")
        session = self._access.log_in(name, password, *visit.sender)
        if session:
            await _redirect(visit.send, "./", visit.cookie(_SESSION_COOKIE, session))
        else:
            note = "The name or the password is wrong. After five wrong ones, wait a minute."
            await self._ask(visit, note)

    async def _ask(self, visit: _Visit, note: str = "", status: int = 401) -> None:
        page = login_page(f"{self._access.subpath}/login", note)
        await _respond(visit.send, status, page, "text/html; charset=utf-8")


def _here(scope: Scope) -> str:
    """The address that was asked for, relative to itself: it can name no other host or header."""
    return "./" + urllib.parse.quote(str(scope["path"]).rpartition("/")[2], safe="")


def _with_header(send: Send, header: tuple[bytes, bytes]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], header]
        await send(message)

    return sending


def _with_body(body: bytes, receive: Receive) -> Receive:
    """Give a body once more that was read, and then what follows it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return pending.pop() if pending else await receive()

    return receiving


async def _body(receive: Receive, limit: int) -> str:
    """What was sent, or nothing where it is longer than `limit` bytes."""
    body = b""
    while len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body.decode("utf-8", "replace") if len(body) <= limit else ""


async def _redirect(send: Send, location: str, *headers: tuple[bytes, bytes]) -> None:
    start = [(b"location", location.encode("latin-1")), *headers]
    await send({"type": "http.response.start", "status": 303, "headers": start})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, sentence: str) -> None:
    await _respond(send, status, json.dumps({"message": sentence}).encode(), "application/json")


async def _respond(send: Send, status: int, body: bytes, kind: str) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"cache-control", b"no-store"),
        (b"x-frame-options", b"SAMEORIGIN"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _cookies(header: str) -> dict[str, str]:
    try:
        jar = http.cookies.SimpleCookie(header)
    except http.cookies.CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _host_name(header: str) -> str:
    try:
        return urllib.parse.urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by a name that no foreign name resolves to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
