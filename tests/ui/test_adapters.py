"""LoRAs at the start of a launch, and again after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.errors import AdapterError
from modules.ui import models
from tests.ui.test_models import begun, put_model, with_settings

pytestmark = pytest.mark.anyio


def put_loras(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "loras" / name).mkdir(parents=True)
    return tmp_path / "loras"


def applied(engine: FakeEngine) -> list[tuple[str, float]]:
    return [(adapter.info.name, adapter.weight) for adapter in engine.state.adapters]


async def test_the_flag_applies_each_and_says_what_it_does(
    ctx: AppContext, engine: FakeEngine, tmp_path: Path
) -> None:
    put_model(ctx, "Tiny")
    folder = put_loras(tmp_path, "alpaca", "poet")
    job = await begun(with_settings(ctx, lora=("alpaca", "poet"), lora_dir=folder))
    assert applied(engine) == [("alpaca", 1.0), ("poet", 1.0)]
    assert "The LoRA poet is applied; it changes the logits by 12.5%." in job.outcome


async def test_a_name_that_is_not_there_leaves_the_model_and_the_others(
    ctx: AppContext, engine: FakeEngine, tmp_path: Path
) -> None:
    put_model(ctx, "Tiny")
    folder = put_loras(tmp_path, "alpaca")
    job = await begun(with_settings(ctx, lora=("alpac", "alpaca", ".."), lora_dir=folder))
    assert (job.state, applied(engine)) == ("done", [("alpaca", 1.0)])
    assert any("Did you mean alpaca?" in note for note in job.notes)
    assert any("cannot be used as a name" in note for note in job.notes)


async def test_loading_again_after_a_crash_applies_them_again(
    ctx: AppContext, engine: FakeEngine
) -> None:
    put_model(ctx, "Tiny")
    await models.load(ctx, "Tiny").wait()
    for name in ("alpaca", "poet"):
        await engine.load_adapter(name, name)
    engine.weigh_adapters({"poet": -0.5})
    engine.die()
    await models.load_again(ctx).wait()
    assert applied(engine) == [("alpaca", 1.0), ("poet", -0.5)]
    engine.die()
    engine.adapter_error = AdapterError("It is damaged.", "Download it again.")
    job = models.load_again(ctx)
    await job.wait()
    assert (job.state, applied(engine)) == ("done", [])
    assert "Not applied again: alpaca, poet." in job.notes


async def test_the_page_is_told_what_is_applied(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.load_adapter("alpaca", "alpaca")
    told = models.engine_json(ctx, admin=False)
    assert told["adapters"] == [{"name": "alpaca", "weight": 1.0, "change": 0.125, "note": ""}]
    assert "LoRA alpaca at 1" in told["details"]
