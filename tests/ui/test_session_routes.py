"""The Session tab's routes: settings, access, report and log, and who gets what of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware, Caller
from modules.context import AppContext
from modules.host import Host, host_of
from modules.settings import Settings, read_launch
from modules.ui.routes import add_routes
from modules.ui.session_settings import check_setting, settings_json

pytestmark = pytest.mark.anyio

SECRET = "sekrit-of-the-api"
WRITTEN = f"# mine\nctx_size: 1024\napi_key: {SECRET}\n"
REMOTE = {"host": "lantern.example", "x-forwarded-for": "203.0.113.9"}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As a launch with a settings.yaml, a flag and a variable has them."""
    monkeypatch.setenv("LANTERN_CACHE_TOKENS", "4096")
    return dataclasses.replace(
        settings, listen_port=7999, ctx_size=1024, cache_tokens=4096, api_key=SECRET
    )


@pytest.fixture
def host(settings: Settings, tmp_path: Path) -> Host:
    file = tmp_path / "settings.yaml"
    file.write_text(WRITTEN)
    folders = ("model_dir", "lora_dir", "prompt_dir", "user_data_dir")
    flags = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in folders]
    flags += ["--settings", str(file), "--listen-port", "7999", "--no-starter"]
    _, origins = read_launch(flags)
    return host_of(settings, Access("sekrit-token", "owners-token"), origins)


@pytest.fixture
def ctx(ctx: AppContext, host: Host) -> AppContext:
    return dataclasses.replace(ctx, host=host, access=Access("sekrit-token", "owners-token"))


@pytest.fixture
async def client(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    """The owner at this machine, below /page; with a cookie and REMOTE, somebody else."""
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/page") as opened:
        yield opened


async def found(client: httpx.AsyncClient) -> dict[str, Any]:
    return {one["name"]: one for one in (await client.get("/session/settings")).json()["fields"]}


async def saved(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/session/settings", json={"changes": changes})


# -- settings ---------------------------------------------------------------------------


async def test_every_setting_is_shown_once_with_its_help(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/session/settings")).json()
    names = [field.name for field in dataclasses.fields(Settings)]
    assert [one["name"] for one in shown["fields"]] == names
    assert sorted(name for group in shown["groups"] for name in group["names"]) == sorted(names)
    assert all(one["help"] and one["label"] for one in shown["fields"])
    assert "More" not in {group["title"] for group in shown["groups"]}, "each has its group"


async def test_each_tells_where_its_value_comes_from(client: httpx.AsyncClient) -> None:
    fields = await found(client)
    sources = [
        fields[name]["source"] for name in ("listen_port", "cache_tokens", "ctx_size", "cpu")
    ]
    assert sources == ["flag", "variable", "file", "default"]
    assert "--listen-port, which wins" in fields["listen_port"]["overridden"]
    assert "LANTERN_CACHE_TOKENS" in fields["cache_tokens"]["overridden"]
    assert (fields["ctx_size"]["saved"], fields["ctx_size"]["value"]) == ("1024", "1024")


async def test_no_secret_is_sent(client: httpx.AsyncClient) -> None:
    text = (await client.get("/session/settings")).text
    assert SECRET not in text
    assert (await found(client))["api_key"]["set"]


async def test_what_is_saved_is_written_and_waits_for_a_restart(
    client: httpx.AsyncClient, host: Host
) -> None:
    answer = await saved(client, ctx_size="2048", cpu=True, gpu_memory=["20GiB"])
    assert answer.json()["pending"] == ["ctx_size", "cpu", "gpu_memory"]
    text = host.origins.file.read_text()
    assert text == f"# mine\nctx_size: 2048\napi_key: {SECRET}\ncpu: true\ngpu_memory: [20GiB]\n"
    assert (await saved(client, cpu=None)).json()["pending"] == ["ctx_size", "gpu_memory"]


async def test_what_a_flag_overrides_is_saved_and_does_not_wait(
    client: httpx.AsyncClient, host: Host
) -> None:
    answer = await saved(client, listen_port="8001")
    assert answer.json()["pending"] == []
    assert "listen_port: 8001" in host.origins.file.read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"listen_port": "99999"}, "--listen-port cannot be 99999"),
        ({"cpu": "maybe"}, "Use true or false"),
        ({"gpu_memory": ["lots"]}, "Write 20"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "contradict each other"),
        ({"strange": "x"}, "no setting"),
    ],
)
async def test_a_bad_value_is_a_sentence_with_a_remedy(
    changes: dict[str, Any], said: str, client: httpx.AsyncClient, host: Host
) -> None:
    answer = await saved(client, **changes)
    assert answer.status_code == 400
    assert said in answer.json()["message"] + answer.json()["remedy"]
    assert answer.json()["remedy"]
    assert host.origins.file.read_text() == WRITTEN


async def test_a_value_is_checked_while_it_is_written(client: httpx.AsyncClient) -> None:
    body = {"name": "ctx_size", "value": "-5"}
    assert "0 to" in (await client.post("/session/settings/check", json=body)).json()["fault"]
    body = {"name": "ctx_size", "value": "5"}
    assert (await client.post("/session/settings/check", json=body)).json() == {"fault": ""}
    assert check_setting("nonsense", "5")


async def test_a_damaged_file_is_told_and_left_alone(client: httpx.AsyncClient, host: Host) -> None:
    host.origins.file.write_text("ctx_size: [")
    shown = (await client.get("/session/settings")).json()
    assert "not valid YAML" in shown["fault"]
    assert (await saved(client, cpu=True)).status_code == 400
    assert host.origins.file.read_text() == "ctx_size: ["


async def test_from_afar_the_owner_changes_no_doors_and_no_folders(
    ctx: AppContext, client: httpx.AsyncClient, host: Host
) -> None:
    client.headers.update(REMOTE)
    client.cookies.set("lantern_token", "owners-token")
    assert (await saved(client, cpu=True)).status_code == 200
    for name in ("listen", "api_key", "user_data_dir", "api_base", "extension_dir"):
        answer = await saved(client, **{name: "true"})
        assert (name, answer.status_code) == (name, 403)
        assert answer.json()["remedy"]
    locked = [one["name"] for one in settings_json(ctx, local=False)["fields"] if one["locked"]]
    assert {"share", "admin_key", "model_dir"} <= set(locked)
    here = [one["name"] for one in settings_json(ctx, local=True)["fields"] if one["locked"]]
    assert here == ["extension_dir"]


# -- access -----------------------------------------------------------------------------


async def test_who_is_connected_is_told_and_no_token(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    ctx.host.addresses["From other machines"] = "http://vm:7860"
    with ctx.host.visitors.visit(Caller("guest-1", admin=False)):
        answer = await client.get("/session/access")
    shown = answer.json()
    assert [one["label"] for one in shown["visitors"]] == ["Guest 1"]
    assert shown["addresses"] == [{"what": "From other machines", "url": "http://vm:7860"}]
    assert (shown["door"], shown["here"]) == ("token", True)
    assert "sekrit-token" not in answer.text


async def test_links_are_shown_at_this_machine_alone(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    ctx.host.addresses |= {"On this machine": "http://127.0.0.1:1", "Share": "https://x.example"}
    links = (await client.post("/session/access/links")).json()
    assert links["links"] == [
        {
            "what": "Share",
            "guests": "https://x.example/?token=sekrit-token",
            "owner": "https://x.example/?token=owners-token",
        }
    ]
    client.headers.update(REMOTE)
    client.cookies.set("lantern_token", "owners-token")
    assert (await client.get("/session/access")).status_code == 200
    for path in ("links", "renew"):
        assert (await client.post(f"/session/access/{path}")).status_code == 403


async def test_renewed_tokens_are_told_and_count(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    ctx.host.addresses["Share"] = "https://x.example"
    links = (await client.post("/session/access/renew")).json()["links"]
    assert links[0]["guests"] == f"https://x.example/?token={ctx.access.token}"
    assert ctx.access.token != "sekrit-token"


async def test_a_login_without_a_session_is_a_sentence(client: httpx.AsyncClient) -> None:
    answer = await client.post("/session/access/log-out", json={"name": "nobody"})
    assert answer.status_code == 404
    assert answer.json()["remedy"]


# -- report and log ---------------------------------------------------------------------


async def test_the_report_has_no_secret_and_no_token(
    ctx: AppContext, client: httpx.AsyncClient, host: Host
) -> None:
    host.follow_logs()
    try:
        logging.getLogger("modules.x").error("failed at /?token=%s with %s", "sekrit-token", SECRET)
    finally:
        host.log.close()
    text = (await client.get("/session/report")).json()["text"]
    assert "failed at /?token=•••" in text
    assert SECRET not in text
    assert "sekrit-token" not in text
    assert str(Path.home()) not in text
    assert "- ctx_size: 1024 (from settings.yaml)" in text
    assert "fake-model" in text


async def test_the_log_is_told_from_where_one_has_it(client: httpx.AsyncClient, host: Host) -> None:
    host.follow_logs()
    try:
        for i in range(3):
            logging.getLogger("modules.x").warning("line %d", i)
    finally:
        host.log.close()
    told = (await client.get("/session/log")).json()
    assert [line["text"] for line in told["lines"]] == ["line 0", "line 1", "line 2"]
    last = told["lines"][-1]["number"]
    assert (await client.get(f"/session/log?after={last}")).json()["lines"] == []
    assert (await client.get("/session/log?after=-1")).status_code == 400


async def test_a_guest_is_shown_nothing_of_it(client: httpx.AsyncClient) -> None:
    client.headers.update(REMOTE)
    client.cookies.set("lantern_token", "sekrit-token")
    for path in ("settings", "access", "report", "log"):
        assert (await client.get(f"/session/{path}")).status_code == 403
    for path in ("settings", "settings/check", "restart", "access/links", "access/renew",
                 "access/log-out"):  # fmt: skip
        assert (await client.post(f"/session/{path}", json={})).status_code == 403
