"""Who gets in, as whom, and who does not."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modules import access
from modules.access import OWNER, Access, AccessMiddleware, Caller, Scope, caller_of

pytestmark = pytest.mark.anyio

TOKEN = "the-right-token"
LOCAL, REMOTE = "127.0.0.1", "203.0.113.5"


async def whoami(scope: Scope, receive: Any, send: Any) -> None:
    """An app that says how the middleware introduced the caller."""
    caller = caller_of(scope)
    body = json.dumps([caller.user, caller.admin]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def browser(
    token: str = "", client: str = LOCAL, host: str = "127.0.0.1:7860", rules: Access | None = None
) -> httpx.AsyncClient:
    app: Any = AccessMiddleware(whoami, rules or Access(token))
    transport = httpx.ASGITransport(app, client=(client, 5000))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


def guest(**options: Any) -> httpx.AsyncClient:
    return browser(TOKEN, client=REMOTE, host="lantern.example:7860", **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the back-off sees it: one number to set."""
    now = [1000.0]
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


# -- loopback ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7860", "127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.8.8.8"],
)
async def test_loopback_is_the_owner_without_a_login(host: str) -> None:
    assert (await browser(host=host).get("/")).json() == [OWNER.user, True]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.1", "0.0.0.0",
        "2130706433", "192.168.1.2", "",
    ],
)  # fmt: skip
async def test_a_foreign_host_that_resolves_to_loopback_is_refused(host: str) -> None:
    answer = await browser().get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "--listen" in answer.json()["message"]


@pytest.mark.parametrize("host", ["[::1", "[", "::1]", "[v1.x]", "a]b[c"])
async def test_a_host_that_is_no_host_is_refused_without_a_fault(host: str) -> None:
    assert (await browser().get("/", headers={"host": host})).status_code == 403


async def test_another_machine_is_refused_where_only_loopback_is_served() -> None:
    assert (await browser(client=REMOTE).get("/")).status_code == 403


async def test_the_owner_stays_the_owner_where_a_token_is_asked_of_others() -> None:
    assert (await browser(TOKEN).get("/")).json() == ["owner", True]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_what_a_proxy_forwards_is_not_the_owner(header: str) -> None:
    assert (await browser(TOKEN).get("/", headers={header: "x"})).status_code == 401


# -- cross-site -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://[::1", "x", ""]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_writing_from_another_site_is_refused(method: str, origin: str) -> None:
    answer = await browser().request(method, "/", headers={"origin": origin})
    assert answer.status_code == 403
    assert "another site" in answer.json()["message"]


async def test_writing_from_our_page_and_from_no_page_is_let_through() -> None:
    async with browser() as client:
        ours = await client.post("/", headers={"origin": "http://127.0.0.1:7860"})
        curl = await client.post("/")
    assert (ours.status_code, curl.status_code) == (200, 200)


async def test_a_cross_site_write_with_the_right_token_is_refused_too() -> None:
    async with guest() as client:
        client.cookies.set("lantern_token", TOKEN)
        answer = await client.post("/", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


# -- the token --------------------------------------------------------------------------


async def test_without_the_token_a_stranger_is_told_what_to_open() -> None:
    answer = await guest().get("/")
    assert answer.status_code == 401
    assert "?token=" in answer.json()["message"]
    assert TOKEN not in answer.text


async def test_the_address_with_the_token_sets_a_cookie_and_leads_to_one_without_it() -> None:
    answer = await guest().get(f"/?token={TOKEN}&__theme=dark")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?__theme=dark"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite" in answer.headers["set-cookie"]


async def test_after_the_redirect_the_guest_is_in_and_no_admin() -> None:
    async with guest() as client:
        user, admin = (await client.get(f"/?token={TOKEN}", follow_redirects=True)).json()
    assert user.startswith("guest-")
    assert not admin


async def test_a_guest_keeps_the_identity_of_the_first_visit() -> None:
    async with guest() as client:
        await client.get(f"/?token={TOKEN}")
        assert (await client.get("/")).json() == (await client.get("/x")).json()


async def test_two_guests_are_two_people() -> None:
    async with guest() as one, guest() as other:
        await one.get(f"/?token={TOKEN}")
        await other.get(f"/?token={TOKEN}")
        assert (await one.get("/")).text != (await other.get("/")).text


@pytest.mark.parametrize("forged", ["owner", "guest-abc", "", "x" * 19])
async def test_a_short_guest_cookie_is_replaced_and_none_makes_an_owner(forged: str) -> None:
    async with guest() as client:
        client.cookies.update({"lantern_token": TOKEN, "lantern_guest": forged})
        answer = await client.get("/")
    assert "lantern_guest" in answer.headers["set-cookie"]
    assert answer.json()[0] not in ("owner", forged)


@pytest.mark.parametrize("token", ["wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "\x00"])
async def test_a_wrong_token_is_refused(token: str) -> None:
    answer = await guest().get("/", params={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "/%0d%0aSet-Cookie:%20x=1", "/€", "/a?b"]
)
async def test_the_redirect_stays_on_this_server(path: str) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "client": (REMOTE, 1),
        "headers": [(b"host", b"lantern.example")], "query_string": f"token={TOKEN}".encode(),
    }  # fmt: skip
    await AccessMiddleware(whoami, Access(TOKEN))(scope, None, send)  # type: ignore[arg-type]
    location = dict(sent[0]["headers"])[b"location"]
    assert location.startswith(b"/")
    assert not location.startswith((b"//", b"/\\"))
    assert b"\r" not in location


# -- backing off ------------------------------------------------------------------------


def guess(rules: Access, times: int) -> None:
    for i in range(times):
        assert not rules.token_fits(f"guess {i}", REMOTE)


def test_after_five_wrong_tokens_even_the_right_one_waits(clock: list[float]) -> None:
    rules = Access(TOKEN)
    guess(rules, 5)
    assert not rules.token_fits(TOKEN, REMOTE)
    clock[0] += 1.1
    assert rules.token_fits(TOKEN, REMOTE)


def test_the_pause_grows_to_a_minute_and_no_further(clock: list[float]) -> None:
    rules = Access(TOKEN)
    for i in range(40):
        rules.token_fits(f"guess {i}", REMOTE)
        clock[0] += 60.1
    rules.token_fits("one more", REMOTE)
    clock[0] += 30
    assert not rules.token_fits(TOKEN, REMOTE)
    clock[0] += 30.1
    assert rules.token_fits(TOKEN, REMOTE)


def test_one_guesser_does_not_lock_the_others_out(clock: list[float]) -> None:
    rules = Access(TOKEN)
    guess(rules, 20)
    assert rules.token_fits(TOKEN, "198.51.100.7")


def test_four_wrong_tokens_and_the_right_one_begin_anew(clock: list[float]) -> None:
    rules = Access(TOKEN)
    for _ in range(3):
        guess(rules, 4)
        assert rules.token_fits(TOKEN, REMOTE)


async def test_visits_without_a_token_do_not_count_as_guesses(clock: list[float]) -> None:
    async with guest() as client:
        for _ in range(30):
            await client.get("/favicon.ico")
        assert (await client.get(f"/?token={TOKEN}")).status_code == 303


async def test_an_open_tab_with_the_token_of_the_last_start_locks_nobody_out(
    clock: list[float],
) -> None:
    async with guest() as client:
        client.cookies.set("lantern_token", "that-of-the-last-start")
        for _ in range(30):
            assert (await client.get("/page/events")).status_code == 401
        assert (await client.get(f"/?token={TOKEN}")).status_code == 303


# -- the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    assert Access.for_host(host).token == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_any_other_address_gets_a_long_fresh_token(host: str) -> None:
    first, second = Access.for_host(host).token, Access.for_host(host).token
    assert len(first) >= 24
    assert first != second


async def test_a_websocket_is_refused() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await AccessMiddleware(whoami, Access())({"type": "websocket"}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_api_checks_its_own_key_and_makes_nobody_an_owner() -> None:
    assert (await guest().get("/v1/models")).json() == ["api", False]


def test_who_came_past_the_middleware_is_nobody() -> None:
    assert caller_of({}) == Caller("", admin=False)
    assert caller_of({"lantern.caller": "owner"}) == Caller("", admin=False)


@pytest.mark.parametrize("cookie", ["=;;=", "lantern_token", 'a="', "lantern_token=é", "x" * 5000])
async def test_a_damaged_cookie_is_no_fault(cookie: str) -> None:
    answer = await guest().get("/", headers=[(b"cookie", cookie.encode())])
    assert answer.status_code == 401
