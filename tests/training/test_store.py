"""Runs as their files tell them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.errors import InvalidInputError, InvalidNameError, NotFoundError
from modules.training.config import TrainingConfig
from modules.training.events import Evaluated, Event, EventLog, Failed, Finished, Stage
from modules.training.lock import hold
from modules.training.store import RunStore
from tests.training.fake_run import started, step


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "training")


def ran(store: RunStore, *events: Event, name: str = "style") -> str:
    """A run that was started, and told these events."""
    run_id = store.create(TrainingConfig(name=name))
    store.withdraw(run_id)
    tell(store, run_id, *events)
    return run_id


def tell(store: RunStore, run_id: str, *events: Event) -> None:
    log = EventLog(store.folder / run_id / "events.jsonl")
    for event in events:
        log.write(event)
    log.close()


def test_a_new_run_waits_under_its_name_and_keeps_its_config(store: RunStore) -> None:
    config = TrainingConfig(name="style", lora_r=8)
    first, second = store.create(config), store.create(config)
    assert first.startswith("style-") and second != first
    assert store.get(first).config == config
    assert store.queued() == [first, second]
    assert [store.get(name).place for name in (first, second)] == [0, 1]


@pytest.mark.parametrize("name", ["../away", "a/b", ".hidden"])
def test_no_name_leads_out_of_the_folder(store: RunStore, name: str) -> None:
    with pytest.raises(InvalidNameError):
        store.create(TrainingConfig(name=name))
    with pytest.raises(InvalidNameError):
        store.get(name)


def test_the_state_is_read_from_the_files(store: RunStore) -> None:
    finished = Finished(step=1, reason="stop loss", adapter="style")
    stopped = Finished(step=1, reason="stopped", adapter="style")
    failed = Failed(message="The disk is full.")
    runs = {
        ran(store, started(), step(1), finished): "done",
        ran(store, started(), step(1), stopped): "stopped",
        ran(store, started(), failed): "failed",
        ran(store, started(), step(1)): "lost",
        ran(store): "lost",
        ran(store, failed, Stage(text="Starting")): "lost",
        store.create(TrainingConfig(name="next")): "queued",
    }
    assert {run_id: store.get(run_id).state for run_id in runs} == runs


def test_a_run_goes_on_as_long_as_its_lock_is_held(store: RunStore) -> None:
    run_id = ran(store, started())
    with hold(store.folder / run_id):
        assert store.get(run_id).state == "running"
        assert store.running() == [run_id]
        with pytest.raises(InvalidInputError, match="has not ended"):
            store.delete(run_id)
    assert store.get(run_id).state == "lost"
    store.delete(run_id)
    with pytest.raises(NotFoundError):
        store.get(run_id)


def test_progress_counts_what_is_done_and_what_is_left(store: RunStore) -> None:
    run_id = ran(store, started(), *(step(number) for number in range(1, 5)))
    progress = store.get(run_id).progress
    assert (progress.step, progress.total_steps) == (4, 10)
    assert progress.tokens_per_second == 100
    assert progress.seconds_left == 3.0
    tell(store, run_id, Stage(text="Saving", fraction=0.5))
    assert store.get(run_id).progress.stage == "Saving"
    tell(store, run_id, step(5))
    assert store.get(run_id).progress.stage == ""
    assert store.get(run_id).progress.step == 5


def test_checkpoints_have_their_step_size_and_loss(store: RunStore) -> None:
    run_id = ran(store, started(), Evaluated(step=10, loss=0.5, best=True))
    parent = store.folder / run_id / "checkpoints"
    for number in (10, 20):
        folder = parent / f"step-{number:06}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"x" * number)
    (parent / ".step-000030").mkdir()
    (parent / "best.json").write_text('{"step": 10}')
    (parent / "latest.json").write_text('{"step": 20}')
    first, second = store.get(run_id).checkpoints
    assert (first.step, first.size_bytes, first.best, first.loss) == (10, 10, True, 0.5)
    assert (second.step, second.latest, second.loss) == (20, True, None)


def test_one_damaged_run_does_not_hide_the_others(store: RunStore) -> None:
    good, bad = ran(store, started()), ran(store, started())
    (store.folder / bad / "config.yaml").write_text("lora_r: [")
    (store.folder / bad / "events.jsonl").write_bytes(b"\xff\n[1]\n{}\n")
    (store.folder / bad / "queue.json").write_text("[")
    assert {run.id for run in store.list()} == {good, bad}
    assert "config.yaml" in store.get(bad).error


def test_what_was_told_is_read_once(store: RunStore) -> None:
    run_id = ran(store, started(), step(1))
    assert store.curves(run_id).steps == [1]
    tell(store, run_id, step(2))
    assert store.curves(run_id).steps == [1, 2]
    (store.folder / run_id / "events.jsonl").write_text("")
    assert store.curves(run_id).steps == []


def test_a_lost_run_says_what_it_said_last(store: RunStore) -> None:
    run_id = ran(store, started())
    (store.folder / run_id / "log.txt").write_text("Loading.\nKilled\n\n")
    assert store.get(run_id).error.endswith("it said last: Killed")


def test_of_two_who_claim_a_run_one_gets_it(store: RunStore) -> None:
    run_id = store.create(TrainingConfig(name="style"))
    assert store.claim(run_id) is False
    assert store.claim(run_id) is None
    assert store.get(run_id).state == "running"
    store.enqueue(run_id, resume=True)
    assert json.loads((store.folder / run_id / "queue.json").read_text())["resume"] is True
    assert store.claim(run_id) is True
