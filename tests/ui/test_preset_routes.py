"""The routes of the presets: what the page is told, and who may keep one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from modules.context import AppContext
from modules.engine.params import SamplingParams, knobs
from modules.engine.presets import load_preset
from modules.ui.components.knobs import to_widgets

pytestmark = pytest.mark.anyio

VALUES = to_widgets(SamplingParams(temperature=1.5))


@pytest.fixture
async def client(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.headers["content-type"] = "application/json"
    return client


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await client.post(f"/presets/{path}", content=json.dumps(body))


async def listed(client: httpx.AsyncClient) -> dict[str, Any]:
    presets = (await client.get("/presets")).json()["presets"]
    return {preset["name"]: preset for preset in presets}


async def test_a_preset_is_told_by_what_differs(client: httpx.AsyncClient) -> None:
    precise = (await listed(client))["LLaMA-Precise"]
    assert precise["values"] == {
        "temperature": 0.7, "top_p": 0.1, "top_k": 40, "repetition_penalty": 1.18,
    }  # fmt: skip
    assert (precise["own"], precise["shipped"]) == (False, True)
    assert precise["about"]


async def test_one_is_saved_and_deleted(ctx: AppContext, client: httpx.AsyncClient) -> None:
    assert (await post(client, "save", name=" Mine ", values=VALUES)).status_code == 200
    assert load_preset(ctx.settings.paths, "Mine").temperature == 1.5
    assert (await listed(client))["Mine"]["own"]
    assert (await post(client, "delete", name="Mine")).status_code == 200
    assert "Mine" not in await listed(client)


async def test_a_damaged_file_is_told_and_hides_no_other(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    ctx.settings.paths.own_presets.mkdir()
    (ctx.settings.paths.own_presets / "Odd.yaml").write_text("temperature: 99")
    presets = await listed(client)
    assert "Odd.yaml: temperature cannot be 99." in presets["Odd"]["problem"]
    assert "values" in presets["Balanced"]


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("../x", VALUES, "cannot be used as a name"),
        ("Mine", VALUES[:-1], "The page is older than the server."),
        ("Mine", [99.0, *VALUES[1:]], f"{next(iter(knobs()))} cannot be 99"),
    ],
)
async def test_what_does_not_fit_is_not_saved(
    name: str, values: list[Any], told: str, ctx: AppContext, client: httpx.AsyncClient
) -> None:
    answer = await post(client, "save", name=name, values=values)
    assert (answer.status_code, told in answer.text) == (400, True)
    assert not ctx.settings.paths.own_presets.exists()


async def test_a_guest_loads_and_keeps_none(ctx: AppContext, client: httpx.AsyncClient) -> None:
    await post(client, "save", name="Mine", values=VALUES)
    client.headers["x-forwarded-for"] = "203.0.113.9"
    client.cookies.set("lantern_token", "sekrit-token")
    answer = (await client.get("/presets")).json()
    assert (answer["may_save"], "Mine" in [p["name"] for p in answer["presets"]]) == (False, True)
    for act, body in (("save", {"values": VALUES}), ("delete", {})):
        assert (await post(client, act, name="Mine", **body)).status_code == 403
    assert load_preset(ctx.settings.paths, "Mine").temperature == 1.5
