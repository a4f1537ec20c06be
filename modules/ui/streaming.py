"""A plain continuation as the Default and Notebook modes show it: paced, with its speed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from modules.chat.hooks import NO_HOOKS, ChatHooks, Turn
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest
from modules.errors import EngineError, ExtensionError

__all__ = ["Progress", "continuation", "new_request_id"]

_PACE_S = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """The text so far, and one line about its speed."""

    text: str
    stats: str


def new_request_id() -> str:
    """An id that nobody can guess, since it is all that a cancel needs."""
    return uuid.uuid4().hex


async def continuation(
    engine: EngineClient,
    request_id: str,
    prompt: str,
    params: SamplingParams,
    hooks: ChatHooks = NO_HOOKS,
) -> AsyncIterator[Progress]:
    """What the model adds to `prompt`, at most twenty updates a second.

    With `hooks`, what they have it get, and at the end, what they have shown of it. Raises
    EngineError, after the text so far was yielded.
    """
    turn = Turn(params, is_chat=False)
    if hooks.active:
        prompt = await hooks.asked(prompt, turn)
        instead = hooks.reply(prompt, turn, params.stop)
        if instead is not None:
            begun = False
            try:
                async for progress in _instead(instead, turn, hooks):
                    begun = True
                    yield progress
                return
            except ExtensionError:
                if begun:
                    raise
    text, tokens = "", 0
    started = shown = time.monotonic()
    request = GenerateRequest(request_id, prompt, params, hooks=hooks.tensor(turn))
    async with aclosing(engine.generate(request)) as events:
        try:
            async for event in events:
                if isinstance(event, Finished):
                    if hooks.active:
                        text = await hooks.shown(text, turn, is_final=True)
                    yield Progress(text, _figures(event))
                    return
                text += event.text
                tokens += event.tokens
                now = time.monotonic()
                if now - shown >= _PACE_S:
                    shown = now
                    yield Progress(text, f"{tokens / (now - started):.0f} tok/s")
        except EngineError:
            yield Progress(text, "")  # with what came since the last update
            raise


async def _instead(
    pieces: AsyncGenerator[str, None], turn: Turn, hooks: ChatHooks
) -> AsyncIterator[Progress]:
    """What a hook writes in the place of a model. Raises ExtensionError."""
    text, shown = "", time.monotonic()
    async with aclosing(pieces) as texts:
        async for text in texts:
            now = time.monotonic()
            if now - shown >= _PACE_S:
                shown = now
                yield Progress(text, "")
    yield Progress(await hooks.shown(text, turn, is_final=True), "")


def _figures(finished: Finished) -> str:
    usage = finished.usage
    parts = [f"{usage.tokens_per_s:.0f} tok/s"] if usage.tokens_per_s else []
    parts += [f"{usage.completion_tokens:,} tokens", f"prompt {usage.prompt_tokens:,}"]
    if finished.reason == "length":
        parts.append("ended at the token limit")
    return " · ".join(parts)
