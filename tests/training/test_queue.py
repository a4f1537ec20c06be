"""The queue, with a small process in the place of a real run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.errors import InvalidInputError
from modules.training.aside import ChatModel, StepAside
from modules.training.config import TrainingConfig
from modules.training.control import Stop
from modules.training.launch import start
from modules.training.queue import TrainingQueue
from modules.training.store import RunStore

pytestmark = pytest.mark.anyio


def launch(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.fake_run", str(folder)]
    return start(folder, [*command, "--resume"] if resume else command)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "training")


@pytest.fixture
async def queue(store: RunStore) -> AsyncIterator[TrainingQueue]:
    queue = TrainingQueue(store, launch)
    yield queue
    await end(queue)


async def end(queue: TrainingQueue) -> None:
    for run_id in queue.store.running():
        await queue.tell(run_id, Stop())
    await until(queue, lambda: not queue.store.running())
    await queue.close()


async def until(queue: TrainingQueue, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def add(queue: TrainingQueue, name: str) -> str:
    return await queue.add_config(TrainingConfig(name=name))


def states(queue: TrainingQueue) -> dict[str, str]:
    return {run.config.name: run.state for run in queue.store.list()}


def ended(queue: TrainingQueue, *run_ids: str) -> Callable[[], bool]:
    return lambda: all(queue.store.get(run_id).ended for run_id in run_ids)


async def test_runs_are_computed_one_after_another_and_a_failed_one_stops_nothing(
    queue: TrainingQueue,
) -> None:
    ids = [await add(queue, name) for name in ("fails", "dies", "falls", "plain")]
    queue.start()
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, len(queue.store.running()))
        return ended(queue, *ids)()

    await until(queue, watch)
    assert most == 1
    assert states(queue) == {"fails": "failed", "dies": "failed", "falls": "lost", "plain": "done"}
    failed, died, lost = (queue.store.get(run_id) for run_id in ids[:3])
    assert (failed.error, failed.remedy) == ("Memory ran out.", "Take a smaller micro batch.")
    assert died.error == "Something that nobody expected."
    assert "Resume it" in lost.remedy


async def test_a_run_that_cannot_be_started_is_a_failed_one(store: RunStore) -> None:
    def refuse(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
        return start(folder, [str(folder / "no-such-program")])

    queue = TrainingQueue(store, refuse)
    run_id = await add(queue, "plain")
    queue.start()
    await until(queue, ended(queue, run_id))
    assert store.get(run_id).state == "failed"
    assert "could not be started" in store.get(run_id).error
    await queue.close()


async def test_a_run_outlives_its_server_and_is_found_again(store: RunStore) -> None:
    first = TrainingQueue(store, launch)
    running, waiting = await add(first, "waits"), await add(first, "plain")
    first.start()
    await until(first, lambda: store.get(running).progress.step == 3)
    await first.close()

    second = TrainingQueue(RunStore(store.folder), launch)
    second.start()
    await until(second, lambda: second.current == running)
    assert second.store.get(running).progress.step == 3
    assert states(second) == {"waits": "running", "plain": "queued"}
    await second.tell(running, Stop())
    await until(second, ended(second, running, waiting))
    assert states(second) == {"waits": "stopped", "plain": "done"}
    await end(second)


async def test_followers_hear_of_every_step_and_of_nothing_while_it_waits(
    queue: TrainingQueue,
) -> None:
    queue.start()
    run_id = await add(queue, "waits")
    await until(queue, lambda: queue.store.get(run_id).progress.step == 3)
    await asyncio.sleep(0.6)
    told = queue.changed.version
    await asyncio.sleep(0.6)
    assert queue.changed.version == told
    await queue.cancel(run_id)
    await until(queue, ended(queue, run_id))
    await until(queue, lambda: queue.current == "")
    assert queue.changed.version > told


async def test_a_failed_run_resumes_and_the_steps_behind_its_checkpoint_are_told_once_more(
    queue: TrainingQueue,
) -> None:
    queue.start()
    run_id = await add(queue, "fails")
    await until(queue, ended(queue, run_id))
    (queue.store.folder / run_id / "checkpoints" / "step-000002").mkdir(parents=True)
    await queue.resume(run_id)
    await until(queue, lambda: queue.store.get(run_id).state == "done")
    assert queue.store.curves(run_id).steps == [1, 2, 3, 4, 5]
    assert queue.store.get(run_id).error == ""
    with pytest.raises(InvalidInputError, match="nothing to resume"):
        await queue.resume(run_id)


async def test_a_stop_from_before_does_not_end_the_resumed_run(queue: TrainingQueue) -> None:
    queue.start()
    run_id = await add(queue, "waits")
    await until(queue, lambda: queue.store.get(run_id).progress.step == 3)
    await queue.cancel(run_id)
    await until(queue, lambda: queue.store.get(run_id).state == "stopped")
    await queue.resume(run_id)
    await until(queue, lambda: queue.store.get(run_id).state == "running")
    await asyncio.sleep(0.5)
    assert queue.store.get(run_id).state == "running"


async def test_a_sweep_is_a_run_for_each_value_or_none_at_all(queue: TrainingQueue) -> None:
    await queue.add({"name": "sweep", "lora_r": [4, 8], "learning_rate": [1e-4, 2e-4]})
    configs = [queue.store.get(run_id).config for run_id in queue.store.queued()]
    assert [(c.lora_r, c.learning_rate) for c in configs] == [
        (4, 1e-4), (4, 2e-4), (8, 1e-4), (8, 2e-4),
    ]  # fmt: skip
    with pytest.raises(InvalidInputError):
        await queue.add({"name": "sweep", "lora_r": [4, -8]})
    assert len(queue.store.queued()) == 4


async def test_waiting_runs_change_places_and_leave(queue: TrainingQueue) -> None:
    first, second, third = [await add(queue, name) for name in ("a", "b", "c")]
    await queue.reorder([third, first])
    assert queue.store.queued() == [third, first, second]
    await queue.cancel(first)
    assert queue.store.queued() == [third, second]
    assert first not in queue.store.ids()
    fourth = await queue.repeat(second)
    assert queue.store.queued() == [third, second, fourth]
    assert queue.store.get(fourth).config == queue.store.get(second).config


async def test_nobody_listens_to_a_run_that_has_ended(queue: TrainingQueue) -> None:
    queue.start()
    run_id = await add(queue, "plain")
    await until(queue, ended(queue, run_id))
    with pytest.raises(InvalidInputError, match="Resume it first"):
        await queue.tell(run_id, Stop())


@pytest.mark.parametrize("name", ["plain", "fails"])
async def test_the_chat_model_steps_aside_and_comes_back(
    store: RunStore, name: str, tmp_path: Path
) -> None:
    engine = FakeEngine()
    await engine.load(LoadModel("models/fake-model"))
    await engine.load_adapter("style", str(tmp_path / "style"))
    before, chat = engine.state, ChatModel(engine)
    phases = []

    def launch_and_look(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
        phases.append(engine.state.phase)
        return launch(folder, resume)

    aside = StepAside(lambda config: config.lora_r > 8, chat.release, chat.restore)
    queue = TrainingQueue(store, launch_and_look, aside)
    small = await queue.add_config(TrainingConfig(name="plain", lora_r=8))
    large = [await queue.add_config(TrainingConfig(name=name, lora_r=64)) for _ in range(2)]
    queue.start()
    await until(queue, ended(queue, small, *large))
    await until(queue, lambda: engine.state.phase == "ready")
    assert phases == ["ready", "empty", "empty"]
    assert engine.state.command == before.command
    assert [adapter.info.name for adapter in engine.state.adapters] == ["style"]
    assert queue.note == ""
    await queue.close()


async def test_a_model_that_somebody_loads_meanwhile_stays() -> None:
    engine = FakeEngine()
    await engine.load(LoadModel("models/fake-model"))
    chat = ChatModel(engine)
    assert await chat.release()
    await engine.load(LoadModel("models/other"))
    assert await chat.restore() == ""
    assert engine.state.path == "models/other"
