"""What the client makes of replies, on one worker that lives as long as this module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.engine.local import LocalEngine
from modules.engine.protocol import Finished, LoadModel, TokenChunk
from modules.errors import EngineError, InvalidInputError
from modules.loader.options import LoadOptions
from tests.engine.helpers import ENDLESS, PROMPT, ask

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, as its worker needs."""
    return "asyncio"


@pytest.fixture(scope="module")
async def loaded(roomy: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    await engine.load(LoadModel(str(roomy), LoadOptions(device="cpu")))
    yield engine
    await engine.close()


async def test_closing_the_iterator_cancels_in_the_worker(loaded: LocalEngine) -> None:
    # More than the worker serves at a time: left running, they would keep the last one out.
    for i in range(20):
        reply = loaded.generate(ask(f"left{i}", **ENDLESS))
        await anext(reply)
        await reply.aclose()
    assert isinstance([e async for e in loaded.generate(ask("next"))][-1], Finished)


async def test_cancel_ends_the_iterator_with_finished(loaded: LocalEngine) -> None:
    last = None
    async for event in loaded.generate(ask("x", **ENDLESS)):
        last = event
        await loaded.cancel("x")
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"


async def test_tokens_are_counted_while_a_reply_runs(loaded: LocalEngine) -> None:
    reply = loaded.generate(ask("long", **ENDLESS))
    await anext(reply)
    counts = await loaded.count_tokens([PROMPT, "", "is \ud83d"])
    assert counts[0] > 0
    assert counts[1] == 0
    assert isinstance(await anext(reply), TokenChunk)
    await reply.aclose()


async def test_two_replies_at_once_each_get_their_own(loaded: LocalEngine) -> None:
    async def text(request_id: str, prompt: str) -> str:
        events = [e async for e in loaded.generate(ask(request_id, prompt, ban_eos_token=True))]
        assert {e.id for e in events} == {request_id}
        return "".join(e.text for e in events if isinstance(e, TokenChunk))

    alone = [await text("a", PROMPT), await text("b", "rome")]
    assert list(await asyncio.gather(text("c", PROMPT), text("d", "rome"))) == alone


async def test_one_id_serves_one_request_at_a_time(loaded: LocalEngine) -> None:
    reply = loaded.generate(ask("same", **ENDLESS))
    await anext(reply)
    with pytest.raises(EngineError, match="id"):
        await anext(loaded.generate(ask("same")))
    assert isinstance(await anext(reply), TokenChunk)
    await reply.aclose()


async def test_a_form_that_cannot_be_used_is_an_invalid_input(loaded: LocalEngine) -> None:
    with pytest.raises(InvalidInputError, match="unclosed group") as caught:
        await anext(loaded.generate(ask(structure="regex", structure_text="(a")))
    assert caught.value.field == "structure_text"
