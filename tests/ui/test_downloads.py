"""Downloads as jobs: looked at first, paused, resumed, cancelled, and told when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modules.context import AppContext
from modules.errors import DownloadError, InvalidInputError
from modules.jobs import Job
from modules.ui import downloads
from tests.downloads import FILES, SIZE
from tests.hub import Hub, commit_of

pytestmark = pytest.mark.anyio

MODEL = "owner/name"


async def begun(ctx: AppContext, hub: Hub) -> Job:
    hub.add(MODEL, FILES)
    return await downloads.download(ctx, MODEL, commit_of(FILES))


async def until(ctx: AppContext, happened: Callable[[], bool]) -> None:
    while not happened():
        await ctx.jobs.changed.wait(ctx.jobs.changed.version)


async def paused_in_the_middle(ctx: AppContext, hub: Hub) -> Job:
    hub.faults.pause_at = SIZE // 2
    job = await begun(ctx, hub)
    await until(ctx, lambda: job.fraction >= 0.4)
    ctx.jobs.pause(job.id, True)
    hub.faults.pause_at = -1
    hub.faults.go.set()
    hub.faults.delay_s, hub.faults.block = 0.02, 1000
    await until(ctx, lambda: job.stage == "Paused")
    hub.faults.delay_s = 0
    return job


def shown(ctx: AppContext) -> dict[str, Any]:
    (one,) = downloads.downloads_json(ctx)
    return one


async def test_a_look_says_what_would_come_and_where_it_would_lie(
    ctx: AppContext, hub: Hub
) -> None:
    hub.add(MODEL, FILES | {"pytorch_model.bin": b"x" * 900})
    found = await asyncio.to_thread(downloads.look_json, ctx, MODEL)
    assert {path for path, _ in found["files"]} == set(FILES)
    assert found["total"] == sum(len(content) for content in FILES.values())
    assert [path for path, _ in found["left_out"]] == ["pytorch_model.bin"]
    assert (found["folder"], found["kind"]) == ("models/owner_name", "model")
    assert (found["present"], found["enough"]) == (0, True)
    assert not (ctx.settings.model_dir / "owner_name").exists()


async def test_a_lora_goes_to_the_loras(ctx: AppContext, hub: Hub) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    hub.add("owner/lora", files)
    assert downloads.look_json(ctx, "owner/lora")["folder"] == "loras/owner_lora"
    await (await downloads.download(ctx, "owner/lora", commit_of(files))).wait()
    assert (ctx.settings.lora_dir / "owner_lora").is_dir()


async def test_a_full_disk_is_told_before_anything_moves(
    ctx: AppContext, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(MODEL, FILES)
    monkeypatch.setattr(downloads, "_free", lambda folder: SIZE // 2)
    assert not downloads.look_json(ctx, MODEL)["enough"]


async def test_a_download_ends_as_a_model_and_as_a_line(ctx: AppContext, hub: Hub) -> None:
    job = await begun(ctx, hub)
    await job.wait()
    assert (job.state, shown(ctx)["state"]) == ("done", "done")
    assert (ctx.settings.model_dir / "owner_name" / "config.json").is_file()


async def test_what_has_changed_since_the_look_is_not_fetched(ctx: AppContext, hub: Hub) -> None:
    hub.add(MODEL, FILES)
    with pytest.raises(DownloadError, match="changed on the hub"):
        await downloads.download(ctx, MODEL, "0" * 40)
    assert ctx.jobs.jobs() == []


async def test_a_paused_download_goes_on_where_it_was(ctx: AppContext, hub: Hub) -> None:
    job = await paused_in_the_middle(ctx, hub)
    assert (shown(ctx)["state"], "kB" in shown(ctx)["details"]) == ("paused", True)
    asked = len(hub.content_requests())
    ctx.jobs.pause(job.id, False)
    await job.wait()
    assert job.state == "done"
    assert any(one.range for one in hub.content_requests()[asked:])


async def test_one_model_is_not_fetched_twice_at_once(ctx: AppContext, hub: Hub) -> None:
    job = await paused_in_the_middle(ctx, hub)
    with pytest.raises(InvalidInputError, match="already"):
        await begun(ctx, hub)
    ctx.jobs.cancel(job.id)
    await job.wait()


async def test_a_cancelled_download_leaves_nothing(ctx: AppContext, hub: Hub) -> None:
    job = await paused_in_the_middle(ctx, hub)
    assert list(ctx.settings.model_dir.glob(".owner_name*/.*.part"))
    ctx.jobs.cancel(job.id)
    await job.wait()
    assert not list(ctx.settings.model_dir.glob(".owner_name*/.*.part"))
    assert downloads.downloads_json(ctx) == []


async def test_a_cancel_in_full_flow_waits_until_nothing_is_left(ctx: AppContext, hub: Hub) -> None:
    hub.faults.delay_s, hub.faults.block = 0.02, 1000
    job = await begun(ctx, hub)
    await until(ctx, lambda: job.fraction > 0)
    ctx.jobs.cancel(job.id)
    await job.wait()
    assert job.state == "cancelled"
    assert not list(ctx.settings.model_dir.glob(".owner_name*/.*.part"))


@pytest.mark.parametrize("resting", [True, False])
async def test_the_end_of_the_program_keeps_what_has_come(
    resting: bool, ctx: AppContext, hub: Hub
) -> None:
    if resting:
        await paused_in_the_middle(ctx, hub)
    else:
        hub.faults.delay_s, hub.faults.block = 0.02, 1000
        job = await begun(ctx, hub)
        await until(ctx, lambda: job.fraction > 0)
    await ctx.jobs.close()
    assert list(ctx.settings.model_dir.glob(".owner_name*/.*.part"))


async def test_a_download_that_fails_names_what_is_missing(
    ctx: AppContext, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.status = 404
    job = await begun(ctx, hub)
    await job.wait()
    failed = shown(ctx)
    assert failed["state"] == "failed"
    assert failed["error"]
    assert {path for path, _ in failed["missing"]} >= {"model.safetensors"}
    ctx.jobs.forget(job.id)
    assert downloads.downloads_json(ctx) == []
