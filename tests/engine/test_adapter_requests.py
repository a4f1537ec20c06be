"""Requests with LoRAs of their own in one scheduler: nothing leaks from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.engine.protocol import (
    AdapterInfo,
    AdapterLoaded,
    AdapterUnloaded,
    Failed,
    LoadAdapter,
    UnloadAdapter,
)
from modules.engine.worker.scheduler import Scheduler
from tests.engine.helpers import ENDLESS, Reply, Spy, ask, collect, serve
from tests.engine.lora import make_adapter

Make = Callable[..., Scheduler]
A, B = (("a", 1.0),), (("b", 0.5),)
MIXES = {"base": (), "a": A, "b": B, "both": (*A, *B), "turned": (("a", -1.0),)}
LONG_PROMPT = " ".join(["the capital of france is paris and rome"] * 6)
LONG = {"max_new_tokens": 20, "ban_eos_token": True}


@pytest.fixture(scope="session")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("loras")
    return {n: make_adapter(checkpoint, place / n, seed=i) for i, n in enumerate("ab")}


@pytest.fixture
def scheduler(make_scheduler: Make, spy: Spy, folders: dict[str, Path]) -> Iterator[Scheduler]:
    """A scheduler with two LoRAs; how it ends, the model is the base again."""
    scheduler = make_scheduler()
    for name, folder in folders.items():
        scheduler.load_adapter(LoadAdapter(name, name, str(folder)))
    assert all(isinstance(event, AdapterLoaded) for event in scheduler.step())
    yield scheduler
    for name in folders:
        spy.unload_adapter(name)


def test_each_request_of_a_batch_gets_its_own_mix(scheduler: Scheduler, spy: Spy) -> None:
    alone = {}
    for name, mix in MIXES.items():
        serve(scheduler, [ask("alone", adapters=mix, **LONG)])
        alone[name] = spy.replies["alone"]
        spy.forget()
    assert len({tuple(reply) for reply in alone.values()}) == len(MIXES)
    serve(scheduler, [ask(name, adapters=mix, **LONG) for name, mix in MIXES.items()])
    assert {name: spy.replies[name] for name in MIXES} == alone


def test_a_kept_prefix_serves_the_same_mix_alone(scheduler: Scheduler, spy: Spy) -> None:
    serve(scheduler, [ask("cold", LONG_PROMPT, adapters=A)])
    spy.forget()

    def cached(adapters: tuple[tuple[str, float], ...]) -> int:
        reply: Reply = serve(scheduler, [ask("warm", LONG_PROMPT, adapters=adapters)])["warm"]
        return reply.finished.usage.cached_tokens

    assert cached(()) == 0
    assert cached(A) == 0
    assert spy.replies["warm"] == spy.replies["cold"]
    assert cached((("a", 0.5),)) == 0
    assert cached(B) == 0
    # The order and what is off do not make another mix.
    assert cached((("b", 0.0), ("a", 1.0))) > 0
    assert spy.replies["warm"] == spy.replies["cold"]


def test_what_was_computed_with_a_removed_adapter_is_not_used_again(
    scheduler: Scheduler, folders: dict[str, Path], spy: Spy
) -> None:
    serve(scheduler, [ask("old", LONG_PROMPT, adapters=A)])
    scheduler.unload_adapter(UnloadAdapter("x", "a"))
    scheduler.load_adapter(LoadAdapter("y", "a", str(folders["b"])))
    new = serve(scheduler, [ask("new", LONG_PROMPT, adapters=A)])["new"]
    assert new.finished.usage.cached_tokens == 0
    assert spy.replies["new"] != spy.replies["old"]


@pytest.mark.parametrize("anew", [False, True])
def test_removing_an_adapter_fails_the_replies_that_run_with_it(
    scheduler: Scheduler, folders: dict[str, Path], spy: Spy, anew: bool
) -> None:
    serve(scheduler, [ask("alone", "rome", **LONG)])
    spy.forget()
    replies: dict[str, Reply] = {}
    scheduler.add(ask("with", adapters=A, **ENDLESS))
    scheduler.add(ask("without", "rome", **LONG))
    for _ in range(4):
        collect(replies, scheduler.step())
    if anew:
        scheduler.load_adapter(LoadAdapter("x", "a", str(folders["b"])))
    else:
        scheduler.unload_adapter(UnloadAdapter("x", "a"))
    while scheduler.has_work:
        collect(replies, scheduler.step())
    assert isinstance(replies["x"].end, AdapterLoaded if anew else AdapterUnloaded)
    assert replies["with"].tokens >= 2
    assert replies["with"].failed.kind == "AdapterError"
    assert "LoRA a was" in replies["with"].failed.message
    assert spy.replies["without"] == spy.replies["alone"]
    again = serve(scheduler, [ask("again", adapters=A)])["again"]
    assert again.finished.usage.cached_tokens == 0 if anew else again.failed


def test_loading_an_adapter_leaves_running_replies_as_they_are(
    scheduler: Scheduler, folders: dict[str, Path], spy: Spy
) -> None:
    serve(scheduler, [ask("alone", adapters=A, **LONG)])
    spy.forget()
    scheduler.add(ask("disturbed", adapters=A, **LONG))
    for count in range(5):
        scheduler.step()
        scheduler.load_adapter(LoadAdapter("x", f"c{count}", str(folders["b"])))
    serve(scheduler, [])
    assert spy.replies["disturbed"] == spy.replies["alone"]
    for count in range(5):
        spy.unload_adapter(f"c{count}")


def test_an_unknown_adapter_fails_its_own_request_alone(scheduler: Scheduler) -> None:
    replies = serve(scheduler, [ask("x", adapters=(("nobody", 1.0),)), ask("y")])
    assert replies["x"].failed.kind == "AdapterError"
    assert "nobody is not applied" in replies["x"].failed.message
    assert replies["y"].finished


def test_a_weight_out_of_bounds_fails_its_own_request(scheduler: Scheduler) -> None:
    replies = serve(scheduler, [ask("x", adapters=(("a", 4.5),))])
    assert "4.5" in replies["x"].failed.message


def test_an_adapter_that_cannot_be_loaded_answers_with_a_sentence(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    scheduler.load_adapter(LoadAdapter("x", "empty", str(tmp_path)))
    (event,) = scheduler.step()
    assert isinstance(event, Failed)
    assert (event.id, event.kind) == ("x", "AdapterError")
    assert "adapter_config.json" in event.message


def test_the_change_is_measured_on_a_text(scheduler: Scheduler, folders: dict[str, Path]) -> None:
    scheduler.load_adapter(LoadAdapter("x", "again", str(folders["a"])))
    (event,) = scheduler.step()
    assert isinstance(event, AdapterLoaded)
    assert isinstance(event.info, AdapterInfo)
    assert 0.01 < event.info.change < 100
    scheduler.unload_adapter(UnloadAdapter("y", "again"))
