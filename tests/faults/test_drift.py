"""Loads, unloads and swaps of LoRAs, over and over: nothing stays behind."""

from __future__ import annotations

import gc
import statistics
from pathlib import Path

import psutil
import pytest

from modules.engine.local import LocalEngine
from modules.engine.protocol import Finished, LoadModel
from modules.loader.options import LoadOptions
from tests.engine.helpers import ask
from tests.engine.lora import make_adapter
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.site import Site

DRIFT_MB = 50


@pytest.fixture(scope="module")
def loras(roomy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRAs of different ranks."""
    folder = tmp_path_factory.mktemp("loras")
    return [make_adapter(roomy, folder / f"lora{r}", seed=r, r=r) for r in (4, 16)]


async def answers(engine: LocalEngine) -> bool:
    """Whether a reply comes to its end."""
    events = [event async for event in engine.generate(ask("short", ban_eos_token=True))]
    return isinstance(events[-1], Finished)


def memory(process: psutil.Process) -> float:
    """What a process holds, in MB."""
    gc.collect()
    return float(process.memory_info().rss) / 1e6


@counts(1, 100)
def test_loads_and_unloads_leave_nothing(
    count: int, running: Site, roomy: Path, found: Found
) -> None:
    engine, us = running.engine, psutil.Process()

    async def round_() -> None:
        worker = engine.pid
        await engine.unload()
        assert not psutil.pid_exists(worker)
        await engine.load(LoadModel(str(roomy), LoadOptions(device="cpu")))
        assert await answers(engine)

    running.do(round_())
    before, held, children = running.held(), memory(us), len(us.children(recursive=True))
    workers = []
    for _ in range(count):
        running.do(round_())
        workers.append(running.held().worker_memory)
    after = running.held()
    drift = memory(us) - held
    assert drift < DRIFT_MB
    assert max(workers) - min(workers) < DRIFT_MB
    assert (after.threads, after.files) == (before.threads, before.files)
    assert len(us.children(recursive=True)) == children
    running.wait_until(lambda: running.tasks <= before.tasks, pause=0.1)
    found(
        f"{count} loads and unloads",
        f"the server's memory {drift:+.1f} MB; the worker always of {statistics.mean(workers):.0f} "
        f"MB (within {max(workers) - min(workers):.1f}); no process, thread or file left",
    )


@counts(10, 200)
def test_swaps_of_loras_leave_nothing(
    count: int, running: Site, loras: list[Path], found: Found
) -> None:
    engine = running.engine

    async def swap(number: int) -> None:
        path = loras[number % 2]
        await engine.load_adapter(path.name, str(path))
        assert await answers(engine)
        await engine.unload_adapter(path.name)

    for number in range(10):
        running.do(swap(number))
    before = running.held()
    for number in range(count):
        running.do(swap(number))
    after = running.held()
    assert running.do(answers(engine))
    assert after.worker_memory - before.worker_memory < DRIFT_MB
    assert after.memory - before.memory < DRIFT_MB
    assert (after.threads, after.files, after.worker_files) == (
        before.threads, before.files, before.worker_files,
    )  # fmt: skip
    found(
        f"{count} swaps of LoRAs, with a reply by each",
        f"the worker's memory {after.worker_memory - before.worker_memory:+.1f} MB, the server's "
        f"{after.memory - before.memory:+.1f} MB; no thread or file left",
    )
