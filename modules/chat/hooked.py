"""What hooks do to a reply: what it is made of, who writes it, and what is shown of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from modules.chat.hooks import Turn
from modules.chat.modes import transcript
from modules.errors import ExtensionError
from modules.signals import Signal

if TYPE_CHECKING:
    from modules.chat.replies import LiveReply

__all__ = ["finish_shown", "following", "offline_prompt", "turn_of", "write_instead"]

_LEAST_PAUSE_S = 0.05
_PAUSE_PER_CALL = 4
"""A hook that follows a reply works for a fifth of the time at most."""

_SAVE_EVERY_S = 1.0


async def turn_of(live: LiveReply) -> Turn:
    """What a reply is made of, as hooks have it."""
    turn = Turn(live.params, tuple(live.history), live.cast, continues=bool(live.tail))
    if not live.hooks.active:
        return turn
    live.about["extensions"] = live.hooks.names()
    return await live.hooks.begun(turn)


def offline_prompt(turn: Turn) -> str:
    """A prompt for who writes in the place of a model where there is none: a transcript."""
    return transcript(turn.cast, turn.messages, continue_final=turn.continues)


async def write_instead(
    live: LiveReply,
    pieces: AsyncGenerator[str, None],
    stop: Sequence[str],
    changed: Signal,
    save: Callable[[LiveReply], Awaitable[None]],
) -> bool:
    """Feed `live` from a hook, whose items are the whole text so far.

    False where the hook failed before it wrote anything. Raises ExtensionError where it failed
    later.
    """
    beginning, saved_at = live.text, time.monotonic()
    try:
        async with aclosing(pieces) as texts:
            async for text in texts:
                kept = _cut(text, stop)
                live.text = beginning + kept
                live.tokens += 1
                live.last_token_at = time.monotonic()
                live.first_token_at = live.first_token_at or live.last_token_at
                changed.notify()
                if len(kept) < len(text):
                    break
                if live.last_token_at - saved_at > _SAVE_EVERY_S:
                    saved_at = live.last_token_at
                    await save(live)
    except ExtensionError:
        if live.text != beginning:
            raise
        return False
    return True


def _cut(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    places = [place for one in stop if one and (place := text.find(one)) >= 0]
    return text[: min(places)] if places else text


@contextlib.asynccontextmanager
async def following(live: LiveReply, turn: Turn, changed: Signal) -> AsyncIterator[None]:
    """While it is open, show what hooks make of the text so far, where one wants to see it.

    The reply never waits for that: a hook sees the latest text when it is done with an earlier.
    """
    if not live.hooks.follows:
        yield
        return
    task = asyncio.create_task(_follow(live, turn, changed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(live: LiveReply, turn: Turn, changed: Signal) -> None:
    seen = live.text
    live.visible = await live.hooks.shown(seen, turn, is_final=False) if seen else ""
    while live.hooks.follows:
        version = changed.version
        if live.text == seen:
            await changed.wait(version)
            continue
        began, seen = time.monotonic(), live.text
        live.visible = await live.hooks.shown(seen, turn, is_final=False)
        changed.notify()
        await asyncio.sleep(max(_LEAST_PAUSE_S, _PAUSE_PER_CALL * (time.monotonic() - began)))
    live.visible = None  # the hook has failed


async def finish_shown(live: LiveReply) -> None:
    """Set what is shown of a reply that has ended.

    One that called tools is shown as it is: its calls have their places in the text.
    """
    live.visible = None
    if not live.hooks.active or not live.text or live.calls or live.turn is None:
        return
    shown = await live.hooks.shown(live.text, live.turn, is_final=True)
    live.visible = None if shown == live.text else shown
