"""What the page does with models: list, load, begin; and what it says when that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct
from pathlib import Path

import pytest

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.errors import LanternError, LoadFailedError, ModelError, ModelNotFoundError
from modules.jobs import Job
from modules.ui import models

pytestmark = pytest.mark.anyio


def put_model(ctx: AppContext, name: str, **config: str) -> Path:
    """The smallest folder that passes for a model."""
    folder = ctx.settings.model_dir / name
    folder.mkdir(parents=True)
    about = {"model_type": "llama", "architectures": ["LlamaForCausalLM"],
             "max_position_embeddings": 64} | config  # fmt: skip
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder


def with_settings(ctx: AppContext, **changes: object) -> AppContext:
    settings = dataclasses.replace(ctx.settings, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(ctx, settings=settings)


async def begun(ctx: AppContext) -> Job:
    models.begin(ctx)
    (job,) = ctx.jobs.jobs()
    await job.wait()
    return job


# -- load -------------------------------------------------------------------------------


async def test_a_model_is_loaded_as_a_job(ctx: AppContext, engine: FakeEngine) -> None:
    path = put_model(ctx, "Tiny")
    job = models.load(ctx, "Tiny")
    await job.wait()
    assert (job.state, engine.state.path) == ("done", str(path))


@pytest.mark.parametrize("name", ["none", "", "..", "../models/Tiny", "/etc", "Tiny/", "a\x00"])
async def test_a_model_that_is_not_there_is_refused_at_once(name: str, ctx: AppContext) -> None:
    put_model(ctx, "Tiny")
    with pytest.raises(LanternError) as caught:
        models.load(ctx, name)
    assert caught.value.remedy
    assert ctx.jobs.jobs() == []


async def test_a_model_that_would_run_code_is_refused_at_once(ctx: AppContext) -> None:
    put_model(ctx, "Bad", auto_map="x.py")
    with pytest.raises(ModelError):
        models.load(ctx, "Bad")


async def test_a_load_that_fails_is_a_failed_job_with_a_remedy(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Tiny")
    engine.load_error = LoadFailedError("Not enough memory.", "Close other programs.")
    job = models.load(ctx, "Tiny")
    await job.wait()
    assert (job.state, str(job.error)) == ("failed", "Not enough memory. Close other programs.")


async def test_the_engines_progress_is_the_jobs(ctx: AppContext, engine: FakeEngine) -> None:
    put_model(ctx, "Tiny")
    engine.delay = 3600
    job = models.load(ctx, "Tiny")
    while not job.stage:
        await asyncio.sleep(0)
    assert (job.stage, job.fraction) == ("Reading the weights", 0.5)
    await ctx.jobs.close()


@pytest.mark.parametrize(
    ("flags", "device", "dtype"),
    [({}, "auto", "auto"), ({"cpu": True}, "cpu", "auto"), ({"bf16": True}, "auto", "bfloat16")],
)
async def test_flags_say_where_and_how(
    flags: dict[str, bool], device: str, dtype: str, ctx: AppContext
) -> None:
    command = models.load_command(with_settings(ctx, **flags), Path("x"))
    assert (command.device, command.dtype) == (device, dtype)


# -- begin ------------------------------------------------------------------------------


async def test_a_launch_loads_the_model_that_there_is(ctx: AppContext, engine: FakeEngine) -> None:
    path = put_model(ctx, "Tiny")
    assert (await begun(ctx)).state == "done"
    assert engine.state.path == str(path)


async def test_a_launch_prefers_the_starter_and_passes_over_what_is_damaged(
    ctx: AppContext, engine: FakeEngine
) -> None:
    (put_model(ctx, "Aaa") / "tokenizer.json").unlink()
    put_model(ctx, "Bbb")
    starter = put_model(ctx, "SmolLM2-135M-Instruct")
    await begun(ctx)
    assert engine.state.path == str(starter)


async def test_the_model_that_was_asked_for_is_loaded(ctx: AppContext, engine: FakeEngine) -> None:
    put_model(ctx, "Tiny")
    path = put_model(ctx, "Other")
    await begun(with_settings(ctx, model="Other"))
    assert engine.state.path == str(path)


async def test_an_unknown_model_at_launch_is_a_failed_job_with_a_remedy(ctx: AppContext) -> None:
    job = await begun(with_settings(ctx, model="none"))
    assert job.state == "failed"
    assert job.error is not None
    assert "none" in job.error.message
    assert job.error.remedy


async def test_no_model_and_no_starter_says_what_to_do(ctx: AppContext) -> None:
    job = await begun(ctx)
    assert job.state == "failed"
    assert "without --no-starter" in str(job.error)


# -- what is shown ----------------------------------------------------------------------


async def test_the_strip_shows_what_is_loaded(ctx: AppContext) -> None:
    shown = models.engine_json(ctx, admin=True)
    assert (shown["phase"], shown["model"], shown["error"]) == ("ready", "fake-model", None)
    assert "context 2,048" in shown["details"]


async def test_the_strip_shows_what_could_be_loaded_again(
    ctx: AppContext, engine: FakeEngine
) -> None:
    engine.die()
    shown = models.engine_json(ctx, admin=False)
    assert (shown["phase"], shown["model"], shown["details"]) == ("crashed", "fake-model", [])
    assert shown["error"]["remedy"] == "Load the model again."


async def test_the_strip_shows_running_jobs_and_the_last_failure(ctx: AppContext) -> None:
    failed = await begun(ctx)
    assert [job["state"] for job in models.jobs_json(ctx)] == ["failed"]
    put_model(ctx, "Tiny")
    job = models.load(ctx, "Tiny")
    assert [shown["id"] for shown in models.jobs_json(ctx)] == [job.id]
    await job.wait()
    assert models.jobs_json(ctx) == []
    assert failed.state == "failed"


async def test_models_are_listed_with_their_problems(ctx: AppContext) -> None:
    put_model(ctx, "Good")
    (put_model(ctx, "Bad") / "tokenizer.json").unlink()
    good = {m["name"]: not m["problem"] for m in models.models_json(ctx)["models"]}
    assert good == {"Good": True, "Bad": False}


async def test_the_terminal_is_told_how_a_job_ends(ctx: AppContext) -> None:
    said: list[str] = []
    telling = asyncio.create_task(models.narrate(ctx, said.append))
    await begun(ctx)
    while not any("--no-starter" in line for line in said):
        await asyncio.sleep(0)
    telling.cancel()
    assert len(said) == len(set(said))
    assert all("\n" not in line for line in said)


async def test_what_was_loaded_when_the_worker_died_is_loaded_again(
    ctx: AppContext, engine: FakeEngine
) -> None:
    await engine.load(models.load_command(ctx, put_model(ctx, "Tiny")))
    engine.die()
    await models.load_again(ctx).wait()
    assert ctx.engine.state.phase == "ready"


async def test_there_is_nothing_to_load_again_at_first(ctx: AppContext) -> None:
    await ctx.engine.unload()
    with pytest.raises(ModelNotFoundError, match="Choose one"):
        models.load_again(ctx)
