"""What is typed is kept, and prompts are saved by the owner alone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modules.chat.drafts import Draft
from modules.context import AppContext

pytestmark = pytest.mark.anyio


def as_guest(client: httpx.AsyncClient) -> None:
    client.headers["x-forwarded-for"] = "203.0.113.9"
    client.cookies.set("lantern_token", "sekrit-token")


async def keep(client: httpx.AsyncClient, text: str, before: Draft | None) -> Any:
    body = {"mode": "notebook", "text": text, "before": before and before.checksum}
    return (await client.post("/draft", json=body)).json()["other"]


async def test_what_is_typed_is_kept_over_what_the_tab_has_seen(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    assert await keep(client, "Once", Draft()) is None
    assert await keep(client, "Once upon", Draft("Once")) is None
    assert ctx.drafts.latest("owner", "notebook") == Draft("Once upon")


async def test_a_newer_text_of_another_tab_is_told_and_kept(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    await keep(client, "theirs", Draft())
    assert await keep(client, "mine", Draft()) == {"text": "theirs", "reply": ""}
    assert ctx.drafts.latest("owner", "notebook") == Draft("theirs")
    assert await keep(client, "mine", None) is None
    assert ctx.drafts.latest("owner", "notebook") == Draft("mine")


async def test_what_a_guest_types_is_the_guests(ctx: AppContext, client: httpx.AsyncClient) -> None:
    as_guest(client)
    await keep(client, "theirs", Draft())
    assert ctx.drafts.latest("owner", "notebook") == Draft()


async def test_a_prompt_is_saved_read_replaced_and_deleted(client: httpx.AsyncClient) -> None:
    prompt = {"name": " Mine ", "text": "é\n"}
    assert (await client.post("/prompts/save", json=prompt)).status_code == 200
    assert (await client.get("/prompts")).json() == {"may_save": True, "names": ["Mine"]}
    again = await client.post("/prompts/save", json=prompt | {"text": "new"})
    assert "There is a prompt 'Mine' already" in again.json()["message"]
    await client.post("/prompts/save", json=prompt | {"text": "new", "replace": True})
    assert (await client.post("/prompts/read", json={"name": "Mine"})).json() == {"text": "new"}
    await client.post("/prompts/delete", json={"name": "Mine"})
    assert (await client.get("/prompts")).json()["names"] == []


async def test_a_guest_reads_prompts_and_saves_none(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    await client.post("/prompts/save", json={"name": "Mine", "text": "words"})
    as_guest(client)
    assert (await client.get("/prompts")).json() == {"may_save": False, "names": ["Mine"]}
    assert (await client.post("/prompts/read", json={"name": "Mine"})).json()["text"] == "words"
    for act, more in (("save", {"text": "x", "replace": True}), ("delete", {})):
        answer = await client.post(f"/prompts/{act}", json={"name": "Mine", **more})
        assert answer.status_code == 403
    assert (ctx.settings.paths.prompts / "Mine.txt").read_text() == "words"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 250])
async def test_hostile_names_write_nothing(
    name: str, ctx: AppContext, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/prompts/save", json={"name": name, "text": "x"})
    assert answer.status_code == 400
    assert not ctx.settings.paths.prompts.exists()
