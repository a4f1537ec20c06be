"""A plain continuation as the Default and Notebook modes show it: paced, with its speed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest
from modules.errors import EngineError

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
    engine: EngineClient, request_id: str, prompt: str, params: SamplingParams
) -> AsyncIterator[Progress]:
    """What the model adds to `prompt`, at most twenty updates a second.

    Raises EngineError, after the text so far was yielded.
    """
    text, tokens = "", 0
    started = shown = time.monotonic()
    async with aclosing(engine.generate(GenerateRequest(request_id, prompt, params))) as events:
        try:
            async for event in events:
                if isinstance(event, Finished):
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


def _figures(finished: Finished) -> str:
    usage = finished.usage
    parts = [f"{usage.tokens_per_s:.0f} tok/s"] if usage.tokens_per_s else []
    parts += [f"{usage.completion_tokens:,} tokens", f"prompt {usage.prompt_tokens:,}"]
    if finished.reason == "length":
        parts.append("ended at the token limit")
    return " · ".join(parts)
