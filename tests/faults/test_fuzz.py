"""Bodies that no page and no client would send: none is a fault of the server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.engine.protocol import LoadModel
from tests.faults.bodies import mutated, operations, sane
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.house import House, build, keep_to_itself
from tests.hub import Hub

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """With a hub on loopback, and nothing that goes further."""
    keep_to_itself(monkeypatch)
    house = await asyncio.to_thread(build, tmp_path)
    yield house
    house.close()


@counts(300, 5000)
@pytest.mark.parametrize("below", ["/v1", "/page"])
async def test_no_body_is_a_fault_of_the_server(
    below: str, count: int, house: House, found: Found
) -> None:
    draw = random.Random(f"{below} {count}")
    answers: Counter[int] = Counter()
    reached: set[tuple[str, str]] = set()
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
        every = [one for one in operations(document, house.ctx) if one.path.startswith(below)]
        await client.post("/page/chats")
        for number in range(count):
            if house.ctx.engine.state.phase != "ready":  # one of them has unloaded it
                await house.ctx.engine.load(LoadModel("models/Tiny"))
            operation = every[number % len(every)]
            # Now and then one that fits, so that there is something to do harm to.
            request = (sane if number % 5 == 4 else mutated)(operation, draw)
            answer = await client.request(
                operation.method, request.url, content=request.content, headers=request.headers
            )
            told = (operation.method, request.url, request.content[:2000], answer.text[:500])
            assert answer.status_code < 500, told
            answers[answer.status_code] += 1
            if answer.status_code == 200:
                reached.add((operation.method, operation.path))
        assert (await client.get("/page/presets")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
    shares = ", ".join(f"{answers[status]:,} of {status}" for status in sorted(answers))
    found(
        f"{count:,} bodies for the {len(every)} routes below {below}, most of them mutated",
        f"no 5xx ({shares}); {len(reached)} routes also answered one with 200",
    )
