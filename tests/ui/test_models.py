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
from modules.errors import (
    AdapterError,
    LanternError,
    LoadFailedError,
    ModelError,
    ModelNotFoundError,
)
from modules.jobs import Job
from modules.loader.machine import Machine
from modules.loader.options import LoadOptions
from modules.loader.saved_options import save_options
from modules.ui import models, planning

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def a_machine_without_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same plans wherever the tests run."""
    there = Machine((), ram_total=8 * 10**9, ram_free=8 * 10**9, disk_free=0)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: there)


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
    await engine.unload()
    job = models.load(ctx, "Tiny")
    await job.wait()
    assert (job.state, str(job.error)) == ("failed", "Not enough memory. Close other programs.")
    assert engine.state.phase == "crashed"


async def test_the_engines_progress_is_the_jobs(ctx: AppContext, engine: FakeEngine) -> None:
    put_model(ctx, "Tiny")
    engine.delay = 3600
    job = models.load(ctx, "Tiny")
    while not job.stage:
        await asyncio.sleep(0)
    assert (job.stage, job.fraction) == ("Reading the weights", 0.5)
    await ctx.jobs.close()


def loaded_with(engine: FakeEngine) -> LoadOptions:
    assert engine.state.command is not None
    return engine.state.command.options


async def test_flags_say_how_and_what_was_saved_says_the_rest(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Tiny")
    save_options(ctx.settings.models_yaml, "Tiny", LoadOptions(context_length=32, dtype="float16"))
    await models.load(with_settings(ctx, cpu=True, bf16=True), "Tiny").wait()
    assert loaded_with(engine) == LoadOptions(device="cpu", dtype="bfloat16", context_length=32)


async def test_options_that_are_given_win_over_all(ctx: AppContext, engine: FakeEngine) -> None:
    put_model(ctx, "Tiny")
    given = LoadOptions(dtype="float16", context_length=16)
    await models.load(with_settings(ctx, bf16=True), "Tiny", given).wait()
    assert loaded_with(engine) == given


async def test_a_flag_that_does_not_apply_is_answered_and_the_model_loaded(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Tiny")
    job = models.load(with_settings(ctx, wbits=4), "Tiny")
    await job.wait()
    told = "Loaded Tiny: float32, on the processor. "
    told += "Tiny is not quantized, so --wbits was passed over."
    assert models.jobs_json(ctx)[0]["told"] == "Tiny is not quantized, so --wbits was passed over."
    said: list[str] = []
    telling = asyncio.create_task(models.narrate(ctx, said.append))
    while not said:
        await asyncio.sleep(0)
    telling.cancel()
    assert said == [told]


async def test_what_does_not_fit_is_refused_while_the_present_model_stays(
    ctx: AppContext, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Machine((), ram_total=10**9, ram_free=10**6, disk_free=0)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: small)
    put_model(ctx, "Tiny")
    job = models.load(ctx, "Tiny")
    await job.wait()
    assert job.error is not None
    assert "Tiny needs 0." in job.error.message
    assert job.error.remedy
    assert (engine.state.phase, Path(engine.state.path).name) == ("ready", "fake-model")


# -- one model in the place of another --------------------------------------------------


async def test_when_a_load_fails_the_earlier_model_comes_back_as_it_was(
    ctx: AppContext, engine: FakeEngine
) -> None:
    path = put_model(ctx, "Good")
    await models.load(ctx, "Good", LoadOptions(context_length=16)).wait()
    await engine.load_adapter("style", "loras/style")
    engine.weigh_adapters({"style": 0.5})
    before = engine.state
    put_model(ctx, "Bad")
    engine.load_error = LoadFailedError("Memory ran out.", "Choose a smaller model.")
    job = models.load(ctx, "Bad")
    await job.wait()
    assert str(job.error) == "Memory ran out. Good is loaded again. Choose a smaller model."
    assert (engine.state, engine.state.path) == (before, str(path))
    assert [shown["state"] for shown in models.jobs_json(ctx)] == ["failed"]


async def test_a_lora_that_does_not_come_back_is_named(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.load_adapter("style", "loras/style")
    put_model(ctx, "Bad")
    engine.load_error = LoadFailedError("Memory ran out.", "Choose a smaller model.")
    engine.adapter_error = AdapterError("It is gone.")
    job = models.load(ctx, "Bad")
    await job.wait()
    assert "fake-model is loaded again, without style." in str(job.error)


async def test_when_neither_loads_both_reasons_are_told(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Bad")
    engine.load_error = LoadFailedError("Memory ran out.", "Choose a smaller model.")
    engine.loaded_once.clear()
    job = models.load(ctx, "Bad")
    await job.wait()
    assert "fake-model, which was loaded before, could not be loaded again" in str(job.error)
    assert engine.state.phase == "crashed"
    assert models.engine_json(ctx, admin=True)["model"] == "fake-model"


async def test_a_load_that_is_cancelled_leaves_the_earlier_model_one_click_away(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Good")
    await models.load(ctx, "Good", LoadOptions(context_length=16)).wait()
    put_model(ctx, "Slow")
    engine.delay = 3600
    job = models.load(ctx, "Slow")
    while engine.state.phase != "loading":
        await asyncio.sleep(0)
    ctx.jobs.cancel(job.id)
    await job.wait()
    shown = models.engine_json(ctx, admin=True)
    assert (shown["phase"], shown["model"], shown["error"]) == ("empty", "Good", None)
    engine.delay = 0
    await models.load_again(ctx).wait()
    assert engine.state.phase == "ready"
    assert loaded_with(engine).context_length == 16


async def test_a_first_load_that_is_cancelled_leaves_nothing(
    ctx: AppContext, engine: FakeEngine
) -> None:
    await engine.unload()
    put_model(ctx, "Slow")
    engine.delay = 3600
    job = models.load(ctx, "Slow")
    while engine.state.phase != "loading":
        await asyncio.sleep(0)
    ctx.jobs.cancel(job.id)
    await job.wait()
    assert models.engine_json(ctx, admin=True)["model"] == ""


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


async def test_a_name_that_is_nearly_right_names_the_model_that_is_there(ctx: AppContext) -> None:
    put_model(ctx, "TheBloke_Llama-2-7B-GPTQ")
    job = await begun(with_settings(ctx, model="TheBloke_Llama-2-7B-chat-GPTQ"))
    assert job.error is not None
    assert job.error.remedy == "Did you mean TheBloke_Llama-2-7B-GPTQ?"


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
    put_model(ctx, "Tiny")
    await models.load(ctx, "Tiny", LoadOptions(context_length=16)).wait()
    engine.die()
    await models.load_again(ctx).wait()
    assert ctx.engine.state.phase == "ready"
    assert loaded_with(engine).context_length == 16


async def test_there_is_nothing_to_load_again_at_first(ctx: AppContext) -> None:
    await ctx.engine.unload()
    with pytest.raises(ModelNotFoundError, match="Choose one"):
        models.load_again(ctx)
