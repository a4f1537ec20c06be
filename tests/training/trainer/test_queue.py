"""Real runs through the queue."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modules.training.config_yaml import from_mapping
from modules.training.control import Save, StopAtLoss
from modules.training.launch import PROCESS, RunFolders, launch
from modules.training.queue import TrainingQueue
from modules.training.store import RunStore
from tests.training.trainer.runs import Place

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(place: Place) -> AsyncIterator[TrainingQueue]:
    root = place.root
    folders = RunFolders(root / "models", root / "loras", root / "data")

    def start(folder: Path, resume: bool) -> Any:
        return launch(folder, folders, resume=resume)

    queue = TrainingQueue(RunStore(root / "data" / "training"), start)
    queue.start()
    yield queue
    for run_id in queue.store.running():
        kill(queue, run_id)
    await queue.close()


def kill(queue: TrainingQueue, run_id: str) -> None:
    about = json.loads((queue.store.folder / run_id / PROCESS).read_text())
    os.kill(about["pid"], signal.SIGKILL)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not holds():
            await asyncio.sleep(0.02)


async def add(queue: TrainingQueue, place: Place, **config: Any) -> str:
    standard = {
        "base": "tiny",
        "datasets": [str(place.root / "rows.jsonl")],
        "name": "made",
        "lora_r": 4,
        "cutoff_len": 64,
        "overlap_len": 0,
        "learning_rate": 0.01,
    }
    return await queue.add_config(from_mapping({**standard, **config}))


async def test_a_broken_run_a_killed_run_and_a_whole_one(
    queue: TrainingQueue, place: Place
) -> None:
    broken = await add(queue, place, base="no-such-model")
    killed = await add(queue, place, epochs=100, save_steps=2)
    whole = await add(queue, place, name="whole", max_steps=3, sample_prompts=["Who?"])
    get = queue.store.get
    await until(lambda: get(killed).progress.step >= 5)
    kill(queue, killed)
    await until(lambda: get(whole).ended)
    assert get(broken).state == "failed"
    assert "no-such-model" in get(broken).error and get(broken).remedy
    assert get(killed).state == "lost" and "Resume it" in get(killed).remedy
    done = get(whole)
    assert (done.state, done.adapter, done.progress.step) == ("done", "whole", 3)
    assert done.samples[0].step == 0
    assert done.checkpoints[-1].latest

    await queue.resume(killed)
    at = max(checkpoint.step for checkpoint in get(killed).checkpoints)
    await until(lambda: get(killed).progress.step > at and get(killed).state == "running")
    steps = queue.store.curves(killed).steps
    assert steps == list(range(1, steps[-1] + 1))
    await queue.tell(killed, StopAtLoss(50.0))
    await until(lambda: get(killed).ended)
    assert (get(killed).state, get(killed).reason) == ("done", "stop loss")


async def test_a_run_saves_when_it_is_told_and_stops_with_everything_saved(
    queue: TrainingQueue, place: Place
) -> None:
    run_id = await add(queue, place, epochs=100, save_steps=100_000)
    get = partial(queue.store.get, run_id)
    await until(lambda: get().progress.step >= 2)
    await queue.tell(run_id, Save())
    await until(lambda: bool(get().checkpoints))
    assert get().state == "running"
    await queue.cancel(run_id)
    await until(lambda: get().ended)
    assert get().state == "stopped"
    assert get().checkpoints[-1].step == get().progress.step
    assert get().adapter == "made"
