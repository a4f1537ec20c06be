"""A plain continuation as the Default and Notebook modes show it: paced, with its speed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, TokenChunk

__all__ = ["Progress", "continuation", "new_request_id"]

_PACE_S = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """The text so far, and one line about its speed; `done` once, at the end."""

    text: str
    stats: str
    done: bool = False


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
    request = GenerateRequest(request_id, prompt, params)
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case TokenChunk(text=new, tokens=count):
                    text += new
                    tokens += count
                    now = time.monotonic()
                    if now - shown >= _PACE_S:
                        shown = now
                        yield Progress(text, f"{tokens / (now - started):.0f} tok/s")
                case Finished(reason=reason, usage=usage):
                    parts = [f"{usage.completion_tokens:,} tokens"]
                    if usage.tokens_per_s:
                        parts.insert(0, f"{usage.tokens_per_s:.0f} tok/s")
                    parts.append(f"prompt {usage.prompt_tokens:,}")
                    if reason == "length":
                        parts.append("ended at the token limit")
                    yield Progress(text, " · ".join(parts), done=True)
