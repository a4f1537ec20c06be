"""LoRAs over a model in a real worker process, and the same contract over the fake engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.engine.client import EngineClient
from modules.engine.fake import FakeEngine
from modules.engine.local import LocalEngine
from modules.engine.protocol import Finished, LoadModel, TokenChunk
from modules.errors import AdapterError, InvalidInputError, NoModelError
from modules.loader.options import LoadOptions
from tests.engine.helpers import ENDLESS, ask
from tests.engine.lora import make_adapter

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
def lora(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(checkpoint, tmp_path_factory.mktemp("loras") / "lora")


@pytest.fixture(params=["local", "fake"])
async def engine(request: pytest.FixtureRequest, roomy: Path) -> AsyncIterator[EngineClient]:
    engine = LocalEngine() if request.param == "local" else FakeEngine()
    await engine.load(LoadModel(str(roomy), LoadOptions(device="cpu")))
    yield engine
    await engine.close()


@pytest.fixture
async def local(roomy: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    await engine.load(LoadModel(str(roomy), LoadOptions(device="cpu")))
    yield engine
    await engine.close()


async def text(engine: EngineClient, **options: object) -> str:
    events = [e async for e in engine.generate(ask(ban_eos_token=True, **options))]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TokenChunk))


async def test_the_state_says_what_is_applied(engine: EngineClient, lora: Path) -> None:
    version = engine.changed.version
    info = await engine.load_adapter("lora", str(lora))
    assert (info.name, info.kind) == ("lora", "LoRA")
    assert [(a.info, a.weight) for a in engine.state.adapters] == [(info, 1.0)]
    assert engine.changed.version > version
    engine.weigh_adapters({"lora": -0.5})
    assert engine.state.adapters[0].weight == -0.5
    await engine.unload_adapter("lora")
    assert engine.state.adapters == ()


async def test_reading_one_anew_keeps_its_weight(engine: EngineClient, lora: Path) -> None:
    await engine.load_adapter("lora", str(lora))
    engine.weigh_adapters({"lora": 0.25})
    await engine.load_adapter("lora", str(lora))
    assert [adapter.weight for adapter in engine.state.adapters] == [0.25]


async def test_what_is_not_applied_is_named(engine: EngineClient) -> None:
    with pytest.raises(AdapterError, match="nobody is not applied"):
        engine.weigh_adapters({"nobody": 1.0})
    with pytest.raises(AdapterError, match="nobody is not applied"):
        await anext(engine.generate(ask(adapters=(("nobody", 1.0),))))


@pytest.mark.parametrize("weight", [4.1, -5, float("nan"), float("inf")])
async def test_a_weight_has_bounds(engine: EngineClient, lora: Path, weight: float) -> None:
    await engine.load_adapter("lora", str(lora))
    with pytest.raises(InvalidInputError):
        engine.weigh_adapters({"lora": weight})
    with pytest.raises(InvalidInputError):
        await anext(engine.generate(ask(adapters=(("lora", weight),))))


async def test_another_model_has_no_adapters(
    engine: EngineClient, lora: Path, checkpoint: Path
) -> None:
    await engine.load_adapter("lora", str(lora))
    await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu")))
    assert engine.state.adapters == ()
    await engine.unload()
    with pytest.raises(NoModelError):
        await engine.load_adapter("lora", str(lora))


async def test_a_request_without_a_choice_gets_the_default_mix(
    local: LocalEngine, lora: Path
) -> None:
    base = await text(local)
    await local.load_adapter("lora", str(lora))
    applied = await text(local)
    assert applied != base
    assert await text(local, adapters=()) == base
    local.weigh_adapters({"lora": 0})
    assert await text(local) == base
    assert await text(local, adapters=(("lora", 1.0),)) == applied
    await local.unload_adapter("lora")
    assert await text(local) == base


async def test_removing_an_adapter_in_mid_reply_ends_it_with_a_sentence(
    local: LocalEngine, lora: Path
) -> None:
    await local.load_adapter("lora", str(lora))
    reply = local.generate(ask(**ENDLESS))
    await anext(reply)
    await local.unload_adapter("lora")
    with pytest.raises(AdapterError, match="lora was removed while this reply"):
        async for _ in reply:
            pass
    assert await text(local)


async def test_a_bad_adapter_is_refused_and_the_model_answers_on(
    local: LocalEngine, lora: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(lora, bad)
    (bad / "adapter_model.safetensors").write_bytes(b"\x10" + bytes(40))
    with pytest.raises(AdapterError, match="damaged"):
        await local.load_adapter("bad", str(bad))
    assert local.state.adapters == ()
    assert await text(local)


async def test_a_worker_that_dies_leaves_word_of_what_was_applied(
    local: LocalEngine, lora: Path
) -> None:
    await local.load_adapter("lora", str(lora))
    assert local.pid is not None
    os.kill(local.pid, signal.SIGKILL)
    while local.state.phase == "ready":
        await asyncio.wait_for(local.changed.wait(local.changed.version), 30)
    assert local.state.phase == "crashed"
    assert [adapter.info.name for adapter in local.state.adapters] == ["lora"]
