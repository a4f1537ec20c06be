"""A worker that is started before a model is asked for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel
from modules.loader.options import LoadOptions

pytestmark = pytest.mark.anyio


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def pid_of(engine: LocalEngine) -> int:
    """The process that was prepared, once there is one."""
    worker = engine._prepared
    assert worker is not None
    while worker.pid is None:
        await asyncio.sleep(0.01)
    return worker.pid


async def test_the_next_load_takes_the_prepared_worker(checkpoint: Path) -> None:
    engine = LocalEngine()
    engine.prepare()
    engine.prepare()
    pid = await pid_of(engine)
    assert engine.state.phase == "empty"
    await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu")))
    assert engine.pid == pid
    await engine.close()


async def test_a_prepared_worker_that_dies_is_no_crash(checkpoint: Path) -> None:
    engine = LocalEngine()
    engine.prepare()
    os.kill(await pid_of(engine), 9)
    while engine._prepared is not None:
        await asyncio.sleep(0.01)
    assert engine.state.phase == "empty"
    await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu")))
    assert engine.state.phase == "ready"
    await engine.close()


async def test_one_that_nobody_uses_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.engine.local._PREPARED_S", 0.2)
    engine = LocalEngine()
    engine.prepare()
    pid = await pid_of(engine)
    while is_alive(pid):
        await asyncio.sleep(0.05)
    assert engine._prepared is None
    await engine.close()


async def test_closing_ends_it_too() -> None:
    engine = LocalEngine()
    engine.prepare()
    pid = await pid_of(engine)
    await engine.close()
    assert not is_alive(pid)
