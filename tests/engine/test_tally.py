"""What an engine says of itself to those who watch it."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from modules.engine.fake import FakeEngine
from modules.engine.protocol import Finished, LoadModel, TokenChunk, Usage
from modules.engine.tally import Tally
from modules.errors import WorkerDiedError
from tests.engine.helpers import ask


def test_a_request_waits_runs_and_ends() -> None:
    tally = Tally()
    tally.begin("a")
    assert (tally.waiting, tally.running) == ({"a"}, set())
    tally.note(TokenChunk("a", "x", 2))
    assert (tally.waiting, tally.running) == (set(), {"a"})
    tally.note(Finished("a", "stop", Usage(5, 2, cached_tokens=3), 0))
    tally.end("a", failed=False)
    assert (tally.waiting, tally.running, dict(tally.replies)) == (set(), set(), {"stop": 1})
    assert (tally.prompt_tokens, tally.cached_tokens, tally.completion_tokens) == (5, 3, 2)


@pytest.mark.anyio
async def test_a_reply_that_is_closed_early_is_no_failure() -> None:
    engine = FakeEngine()
    await engine.load(LoadModel("models/fake-model"))
    async with aclosing(engine.generate(ask())) as reply:
        await anext(reply)
        assert engine.tally.running == {"a"}
    assert (engine.tally.running, dict(engine.tally.replies)) == (set(), {"closed": 1})


@pytest.mark.anyio
async def test_a_worker_that_dies_fails_its_replies() -> None:
    engine = FakeEngine()
    await engine.load(LoadModel("models/fake-model"))
    with pytest.raises(WorkerDiedError):
        async for _ in engine.generate(ask()):
            engine.die()
    assert dict(engine.tally.replies) == {"failed": 1}
