"""Sixteen sessions at once: each gets its own tokens, and its share of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import httpx

from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import TokenChunk
from modules.ui.components.knobs import to_widgets
from tests.engine.helpers import ask
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.site import Site

SESSIONS = 16
TOKENS = 60
PARAMS = {"do_sample": False, "ban_eos_token": True}
LONG = PARAMS | {"max_new_tokens": 2 * TOKENS}
VALUES = to_widgets(SamplingParams.neutral(**PARAMS, max_new_tokens=TOKENS))


def question(session: int) -> str:
    """No two sessions ask the same, so that no two are answered the same."""
    return " ".join(["the capital of", *(chr(97 + int(d)) * 4 for d in f"{session:03}"), "is"])


# -- by the engine ---------------------------------------------------------------------------


@counts(1, 20)
def test_the_engine_gives_each_of_sixteen_its_own_and_its_share(
    count: int, running: Site, found: Found
) -> None:
    share = running.do(least_share(running.engine, count))
    assert share >= 0.5
    found(
        f"{SESSIONS} replies at once from the engine, {count} times",
        f"each word for word what it is alone; while all {SESSIONS} ran, the slowest got "
        f"{share:.0%} of the tokens of the fastest",
    )


async def least_share(engine: LocalEngine, count: int) -> float:
    """Ask sixteen times at once, `count` times over.

    Returns what the slowest got of the fastest, from when all had a token until one had ended.
    """
    had: Counter[int] = Counter()
    begun: Counter[int] = Counter()
    got: list[Counter[int]] = []

    async def reply(session: int, key: str) -> str:
        text = ""
        async for event in engine.generate(ask(key, question(session), **LONG)):
            assert event.id == key
            if isinstance(event, TokenChunk):
                text += event.text
                had[session] += event.tokens
                if len(had) == SESSIONS and not begun:
                    begun.update(had)
            elif not got:
                got.append(had - begun if begun else Counter())
        return text

    alone = [await reply(session, f"alone-{session}") for session in range(SESSIONS)]
    assert len(set(alone)) == SESSIONS
    share = 1.0
    for number in range(count):
        for counter in (had, begun, got):
            counter.clear()
        keys = [f"{number}-{session}" for session in range(SESSIONS)]
        together = await asyncio.gather(*(reply(s, key) for s, key in enumerate(keys)))
        assert list(together) == alone
        (tokens,) = got
        assert len(tokens) == SESSIONS, "all had begun before one had ended"
        share = min(share, min(tokens.values()) / max(tokens.values()))
    return share


# -- by the page -----------------------------------------------------------------------------


def visitor(running: Site, session: int) -> httpx.AsyncClient:
    """A guest, whom the server tells from every other one."""
    cookies = {"lantern_token": running.ctx.access.token,
               "lantern_guest": f"guest-number-{session:03}-of-twenty"}  # fmt: skip
    headers = {"host": "lantern.example"}
    return httpx.AsyncClient(base_url=running.url, cookies=cookies, headers=headers, timeout=60)


async def answered(running: Site, session: int, ready: asyncio.Barrier | None) -> tuple[str, str]:
    """Ask in a new chat, and watch it to its end; what the tab was shown, and what is stored."""
    async with visitor(running, session) as tab:
        chat = (await tab.post("/page/chats")).raise_for_status().json()["id"]
        if ready is not None:
            await ready.wait()
        sent = {"text": question(session), "values": VALUES}
        (await tab.post(f"/page/chats/{chat}/send", json=sent)).raise_for_status()
        shown = ""
        async with tab.stream("GET", "/page/events", params={"chat": chat}) as stream:
            async for line in stream.aiter_lines():
                update = json.loads(line[6:]) if line.startswith("data: ") else {}
                shown += line
                if update.get("chat", {}).get("busy") is False:
                    break
        reply = update["messages"][-1]["id"]
        text = (await tab.get(f"/page/chats/{chat}/messages/{reply}")).json()["text"]
        return shown, text


@counts(1, 20)
def test_the_page_shows_each_of_sixteen_guests_their_own(
    count: int, running: Site, found: Found
) -> None:
    async def all_of_them() -> list[tuple[str, str]]:
        alone = [await answered(running, s, None) for s in range(SESSIONS)]
        for _ in range(count):
            ready = asyncio.Barrier(SESSIONS)
            together = await asyncio.gather(
                *(answered(running, session, ready) for session in range(SESSIONS))
            )
            assert [text for _, text in together] == [text for _, text in alone]
            for session, (shown, _) in enumerate(together):
                others = [question(other) for other in range(SESSIONS) if other != session]
                assert question(session) in shown
                assert not any(other in shown for other in others)
        return alone

    alone = asyncio.run(all_of_them())
    assert len({text for _, text in alone}) == SESSIONS
    found(
        f"{SESSIONS} guests at once in the page, {count} times",
        "each reply word for word what it is alone; no tab was sent anything of another's chat",
    )
