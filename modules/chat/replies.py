"""`LiveReply`: a reply while it is written, and how the engine fills it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from modules.chat.about import about_model, about_prompt
from modules.chat.cast import Cast
from modules.chat.messages import Message
from modules.chat.prompt import build_chat_prompt
from modules.chat.template_choice import TemplateChoices
from modules.engine.client import EngineClient
from modules.engine.mix import Mix
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, TokenChunk
from modules.errors import EngineError
from modules.signals import Signal

__all__ = ["LiveReply", "stream_reply"]

_SAVE_EVERY_S = 1.0


@dataclass(slots=True)
class LiveReply:
    """A reply in progress: what it answers, the text so far, and how fast it comes.

    `adapters` are the LoRAs that its chat chose; None: what is applied to all.
    """

    chat_id: int
    owner: str
    message_id: int
    history: list[Message]
    params: SamplingParams
    adapters: Mix | None = None
    cast: Cast = field(default_factory=Cast)
    text: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    requested: bool = False
    tokens: int = 0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def tokens_per_s(self) -> float:
        """Decode speed so far."""
        seconds = self.last_token_at - self.first_token_at
        return (self.tokens - 1) / seconds if seconds > 0 else 0.0

    def take(self, chunk: TokenChunk) -> None:
        """Add what the engine sent, less the space between a name and its text in a transcript."""
        begins = not self.text and self.cast.mode != "instruct"
        self.text += chunk.text.lstrip() if begins else chunk.text
        self.tokens += chunk.tokens
        self.last_token_at = time.monotonic()
        self.first_token_at = self.first_token_at or self.last_token_at


async def stream_reply(
    engine: EngineClient,
    live: LiveReply,
    templates: TemplateChoices,
    changed: Signal,
    save: Callable[[LiveReply], Awaitable[None]],
) -> Literal["complete", "stopped"]:
    """Feed `live` from the engine, saving it each second, and fill its `about` at the end.

    Raises EngineError, AdapterError, TemplateError or InvalidInputError; `live` holds what
    came before.
    """
    request = await _request(engine, live, templates)
    live.requested = True
    saved_at = time.monotonic()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Finished):
                live.about |= _figures(event)
                return "stopped" if event.reason == "cancelled" else "complete"
            live.take(event)
            changed.notify()
            if live.last_token_at - saved_at > _SAVE_EVERY_S:
                saved_at = live.last_token_at
                await save(live)
    raise EngineError("The engine ended without a word.", "Load the model again.")


async def _request(
    engine: EngineClient, live: LiveReply, templates: TemplateChoices
) -> GenerateRequest:
    """The prompt for a reply, once a model that is being loaded is there."""
    seen = -1
    while engine.state.phase == "loading":
        seen = await engine.changed.wait(seen)
    prompt = await build_chat_prompt(
        engine,
        live.history,
        live.params,
        templates,
        continue_final=bool(live.text),
        cast=live.cast,
    )
    live.about |= about_prompt(prompt)
    if (info := engine.state.info) is not None:
        live.about |= about_model(info)
    request = GenerateRequest(
        live.request_id,
        prompt.text,
        live.params,
        special_tokens=prompt.special_tokens,
        adapters=live.adapters,
        stop=prompt.stop,
    )
    # Written out, so that the reply can be told, and had, again.
    mix = engine.state.mix_of(request)
    if mix:
        live.about["adapters"] = mix
    return dataclasses.replace(request, adapters=mix)


def _figures(finished: Finished) -> dict[str, Any]:
    usage = finished.usage
    return {
        "finish_reason": finished.reason,
        "seed": finished.seed,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "first_token_s": round(usage.first_token_s, 4),
        "tokens_per_s": round(usage.tokens_per_s, 2),
    }
