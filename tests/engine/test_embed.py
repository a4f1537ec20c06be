"""Vectors of texts, and the way back from tokens to text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from modules.engine.local import LocalEngine
from modules.engine.protocol import Embed, Embedded, Event, Failed, LoadModel
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import decode, encode
from modules.errors import InvalidInputError, NoModelError, PromptTooLongError
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import LoadedModel
from tests.engine.helpers import Spy, ask

Make = Callable[..., Scheduler]
TEXT = "the capital of italy is rome"


def answers(scheduler: Scheduler, *commands: Embed) -> list[Event]:
    for command in commands:
        scheduler.embed(command)
    events: list[Event] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


@pytest.mark.parametrize("chunk", [256, 3])
def test_a_vector_is_the_mean_of_the_last_states_in_length_1(
    make_scheduler: Make, tiny: LoadedModel, chunk: int
) -> None:
    (found,) = answers(make_scheduler(prefill_chunk=chunk), Embed("a", TEXT))
    ids = encode(tiny.tokenizer, TEXT, True)
    with torch.inference_mode():
        states = tiny.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.float().mean(dim=0)
    assert isinstance(found, Embedded)
    assert found.tokens == len(ids)
    assert found.vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4)


def test_a_text_beyond_the_context_is_refused_and_the_next_is_served(
    make_scheduler: Make,
) -> None:
    refused, served = answers(make_scheduler(), Embed("a", TEXT * 200), Embed("b", TEXT))
    assert isinstance(refused, Failed)
    assert refused.kind == "PromptTooLongError"
    assert isinstance(served, Embedded)


def test_states_that_are_no_numbers_are_an_error(make_scheduler: Make, spy: Spy) -> None:
    spy.poisoned.add("a")
    (failed,) = answers(make_scheduler(), Embed("a", TEXT))
    assert isinstance(failed, Failed)


def test_no_cache_is_left_behind(make_scheduler: Make, spy: Spy) -> None:
    scheduler = make_scheduler()
    answers(scheduler, Embed("a", TEXT))
    scheduler.embed(Embed("b", TEXT))
    scheduler.cancel("b")
    assert spy.held() == set()


def test_what_was_encoded_is_decoded(tiny: LoadedModel) -> None:
    assert decode(tiny.tokenizer, encode(tiny.tokenizer, TEXT, False)) == TEXT


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_a_token_that_is_not_there_is_named(tiny: LoadedModel, token_id: int) -> None:
    with pytest.raises(InvalidInputError, match=str(token_id)):
        decode(tiny.tokenizer, [token_id])


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu")))
    yield engine
    await engine.close()


@pytest.mark.anyio
async def test_a_worker_embeds_and_decodes(engine: LocalEngine) -> None:
    embedded = await engine.embed(TEXT)
    assert sum(x * x for x in embedded.vector) == pytest.approx(1)
    assert await engine.decode(list((await engine.encode(TEXT)).ids)) == TEXT
    with pytest.raises(InvalidInputError):
        await engine.decode([-1])
    with pytest.raises(PromptTooLongError):
        await engine.embed(TEXT * 200)
    assert [event async for event in engine.generate(ask())]
    await engine.unload()
    with pytest.raises(NoModelError):
        await engine.embed(TEXT)
