"""Every route and every event of the running application, for every kind of caller.

What there is to ask for is read from the application, so that nothing new can be forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute

from modules.access import Caller
from modules.chat.drafts import Draft
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import LoadModel
from modules.errors import ForbiddenError
from modules.settings import Settings
from modules.ui.components.knobs import to_widgets
from modules.ui.web import make_access
from server import build_app, build_context, make_server

SECRET = "the-owner-wrote-this"
LOGINS = "me:first-password,ann:second-password,bob:third-password"
VALUES = to_widgets(SamplingParams())
BODY = {"text": "x", "name": "x", "values": VALUES, "chat": 1, "mode": "chat", "role": "user",
        "on": True}  # fmt: skip
FORGED = {
    "lantern_token": "forged-token", "lantern_session": "forged-session",
    "lantern_guest": "owner-owner-owner-owner",
}  # fmt: skip


@dataclass
class Site:
    """A running Lantern, and how its callers come in."""

    url: str
    ctx: AppContext
    app: FastAPI
    kind: str

    def _client(self, host: str, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"host": host} | headers, timeout=20)

    def local(self) -> httpx.Client:
        return self._client(self.url.removeprefix("http://"))

    def nobody(self) -> httpx.Client:
        return self._client("lantern.example")

    def forged(self) -> httpx.Client:
        client = self._client("127.0.0.1", **{"x-forwarded-for": "127.0.0.1"})
        client.cookies.update(FORGED)
        return client

    def guest(self, name: str = "ann") -> httpx.Client:
        return self._entered(self.ctx.access.token, name)

    def remote_owner(self) -> httpx.Client:
        return self._entered(self.ctx.access.owner_token, "me")

    def _entered(self, token: str, name: str) -> httpx.Client:
        client = self.nobody()
        with self.nobody() as door:
            if self.kind == "token":
                answer = door.get("/", params={"token": token})
            else:
                passwords = dict(login.split(":") for login in LOGINS.split(","))
                form = {"username": name, "password": passwords[name]}
                answer = door.post("/login", data=form)
            assert answer.status_code == 303
            client.cookies = door.cookies
        return client


@pytest.fixture(scope="module", params=["token", "logins"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """With --listen and --admin-remote, and something of the owner's to find."""
    folder = tmp_path_factory.mktemp("site")
    settings = Settings(
        user_data_dir=folder / "user_data", model_dir=folder / "models", lora_dir=folder / "loras",
        prompt_dir=folder / "prompts", no_starter=True, listen=True, admin_remote=True,
        gradio_auth=LOGINS if request.param == "logins" else "",
    )  # fmt: skip
    settings.paths.prepare()
    engine = FakeEngine()
    ctx = build_context(settings, engine, make_access(settings))
    up, tasks = threading.Event(), []

    def started(ctx: AppContext) -> None:
        loop = asyncio.get_running_loop()
        tasks.append(loop.create_task(engine.load(LoadModel("models/Tiny"))))
        up.set()

    ctx.drafts.save("owner", "default", Draft(SECRET, SECRET))
    ctx.drafts.save("owner", "notebook", Draft(SECRET))
    app = build_app(ctx, started)
    with serving(app, up) as url:
        asyncio.run(_chat_of_the_owner(url))
        yield Site(url, ctx, app, request.param)


async def _chat_of_the_owner(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as owner:
        chat = (await owner.post("/page/chats")).json()["id"]
        sent = {"text": SECRET, "values": VALUES}
        assert (await owner.post(f"/page/chats/{chat}/send", json=sent)).status_code == 200


@contextlib.contextmanager
def serving(app: FastAPI, up: threading.Event) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    assert up.wait(60)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


def routes(routes_: Any, prefix: str = "") -> Iterator[tuple[str, str, APIRoute | None]]:
    """(method, path, route) of everything that an application answers to."""
    for route in routes_:
        path = prefix + getattr(route, "path", "")
        if included := getattr(route, "original_router", None):
            yield from routes(included.routes, prefix + route.include_context.prefix)
        elif getattr(route, "routes", None):
            yield from routes(route.routes, path)
        elif methods := getattr(route, "methods", None):
            for method in sorted(methods):
                yield method, path, route if isinstance(route, APIRoute) else None
        else:  # static files
            yield "GET", f"{path}/page.js", None


def filled(path: str) -> str:
    for name in ("chat", "message", "job", "file"):
        path = path.replace(f"{{{name}}}", "1")
    while "{" in path:
        path = path[: path.index("{")] + "x" + path[path.index("}") + 1 :]
    return path


def answer(client: httpx.Client, method: str, path: str, **options: Any) -> tuple[int, str]:
    """The status, and the text of what is no endless stream."""
    options = {"json": BODY} | options if method not in ("GET", "HEAD") else {}
    for _ in range(3):
        # A refusal may come, and the connection go, before the body was sent.
        with contextlib.suppress(httpx.ReadError), client.stream(method, path, **options) as got:
            if "event-stream" in got.headers.get("content-type", ""):
                return got.status_code, next(got.iter_text(), "")
            return got.status_code, got.read().decode("utf-8", "replace")
    raise AssertionError(f"no answer to {method} {path}")


def blocks_of(app: FastAPI) -> gr.Blocks:
    (found,) = [r.app.blocks for r in app.routes if hasattr(getattr(r, "app", None), "blocks")]
    assert isinstance(found, gr.Blocks)
    return found


def events(app: FastAPI) -> dict[int, dict[str, Any]]:
    """What a browser sends for each event that gradio knows."""
    fns = blocks_of(app).fns
    return {number: {"fn_index": number, "data": [_first(block) for block in fn.inputs]}
            for number, fn in fns.items() if fn.fn is not None}  # fmt: skip


def _first(block: Any) -> Any:
    return getattr(block, "value", None)


def needs_admin(route: APIRoute | None) -> bool:
    """Whether a route depends on something that refuses guests."""
    return route is not None and any(refuses_guests(one) for one in route.dependant.dependencies)


def refuses_guests(needed: Any) -> bool:
    guest = Caller("guest-1", admin=False)
    given = (
        Request({"type": "http", "lantern.caller": guest}) if needed.request_param_name else guest
    )
    try:
        needed.call(given)
    except ForbiddenError:
        return True
    return False


# -- routes -----------------------------------------------------------------------------


def test_the_application_has_routes_of_every_room(site: Site) -> None:
    paths = {path for _, path, _ in routes(site.app.routes)}
    for path in ("/page/chats/{chat}/send", "/page/models/load", "/v1/chat/completions",
                 "/gradio_api/queue/join", "/config", "/page/static/page.js"):  # fmt: skip
        assert path in paths
    assert len(events(site.app)) >= 8


@pytest.mark.parametrize("caller", [Site.nobody, Site.forged], ids=["nobody", "forged"])
def test_without_a_login_nothing_is_answered(
    caller: Callable[[Site], httpx.Client], site: Site
) -> None:
    with caller(site) as client:
        for method, path, _ in routes(site.app.routes):
            if path.rstrip("/") == "/login" and site.kind == "logins":
                continue
            status, text = answer(client, method, filled(path))
            assert (method, path, status) == (method, path, 401)
            assert SECRET not in text


def test_a_guest_is_refused_what_is_the_owners_and_nothing_else(site: Site) -> None:
    with site.guest() as guest:
        for method, path, route in routes(site.app.routes):
            if path.startswith(("/v1/", "/metrics", "/login")):  # ask for a key or a password
                continue
            status, text = answer(guest, method, filled(path))
            assert (method, path, SECRET in text) == (method, path, False)
            assert (method, path, status == 401) == (method, path, False)
            if path.startswith("/page/"):
                assert (method, path, status == 403) == (method, path, needs_admin(route))


@pytest.mark.parametrize("caller", [Site.local, Site.remote_owner], ids=["here", "from afar"])
def test_the_owner_is_refused_nothing(caller: Callable[[Site], httpx.Client], site: Site) -> None:
    with caller(site) as owner:
        for method, path, _ in routes(site.app.routes):
            if method == "GET" and path.startswith("/page/"):
                status, _ = answer(owner, method, filled(path))
                assert (path, status in (401, 403)) == (path, False)
        assert owner.post("/page/jobs/1/cancel").status_code == 200
        assert SECRET in answer(owner, "GET", "/page/events")[1]


@pytest.mark.parametrize(
    "file", ["user_data/lantern.sqlite3", "models/x", "server.py", "../../../etc/passwd"]
)
def test_gradio_serves_no_file_to_anybody(file: str, site: Site) -> None:
    for client in (site.guest(), site.local()):
        with client:
            for path in (file, str(site.ctx.settings.user_data_dir / Path(file).name)):
                status, _ = answer(client, "GET", f"/gradio_api/file={path}")
                assert status in (403, 404)


def test_the_api_asks_for_its_key(site: Site) -> None:
    key = site.ctx.access.token or site.ctx.access.api_token
    for client in (site.nobody(), site.forged(), site.guest()):
        with client:
            assert client.get("/v1/models").status_code == 401
            right = client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert right.status_code == 200


# -- gradio's events --------------------------------------------------------------------


def join(client: httpx.Client, event: dict[str, Any], session: str) -> httpx.Response:
    return client.post("/gradio_api/queue/join", json=event | {"session_hash": session})


def outcome(client: httpx.Client, session: str) -> str:
    """All that is told of the events of a session, until they have ended."""
    told = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as got:
        for line in got.iter_lines():
            told += line
            if '"process_completed"' in line or '"close_stream"' in line:
                break
    return told


@pytest.mark.parametrize("caller", [Site.nobody, Site.forged], ids=["nobody", "forged"])
def test_without_a_login_no_event_is_taken(
    caller: Callable[[Site], httpx.Client], site: Site
) -> None:
    with caller(site) as client:
        for event in events(site.app).values():
            assert join(client, event, "stranger").status_code == 401


def test_an_event_shows_a_guest_nothing_of_the_owners(site: Site) -> None:
    with site.guest() as guest, site.local() as owner:
        shown = ""
        for number, event in events(site.app).items():
            assert join(guest, event, f"guest-{number}").status_code == 200
            assert SECRET not in outcome(guest, f"guest-{number}")
            assert join(owner, event, f"owner-{number}").status_code == 200
            shown += outcome(owner, f"owner-{number}")
        assert SECRET in shown, "the events that show a draft are among them"


def test_nobody_enters_the_session_of_another_login(site: Site) -> None:
    with site.local() as owner, site.guest("ann") as ann, site.guest("bob") as bob:
        (number, event), *_ = events(site.app).items()
        for mine, others in ((owner, [ann, bob]), (ann, [owner, bob])):
            session = f"session-{site.kind}-{len(others)}-{id(mine)}"
            assert join(mine, event, session).status_code == 200
            for other in others:
                assert join(other, event, session).status_code == 403
                body = {"session_hash": session, "fn_index": number, "event_id": "x"}
                assert other.post("/gradio_api/cancel", json=body).status_code == 403
                for path in ("queue/data?session_hash=", "heartbeat/"):
                    assert answer(other, "GET", f"/gradio_api/{path}{session}")[0] == 403
            assert "process_completed" in outcome(mine, session)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"session_hash": 7}', b"\xff", b"[" * 100_000])
def test_an_event_that_is_none_is_refused(body: bytes, site: Site) -> None:
    with site.guest() as guest:
        assert guest.post("/gradio_api/queue/join", content=body).status_code == 400


def test_no_event_is_offered_to_programs(site: Site) -> None:
    with site.guest() as guest:
        offered = json.loads(answer(guest, "GET", "/gradio_api/info")[1])
    assert offered["named_endpoints"] == {}
