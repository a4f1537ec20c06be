"""A real worker process: its life, its death, and what the client says about both."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from modules.engine.local import LocalEngine
from modules.engine.protocol import Finished, LoadModel, NextTokens, TokenChunk
from modules.errors import (
    AdapterError,
    EngineError,
    LoadFailedError,
    NoModelError,
    PromptTooLongError,
    WorkerDiedError,
)
from modules.loader.options import LoadOptions
from tests.engine.helpers import ENDLESS, ask

pytestmark = pytest.mark.anyio


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def engine_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("engine-")]


def command(folder: Path) -> LoadModel:
    return LoadModel(str(folder), LoadOptions(device="cpu"))


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    await engine.close()
    assert engine_threads() == []


@pytest.fixture
async def loaded(engine: LocalEngine, roomy: Path) -> LocalEngine:
    await engine.load(command(roomy))
    return engine


async def test_a_model_loads_answers_and_leaves_no_process(
    engine: LocalEngine, checkpoint: Path
) -> None:
    info = await engine.load(command(checkpoint))
    pid = engine.pid
    assert pid is not None
    assert alive(pid)
    assert (info.name, info.architecture, info.dtype) == ("tiny", "LlamaForCausalLM", "float32")
    assert (info.context_length, info.quantization) == (256, "none")
    assert info.memory >= 4 * info.parameters
    assert engine.state.info == info
    events = [event async for event in engine.generate(ask(ban_eos_token=True))]
    assert isinstance(events[-1], Finished)
    assert sum(e.tokens for e in events if isinstance(e, TokenChunk)) == 12
    await engine.unload()
    assert engine.state.phase == "empty"
    assert not alive(pid)


async def test_tokens_and_what_may_follow_them_are_told(loaded: LocalEngine) -> None:
    encoded = await loaded.encode("the capital")
    assert "".join(encoded.texts) == "the capital"
    assert await loaded.count_tokens(["the capital"]) == [len(encoded.ids)]
    found = await loaded.next_tokens(NextTokens(ask(), 5))
    assert (len(found.tokens), found.kept) == (5, 1)
    asked = asyncio.create_task(loaded.next_tokens(NextTokens(ask("b", "the " * 5000), 5)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    with pytest.raises(AdapterError, match="poet is not applied"):
        await loaded.next_tokens(NextTokens(ask(adapters=(("poet", 1.0),))))


async def test_a_cache_in_8_bits_is_what_the_worker_computes_with(
    engine: LocalEngine, checkpoint: Path
) -> None:
    async def probability(**options: Any) -> float:
        await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu", **options)))
        found = await engine.next_tokens(NextTokens(ask(), 1))
        return found.tokens[0].before

    wide, narrow = await probability(), await probability(cache_type="8-bit")
    assert narrow == pytest.approx(wide, rel=0.05)
    assert narrow != wide


async def test_progress_is_told_while_it_loads(engine: LocalEngine, checkpoint: Path) -> None:
    seen: list[tuple[str, float]] = []

    async def watch() -> None:
        version = engine.changed.version
        while True:
            version = await engine.changed.wait(version)
            seen.append((engine.state.phase, engine.state.fraction))

    watching = asyncio.create_task(watch())
    await engine.load(command(checkpoint))
    watching.cancel()
    fractions = [fraction for phase, fraction in seen if phase == "loading"]
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)


async def test_killing_the_worker_keeps_what_came_and_the_next_load_works(
    loaded: LocalEngine, checkpoint: Path
) -> None:
    got = []
    with pytest.raises(WorkerDiedError, match="signal 9") as caught:
        async for event in loaded.generate(ask(**ENDLESS)):
            got.append(event)
            if len(got) == 3 and loaded.pid is not None:
                os.kill(loaded.pid, signal.SIGKILL)
    assert len(got) >= 3
    assert caught.value.remedy
    assert loaded.state.phase == "crashed"
    assert isinstance(loaded.state.error, WorkerDiedError)
    with pytest.raises(NoModelError):
        await loaded.count_tokens(["a"])
    await loaded.load(LoadModel(loaded.state.path, LoadOptions(device="cpu")))
    assert [e async for e in loaded.generate(ask("b"))][-1]


async def test_unloading_in_mid_reply_ends_it_with_a_sentence(loaded: LocalEngine) -> None:
    reply = loaded.generate(ask(**ENDLESS))
    await anext(reply)
    await loaded.unload()
    with pytest.raises(EngineError, match="unloaded"):
        async for _ in reply:
            pass


async def test_a_prompt_past_the_context_is_refused(engine: LocalEngine, checkpoint: Path) -> None:
    await engine.load(command(checkpoint))
    with pytest.raises(PromptTooLongError):
        await anext(engine.generate(ask(prompt="paris " * 300)))


async def test_nothing_is_served_without_a_model(engine: LocalEngine) -> None:
    with pytest.raises(NoModelError):
        await anext(engine.generate(ask()))
    with pytest.raises(NoModelError):
        await engine.count_tokens(["a"])


async def test_a_failed_load_says_why_and_leaves_no_process(
    engine: LocalEngine, checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"\x10" + bytes(40))
    with pytest.raises(LoadFailedError, match=r"model\.safetensors is damaged"):
        await engine.load(command(broken))
    assert engine.pid is None
    assert engine.state.phase == "crashed"
    assert isinstance(engine.state.error, LoadFailedError)
    await engine.load(command(checkpoint))
    assert engine.state.phase == "ready"


async def test_a_model_that_was_ready_comes_back_when_another_does_not_load(
    loaded: LocalEngine, roomy: Path, tmp_path: Path
) -> None:
    before, first = loaded.state, loaded.pid
    with pytest.raises(LoadFailedError, match=f"{roomy.name} is loaded again"):
        await loaded.load(command(tmp_path))
    assert (loaded.state.info, loaded.state.command) == (before.info, command(roomy))
    assert loaded.pid != first
    assert [e async for e in loaded.generate(ask("b"))][-1]


async def test_cancelling_a_load_remembers_the_model_that_was_ready(
    loaded: LocalEngine, roomy: Path, checkpoint: Path
) -> None:
    loading = asyncio.create_task(loaded.load(command(checkpoint)))
    while loaded.state.phase != "loading":
        await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert (loaded.state.phase, loaded.state.command) == ("empty", command(roomy))
    assert loaded.pid is None


async def test_a_worker_that_dies_while_loading_fails_the_load(
    engine: LocalEngine, checkpoint: Path
) -> None:
    loading = asyncio.create_task(engine.load(command(checkpoint)))
    await process_of(engine)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(LoadFailedError, match="killed"):
        await loading
    assert engine.state.phase == "crashed"


async def process_of(engine: LocalEngine) -> int:
    """Wait for the worker's first word."""
    while engine.state.stage != "Importing the libraries":
        await engine.changed.wait(engine.changed.version)
    assert engine.pid is not None
    return engine.pid


async def test_cancelling_a_load_ends_the_worker(engine: LocalEngine, checkpoint: Path) -> None:
    loading = asyncio.create_task(engine.load(command(checkpoint)))
    pid = await process_of(engine)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert engine.state.phase == "empty"
    await engine.unload()
    assert not alive(pid)


async def test_unloading_ends_a_load(engine: LocalEngine, checkpoint: Path) -> None:
    loading = asyncio.create_task(engine.load(command(checkpoint)))
    pid = await process_of(engine)
    await engine.unload()
    with pytest.raises(LoadFailedError):
        await loading
    assert engine.state.phase == "empty"
    assert not alive(pid)


async def test_stopping_before_the_worker_has_connected_leaves_nothing(
    engine: LocalEngine, checkpoint: Path
) -> None:
    loading = asyncio.create_task(engine.load(command(checkpoint)))
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await engine.unload()
    assert engine_threads() == []


async def test_loads_take_turns_and_the_last_one_stays(
    engine: LocalEngine, checkpoint: Path, roomy: Path
) -> None:
    first, second = await asyncio.gather(
        engine.load(command(checkpoint)), engine.load(command(roomy))
    )
    assert (first.name, second.name) == ("tiny", "roomy")
    assert engine.state.info == second


async def test_a_stopped_process_is_killed_in_the_end(loaded: LocalEngine) -> None:
    pid = loaded.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await loaded.unload()
    assert not alive(pid)


async def test_a_worker_cannot_start_without_its_program(
    engine: LocalEngine, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LoadFailedError, match="could not be started"):
        await engine.load(command(checkpoint))


async def test_a_closed_engine_loads_nothing(engine: LocalEngine, checkpoint: Path) -> None:
    await engine.close()
    with pytest.raises(LoadFailedError, match="closed"):
        await engine.load(command(checkpoint))


def test_the_client_imports_no_tensor_library() -> None:
    code = "import sys, modules.engine.local; print({'torch', 'transformers'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_the_worker_ends_when_the_web_process_is_gone(roomy: Path) -> None:
    root = Path(__file__).parents[2]
    script = f"""
import asyncio, os, signal
from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel
from modules.loader.options import LoadOptions
async def main():
    engine = LocalEngine()
    await engine.load(LoadModel({str(roomy)!r}, LoadOptions(device="cpu")))
    print(engine.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120
    )
    # The worker holds the other end of stderr: run() returns when it has ended, too.
    assert result.returncode == -signal.SIGKILL
    assert int(result.stdout) > 0
