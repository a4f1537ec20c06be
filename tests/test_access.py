"""Who gets in, as whom, and who does not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modules import backoff
from modules.access import HERE, OWNER, Access, AccessMiddleware, Caller, Scope, caller_of
from modules.accounts import Accounts
from modules.address import check_certificate
from modules.errors import SettingsError
from modules.settings import Settings
from modules.ui.web import make_access

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
    monkeypatch.setattr(backoff, "time", SimpleNamespace(monotonic=lambda: now[0]))
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
    assert answer.headers["location"] == "./?__theme=dark"
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
    assert location.startswith(b"./")
    assert not set(location[2:]) & set(b"/\\\r\n:?")


# -- backing off ------------------------------------------------------------------------


def guess(rules: Access, times: int) -> None:
    for i in range(times):
        assert not rules.role_of(f"guess {i}", REMOTE)


def test_after_five_wrong_tokens_even_the_right_one_waits(clock: list[float]) -> None:
    rules = Access(TOKEN)
    guess(rules, 5)
    assert not rules.role_of(TOKEN, REMOTE)
    clock[0] += 1.1
    assert rules.role_of(TOKEN, REMOTE)


def test_the_pause_grows_to_a_minute_and_no_further(clock: list[float]) -> None:
    rules = Access(TOKEN)
    for i in range(40):
        rules.role_of(f"guess {i}", REMOTE)
        clock[0] += 60.1
    rules.role_of("one more", REMOTE)
    clock[0] += 30
    assert not rules.role_of(TOKEN, REMOTE)
    clock[0] += 30.1
    assert rules.role_of(TOKEN, REMOTE)


def test_one_guesser_does_not_lock_the_others_out(clock: list[float]) -> None:
    rules = Access(TOKEN)
    guess(rules, 20)
    assert rules.role_of(TOKEN, "198.51.100.7")


def test_four_wrong_tokens_and_the_right_one_begin_anew(clock: list[float]) -> None:
    rules = Access(TOKEN)
    for _ in range(3):
        guess(rules, 4)
        assert rules.role_of(TOKEN, REMOTE)


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


# -- logins -----------------------------------------------------------------------------


def logins(**rules: Any) -> Access:
    return Access(accounts=Accounts.of({"me": "first", "ann": "second", "bob": "thïrd:,"}), **rules)


def visitor(rules: Access) -> httpx.AsyncClient:
    return guest(rules=rules)


async def enter(client: httpx.AsyncClient, name: str, password: str) -> httpx.Response:
    return await client.post("/login", data={"username": name, "password": password})


async def test_a_stranger_is_shown_a_plain_login_page_and_programs_one_sentence() -> None:
    async with visitor(logins()) as client:
        page = await client.get("/", headers={"accept": "text/html,*/*"})
        program = await client.get("/page/events", headers={"accept": "text/event-stream"})
    assert (page.status_code, program.status_code) == (401, 401)
    assert 'action="/login"' in page.text
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert program.json()["message"].startswith("Log in")


async def test_the_right_password_leads_to_the_page_as_a_guest() -> None:
    async with visitor(logins()) as client:
        answer = await enter(client, "bob", "thïrd:,")
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "thïrd" not in answer.headers["set-cookie"]
        user, admin = (await client.get("/")).json()
    assert user.startswith("guest-")
    assert not admin


@pytest.mark.parametrize(
    ("name", "password"),
    [("ann", "first"), ("ann", ""), ("", ""), ("", "second"), ("nobody", "second"),
     ("ANN", "second"), ("ann", "second "), ("ann", "x" * 9000), ("a\x00", "second")],
)  # fmt: skip
async def test_a_wrong_login_is_told_in_the_page(name: str, password: str) -> None:
    async with visitor(logins()) as client:
        answer = await enter(client, name, password)
        assert answer.status_code == 401
        assert 'role="alert"' in answer.text
        assert "set-cookie" not in answer.headers
        assert (await client.get("/")).status_code == 401


async def test_a_login_without_multi_user_belongs_to_the_browser() -> None:
    rules = logins()
    async with visitor(rules) as one, visitor(rules) as other:
        await enter(one, "ann", "second")
        await enter(other, "ann", "second")
        assert (await one.get("/")).json() == (await one.get("/")).json()
        assert (await one.get("/")).text != (await other.get("/")).text


async def test_with_multi_user_a_login_is_the_same_person_everywhere() -> None:
    rules = logins(multi_user=True)
    async with visitor(rules) as one, visitor(rules) as other, visitor(rules) as bob:
        await enter(one, "ann", "second")
        await enter(other, "ann", "second")
        await enter(bob, "bob", "thïrd:,")
        assert (await one.get("/")).json() == (await other.get("/")).json() == ["login-ann", False]
        assert (await bob.get("/")).json() == ["login-bob", False]


async def test_the_owner_on_loopback_needs_no_login() -> None:
    async with browser(rules=logins(multi_user=True)) as client:
        assert (await client.get("/")).json() == ["owner", True]


async def test_only_with_admin_remote_the_first_login_is_the_owner() -> None:
    for rules, expected in ((logins(), False), (logins(admin_remote=True), True)):
        async with visitor(rules) as me, visitor(rules) as ann:
            await enter(me, "me", "first")
            await enter(ann, "ann", "second")
            assert ((await me.get("/")).json() == ["owner", True]) is expected
            assert (await ann.get("/")).json()[1] is False


async def test_an_owners_token_makes_an_owner_and_that_of_guests_does_not() -> None:
    rules = Access(TOKEN, owner_token="for-myself")
    async with guest(rules=rules) as me, guest(rules=rules) as other:
        await me.get("/?token=for-myself")
        await other.get(f"/?token={TOKEN}")
        assert (await me.get("/")).json() == ["owner", True]
        assert (await other.get("/")).json()[1] is False


@pytest.mark.parametrize("session", ["", "owner", "me", "x" * 43, "é"])
async def test_a_forged_session_is_nobody(session: str) -> None:
    rules = logins(admin_remote=True, multi_user=True)
    async with visitor(rules) as client:
        await enter(client, "me", "first")
        cookie = f"lantern_session={session}; lantern_token={session}".encode()
        client.cookies.clear()
        assert (await client.get("/", headers=[(b"cookie", cookie)])).status_code == 401


async def test_a_token_opens_nothing_where_logins_were_given() -> None:
    rules = make_access(Settings(listen=True, gradio_auth="ann:second"))
    assert rules.token == ""
    async with visitor(rules) as client:
        for token in ("", rules.api_token):
            assert (await client.get(f"/?token={token}")).status_code == 401


async def test_a_hundred_wrong_passwords_are_slowed_down_and_harm_nobody_else(
    clock: list[float],
) -> None:
    rules = logins()
    async with visitor(rules) as client:
        for i in range(100):
            assert (await enter(client, "ann", f"guess {i}")).status_code == 401
        assert (await enter(client, "ann", "second")).status_code == 401
    async with browser(client="198.51.100.7", host="lantern.example", rules=rules) as other:
        assert (await enter(other, "ann", "second")).status_code == 303
    clock[0] += 60.1
    async with visitor(rules) as client:
        assert (await enter(client, "ann", "second")).status_code == 303


async def test_behind_a_proxy_a_guesser_waits_even_under_invented_addresses(
    clock: list[float],
) -> None:
    rules = logins()
    async with browser(rules=rules, host="lantern.example") as client:
        for i in range(60):
            client.headers["x-forwarded-for"] = f"198.51.100.{i}"
            await enter(client, "ann", f"guess {i}")
        assert (await enter(client, "ann", "second")).status_code == 401
        clock[0] += 5.1
        assert (await enter(client, "ann", "second")).status_code == 303


@pytest.mark.parametrize(
    ("text", "lines", "said"),
    [
        ("ann", None, "user:password"), (":x", None, "user:password"), ("ann:", None, "user:pass"),
        ("ann:a,ann:b", None, "twice"), ("ann:a", "ann:b", "twice"), ("", "", "no login"),
        ("", "\n\n", "no login"), ("", "x" * 70_000, "64 KB"), ("x" * 65 + ":a", None, "64"),
    ],
)  # fmt: skip
def test_wrong_logins_are_said_without_a_password(
    text: str, lines: str | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "logins"
    if lines is not None:
        file.write_text(lines)
    with pytest.raises(SettingsError, match=said) as caught:
        Accounts.read(text, "" if lines is None else str(file))
    assert "ann:" not in str(caught.value)


def test_logins_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_text("bob:with:colon\ncem:x, dan:y\n")
    accounts = Accounts.read("ann:first", str(file))
    assert accounts.first == "ann"
    assert all(accounts.fits(*login) for login in
               (("ann", "first"), ("bob", "with:colon"), ("cem", "x"), ("dan", "y")))  # fmt: skip
    assert "first" not in repr(accounts)


def test_a_file_of_logins_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="no such file"):
        Accounts.read("", "/nowhere/logins")


# -- tunnels, proxies and TLS -----------------------------------------------------------


async def through(rules: Access, path: str = "/", **headers: str) -> list[Any]:
    """What is sent for a request at port 9999 of loopback."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": "127.0.0.1"} | {k.replace("_", "-"): v for k, v in headers.items()}
    scope = {
        "type": "http", "method": "GET", "path": path.partition("?")[0], "client": (LOCAL, 1),
        "server": (LOCAL, 9999), "query_string": path.partition("?")[2].encode(),
        "headers": [(k.encode(), v.encode()) for k, v in named.items()],
    }  # fmt: skip
    await AccessMiddleware(whoami, rules)(scope, None, send)  # type: ignore[arg-type]
    return sent


async def test_the_tunnels_port_makes_nobody_the_owner() -> None:
    assert (await through(Access(TOKEN, public_port=9999)))[0]["status"] == 401
    assert (await through(Access(TOKEN, public_port=9998)))[0]["status"] == 200


async def test_through_an_https_tunnel_the_cookie_works_within_a_notebook() -> None:
    rules = Access(TOKEN, public_port=9999)
    shared = dict(
        (await through(rules, f"/?token={TOKEN}", x_forwarded_proto="https"))[0]["headers"]
    )
    plain = dict((await through(rules, f"/?token={TOKEN}"))[0]["headers"])
    assert b"SameSite=None; Secure; Partitioned" in shared[b"set-cookie"]
    assert b"SameSite=Lax" in plain[b"set-cookie"]


@pytest.mark.parametrize("path", ["/proxy/7860/x", "/x"])
async def test_below_a_subpath_and_beside_it_the_same_is_served(path: str) -> None:
    async with browser(rules=Access(TOKEN, subpath="/proxy/7860")) as client:
        assert (await client.get(path)).json() == ["owner", True]
        bare = await client.get("/proxy/7860")
    assert bare.headers["location"] == "/proxy/7860/"


async def test_only_below_a_subpath_a_proxy_may_name_the_host_of_the_page() -> None:
    told = {"origin": "https://hub.example", "x-forwarded-host": "hub.example"}
    for subpath, status in (("/proxy/7860", 200), ("", 403)):
        async with browser(rules=Access("", subpath=subpath)) as client:
            assert (await client.post("/", headers=told)).status_code == status


@pytest.mark.parametrize(
    ("keyfile", "certfile"), [("key", ""), ("", "cert"), ("none", "none"), ("key", "key")]
)
def test_a_certificate_that_cannot_be_served_with_is_said_before_the_start(
    keyfile: str, certfile: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("no key")
    files = {"ssl_keyfile": keyfile and str(tmp_path / keyfile),
             "ssl_certfile": certfile and str(tmp_path / certfile)}  # fmt: skip
    with pytest.raises(SettingsError, match="--ssl-certfile"):
        check_certificate(Settings(**files))


# -- the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    assert not make_access(Settings(listen_host=host)).remote


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com"])
def test_any_other_address_gets_a_long_fresh_token(host: str) -> None:
    first, second = (make_access(Settings(listen_host=host)).token for _ in range(2))
    assert len(first) >= 24
    assert first != second


@pytest.mark.parametrize("setting", [{"share": True}, {"subpath": "/proxy/7860"}])
def test_a_share_link_and_a_proxy_ask_for_a_token_on_loopback_too(setting: Any) -> None:
    assert len(make_access(Settings(**setting)).token) >= 24


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


# -- leaving ----------------------------------------------------------------------------


def rules_with_logins(**changed: Any) -> Access:
    return Access(accounts=Accounts.of({"me": "first", "ann": "second"}), **changed)


async def entered(rules: Access, name: str = "ann", password: str = "second") -> httpx.AsyncClient:
    client = browser(client=REMOTE, host="lantern.example:7860", rules=rules)
    form = {"username": name, "password": password}
    assert (await client.post("/login", data=form)).status_code == 303
    return client


async def test_who_logs_out_is_out_on_the_server_too() -> None:
    rules = rules_with_logins()
    ann = await entered(rules)
    kept = dict(ann.cookies)
    assert (await ann.get("/page")).status_code == 200
    left = await ann.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "./")
    assert "lantern_session" not in ann.cookies
    ann.cookies.update(kept)
    assert (await ann.get("/page")).status_code == 401


async def test_who_came_by_a_link_forgets_its_token_and_keeps_its_chats() -> None:
    client = guest()
    await client.get("/", params={"token": TOKEN})
    who = (await client.get("/")).json()
    await client.post("/logout")
    assert (await client.get("/")).status_code == 401
    await client.get("/", params={"token": TOKEN})
    assert (await client.get("/")).json() == who


async def test_another_sites_page_logs_nobody_out() -> None:
    ann = await entered(rules_with_logins())
    answer = await ann.post("/logout", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert (await ann.get("/page")).status_code == 200


async def test_a_login_is_ended_wherever_it_is_used_and_others_are_not() -> None:
    rules = rules_with_logins()
    first, second = await entered(rules), await entered(rules)
    mine = await entered(rules, "me", "first")
    seen = rules.ended.version
    assert rules.log_out("ann") == 2
    assert rules.ended.version > seen
    assert [(await one.get("/page")).status_code for one in (first, second, mine)] == [
        401,
        401,
        200,
    ]
    assert rules.log_out("ann") == 0


async def test_new_tokens_take_the_place_of_the_old() -> None:
    rules = Access(TOKEN, owner_token="the-owners")
    client = guest(rules=rules)
    await client.get("/", params={"token": TOKEN})
    rules.renew_tokens()
    assert (await client.get("/")).status_code == 401
    assert rules.token not in ("", TOKEN)
    assert rules.owner_token not in ("", "the-owners")
    assert rules.api_token == ""


async def test_what_let_somebody_in_is_asked_again_of_an_open_stream() -> None:
    callers: list[Caller] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        callers.append(caller_of(scope))
        await whoami(scope, receive, send)

    rules = rules_with_logins(multi_user=True, admin_remote=True)
    transport = httpx.ASGITransport(AccessMiddleware(app, rules), client=(REMOTE, 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://lantern.example") as client:
        for name, password in (("ann", "second"), ("me", "first")):
            await client.post("/login", data={"username": name, "password": password})
            await client.get("/")
    ann, owner = callers
    assert (ann.name, owner.name, owner.admin, owner.local) == ("ann", "me", True, False)
    assert rules.admits(ann)
    rules.log_out("ann")
    assert not rules.admits(ann)
    assert rules.admits(owner)
    assert rules.admits(HERE)
