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
from modules.chat.hooked import following, offline_prompt, turn_of, write_instead
from modules.chat.hooks import NO_HOOKS, ChatHooks, Turn
from modules.chat.messages import Message
from modules.chat.prompt import build_chat_prompt
from modules.chat.template_choice import TemplateChoices
from modules.chat.tool_calls import CallReader
from modules.chat.tools.call import ReplyCall, tail_of
from modules.engine.client import EngineClient
from modules.engine.mix import Mix
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, TokenChunk, TokenLogprob
from modules.errors import EngineError
from modules.signals import Signal

__all__ = ["LiveReply", "stream_reply"]

_SAVE_EVERY_S = 1.0


@dataclass(slots=True)
class LiveReply:
    """A reply in progress: what it answers, the text so far, and how fast it comes.

    `adapters` are the LoRAs that its chat chose; None: what is applied to all. `reader` finds
    the calls of tools in what comes, and is None where there are none to call. `turn` is what it
    is made of, once `hooks` have had a look at that; `visible` is what they have the page show.
    `heard` are its tokens, where hooks want them, from the character `heard_from` on.
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
    calls: tuple[ReplyCall, ...] = ()
    reader: CallReader | None = None
    stopping: bool = False
    hooks: ChatHooks = NO_HOOKS
    turn: Turn | None = None
    visible: str | None = None
    heard: list[TokenLogprob] = field(default_factory=list)
    heard_from: int = field(init=False)

    def __post_init__(self) -> None:
        self.heard_from = len(self.text)

    @property
    def shown(self) -> str:
        """What the page shows of it, which hooks may have altered."""
        return self.text if self.visible is None else self.visible

    @property
    def tail(self) -> str:
        """The text after the last call, if any; the model goes on with it."""
        return tail_of(self.text, self.calls)

    @property
    def calling(self) -> bool:
        """Whether a call is being written, by the looks of it."""
        return self.reader is not None and self.reader.holds

    def begin_round(self, request_id: str) -> None:
        """Get ready for another request to the engine."""
        self.request_id, self.requested = request_id, False
        self.tokens, self.first_token_at, self.last_token_at = 0, 0.0, 0.0

    @property
    def tokens_per_s(self) -> float:
        """Decode speed so far."""
        seconds = self.last_token_at - self.first_token_at
        return (self.tokens - 1) / seconds if seconds > 0 else 0.0

    def take(self, chunk: TokenChunk) -> None:
        """Add what the engine sent, less the space between a name and its text in a transcript."""
        begins = not self.text and self.cast.mode != "instruct"
        text = chunk.text.lstrip() if begins else chunk.text
        self.text += text if self.reader is None else self.reader.push(text)
        self.tokens += chunk.tokens
        self.heard += chunk.logprobs
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
    turn = live.turn = await turn_of(live)
    request = await _request(engine, live, turn, templates)
    instead = live.hooks.reply(request.prompt, turn, request.stops)
    if instead is not None and await write_instead(live, instead, request.stops, changed, save):
        return "complete"
    live.requested = True
    saved_at = time.monotonic()
    async with following(live, turn, changed), aclosing(engine.generate(request)) as events:
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
    engine: EngineClient, live: LiveReply, turn: Turn, templates: TemplateChoices
) -> GenerateRequest:
    """The prompt for a reply, once a model that is being loaded is there."""
    seen = -1
    while engine.state.phase == "loading":
        seen = await engine.changed.wait(seen)
    if live.hooks.replies and engine.state.phase != "ready":
        return GenerateRequest(live.request_id, offline_prompt(turn), turn.params)
    prompt = await build_chat_prompt(
        engine,
        turn.messages,
        turn.params,
        templates,
        continue_final=turn.continues,
        cast=turn.cast,
        hooks=live.hooks,
    )
    live.about |= about_prompt(prompt)
    if (info := engine.state.info) is not None:
        live.about |= about_model(info)
    request = GenerateRequest(
        live.request_id,
        prompt.text,
        turn.params,
        special_tokens=prompt.special_tokens,
        logprobs=live.hooks.logprobs,
        adapters=live.adapters,
        stop=prompt.stop,
        hooks=live.hooks.tensor(turn),
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
